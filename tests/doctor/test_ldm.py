"""Real runs of `bottega train ldm`: how much is done, what it has reached, and commands that do what they promise."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bottega.cli.main import main
from bottega.doctor import Verdict, examine
from bottega.doctor.text import as_text
from bottega.ldm.objective import LatentWorkload
from bottega.training.log import LOG, METRICS

CIRCLES = """
name: tiny
data: {kind: circles, num_samples: 18, size: 32, held_out: 0.02}
autoencoder: {kind: mock, factor: 8}
text: {kind: words, width: 16, layers: 0}
unet: {channels: [8, 16], attention_levels: [1], head_width: 8, place_octaves: 2}
diffusion: {schedule: cosine, prediction_type: epsilon, timesteps: 100}
training: {num_epochs: 25, save_every_epochs: 5, batch_size: 4, warmup_steps: 5, tensorboard: false, log_every: 10,
           device: cpu}
sampling: {steps: 4}
validation: {pictures: 8, samples: 0}
"""
RED = """
name: red
data: {kind: red_circle, size: 32}
unet: {channels: [8, 16], place_octaves: 2}
diffusion: {schedule: flow, prediction_type: sample, timesteps: 60, clean_weight: 0.2}
training: {steps: 60, batch_size: 2, warmup_steps: 5, learning_rate: 4.0e-3, tensorboard: false, validate_every: 20,
           checkpoint_every: 60, device: cpu}
sampling: {steps: 4}
validation: {pictures: 4, samples: 0}
"""


def train(directory: Path, recipe: str, *sets: str) -> int:
    file = directory.with_suffix(".yaml")
    file.write_text(recipe)
    given = [word for value in sets for word in ("--set", value)]
    return main(["train", "ldm", "--config", str(file), "--output-dir", str(directory), *given])


def stop_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Somebody presses Ctrl-C in that step."""
    own = LatentWorkload.metrics

    def metrics(self: LatentWorkload, index: int) -> dict[str, object]:
        if index + 1 == step:
            signal.raise_signal(signal.SIGINT)
        return own(self, index)

    patch.setattr(LatentWorkload, "metrics", metrics)


