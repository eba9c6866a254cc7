"""The whole stage with the real classes at random weights: three processes draw, this one measures."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.evaluation.conftest import CONTENTS, STYLES, TRUTHS, World, save_style_encoder
from tests.models.random_weights import random_networks

from bottega.data.circles import circle_prompt, draw_circle
from bottega.data.records import read_pairs
from bottega.evaluation import drawing, stage
from bottega.evaluation.config import EvaluationConfig, KeptCheckpoints
from bottega.evaluation.drawing import Request, draw, draw_here, read_efficiency
from bottega.evaluation.painters import load_painter
from bottega.models import workers
from bottega.models.config import ModelsConfig
from bottega.models.workers import Workers, open_pool, share_work
from bottega.runtime.errors import MissingError, RequestError, WorkError
from bottega.runtime.files import read_json, read_jsonl, sha256_file, write_json, write_jsonl, write_png, write_text
from bottega.runtime.trust import hash_json, with_check
from bottega.student.export import load_adapter, save_adapter
from bottega.teacher.config import TeacherConfig
from bottega.training.kept import KeptWeights

CONFIG = EvaluationConfig(
    draws=200, truths=TRUTHS, examples=1, limit=4, teacher_pairs=4, batch_size=4, timed_pictures=10, fill50k_pictures=32
)
TEACHER = TeacherConfig(size=128, steps=5, strength=0.4, guidance_scale=1.0, seeds=(0,))


@pytest.fixture(scope="module")
def models(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelsConfig:
    roles = ("sdxl", "ip_adapter", "pixart", "clip", "style_classifier", "structure_encoder", "scene_reader")
    style_encoder = save_style_encoder(tiny_models / "clip", tmp_path_factory.mktemp("style_encoder"))
    named = {role: str(tiny_models / role) for role in roles}
    # Of random weights, as the tiny models are: what is tested is that each metric gets its numbers.
    networks = tmp_path_factory.mktemp("networks") / "weights"
    random_networks.write_all(networks, [random_networks.picture(number, 96, 96) for number in range(4)])
    named |= {"lpips": str(networks), "vgg19": str(networks / "vgg19.safetensors")}
    named["inception"] = str(networks / "art_inception.safetensors")
    return ModelsConfig(**named, style_encoder=str(style_encoder), device="cpu")


@pytest.fixture(scope="module")
def adapter(models: ModelsConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter beside the tiny PixArt whose gates are wide open, so that it is seen without training."""
    from bottega.models.hashes import model_hash
    from bottega.models.loading import locate
    from bottega.student.adapter import Geometry, StyleAdapter
    from bottega.student.backbone import Backbone
    from bottega.student.config import AdapterConfig, SamplingConfig
    from bottega.student.encode import sizes
    from bottega.student.export import save_adapter

    pixart, clip = locate(models, "pixart"), locate(models, "clip")
    backbone = Backbone.load(pixart, device="cpu", pixels_per_cell=sizes(pixart)["pixels_per_cell"])
    width = json.loads((clip / "config.json").read_text())["projection_dim"]
    geometry = Geometry.of(backbone.transformer, backbone.schedule.timesteps, width)
    made = StyleAdapter.from_transformer(backbone.transformer, AdapterConfig(initial_gate=1.0), geometry)
    hashes = {"transformer": pixart / "transformer", "latent": pixart / "vae", "clip": clip}
    header = {
        "models": {"pixart": None, "clip": None},
        "model_hashes": {name: model_hash(folder) for name, folder in hashes.items()},
        "sampling": {"sampler": "ddim", "start": 0, **SamplingConfig(steps=2).model_dump(mode="json")},
        "text_tokens": 16,
    }
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    save_adapter(path, made, header)
    return path


Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run(world: World, models: ModelsConfig, adapter: Path) -> Run:
    def call(directory: Path, **changes: Any) -> dict[str, Any]:
        given = {
            "pairs": world.pairs,
            "data_root": world.root,
            "adapter": adapter,
            "models": models,
            "teacher": TEACHER,
        }
        return stage.run(changes.pop("config", CONFIG), directory, **(given | changes))

    return call


