"""SDXL from one file: each part from its own prefix, bit for bit what the folder gives, and every key accounted for."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.generation.conftest import settings
from tests.models.originals import original, write_vae

from bottega.cli.main import main
from bottega.generation.engine import SDXLEngine
from bottega.generation.lora.named import architecture_of
from bottega.generation.modules import Modules, load_modules
from bottega.generation.single_file import _unet_sources, _vae_sources, convert_single_file, save_single_file
from bottega.models.agreement import sdxl_agreement
from bottega.models.loading import refused_parts
from bottega.models.names import resolve
from bottega.runtime.errors import MissingError, RequestError, StorageError

State = dict[str, torch.Tensor]

NETWORKS = ("unet", "text_encoder", "text_encoder_2", "vae")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature with an autoencoder that the original layout knows; its own is an AutoencoderTiny."""
    path = tmp_path_factory.mktemp("sdxl") / "model"
    shutil.copytree(resolve("bottega:miniature/weights/sdxl"), path)
    shutil.rmtree(path / "vae")
    torch.manual_seed(0)
    write_vae().save_pretrained(path / "vae")
    return path


@pytest.fixture(scope="module")
def state(folder: Path) -> State:
    return original(folder)


@pytest.fixture(scope="module")
def checkpoint(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("checkpoint") / "model.safetensors", state)


def write(path: Path, state: State) -> Path:
    # A copy of each: safetensors refuses tensors that share memory.
    save_file({key: value.contiguous().clone() for key, value in state.items()}, path)
    return path


def load(path: Path, folder: Path, **options: Any) -> Modules:
    return load_modules(str(path), configs=str(folder), device="cpu", **options)


def assert_equal(modules: Modules, expected: Modules) -> None:
    for name in NETWORKS:
        mine, theirs = modules.parts[name].state_dict(), expected.parts[name].state_dict()
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert value.dtype == theirs[key].dtype, key
            assert torch.equal(value, theirs[key]), f"{name}.{key}"
        buffers = dict(modules.parts[name].named_buffers())
        for key, value in expected.parts[name].named_buffers():
            assert torch.equal(buffers[key], value), f"{name}.{key}"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_file_gives_the_folders_tensors_bit_for_bit(folder: Path, checkpoint: Path, dtype: str) -> None:
    modules = load(checkpoint, folder, dtype=dtype)
    assert_equal(modules, load_modules(str(folder), device="cpu", dtype=dtype))
    assert modules.left_aside == {"not used": 1}  # OpenCLIP's scale of logits
    for name in NETWORKS:
        assert not modules.parts[name].training
        assert not any(value.requires_grad for value in modules.parts[name].parameters())


def test_and_the_same_picture(folder: Path, checkpoint: Path) -> None:
    mine = SDXLEngine(load(checkpoint, folder)).draw(settings()).pixels[0]
    theirs = SDXLEngine(load_modules(str(folder), device="cpu")).draw(settings()).pixels[0]
    assert mine.std() > 1
    assert np.array_equal(mine, theirs)


def test_text_encoders_of_one_width_do_not_change_places(folder: Path, state: State, tmp_path: Path) -> None:
    changed = dict(state)
    key = "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias"
    changed[key] = state[key] + 1
    modules = load(write(tmp_path / "model.safetensors", changed), folder)
    expected = load_modules(str(folder), device="cpu")
    first, second = modules.parts["text_encoder"], modules.parts["text_encoder_2"]
    assert not torch.equal(norm_bias(first), norm_bias(expected.parts["text_encoder"]))
    assert torch.equal(norm_bias(second), norm_bias(expected.parts["text_encoder_2"]))


def norm_bias(encoder: torch.nn.Module) -> torch.Tensor:
    return next(value for key, value in encoder.state_dict().items() if key.endswith("final_layer_norm.bias"))


def test_a_file_in_full_precision_is_loaded_in_half(folder: Path, state: State, tmp_path: Path) -> None:
    file = write(tmp_path / "model.safetensors", {key: value.float() for key, value in state.items()})
    assert_equal(load(file, folder, dtype="float16"), load_modules(str(folder), device="cpu", dtype="float16"))


def test_weights_are_copies_that_do_not_change_with_the_file(folder: Path, state: State, tmp_path: Path) -> None:
    file = write(tmp_path / "model.safetensors", state)
    modules = load(file, folder, dtype="float16")
    with file.open("r+b") as stream:
        stream.seek(-4096, 2)
        stream.write(b"\0" * 4096)
    assert_equal(modules, load_modules(str(folder), device="cpu", dtype="float16"))


def test_a_projection_that_is_saved_as_a_layer_is_not_turned_around(folder: Path, state: State, tmp_path: Path) -> None:
    changed = dict(state)
    key = "conditioner.embedders.1.model.text_projection"
    changed[f"{key}.weight"] = changed.pop(key).T
    modules = load(write(tmp_path / "model.safetensors", changed), folder)
    assert_equal(modules, load_modules(str(folder), device="cpu"))