def command(verdict: Verdict, verb: str) -> list[str]:
    found = next(a.command for a in verdict.actions if a.command and a.command.startswith(f"bottega {verb}"))
    return shlex.split(found)[1:]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 epochs of 4 steps (two of 18 samples are left out each time), stopped after step 59."""
    run = tmp_path_factory.mktemp("doctor") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 59)
        assert train(run, CIRCLES) == 130
    return run


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("doctor") / "red"
    assert train(run, RED) == 0
    return run


def test_a_run_stopped_at_59_percent_is_told_as_that_and_its_command_takes_it_to_the_end(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "tiny"
    shutil.copytree(stopped, run)
    for place in (run, run / METRICS):
        verdict = examine(place)
        done = verdict.progress
        assert (done.share, done.epoch, done.epochs, done.steps_per_epoch) == (0.59, 14.75, 25, 4)
        assert (done.unit, done.step, done.steps) == ("step", 59, 100)
        seconds = sorted(json.loads(line)["seconds"] for line in (run / METRICS).read_text().splitlines())
        assert done.hours_left == pytest.approx(41 * seconds[29] / 3600)  # the median of 59
    assert "59% of the plan: 14.75 of 25 epochs, 4 steps an epoch, step 59 of 100" in as_text(verdict)
    go_on = command(verdict, "train")
    assert go_on == ["train", "ldm", "--resume", str(run / "checkpoints" / "epoch-14-step-3")]

    monkeypatch.chdir(tmp_path)
    drawn = [word.replace("…", "red circle with teal background") for word in command(verdict, "generate")]
    assert main(drawn) == 0 and "ddpm in 100 steps" in capsys.readouterr().out
    assert main(go_on) == 0
    assert examine(run).progress.share == 1.0


def test_a_finished_run_is_lengthened_by_its_command_and_counts_on_also_with_more_samples(
    stopped: Path, tmp_path: Path
) -> None:
    run = tmp_path / "tiny"
    shutil.copytree(stopped, run)
    assert train(run, CIRCLES) == 0
    verdict = examine(run)
    longer = command(verdict, "train")
    newest = str(run / "checkpoints" / "epoch-25")
    assert longer == ["train", "ldm", "--resume", newest, "--set", "training.num_epochs=38"]
    with pytest.MonkeyPatch.context() as patch:  # six steps an epoch from here on: to step 100 + 13 · 6
        stop_at(patch, 103)
        assert main([*longer, "--set", "data.num_samples=24"]) == 130
    done = examine(run).progress
    assert (done.epoch, done.epochs, done.steps_per_epoch) == (25.5, 38, 6)
    assert (done.step, done.steps, done.share) == (103, 178, 103 / 178)
    told = (run / LOG).read_text()
    assert "step 103/178" not in told and done.steps == 178  # no line since the resume but its first
    before = json.loads((run / METRICS).read_text().splitlines()[99])
    assert before["step"] == 100 and not examine(run / METRICS).notes


def test_the_plain_log_of_such_a_run_leads_to_the_same_plan_and_commands(stopped: Path) -> None:
    verdict = examine(stopped / LOG)
    assert (verdict.progress.steps, verdict.progress.epochs, verdict.progress.steps_per_epoch) == (100, 25, 4)
    assert command(verdict, "train")[-1] == str(stopped / "checkpoints" / "epoch-14-step-3")


def test_a_set_whose_captions_tell_all_has_a_floor_of_zero_and_one_without_text_has_not(
    stopped: Path, tmp_path: Path
) -> None:
    told = examine(stopped).bins
    assert told is not None and told.floor is not None and told.held_out is not None
    assert max(told.floor) < 1e-12  # no two of 18 pairs of colours are the same
    bare = CIRCLES.replace("text: {kind: words, width: 16, layers: 0}", "")
    bare = bare.replace("num_epochs: 25, save_every_epochs: 5", "num_epochs: null, steps: 24, validate_every: 8")
    assert train(tmp_path / "bare", bare) == 0
    verdict = examine(tmp_path / "bare")
    own = verdict.bins
    assert own is not None and own.floor is not None and own.step == 24
    last = json.loads((tmp_path / "bare" / METRICS).read_text().splitlines()[-1])
    excess = last["train_loss"] - math.fsum(own.floor) / 10
    assert math.fsum(own.floor) > 0.01 and f"{excess:.4g} above the least possible" in verdict.level
    assert f"held-out pictures {last['val_loss']:.4g}, " in verdict.level
    assert (verdict.progress.epochs, verdict.progress.steps, verdict.progress.share) == (None, 24, 1.0)
    assert verdict.progress.epoch == pytest.approx(24 * 4 / 18)


def test_one_picture_that_is_predicted_itself_is_told_in_percent_of_its_range(red: Path) -> None:
    verdict = examine(red)
    last = json.loads((red / METRICS).read_text().splitlines()[-1])
    latents = load_file(red / "latents" / "train_00000.safetensors")["latents"]
    share = math.sqrt(last["train_loss"]) / float(latents.max() - latents.min())
    assert f"off by {100 * share:.2g} % of the latents' range" in verdict.level
    assert "level unknown" not in verdict.level and not verdict.outlook
    assert verdict.progress.epoch is None and verdict.progress.share == 1.0


def test_a_run_that_counts_steps_and_reads_no_text_gets_commands_that_fit_it(
    red: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "red"
    shutil.copytree(red, run)
    verdict, newest = examine(run), str(run / "checkpoints" / "step_00000060")
    assert not any("prompt" in a.do or "more data" in a.do for a in verdict.actions)
    longer, drawn = command(verdict, "train"), command(verdict, "generate")
    assert longer == ["train", "ldm", "--resume", newest, "--set", "training.steps=90"]
    assert drawn == ["generate", "--checkpoint", newest, "--num-inference-steps", "60", "--scheduler", "ddpm"]
    monkeypatch.chdir(tmp_path)
    assert main(drawn) == 0 and "ddpm in 60 steps" in capsys.readouterr().out
    assert main(longer) == 0
    assert "draw with it: bottega generate --checkpoint" in (told := capsys.readouterr().out) and "--prompt" not in told
    assert (examine(run).progress.step, examine(run).progress.steps) == (90, 90)


def test_a_run_of_another_trainer_gets_no_command_of_this_one(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step_00000400").mkdir(parents=True)
    (tmp_path / "recipe.yaml").write_text("student: {loop: {steps: 400}}\n")
    rows = ({"step": i, "loss": 0.3 / i**0.5, "rss_mb": 900} for i in range(1, 401))
    (tmp_path / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    verdict = examine(tmp_path)
    assert verdict.trainer == "bottega" and verdict.state == "falling"
    assert not any("bottega" in (action.command or "") for action in verdict.actions)
    assert str(verdict.actions[0].command).startswith("the same command again")


def test_three_pictures_learned_by_heart_overfit(tmp_path: Path) -> None:
    recipe = """
name: over
data: {kind: circles, num_samples: 3, size: 64, held_out: 0.01}
unet: {channels: [16, 32], place_octaves: 2}
diffusion: {schedule: cosine, prediction_type: v_prediction, timesteps: 100}
training: {steps: 300, batch_size: 8, learning_rate: 6.0e-3, warmup_steps: 5, tensorboard: false, validate_every: 15,
           device: cpu}
validation: {pictures: 12, samples: 0}
"""
    assert train(tmp_path / "over", recipe) == 0
    verdict = examine(tmp_path / "over")
    rows = [json.loads(line) for line in (tmp_path / "over" / METRICS).read_text().splitlines()]
    best = min((row for row in rows if "val_loss" in row), key=lambda row: row["val_loss"])
    assert rows[-1]["val_loss"] > 1.1 * best["val_loss"]
    assert verdict.state == "overfitting"
    assert f"best, {best['val_loss']:.4g}, at step {best['step']}" in verdict.findings[0].evidence
    assert "held-out pictures" in verdict.level


def test_what_bottega_does_already_is_not_advised(tmp_path: Path) -> None:
    assert train(tmp_path / "short", RED, "training.steps=4") == 0
    verdict = examine(tmp_path / "short")
    assert verdict.state == "not enough to tell"
    assert len(verdict.actions) == 2 and not any(action.do.startswith("log every step") for action in verdict.actions)


def test_a_training_from_scratch_is_sent_to_the_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "short", RED, "training.steps=2") == 0
    capsys.readouterr()
    assert main(["train", "diagnose", str(tmp_path / "short")]) == 2
    assert f"ask bottega doctor training {tmp_path}/short" in capsys.readouterr().err