@pytest.fixture(scope="module")
def done(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("evaluation")
    return directory, run(directory)


def pictures(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): sha256_file(path) for path in sorted(directory.rglob("*.png"))}


def test_every_row_and_every_metric_is_measured(done: tuple[Path, dict[str, Any]]) -> None:
    directory, summary = done
    for row, found in summary["rows"].items():
        assert found["status"] == "measured", row
        assert found["pairs"] == 4
        assert {cell["status"] for cell in found["metrics"].values()} == {"measured"}, row
    assert len(pictures(directory)) == 3 * 4
    assert json.loads((directory / "summary.json").read_text()) == summary
    assert (directory / "table.md").read_text().count("\n| ") >= 8


def test_what_a_picture_costs_is_measured_by_phase_and_the_adapter_adds_parameters(
    done: tuple[Path, dict[str, Any]], adapter: Path
) -> None:
    from bottega.student.export import load_adapter

    costs = done[1]["efficiency"]
    assert set(costs) == {"student", "base"}
    trained, _ = load_adapter(adapter)
    assert costs["student"]["added_parameters"] == sum(one.numel() for one in trained.parameters())
    assert costs["base"]["added_parameters"] == 0
    assert costs["base"]["frozen_parameters"] == costs["student"]["frozen_parameters"] > 0
    for cost in costs.values():
        assert (cost["pictures"], cost["warm_up"]) == (2, 2)  # of four pairs
        for phase in ("encode", "denoise", "decode"):
            assert 0 < cost["seconds"][phase]["p50"] <= cost["seconds"][phase]["p90"] <= cost["seconds"]["whole"]["p90"]
        assert cost["peak_rss_mb"] > 50


def test_a_cost_that_is_damaged_or_of_another_adapter_is_no_cost(world: World, tmp_path: Path) -> None:
    cost = {"pictures": 2, "warm_up": 2, "size": 128, "added_parameters": 5, "frozen_parameters": 9}
    cost |= {"seconds": {"whole": {"p50": 1.0, "p90": 2.0}}, "peak_rss_mb": 100.0, "peak_vram_mb": 0.0}
    asked = replace(request(world, tmp_path), timed=2)
    line = {"fingerprint": asked.fingerprint, "cost": cost, "seconds_hash": hash_json(cost)}
    write_jsonl(asked.efficiency, [line])
    assert read_efficiency(asked) == cost
    assert read_efficiency(replace(asked, fingerprint="another")) is None
    text = asked.efficiency.read_text().replace('"p50": 1.0', '"p50": 0.1')
    assert text != asked.efficiency.read_text()
    asked.efficiency.write_text(text)
    assert read_efficiency(asked) is None


def test_fill50ks_test_examples_are_drawn_without_a_style_and_measured_against_their_targets(
    world: World, run: Run, tmp_path: Path
) -> None:
    root = shutil.copytree(world.root, tmp_path / "data")
    rows = []
    for number, (inside, outside) in enumerate([("coral", "teal"), ("gold", "indigo"), ("peru", "white")]):
        source, target = draw_circle(0.4, 0.5, 0.2, inside, outside, 128)
        write_png(root / "fill50k" / f"source{number}.png", source)
        write_png(root / "fill50k" / f"target{number}.png", target)
        paths = {"source_path": f"fill50k/source{number}.png", "target_path": f"fill50k/target{number}.png"}
        split = "train" if number == 2 else "test"
        rows.append({"key": str(number), **paths, "prompt": circle_prompt(inside, outside), "split": split})
    write_jsonl(root / "fill50k" / "fill50k.jsonl", rows)
    config = CONFIG.model_copy(update={"rows": ("student", "content"), "limit": 1, "timed_pictures": 0})
    summary = run(tmp_path / "out", config=config, data_root=root)
    found = summary["fill50k"]
    assert found["status"] == "measured" and found["examples"] == 2 and found["broken"] == {}
    assert set(found["methods"]) == {"student"}
    assert found["methods"]["student"]["pictures"] == 2
    lines = list(read_jsonl(tmp_path / "out" / "fill50k.jsonl"))
    assert [line["key"] for line in lines] == ["0", "1"]
    assert all(0 <= line["scores"]["iou"] <= 100 and line["scores"]["inside"] > 0 for line in lines)
    assert "Fill50K's test examples" in (tmp_path / "out" / "table.md").read_text()
    assert "fill50k" not in summary["rows"]


