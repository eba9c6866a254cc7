"""Adapters trained together equal, to the bit, the same adapters trained alone."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from bottega.models.config import ModelsConfig
from bottega.runtime.errors import Interrupted, NonFiniteError
from bottega.runtime.files import read_jsonl
from bottega.student.config import StudentConfig
from bottega.student.objective import StyleWorkload
from bottega.student.stage import load_frozen, prepare, run
from bottega.student.together import share, train_adapters
from bottega.training import checkpoint as checkpoints
from bottega.training.together import train_together

STEPS = 8
BASE: dict[str, Any] = {
    "adapter": {"layers": 1, "strength": 0.4, "content_mode": "latent"},
    "loop": {
        "steps": STEPS,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "checkpoint_every": 3,
        "validate_every": 4,
        "log_every": 2,
        "tensorboard": False,
    },
    "batch_size": 2,
    "accumulation": 2,
    "validation": {"pictures": 2, "timesteps": 2, "samples": 0},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "layers-all": {"adapter": {"layers": "all"}},
    "layers-first": {"adapter": {"layers": [1]}},
    "purification-none": {"adapter": {"purification": "none"}},
    "schedule-cosine": {"adapter": {"step_schedule": {"kind": "cosine"}}},
    "mode-paired": {"adapter": {"content_mode": "paired"}},
    "mode-sdedit": {"adapter": {"content_mode": "sdedit"}},
    "fill50k-off": {"fill50k_fraction": 0.0},
    "averaged": {"loop": {"ema_decay": 0.9, "learning_rate": 3e-3}},
}
SHARING = {"base", "layers-all", "layers-first", "purification-none", "schedule-cosine", "mode-paired", "averaged"}


def config_of(changes: dict[str, Any]) -> StudentConfig:
    merged: dict[str, Any] = dict(BASE)
    for name, value in changes.items():
        merged[name] = {**BASE[name], **value} if isinstance(value, dict) else value
    return StudentConfig.model_validate(merged)


CONFIGS = {name: config_of(changes) for name, changes in VARIANTS.items()}


@pytest.fixture(scope="module")
def alone(features: Path, models: ModelsConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each variant trained by itself."""
    root = tmp_path_factory.mktemp("alone")
    for name, config in CONFIGS.items():
        run(config, root / name, features_dir=features, models=models)
    return root


@pytest.fixture(scope="module")
def together(features: Path, models: ModelsConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All variants trained together."""
    root = tmp_path_factory.mktemp("together")
    configs = {root / name: config for name, config in CONFIGS.items()}
    train_adapters(configs, features_dir=features, models=models)
    return root


def require_equal(one: Path, other: Path) -> None:
    """The exported adapter, header included, the last checkpoint and the logged losses are the same."""
    assert (one / "adapter.safetensors").read_bytes() == (other / "adapter.safetensors").read_bytes()
    tensors = []
    for folder in (one, other):
        found = checkpoints.latest(folder / "checkpoints")
        assert found is not None and found.step == STEPS
        tensors.append(checkpoints.read_tensors(found))
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    logged = [[row["loss"] for row in read_jsonl(folder / "metrics.jsonl")] for folder in (one, other)]
    assert len(logged[0]) == STEPS
    assert logged[0] == logged[1]


@pytest.mark.parametrize("name", VARIANTS)
def test_trained_together_equals_trained_alone_to_the_bit(alone: Path, together: Path, name: str) -> None:
    require_equal(alone / name, together / name)


def test_the_variants_differ_so_the_comparison_could_fail(alone: Path) -> None:
    files = {(alone / name / "adapter.safetensors").read_bytes() for name in VARIANTS}
    assert len(files) == len(VARIANTS)


def test_those_that_draw_alike_share_a_pass_and_the_others_do_not(
    features: Path, models: ModelsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = load_frozen(CONFIGS["base"], features, models)
    works = {name: prepare(config, features, models, frozen)[0].work for name, config in CONFIGS.items()}
    groups = share(list(works.values()))
    names = {work: name for name, work in works.items()}
    assert [{names[work] for work in group} for group in groups] == [SHARING, {"mode-sdedit"}, {"fill50k-off"}]
    passes = []
    original = StyleWorkload.frozen
    monkeypatch.setattr(
        StyleWorkload, "frozen", lambda self, *rest: passes.append(names[self]) or original(self, *rest)
    )
    for work in groups[0]:
        assert len(list(work.microbatches(0))) == 2
    assert passes == ["base", "base"]  # the first of the group, once for each microbatch


def test_stopped_together_each_resumes_to_the_same_bits(
    alone: Path, features: Path, models: ModelsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ("base", "layers-all", "fill50k-off")
    configs = {tmp_path / name: CONFIGS[name] for name in chosen}
    original = StyleWorkload.metrics
    sent = []

    def stop_once(self: StyleWorkload, step: int) -> Any:
        if step == 4 and self.config == CONFIGS["layers-all"] and not sent:
            sent.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, step)

    monkeypatch.setattr(StyleWorkload, "metrics", stop_once)
    with pytest.raises(Interrupted):
        train_adapters(configs, features_dir=features, models=models)
    found = [checkpoints.latest(folder / "checkpoints") for folder in configs]
    assert all(checkpoint is not None and checkpoint.step in (5, 6) for checkpoint in found)
    assert not any((folder / "adapter.safetensors").exists() for folder in configs)
    # A kill between two of them leaves one a checkpoint behind the others.
    newest = found[0]
    assert newest is not None
    shutil.rmtree(newest.folder)
    train_adapters(configs, features_dir=features, models=models)
    for name in chosen:
        require_equal(alone / name, tmp_path / name)


def test_one_that_is_no_longer_finite_ends_alone(
    alone: Path, features: Path, models: ModelsConfig, tmp_path: Path
) -> None:
    frozen = load_frozen(CONFIGS["base"], features, models)
    jobs = {tmp_path / name: prepare(CONFIGS[name], features, models, frozen)[0] for name in ("base", "layers-all")}
    share([job.work for job in jobs.values()])
    with torch.no_grad():
        jobs[tmp_path / "layers-all"].work.adapter.style_layers()[0].gate.fill_(torch.nan)
    outcomes = train_together(jobs)
    assert isinstance(outcomes[tmp_path / "layers-all"], NonFiniteError)
    found = checkpoints.latest(tmp_path / "base" / "checkpoints")
    expected = checkpoints.latest(alone / "base" / "checkpoints")
    assert found is not None and expected is not None
    tensors = checkpoints.read_tensors(found)
    for name, tensor in checkpoints.read_tensors(expected).items():
        assert torch.equal(tensors[name], tensor)


def test_different_numbers_of_threads_are_refused(features: Path, models: ModelsConfig, tmp_path: Path) -> None:
    frozen = load_frozen(CONFIGS["base"], features, models)
    one = prepare(CONFIGS["base"], features, models, frozen)[0]
    two = prepare(config_of({"loop": {"threads": 2}}), features, models, frozen)[0]
    with pytest.raises(ValueError, match="threads must be equal"):
        train_together({tmp_path / "one": one, tmp_path / "two": two})