def test_markers_of_v_prediction_tell_the_type_and_its_schedule(folder: Path, state: State, tmp_path: Path) -> None:
    marked = {**state, "v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    engine = SDXLEngine(load(write(tmp_path / "model.safetensors", marked), folder))
    stated = engine.modules.identity.prediction
    assert stated is not None
    assert stated.type == "v_prediction"
    assert engine.zero_terminal_snr("v_prediction")
    assert engine.modules.left_aside == {"not used": 3}
    assert engine.measured.prediction_type == "epsilon"  # which the weights are, whatever the markers say


def test_foreign_tensors_are_counted_by_kind(folder: Path, state: State, tmp_path: Path) -> None:
    extra = {
        "model_ema.decay": torch.ones(1),
        "betas": torch.ones(3),
        "first_stage_model.loss.discriminator.weight": torch.ones(3),
        "somebody.elses": torch.ones(2),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(77),
    }
    modules = load(write(tmp_path / "model.safetensors", state | extra), folder)
    assert modules.left_aside == {"EMA copy": 1, "not used": 4, "unknown": 1}


def test_without_an_autoencoder_it_takes_another(folder: Path, state: State, tmp_path: Path) -> None:
    lacking = {key: value for key, value in state.items() if not key.startswith("first_stage_model.")}
    file = write(tmp_path / "model.safetensors", lacking)
    with pytest.raises(RequestError, match=r"has none .*--vae"):
        load(file, folder)
    assert_equal(load(file, folder, vae=str(folder / "vae")), load_modules(str(folder), device="cpu"))


def test_an_autoencoder_that_is_replaced_is_counted(checkpoint: Path, state: State) -> None:
    miniature = resolve("bottega:miniature/weights/sdxl")
    modules = load(checkpoint, miniature, vae=str(miniature / "vae"))
    count = sum(key.startswith("first_stage_model.") for key in state)
    assert modules.left_aside == {"autoencoder, replaced": count, "not used": 1}
    with pytest.raises(RequestError, match=r"lacks .* of vae, first first_stage_model\.encoder\.layers"):
        load(checkpoint, miniature)  # by its configuration the autoencoder is an AutoencoderTiny


def test_a_file_that_is_written_has_the_names_and_tensors_of_the_original(
    folder: Path, state: State, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    save_single_file(file, {name: load_modules(str(folder), device="cpu").parts[name] for name in NETWORKS})
    written = load_file(file)
    expected = {key: value for key, value in state.items() if not key.endswith("logit_scale")}
    assert written.keys() == expected.keys()
    for key, value in written.items():
        assert torch.equal(value, expected[key].half()), key


def test_a_tiny_autoencoder_goes_into_a_file_and_comes_back(tmp_path: Path) -> None:
    miniature = resolve("bottega:miniature/weights/sdxl")
    modules = load_modules(str(miniature), device="cpu")
    file = tmp_path / "model.safetensors"
    metadata = {"modelspec.title": "A drawn world"}
    save_single_file(file, {name: modules.parts[name] for name in NETWORKS}, metadata=metadata, markers=("v_pred",))
    again = load(file, miniature)
    assert_equal(again, modules)
    assert again.identity.title == "A drawn world"
    assert again.identity.pixels_per_cell == 4
    assert again.identity.missing == ()
    assert again.left_aside == {"not used": 1}


def test_an_autoencoder_of_another_kind_is_refused(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "configs"
    shutil.copytree(folder, other)
    config = json.loads((other / "vae" / "config.json").read_text())
    (other / "vae" / "config.json").write_text(json.dumps({**config, "_class_name": "VQModel"}))
    with pytest.raises(RequestError, match="one of AutoencoderKL, AutoencoderTiny, the configuration is of VQModel"):
        load(checkpoint, other)


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight",
        "model.diffusion_model.output_blocks.5.0.skip_connection.weight",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.1.mlp.fc1.bias",
        "conditioner.embedders.1.model.transformer.resblocks.2.attn.in_proj_weight",
        "conditioner.embedders.1.model.text_projection",
        "first_stage_model.decoder.up.2.block.0.conv1.weight",
    ],
)
def test_a_tensor_that_lacks_is_named(folder: Path, state: State, tmp_path: Path, key: str) -> None:
    file = write(tmp_path / "model.safetensors", {name: value for name, value in state.items() if name != key})
    with pytest.raises(RequestError, match=f"lacks .* tensors of .*{re.escape(key)}"):
        load(file, folder)


@pytest.mark.parametrize(
    ("prefix", "said"),
    [("conditioner.embedders.0.", "sdxl_refiner"), ("conditioner.embedders.1.", "hold text_encoder_2")],
)
def test_a_checkpoint_without_a_text_encoder_is_refused(
    folder: Path, state: State, tmp_path: Path, prefix: str, said: str
) -> None:
    lacking = {key: value for key, value in state.items() if not key.startswith(prefix)}
    with pytest.raises(RequestError, match=said):
        load(write(tmp_path / "model.safetensors", lacking), folder)


@pytest.mark.parametrize(
    ("stack", "last"),
    [
        ("conditioner.embedders.1.model.transformer.resblocks", 2),
        ("model.diffusion_model.middle_block.1.transformer_blocks", 0),
    ],
)
def test_a_deeper_network_is_not_cut(folder: Path, state: State, tmp_path: Path, stack: str, last: int) -> None:
    shallow, deep = f"{stack}.{last}.", f"{stack}.{last + 1}."
    more = {key.replace(shallow, deep): value for key, value in state.items() if key.startswith(shallow)}
    with pytest.raises(RequestError, match=f"no place for {len(more)} tensors .*{re.escape(deep)}"):
        load(write(tmp_path / "model.safetensors", state | more), folder)


def test_another_width_is_told_with_both_shapes(folder: Path, state: State, tmp_path: Path) -> None:
    key = "model.diffusion_model.out.2.weight"
    changed = {**state, key: torch.zeros(4, 50, 3, 3)}
    with pytest.raises(RequestError, match=r"out\.2\.weight must make \[4, 48, 3, 3\].*received \[4, 50, 3, 3\]"):
        load(write(tmp_path / "model.safetensors", changed), folder)


def test_quantised_weights_are_refused(folder: Path, state: State, tmp_path: Path) -> None:
    key = "model.diffusion_model.out.2.weight"
    changed = {**state, key: torch.zeros(state[key].shape, dtype=torch.int8)}
    with pytest.raises(RequestError, match="quantised"):
        load(write(tmp_path / "model.safetensors", changed), folder)


def test_a_torn_file_is_refused(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    torn = tmp_path / "model.safetensors"
    torn.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(StorageError, match="not a whole safetensors file"):
        load(torn, folder)


def test_one_network_alone_is_no_checkpoint(folder: Path) -> None:
    with pytest.raises(RequestError, match="whole checkpoint of SDXL"):
        load(folder / "unet" / "diffusion_pytorch_model.safetensors", folder)


def test_without_configurations_the_command_that_fetches_them_is_told(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"bottega models fetch stabilityai/stable-diffusion-xl-base-1\.0"):
        load_modules(str(checkpoint), device="cpu", cache=str(tmp_path))


def test_names_of_networks_as_deep_as_the_published_are_those_of_diffusers_own_converter() -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    unet = UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(2, 4, 4),
        cross_attention_dim=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=56,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=4,
        layers_per_block=2,
    )
    for module, prefix, sources, convert in (
        (unet, "model.diffusion_model.", _unet_sources, convert_ldm_unet_checkpoint),
        (vae, "first_stage_model.", _vae_sources, convert_ldm_vae_checkpoint),
    ):
        state = module.state_dict()
        named = {prefix + source.key: state[key] for key, source in sources(state).items()}
        assert len(named) == len(state)
        back = convert(named, dict(module.config))
        assert back.keys() == state.keys()
        assert all(back[key] is state[key] or torch.equal(back[key], state[key]) for key in state)


def test_a_files_architecture_is_that_of_its_folder(folder: Path, checkpoint: Path) -> None:
    mine = architecture_of(str(checkpoint), configs=str(folder))
    assert mine.digest == architecture_of(str(folder)).digest


def test_the_doctor_says_whether_a_lora_fits_a_single_file(
    folder: Path, checkpoint: Path, lora_files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--model", str(checkpoint), "--configs", str(folder)]
    assert main(["doctor", "lora", str(lora_files[0]), *named, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["share that matches"] == 1.0
    assert main(["lora", "inspect", str(lora_files[0]), *named]) == 0
    keys = len(load_file(lora_files[0]))
    assert f"{keys} of {keys} keys match" in capsys.readouterr().out


def test_a_file_becomes_a_folder_that_the_teacher_reads(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    words = ["models", "convert", str(checkpoint), str(made), "--configs", str(folder)]
    assert main(words) == 0, capsys.readouterr().err
    assert refused_parts("sdxl", made) == []
    assert sdxl_agreement(made).faults == ()
    mine = load_modules(str(made), device="cpu", dtype="float16")
    assert_equal(mine, load(checkpoint, folder, dtype="float16"))
    assert main(words) == 2  # nothing that is there is overwritten
    assert "exists already" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


def test_what_a_file_states_of_its_training_is_in_the_folders_scheduler(
    folder: Path, state: State, tmp_path: Path
) -> None:
    stated = write(tmp_path / "v.safetensors", {**state, "v_pred": torch.tensor([0.0]), "ztsnr": torch.tensor([0.0])})
    convert_single_file(stated, tmp_path / "v", folder)
    scheduler = json.loads((tmp_path / "v" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"
    assert scheduler["rescale_betas_zero_snr"] is True
    assert "zero terminal SNR" in " ".join(sdxl_agreement(tmp_path / "v").cautions)
    edm = {**state, "edm_mean": torch.tensor([0.0]), "edm_std": torch.tensor([0.0])}
    with pytest.raises(RequestError, match="a checkpoint of EDM"):
        convert_single_file(write(tmp_path / "edm.safetensors", edm), tmp_path / "edm", folder)
    assert not (tmp_path / "edm").exists()