def test_every_number_can_be_traced_to_the_picture_it_was_measured_on(done: tuple[Path, dict[str, Any]]) -> None:
    directory, _ = done
    hashes = set(pictures(directory).values())
    drawn = [line for line in read_jsonl(directory / "scores.jsonl") if line["row"] in ("student", "base", "teacher")]
    assert {line["sha256"] for line in drawn} == hashes


def test_the_base_is_the_student_without_its_adapter(done: tuple[Path, dict[str, Any]]) -> None:
    """The gates are open, so the pictures differ; content and noise are the same, so they do not differ by much."""
    from bottega.data.pictures import load_square

    folders = [done[0] / "pictures" / row for row in ("student", "base")]
    names = sorted(path.name for path in folders[0].glob("*.png"))
    students, bases = (
        np.stack([load_square(folder / name, 128) for name in names]).astype(float) for folder in folders
    )
    apart = np.abs(students[:, None] - bases[None]).mean((2, 3, 4))  # [student, base]
    assert (apart.diagonal() > 0).all()
    assert (apart.argmin(1) == np.arange(len(names))).all()


def test_done_again_nothing_is_drawn_again_and_a_lost_picture_comes_back_the_same(
    run: Run, done: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, summary = done
    before = pictures(directory)
    drawn: list[str] = []

    def here(requests: Sequence[Request]) -> None:
        """As the child does it, without the seconds that a process takes to start."""
        for request in requests:
            drawn.append(request.row)
            draw_here(request, load_painter(request.row, request.settings, [pair.prompt for pair in request.pairs]))

    monkeypatch.setattr(drawing, "_run_child", here)
    again = run(directory)
    assert drawn == []
    next((directory / "pictures" / "student").glob("*.png")).unlink()
    run(directory)
    assert drawn == ["student"]
    assert pictures(directory) == before
    assert again["rows"] == summary["rows"]


def test_without_models_truths_and_teacher_there_are_reasons_and_no_numbers(world: World, tmp_path: Path) -> None:
    lone = tmp_path / "data"
    for place in ("coco", "wikiart"):
        (lone / place).mkdir(parents=True)
        for path in (world.root / place).glob("*.png"):
            (lone / place / path.name).write_bytes(path.read_bytes())
    found = stage.run(
        CONFIG, tmp_path / "out", pairs=world.pairs, data_root=lone, adapter=None, models=ModelsConfig(), teacher=None
    )
    statuses = {row: cell["status"] for row, cell in found["rows"].items()}
    assert statuses["student"].startswith("unavailable: no adapter")
    assert statuses["teacher"].startswith("unavailable: no teacher")
    assert statuses["truth"] == statuses["blurred"]
    assert "drawn truths" in statuses["truth"]
    cells = found["rows"]["content"]["metrics"]
    assert [name for name, cell in cells.items() if cell["status"] == "measured"] == ["palette"]
    assert "models.clip" in cells["text"]["status"]
    assert "labels.txt" in cells["objects_found"]["status"] or "scene_reader" in cells["objects_found"]["status"]
    assert all("value" not in cell for cell in cells.values() if cell["status"] != "measured")
    assert all(claim["met"] is None for claim in found["claims"])


def test_an_adapter_that_is_not_there_and_an_empty_list_are_refused(run: Run, world: World, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no adapter at"):
        run(tmp_path, adapter=tmp_path / "none.safetensors")
    write_text(tmp_path / "empty.jsonl", "")
    with pytest.raises(RequestError, match="at least one pair"):
        run(tmp_path, pairs=tmp_path / "empty.jsonl")


class Flat:
    """A painter that fills a picture with a grey of its pair, and fails on one: what `draw_here` asks of a painter."""

    size = 128

    def __init__(self, bad: str = "") -> None:
        self.bad, self.batches = bad, []

    def draw(self, pairs: Any, sources: Any, seed: int) -> list[npt.NDArray[np.float32]]:
        self.batches.append([pair.pair_id for pair in pairs])
        grey = {pair.pair_id: np.nan if pair.pair_id == self.bad else len(pair.style) / 20 for pair in pairs}
        return [np.full((128, 128, 3), value, np.float32) for value in grey.values()]


def request(world: World, directory: Path, **changes: Any) -> Request:
    given: dict[str, Any] = {"row": "student", "batch_size": 5, "seed": 0, "fingerprint": "f", "settings": {}}
    places = {"directory": str(directory), "data_root": str(world.root)}
    return Request(**{"pairs": tuple(world.read()), **given, **places, **changes})


def test_a_batch_that_is_not_wholly_there_is_drawn_again_whole(world: World, tmp_path: Path) -> None:
    """What is batched together is fixed by the work list, so that a repeated run equals an uninterrupted one."""
    asked, painter = request(world, tmp_path), Flat()
    draw_here(asked, painter)
    assert [len(batch) for batch in painter.batches] == [5, 5, CONTENTS * STYLES - 10]
    (tmp_path / f"{painter.batches[1][2]}.png").unlink()
    again = Flat()
    draw_here(asked, again)
    assert again.batches == [painter.batches[1]]


def test_pictures_of_other_weights_are_drawn_again(world: World, tmp_path: Path) -> None:
    draw_here(request(world, tmp_path), Flat())
    again = Flat()
    draw_here(request(world, tmp_path, fingerprint="g"), again)
    assert len(again.batches) == 3


def test_a_failed_picture_and_a_broken_source_cost_their_own_pair(world: World, tmp_path: Path) -> None:
    listed = [replace(pair, style_path="wikiart/none.png") if pair.style_id == "s1" else pair for pair in world.read()]
    asked = request(world, tmp_path, pairs=tuple(listed))
    draw_here(asked, Flat(bad="c0_s0"))
    there = draw([asked])["student"]  # everything is on record, so no process is started
    assert set(there) == {pair.pair_id for pair in listed if pair.style_id != "s1"} - {"c0_s0"}
    errors = {line["pair_id"]: line["error"] for line in read_jsonl(asked.made) if "error" in line}
    assert "missing" in errors["c1_s1"]
    assert "finite" in errors["c0_s0"]


def test_an_error_of_the_drawing_process_is_told_here(world: World, tmp_path: Path) -> None:
    """The child's sentence and exit code come back: here an oracle that is asked for truths that nobody drew."""
    teacher = TeacherConfig(size=128, source="oracle").model_dump(mode="json")
    settings = {"teacher": teacher, "truth": str(tmp_path / "nowhere"), "models": {}}
    with pytest.raises(RequestError, match="drawing of teacher: the oracle needs a drawn truth"):
        draw([request(world, tmp_path / "out", row="teacher", settings=settings)])


def test_the_oracle_teacher_paints_the_truth_and_is_not_compared_with_it(world: World, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"rows": ("teacher", "truth")})
    teacher = TeacherConfig(size=128, source="oracle")
    found = stage.run(
        config, tmp_path, pairs=world.pairs, data_root=world.root, adapter=None, models=ModelsConfig(), teacher=teacher
    )
    assert found["rows"]["teacher"]["source"] == "oracle"
    assert found["rows"]["teacher"]["title"] == "oracle (drawn truth)"
    assert "SDXL" not in json.dumps(found["rows"]["teacher"])
    assert found["teacher"] == {
        "source": "oracle",
        "painter": f"oracle (drawn truth): {found['rows']['teacher']['meaning']}",
        "protocol": None,
        "departures": {"source": {"protocol": "sdxl", "here": "oracle"}},
        "schedule": None,
    }
    assert "Row *oracle (drawn truth)*: drawn truths in the teacher's place" in (tmp_path / "table.md").read_text()
    assert "| oracle (drawn truth) |" in (tmp_path / "table.md").read_text()
    assert "| teacher |" not in (tmp_path / "table.md").read_text()
    metrics = found["rows"]["teacher"]["metrics"]
    assert metrics["truth"] == found["rows"]["truth"]["metrics"]["truth"]
    assert metrics["truth"]["value"] > 0


def test_a_pair_that_one_method_lacks_fails_the_evaluation_or_is_left_out_of_all(world: World, tmp_path: Path) -> None:
    """The oracle's picture of one pair is not there, and is on record as failed: no process is started."""
    config = CONFIG.model_copy(update={"rows": ("teacher", "content"), "limit": None, "teacher_pairs": None})
    teacher = TeacherConfig(size=128, source="oracle")
    given = {"pairs": world.pairs, "data_root": world.root, "adapter": None, "models": ModelsConfig()}
    whole = stage.run(config, tmp_path, teacher=teacher, **given)
    made = tmp_path / "pictures" / "teacher" / "made.jsonl"
    lines = list(read_jsonl(made))
    lacking = lines[3]["pair_id"]
    lines[3] = with_check({"pair_id": lacking, "key": lines[3]["key"], "error": "not finite"})
    write_jsonl(made, lines)
    with pytest.raises(WorkError, match=rf"teacher lacks 1 \({lacking}\)"):
        stage.run(config, tmp_path, teacher=teacher, **given)
    allowed = config.model_copy(update={"allow_missing": True})
    found = stage.run(allowed, tmp_path, teacher=teacher, **given)
    assert found["missing"] == {"teacher": [lacking]}
    assert found["rows"]["teacher"]["pairs"] == found["rows"]["content"]["pairs"] == len(lines) - 1
    assert found["pair_list"] == whole["pair_list"] and whole["missing"] == {}
    assert not [line for line in read_jsonl(tmp_path / "scores.jsonl") if line["pair_id"] == lacking]
    assert len(list(read_jsonl(tmp_path / "pairs.jsonl"))) == len(lines)


def test_two_processes_draw_and_measure_to_the_bit_what_one_does(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.model_copy(update={"rows": ("student", "content", "truth"), "batch_size": 2})
    alone = run(tmp_path / "alone", config=config)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(workers, "_PICTURES_EACH", 1)
    shared = run(tmp_path / "shared", config=config)
    assert shared["rows"] == alone["rows"]
    assert shared["style_tests"] == alone["style_tests"] and shared["networks"] == alone["networks"]
    assert pictures(tmp_path / "shared") == pictures(tmp_path / "alone")
    kept = [(tmp_path / name / "measured.jsonl").read_bytes() for name in ("alone", "shared")]
    assert kept[0] == kept[1]


def test_the_work_is_shared_by_the_runs_threads_and_never_on_a_gpu_or_beyond_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_memory", lambda: 16_000_000_000)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"0")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert share_work(960, [weights], "cpu") == Workers(4, 1)
    assert share_work(300, [weights], "cpu") == Workers(2, 2)
    assert share_work(100, [weights], "cpu") is None
    os.truncate(weights, 3_000_000_000)  # sparse: it takes no room
    assert share_work(960, [weights], "cpu") is None
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert share_work(960, [], "cpu") is None


def _threads() -> dict[str, int]:
    import cv2
    import torch
    from threadpoolctl import threadpool_info

    counts = {"torch": torch.get_num_threads(), "opencv": cv2.getNumThreads()}
    for library in threadpool_info():
        counts[library["prefix"]] = library["num_threads"]
    return counts


def _own_threads(_: int) -> dict[str, int]:
    return _threads()


@pytest.mark.parametrize("threads", [1, 2])
def test_all_libraries_of_a_worker_compute_with_its_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = _threads()
    with open_pool(Workers(1, threads)) as pool:
        found = next(pool.in_order(_own_threads, [0]))
    assert len(found) >= 3 and set(found.values()) == {threads}
    assert _threads() == before and os.environ["OMP_NUM_THREADS"] == "3"


def test_a_killed_process_of_the_pool_is_told_with_its_cure() -> None:
    with pytest.raises(WorkError, match="OMP_NUM_THREADS=1"), open_pool(Workers(2, 1)) as pool:
        list(pool.in_order(os._exit, [1, 1]))


def test_a_judge_that_a_worker_cannot_load_is_named_and_no_want_of_memory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: ModelsConfig
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(workers, "_PICTURES_EACH", 1)
    assert models.scene_reader is not None
    damaged = tmp_path / "reader"
    shutil.copytree(models.scene_reader, damaged)
    preparation = read_json(damaged / "preprocessor_config.json")
    write_json(damaged / "preprocessor_config.json", {**preparation, "do_pad": True})
    config = CONFIG.model_copy(update={"rows": ("content", "truth")})
    with pytest.raises(RequestError, match="do_pad"):
        run(tmp_path / "out", config=config, models=models.model_copy(update={"scene_reader": str(damaged)}))


def test_importing_the_configuration_loads_no_network_library() -> None:
    import subprocess
    import sys

    code = "import sys, bottega.evaluation.config, bottega.cli.evaluate as _\n"
    code += "print(*(name in sys.modules for name in ('torch', 'cv2')))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "False"]


def test_pairs_of_a_list_written_twice_count_once(world: World, tmp_path: Path) -> None:
    from bottega.evaluation.grid import Grid

    write_jsonl(tmp_path / "twice.jsonl", [asdict(pair) for pair in [*world.read(), *world.read()]])
    assert len(Grid.of(read_pairs(tmp_path / "twice.jsonl"))) == CONTENTS * STYLES


@pytest.fixture
def kept(adapter: Path, world: World, tmp_path: Path) -> KeptCheckpoints:
    """A training that has kept two checkpoints, whose gates let more and more through, and has ended with a third."""
    made, header = load_adapter(adapter)
    training = tmp_path / "training"
    weights = KeptWeights(training, 2)
    for step, gate in ((10, 0.0), (20, 0.5), (30, 1.0)):
        for name, parameter in made.named_parameters():
            if "gate" in name:
                parameter.fill_(gate)
        path = training / "adapter.safetensors" if step == 30 else weights.path(step)
        save_adapter(path, made, {**header, "steps": step})
        if step < 30:
            weights.add(step, 1.0 - gate)
    pairs = tmp_path / "val.jsonl"
    write_jsonl(pairs, [{**asdict(pair), "split": "val"} for pair in read_pairs(world.pairs)])
    return KeptCheckpoints(training, pairs)


def test_the_checkpoints_of_a_training_are_compared_by_their_pictures(
    run: Run, kept: KeptCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"checkpoints": True, "checkpoint_pairs": 6, "rows": ("student", "content"), "size": None}
    config = CONFIG.model_copy(update=changes)
    summary = run(tmp_path / "done", config=config, kept=kept)
    assert summary["checkpoints"] == "compared"
    found = read_json(tmp_path / "done" / "checkpoints.json")
    assert [row["step"] for row in found["rows"]] == [0, 10, 20, 30] and found["split"] == "val"
    assert found["rows"][1]["file"] == "kept/step_00000010.safetensors" and found["rows"][1]["val_loss"] == 1.0
    assert found["rows"][1]["sha256"] == sha256_file(kept.training / found["rows"][1]["file"])
    # Closed gates let nothing in: the same pictures as the frozen base's, so the same numbers, from the same noise.
    palettes = [row["metrics"]["palette"]["value"] for row in found["rows"]]
    assert palettes[0] == palettes[1] and len(set(palettes)) == 3
    assert (tmp_path / "done" / "checkpoints.md").read_text().count("\n| ") == 9

    # Again: nothing is drawn and nothing measured, and the files are the same to the byte.
    before = (tmp_path / "done" / "checkpoints.json").read_bytes()
    monkeypatch.setattr("bottega.evaluation.drawing._run_child", lambda requests: pytest.fail("drawn again"))
    run(tmp_path / "done", config=config, kept=kept)
    assert (tmp_path / "done" / "checkpoints.json").read_bytes() == before

    # What can't be compared is said, and stops nothing else.
    lonely = KeptCheckpoints(tmp_path / "nothing", kept.pairs)
    assert "keep_best" in run(tmp_path / "done", config=config, kept=lonely)["checkpoints"]
