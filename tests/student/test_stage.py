"""Training as a user runs it: resumed to the bit, refused by name, exported, and learning one pair by heart."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bottega.models.config import ModelsConfig
from bottega.runtime import trust
from bottega.runtime.errors import DamagedError, FingerprintError, MissingError, RequestError, StorageError
from bottega.runtime.files import read_json, read_jsonl, write_jsonl
from bottega.student.config import StudentConfig
from bottega.student.export import load_adapter, read_header
from bottega.student.stage import prepare, run
from bottega.student.store import read_samples

SETTINGS: dict[str, Any] = {
    "adapter": {"layers": 2, "strength": 0.4, "content_mode": "latent"},
    "loop": {
        "steps": 8,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "checkpoint_every": 3,
        "validate_every": 4,
        "log_every": 2,
    },
    "batch_size": 4,
    "accumulation": 1,
    "validation": {"pictures": 2, "timesteps": 2},
}
CONFIG = StudentConfig.model_validate(SETTINGS)


def changed(**values: Any) -> StudentConfig:
    return StudentConfig.model_validate(SETTINGS | values)


@pytest.fixture(scope="module")
def trained(features: Path, models: ModelsConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained")
    run(CONFIG, directory, features_dir=features, models=models)
    return directory


def test_a_run_leaves_an_adapter_metrics_and_a_verdict(trained: Path) -> None:
    summary = read_json(trained / "training.json")
    assert summary["learning"] in ("yes", "no") and "interval" in summary["evidence"]
    assert summary["samples"] == {"main": 12, "fill50k": 3} and summary["validated_on"] == "training"
    rows = list(read_jsonl(trained / "metrics.jsonl"))
    wanted = {"step", "epoch", "loss", "loss_main", "loss_fill50k", "learning_rate", "grad_norm", "prediction_type"}
    wanted |= {"seconds", "rss_mb", "gate_10", "gate_11", "gate_purification", "cosine_before", "cosine_after"}
    assert wanted <= rows[0].keys() and rows[0]["prediction_type"] == "epsilon"
    assert {"val_gain", "val_swap"} <= rows[3].keys() and "val_gain" not in rows[2]
    assert "Loss:" in (trained / "train.log").read_text()
    assert sorted(f.name for f in (trained / "samples").iterdir()) == ["step_00000004.png", "step_00000008.png"]


def test_pictures_on_the_way_change_nothing_that_is_learned(
    trained: Path, features: Path, models: ModelsConfig, tmp_path: Path
) -> None:
    run(changed(validation=SETTINGS["validation"] | {"samples": 0}), tmp_path, features_dir=features, models=models)
    assert not (tmp_path / "samples").exists()
    one, other = (load_file(folder / "adapter.safetensors") for folder in (trained, tmp_path))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_header_says_what_the_adapter_is_and_names_no_place_on_this_machine(
    trained: Path, models: ModelsConfig
) -> None:
    header = read_header(trained / "adapter.safetensors")
    assert header["format"] == "bottega-style-adapter" and header["steps"] == 8
    assert header["adapter"]["content_mode"] == "latent" and header["geometry"]["blocks"] == 12
    assert header["sampling"]["sampler"] == "ddim" and header["sampling"]["start"] == 399
    assert str(models.pixart) not in str(header)


def test_a_saved_adapter_loads_as_it_was(trained: Path, features: Path, models: ModelsConfig, tmp_path: Path) -> None:
    adapter, _ = load_adapter(trained / "adapter.safetensors")
    work = prepare(CONFIG, features, models)[0].work
    fresh = dict(work.adapter.named_parameters())
    assert adapter.config == CONFIG.adapter and not any(p.requires_grad for p in adapter.parameters())
    assert any(not torch.equal(p, fresh[n]) for n, p in adapter.named_parameters())
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes((trained / "adapter.safetensors").read_bytes()[:-9])
    with pytest.raises(StorageError, match="torn"):
        load_adapter(torn)
    with pytest.raises(MissingError, match="bottega train style"):
        load_adapter(tmp_path / "none.safetensors")
    with pytest.raises(RequestError, match="not a StyleAdapter"):
        load_adapter(Path(str(models.pixart)) / "vae" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("part", ["a weight", "NaN", "the header", "two tensors exchanged"])
def test_a_damaged_adapter_is_refused_and_draws_nothing(trained: Path, tmp_path: Path, part: str) -> None:
    whole = (trained / "adapter.safetensors").read_bytes()
    path = tmp_path / "adapter.safetensors"
    if part == "a weight":
        path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 8]) + whole[-1:])
    elif part == "NaN":
        path.write_bytes(whole[:-4] + b"\xff\xff\xff\x7f")
    elif part == "the header":
        assert whole.count(b'\\"strength\\": 0.4') == 1
        path.write_bytes(whole.replace(b'\\"strength\\": 0.4', b'\\"strength\\": 0.5'))
    else:
        tensors = load_file(trained / "adapter.safetensors")
        with safe_open(trained / "adapter.safetensors", "pt") as file:
            metadata = file.metadata()
        names = list(tensors)
        same = [(a, b) for a in names for b in names if a < b and tensors[a].shape == tensors[b].shape]
        first, second = next(pair for pair in same if not torch.equal(tensors[pair[0]], tensors[pair[1]]))
        tensors[first], tensors[second] = tensors[second], tensors[first]
        save_file(tensors, path, metadata)
    with pytest.raises(DamagedError, match=r"adapter\.safetensors: its weights or its header are not those .* copy it"):
        load_adapter(path)


def test_an_adapter_of_averaged_weights_is_the_average_and_its_validation_too(
    features: Path, models: ModelsConfig, tmp_path: Path
) -> None:
    averaged = changed(loop={**SETTINGS["loop"], "steps": 4, "ema_decay": 0.9})
    done = run(averaged, tmp_path, features_dir=features, models=models)
    adapter, _ = load_adapter(tmp_path / "adapter.safetensors")
    checkpoint = tmp_path / "checkpoints" / "step_00000004"
    averages, raw = (load_file(checkpoint / name) for name in ("ema.safetensors", "model.safetensors"))
    held = dict(adapter.named_parameters())
    assert held.keys() == averages.keys() and all(torch.equal(held[name], averages[name]) for name in held)
    assert any(not torch.equal(held[name], raw[name]) for name in held)
    job, _ = prepare(averaged, features, models)
    work = job.work
    assert job.validate is not None
    work.module.load_state_dict(raw | averages)
    assert job.validate()["val_gain"] == done["validation"]["val_gain"]
    work.attachment.detach()


CHILD = """
import sys
from pathlib import Path
from bottega.models.config import ModelsConfig
from bottega.student.config import StudentConfig
from bottega.student.stage import run
config, models = StudentConfig.model_validate_json(sys.argv[1]), ModelsConfig.model_validate_json(sys.argv[2])
run(config, Path(sys.argv[3]), features_dir=Path(sys.argv[4]), models=models)
"""


def test_a_run_killed_at_any_moment_and_started_again_gives_the_same_adapter_byte_for_byte(
    features: Path, models: ModelsConfig, trained: Path, tmp_path: Path
) -> None:
    long = changed(loop={**SETTINGS["loop"], "steps": 40})
    command = [
        sys.executable,
        "-c",
        CHILD,
        long.model_dump_json(),
        models.model_dump_json(),
        str(tmp_path),
        str(features),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONWARNINGS": "ignore"}
    metrics, kills = tmp_path / "metrics.jsonl", []
    for wanted in (2, 14, 29):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < wanted:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        kills.append(process.wait())
    assert kills == [-signal.SIGKILL] * 3
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=environment)
    run(long, tmp_path / "whole", features_dir=features, models=models)
    assert (tmp_path / "adapter.safetensors").read_bytes() == (tmp_path / "whole" / "adapter.safetensors").read_bytes()
    assert [row["step"] for row in read_jsonl(metrics)] == list(range(1, 41))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"adapter": {**SETTINGS["adapter"], "tokens": 8}}, r"student\.adapter\.tokens was 4"),
        ({"batch_size": 8}, r"student\.batch_size was 4"),
        ({"seed": 1}, r"student\.seed was 0"),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused_by_name(
    trained: Path, features: Path, models: ModelsConfig, tmp_path: Path, change: dict[str, Any], name: str
) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    with pytest.raises(FingerprintError, match=name):
        run(changed(**change), tmp_path / "copy", features_dir=features, models=models)


def test_features_of_another_model_are_refused(features: Path, models: ModelsConfig, tmp_path: Path) -> None:
    shutil.copytree(features, tmp_path / "features")
    text = (tmp_path / "features" / "manifest.json").read_text()
    stale = read_json(features / "manifest.json")["models"]["latent"]
    (tmp_path / "features" / "manifest.json").write_text(text.replace(stale, "0" * 64))
    trust.renew(tmp_path / "features" / "manifest.json")
    with pytest.raises(RequestError, match="another autoencoder"):
        run(CONFIG, tmp_path / "out", features_dir=tmp_path / "features", models=models)


def test_what_style_pictures_show_is_taken_out_by_their_captions_and_a_cache_without_any_is_refused(
    trained: Path, features: Path, models: ModelsConfig, tmp_path: Path
) -> None:
    adapter = SETTINGS["adapter"] | {"scene_removal": "gated_subtraction"}
    config = changed(adapter=adapter, loop=SETTINGS["loop"] | {"steps": 2})
    run(config, tmp_path / "out", features_dir=features, models=models)
    rows = list(read_jsonl(tmp_path / "out" / "metrics.jsonl"))
    assert {"scene_before", "scene_after", "gate_scene"} <= rows[0].keys()
    assert rows[1]["scene_after"] < rows[1]["scene_before"]
    said = (tmp_path / "out" / "train.log").read_text()
    assert "8 of 12 targets have a caption of their style picture; they are 1 distinct ones, a mean needs 16" in said
    loaded, _ = load_adapter(tmp_path / "out" / "adapter.safetensors")
    with torch.no_grad():
        style, content, caption = torch.randn(3, 2, loaded.geometry.clip_width)
        told, untold = (loaded.style(style, content, torch.zeros(2, dtype=torch.bool), c)[0] for c in (caption, None))
    assert float((told - untold).abs().max()) > 1e-3

    bare = tmp_path / "bare"
    shutil.copytree(features, bare)
    write_jsonl(bare / "samples.jsonl", [row | {"caption": None} for row in read_samples(features)])
    trust.renew(bare / "samples.jsonl")
    with pytest.raises(RequestError, match=r"has none; caption them .* or set it to none"):
        run(config, tmp_path / "bare out", features_dir=bare, models=models)
    assert "caption" not in (trained / "checkpoints" / "step_00000008" / "state.json").read_text()


def test_what_is_kept_of_a_checkpoint_is_an_adapter_as_it_is_exported(
    trained: Path, features: Path, models: ModelsConfig, tmp_path: Path
) -> None:
    run(changed(loop=SETTINGS["loop"] | {"keep_best": 9}), tmp_path, features_dir=features, models=models)
    kept = sorted((tmp_path / "kept").glob("*.safetensors"))
    assert [read_header(path)["steps"] for path in kept] == [3, 6, 8]
    assert kept[-1].read_bytes() == (tmp_path / "adapter.safetensors").read_bytes()
    assert kept[-1].read_bytes() == (trained / "adapter.safetensors").read_bytes(), "keeping changed what is learned"
    assert {"kept/kept.json", "kept/step_00000003.safetensors"} <= set(trust.read_list(tmp_path))
