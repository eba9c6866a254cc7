"""A forecast agrees with what is counted otherwise: closed forms, published numbers, headers of files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from bottega.cli.main import main
from bottega.models.config import ModelsConfig
from bottega.models.layout import locate
from bottega.models.weights import find_weights, read_headers
from bottega.planning.costs import cost_of
from bottega.planning.growth import Rates, disk_bytes, grow
from bottega.planning.networks import PlannedNetworks
from bottega.planning.passes import decode_pass, training_cost
from bottega.planning.stages import Forecaster
from bottega.recipe import Recipe, load_recipe
from bottega.runtime.errors import MissingError
from bottega.student.memory import saved_bytes

RECIPE = Path(__file__).parents[2] / "recipes" / "sdxl_pixart.yaml"
MINIATURE = "bottega:miniature/weights"
ROLES = ("sdxl", "ip_adapter", "pixart", "clip", "structure_encoder")
SMALL = [f"models.{role}={MINIATURE}/{role}" for role in ROLES]


@pytest.fixture(scope="module")
def small() -> Recipe:
    return load_recipe(RECIPE, [*SMALL, "teacher.size=128"])


def test_operations_and_bytes_of_two_layers_are_those_of_the_closed_form() -> None:
    with torch.device("meta"):
        layers = nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 32))

    def run() -> object:
        with torch.no_grad(), torch.device("meta"):
            return layers(torch.empty(8, 64))

    cost = cost_of(run, [layers])
    assert cost.flops == 2 * 8 * (64 * 256 + 256 * 32)
    # While the second layer computes, the input, the first layer's result and its own are alive.
    assert cost.held == 4 * 8 * (64 + 256 + 32)
    assert cost.largest == 4 * 8 * 256


def test_a_convolution_on_the_cpu_copies_the_larger_of_what_it_reads_and_writes() -> None:
    with torch.device("meta"):
        layer = nn.Conv2d(3, 8, 3, padding=1)

    def run() -> object:
        with torch.no_grad(), torch.device("meta"):
            return layer(torch.empty(2, 3, 16, 16))

    cost = cost_of(run, [layer])
    assert cost.held == 4 * 2 * (3 + 8) * 16 * 16
    assert cost.on_cpu == cost.held + 4 * 2 * 8 * 16 * 16


def test_attention_holds_no_matrix_of_all_pairs() -> None:
    def run() -> object:
        with torch.no_grad(), torch.device("meta"):
            query = torch.empty(1, 8, 4096, 64)
            return torch.nn.functional.scaled_dot_product_attention(query, query, query)

    cost = cost_of(run, [])
    assert cost.flops == 4 * 8 * 4096 * 4096 * 64
    assert cost.held == 2 * 4 * 8 * 4096 * 64


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("unet", 2_567_463_684),
        ("text_encoder_2", 694_659_840),
        ("image_encoder", 1_844_907_264),
        ("transformer", 610_856_096),
        ("t5", 4_762_310_656),
        ("clip", 427_616_513),
    ],
)
def test_published_networks_are_known_without_their_files(name: str, count: int, tmp_path: Path) -> None:
    networks = PlannedNetworks(load_recipe(RECIPE, [f"models.cache={tmp_path}"]).models)
    assert networks.count(name) == count


def test_an_ip_adapter_is_as_large_as_the_published_file(tmp_path: Path) -> None:
    networks = PlannedNetworks(load_recipe(RECIPE, [f"models.cache={tmp_path}"]).models)
    assert abs(2 * networks.ip_adapter_count - 702_585_376) < 20_000  # with its header


def test_a_model_that_nobody_knows_is_named(tmp_path: Path) -> None:
    networks = PlannedNetworks(ModelsConfig(pixart="someone/other-pixart", cache=str(tmp_path)))
    with pytest.raises(MissingError, match="someone/other-pixart"):
        networks.count("t5")


def test_bytes_of_weights_are_those_of_the_files(small: Recipe) -> None:
    networks = PlannedNetworks(small.models)
    for name, part in (("unet", "unet"), ("text_encoder_2", "text_encoder_2")):
        headers = read_headers(find_weights(locate(small.models, "sdxl") / part).files)
        assert networks.bytes(name, "float32") == 4 * sum(math.prod(info.shape) for info in headers.values())


def test_t5_in_float16_keeps_one_projection_a_block_in_float32(tmp_path: Path) -> None:
    networks = PlannedNetworks(load_recipe(RECIPE, [f"models.cache={tmp_path}"]).models)
    assert networks.bytes("t5", "float16") - networks.bytes("t5", "bfloat16") == 2 * 24 * 10_240 * 4_096


def test_a_microbatch_keeps_what_autograd_keeps(small: Recipe) -> None:
    """The count of live bytes against the saved tensors of the same layers with data."""
    with torch.device("meta"):
        counted = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
    real = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
    inputs = torch.randn(16, 64)
    kept = saved_bytes(lambda: real(inputs).sum(), [real])

    def run() -> object:
        with torch.device("meta"):
            return counted(torch.empty(16, 64)).sum()

    # Alive at the end are what is kept, the last layer's result and the sum.
    assert cost_of(run, [counted]).held == kept + 4 * (16 * 64 + 1)
    cost = training_cost(PlannedNetworks(small.models), small, "float32")
    assert cost.checkpointed.held < cost.plain.held
    assert cost.parameters > 0


def test_the_largest_moment_of_the_full_recipe_is_the_teachers(tmp_path: Path) -> None:
    stages = Forecaster(load_recipe(RECIPE, [f"models.cache={tmp_path}"]), "cuda").all()
    largest = max(stages.values(), key=lambda stage: stage.total)
    assert largest.name == "teacher"
    assert 14e9 < largest.total < 24e9
    assert stages["features"].weights == {"t5": 9_524_621_312}


def test_on_the_cpu_the_students_pictures_come_on_top_of_what_a_step_and_a_checkpoint_leave(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE, [f"models.cache={tmp_path}", "models.dtype=bfloat16"])
    on_cpu = Forecaster(recipe, "cpu")
    step = training_cost(on_cpu.networks, recipe, "bfloat16")
    decode = decode_pass(on_cpu.networks, "pixart_vae", 512, "float32")
    kept = step.plain.on_cpu + 3 * 4 * step.parameters
    assert on_cpu.student().held == kept + decode.on_cpu
    assert on_cpu.student(drawing=False).held == kept
    assert decode.on_cpu > decode.held
    on_gpu = Forecaster(recipe, "cuda", on_cpu.networks)
    assert on_gpu.student().held == decode.held
    assert on_gpu.student(drawing=False).held == step.plain.held


def test_growth_is_in_proportion_and_time_needs_a_rate(small: Recipe) -> None:
    forecaster = Forecaster(small, "cpu")
    stages = {stage.name: stage for stage in (forecaster.teacher(), forecaster.features(), forecaster.student())}
    without = grow(small, forecaster.networks, stages)
    assert [growth.seconds for growth in without] == [None, None, None]
    assert without[2].flops["teacher"] == pytest.approx(20 * without[0].flops["teacher"])
    measured = grow(small, forecaster.networks, stages, Rates(unet_call=0.5, train_step=2.0))
    assert measured[0].seconds is not None
    assert measured[0].seconds["teacher"] == 10_000 * 10 * 0.5
    assert measured[0].seconds["student"] == 20_000 * 2.0


def test_a_latent_of_512_px_takes_32_kb(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE, [f"models.cache={tmp_path}", "features.fill50k=0"])
    assert disk_bytes(recipe, PlannedNetworks(recipe.models), 1)["latents"] == 2 * 32 * 1024


def test_the_command_prints_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    options = [option for text in [*SMALL, "teacher.size=128"] for option in ("--set", text)]
    assert main(["plan", str(RECIPE), *options, "--json", "--gpu-gb", "24"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gpu_bytes"] == 24_000_000_000
    assert found["room"] == 24_000_000_000 - max(stage["bytes"] for stage in found["gpu"])
    assert {stage["name"] for stage in found["cpu"]} >= {"teacher", "features", "student", "evaluation"}
