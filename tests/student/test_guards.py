"""The guards on the real student: the first module by name, the step replayed, and resuming shown to change no bit."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bottega.cli.main import main
from bottega.models.config import ModelsConfig
from bottega.runtime import trust
from bottega.runtime.files import read_jsonl, write_jsonl
from bottega.student.config import StudentConfig
from bottega.student.objective import StyleWorkload
from bottega.student.stage import prepare, replay
from bottega.training.replay import examine

from .test_stage import CONFIG, SETTINGS, changed


@pytest.fixture
def words(features: Path, models: ModelsConfig, tmp_path: Path) -> list[str]:
    """The command line of a short training on the tests' features, into tmp_path/out."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"student: {StudentConfig.model_validate(SETTINGS).model_dump_json()}\n")
    named = ["--pixart", str(models.pixart), "--clip", str(models.clip), "--set", "models.device=cpu"]
    places = ["--features-dir", str(features), "--output-dir", str(tmp_path / "out")]
    return ["train", "style", "--recipe", str(recipe), *named, *places]


def corrupted(features: Path, directory: Path) -> Path:
    """A copy of the features in which the text of every caption holds one infinity, as if an encoder had given it."""
    shutil.copytree(features, directory)
    hashes: dict[str, str] = {}
    for shard in (directory / "text").iterdir():
        tensors = load_file(shard)
        tensors["rows"][:, 5] = math.inf
        save_file(tensors, shard)
        hashes[f"text/{shard.name}"] = trust.hash_file(shard)
    rows = list(read_jsonl(directory / "index.jsonl"))
    write_jsonl(
        directory / "index.jsonl",
        [trust.with_check(row | {"hash": hashes.get(row["file"], row["hash"])}) for row in rows],
    )
    trust.add(directory, {directory / name: hashed for name, hashed in hashes.items()})
    return directory


def gate(work: StyleWorkload) -> torch.Tensor:
    return work.adapter.style_layers()[1].gate


def frozen_query(work: StyleWorkload) -> torch.Tensor:
    weight: torch.Tensor = work.backbone.transformer.transformer_blocks[9].attn2.to_q.weight
    return weight


def value_map(work: StyleWorkload) -> torch.Tensor:
    return work.adapter.style_layers()[0].to_v.weight


@pytest.mark.parametrize("checkpointing", ["off", "on"])
@pytest.mark.parametrize(
    ("tensor", "value", "told"),
    [
        (gate, math.nan, "adapter.layers.1 (its own parameters are not finite)"),
        (frozen_query, math.inf, "transformer.transformer_blocks.9.attn2.to_q (its own parameters are not finite)"),
        (value_map, 3e38, "adapter.layers.0.to_v (what it returns is not finite, what it receives is)"),
    ],
)
def test_the_first_module_is_named_in_the_adapter_and_in_the_frozen_transformer(
    features: Path,
    models: ModelsConfig,
    checkpointing: str,
    tensor: Callable[[StyleWorkload], torch.Tensor],
    value: float,
    told: str,
) -> None:
    work = prepare(changed(gradient_checkpointing=checkpointing), features, models)[0].work
    assert not examine(work, 2).suspects
    with torch.no_grad():
        tensor(work).fill_(value)
    seen = examine(work, 2)
    assert seen.where() == f"first: {told}"
    assert seen.sample_ids == [row["sample_id"] for row in work.draw(2).rows]
    assert seen.timesteps == work.draw(2).timesteps.tolist()


def test_features_that_are_not_finite_stop_the_command_which_then_replays_the_step(
    features: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sound = words.copy()
    words[words.index(str(features))] = str(corrupted(features, tmp_path / "features"))
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "step 1: the loss of" in error and "transformer.caption_projection.linear_1 (what it receives" in error
    file = tmp_path / "out" / "replay" / "step_00000001.safetensors"
    assert (
        "replay/step_00000001.safetensors in the run's folder holds the step" in error
        and str(tmp_path) not in error.partition("step 1:")[2]
    )

    assert main([*words, "--replay", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 1, 4 samples" and lines[-1].startswith("first: transformer.caption_projection.linear_1")
    assert any(line.endswith("loss nan  not finite") for line in lines)
    assert main([*sound, "--replay", str(file)]) == 0
    assert "everything is finite" in capsys.readouterr().out
    assert main([*sound, "--replay", str(file), "--set", "student.seed=1"]) == 2
    assert "student.seed was 0 when step_00000001.safetensors was written and is 1 now" in capsys.readouterr().err


def test_a_replay_starts_from_the_parameters_of_then(features: Path, models: ModelsConfig, tmp_path: Path) -> None:
    from bottega.runtime.errors import NonFiniteError
    from bottega.student.stage import run
    from bottega.training.loop import train

    job, _ = prepare(CONFIG, features, models)
    work = job.work
    train(work, CONFIG.loop, tmp_path / "run", validate=job.validate, until=3)
    losses = examine(work, 3).losses
    with pytest.raises(NonFiniteError) as caught:
        run(CONFIG, tmp_path / "run", features_dir=corrupted(features, tmp_path / "features"), models=models)
    assert "step 4:" in str(caught.value)
    file = tmp_path / "run" / "replay" / "step_00000004.safetensors"
    assert replay(CONFIG, file, features_dir=features, models=models).losses == losses  # of trained parameters


def test_the_command_shows_that_resuming_changes_no_bit_and_touches_no_checkpoint(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    assert main([*words[:2], "--verify-resume", *words[2:]]) == 0
    told = capsys.readouterr().out
    assert told.startswith("equal to the bit: all ")
    assert "(6 steps on cpu, in one go and stopped after 3)" in told
    assert {path.name for path in tmp_path.iterdir()} - before == {"out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "threads.json"}


def test_one_command_does_one_job(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--verify-resume", "--replay", "x"]) == 2
    assert "give one of them" in capsys.readouterr().err
    for asked in (["--verify-resume", "1"], ["--verify_resume=1"]):
        assert main([*words, *asked]) == 2
        assert "greater than or equal to 2" in capsys.readouterr().err
