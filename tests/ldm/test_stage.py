"""Training from scratch as a user runs it: resumed to the bit, changed only in what may change, safe to carry away."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bottega.cli.main import main
from bottega.generation.scratch import generate
from bottega.ldm.autoencoder import MockVAE
from bottega.ldm.data import red_circle
from bottega.ldm.recipe import load_recipe, read_recipe
from bottega.ldm.stage import LATENTS, prepare, replay, run
from bottega.models.names import resolve
from bottega.runtime.config import as_yaml
from bottega.runtime.errors import FingerprintError, Interrupted, MissingError, NonFiniteError, RequestError
from bottega.runtime.files import read_json, read_jsonl, write_json
from bottega.training import checkpoint as checkpoints
from bottega.training.loop import train
from bottega.training.resume import resume_from

from .tiny import Stopped, plain, same_bits, tensors, textless, tiny


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to go on with."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def rows(directory: Path) -> list[tuple[Any, ...]]:
    return [(r["step"], r["epoch"], r["loss"], r["grad_norm"]) for r in read_jsonl(directory / "metrics.jsonl")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_leaves_its_files_and_a_checkpoint_an_epoch(trained: Path) -> None:
    assert names(trained / "checkpoints") == ["epoch-1", "epoch-2"]
    assert names(trained / "checkpoints" / "epoch-2") == [
        "ema.safetensors",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    assert names(trained / "samples") == ["epoch-1.png", "epoch-2.png", "prompts.txt"]
    assert [(row[0], row[1]) for row in rows(trained)] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    last = list(read_jsonl(trained / "metrics.jsonl"))[-1]
    assert {"train_loss", "val_loss", "train_bin_0", "val_bin_9", "floor_bin_5", "num_samples"} <= last.keys()
    summary = read_json(trained / "summary.json")
    assert (summary["steps"], summary["epochs"], summary["samples"]) == (6, 2, 24)
    assert summary["checkpoint"] == "checkpoints/epoch-2" and summary["loss"] == last["loss"]
    assert summary["latents"]["absmax"] <= 1
    assert summary["parameters"] == sum(
        t.numel() for n, t in tensors(trained, "epoch-2").items() if n.startswith("ema:")
    )
    assert "torch" in read_json(trained / "provenance.json")["packages"]


def test_pictures_that_no_prompt_made_are_not_said_to_show_one(trained_textless: Path) -> None:
    assert names(trained_textless / "samples") == ["step_00000004.png"]


def test_a_run_can_be_carried_to_another_machine(trained: Path, tmp_path: Path) -> None:
    for file in trained.rglob("*"):
        if file.suffix in (".json", ".yaml", ".jsonl", ".txt", ".log"):
            text = file.read_text()
            assert str(trained.parent) not in text, file
            assert re.search(r"(?:^|[\s\"'])/\w", text) is None, file  # a word that begins at the root of the disk
    moved = Path(shutil.copytree(trained, tmp_path / "elsewhere" / "tiny"))
    done = run(load_recipe(moved / "recipe.yaml"), moved)
    assert done["resumed_from"] == done["steps"] == 6


@pytest.mark.parametrize("stop", [0, 3, 4])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    trained: Path, tmp_path: Path, stop: int
) -> None:
    job = prepare(tiny(), tmp_path)
    work, loop = job.work, job.config
    work.__class__, work.kill_at = Stopped, stop  # type: ignore[attr-defined]
    with pytest.raises(Interrupted) as caught:
        train(work, loop, tmp_path, validate=job.validate, write_samples=job.write_samples)
    assert caught.value.exit_code == 143
    assert f"epoch-{(stop + 1) // 3}-step-{(stop + 1) % 3}" in names(tmp_path / "checkpoints")
    assert run(tiny(), tmp_path)["resumed_from"] == stop + 1
    assert same_bits(tensors(trained, "epoch-2"), tensors(tmp_path, "epoch-2"))
    assert any(name.startswith("ema:") for name in tensors(trained, "epoch-2"))
    assert rows(tmp_path) == rows(trained)


def test_a_run_that_is_made_longer_equals_one_that_was_long_from_the_start(trained: Path, tmp_path: Path) -> None:
    assert run(tiny(training={"num_epochs": 1}), tmp_path)["steps"] == 3
    done = run(tiny(), tmp_path)
    assert (done["resumed_from"], done["steps"], done["epochs"]) == (3, 6, 2)
    assert same_bits(tensors(trained, "epoch-2"), tensors(tmp_path, "epoch-2"))
    assert run(tiny(), tmp_path)["resumed_from"] == 6  # and again: nothing is left to do
    assert same_bits(tensors(trained, "epoch-2"), tensors(tmp_path, "epoch-2"))


def test_pictures_on_the_way_change_nothing_that_is_learned(trained: Path, tmp_path: Path) -> None:
    run(tiny(validation={"samples": 0}, training={"save_every_epochs": 2}), tmp_path)
    assert not (tmp_path / "samples").exists()
    assert same_bits(tensors(trained, "epoch-2"), tensors(tmp_path, "epoch-2"))


def test_a_batch_in_two_parts_has_the_losses_of_a_batch_in_one(trained: Path, tmp_path: Path) -> None:
    run(tiny(training={"parts": 2}), tmp_path)
    one, two = rows(trained), rows(tmp_path)
    assert [row[2] for row in two] == pytest.approx([row[2] for row in one], abs=1e-5)
    assert [row[3] for row in two] == pytest.approx([row[3] for row in one], rel=1e-3)


def test_the_model_is_a_function_of_the_seed(trained: Path, tmp_path: Path) -> None:
    run(tiny(seed=4, training={"num_epochs": 1}), tmp_path)
    assert not same_bits(tensors(trained, "epoch-1"), tensors(tmp_path, "epoch-1"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unet": {"place_octaves": 3}}, r"^unet\.place_octaves was 2 in the checkpoint and is 3 now"),
        ({"training": {"batch_size": 4}}, r"^training\.batch_size was 8"),
        ({"training": {"warmup_steps": 2}}, r"^training\.warmup_steps was 0"),
        ({"training": {"ema_decay": None}}, r"^training\.ema_decay was 0\.9"),
        ({"diffusion": {"clean_weight": 0.1}}, r"^diffusion\.clean_weight was 0\.0"),
        ({"text": {"dropout": 0.2}}, r"^text\.dropout was 0\.1"),
        ({"data": {"held_out": 0.02}}, r"^data\.held_out was 0\.01"),
        ({"seed": 4}, r"^seed was 3"),
    ],
)
def test_what_may_not_change_is_refused_by_name_and_the_run_is_left_as_it_was(
    copy: Path, changes: dict[str, Any], message: str
) -> None:
    before = {file: file.read_bytes() for file in sorted(copy.rglob("*")) if file.is_file() and file.suffix != ".log"}
    with pytest.raises(FingerprintError, match=message):
        run(tiny(**changes), copy)
    assert before == {file: file.read_bytes() for file in before}


def test_more_samples_begin_with_the_next_epoch_and_the_end_follows_from_them(copy: Path) -> None:
    done = run(tiny(data={"num_samples": 40}, training={"num_epochs": 4}), copy)
    assert (done["resumed_from"], done["steps"], done["epochs"], done["samples"]) == (6, 16, 4, 40)
    found = list(read_jsonl(copy / "metrics.jsonl"))
    assert [row["epoch"] for row in found[6:]] == [3] * 5 + [4] * 5
    assert [row["num_samples"] for row in found] == [24] * 6 + [40] * 10
    newest = checkpoints.latest(copy / "checkpoints")
    assert newest is not None and newest.folder.name == "epoch-4"
    assert names(copy / "checkpoints") == ["epoch-3", "epoch-4"]  # of 5 steps each, begun at step 6
    assert newest.remembered["course"] == [
        {"step": 0, "epoch": 0, "samples": 24},
        {"step": 6, "epoch": 2, "samples": 40},
    ]
    # and with fewer again: the epochs that were made stay as they were
    done = run(tiny(data={"num_samples": 16}, training={"num_epochs": 5}), copy)
    assert (done["resumed_from"], done["steps"], done["epochs"]) == (16, 18, 5)


def test_an_epoch_that_was_broken_off_is_left_where_it_stands_by_more_samples(copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints" / "epoch-2")
    job = prepare(tiny(), copy)
    work, loop = job.work, job.config
    train(work, loop, copy, validate=job.validate, write_samples=job.write_samples, until=4)
    done = run(tiny(data={"num_samples": 40}, training={"num_epochs": 3}), copy)
    assert (done["resumed_from"], done["steps"]) == (4, 9)
    assert [(row[0], row[1]) for row in rows(copy)] == [
        (1, 1), (2, 1), (3, 1), (4, 2), (5, 3), (6, 3), (7, 3), (8, 3), (9, 3),
    ]  # fmt: skip
    assert names(copy / "checkpoints")[-1] == "epoch-3"


def test_a_new_learning_rate_holds_from_here_on_and_a_cosine_is_stretched(tmp_path: Path) -> None:
    cosine = {"schedule": "cosine", "final_fraction": 0.0}
    run(tiny(training={"num_epochs": 1, **cosine}), tmp_path)
    run(tiny(training={"num_epochs": 3, "learning_rate": 1e-2, **cosine}), tmp_path)
    rates = [row["learning_rate"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert rates[:3] == pytest.approx([3e-3 * (1 + math.cos(math.pi * k / 3)) / 2 for k in range(3)])
    assert rates[3:] == pytest.approx([1e-2 * (1 + math.cos(math.pi * k / 9)) / 2 for k in range(3, 9)])


def test_fewer_epochs_than_are_done_are_refused(copy: Path) -> None:
    with pytest.raises(RequestError, match=r"num_epochs = 1 ends at step 3, the run is at epoch-2"):
        run(tiny(training={"num_epochs": 1}), copy)


def test_the_words_of_the_first_run_are_kept_when_more_pictures_bring_new_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(16):
        Image.new("RGB", (64, 64), (8 * i, 0, 0)).save(tmp_path / "photos" / f"{i:02d}.png")
        (tmp_path / "photos" / f"{i:02d}.txt").write_text(f"red number{i}")
    folder = {"source": str(tmp_path / "photos"), "splits": {"fractions": [1, 0, 0]}}
    data = {"kind": "folder", "held_out": 0, "root": str(tmp_path), "folder": folder}
    training = {"num_epochs": None, "batch_size": 4, "steps": 2}
    run(tiny(data={**data, "num_samples": 6}, training=training), tmp_path / "run")
    first = checkpoints.latest(tmp_path / "run" / "checkpoints")
    with caplog.at_level(logging.WARNING):
        run(tiny(data={**data, "num_samples": 12}, training={**training, "steps": 6}), tmp_path / "run")
    second = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert first is not None and second is not None and second.step == 6
    assert second.remembered["words"] == first.remembered["words"] == [*sorted(f"number{i}" for i in range(6)), "red"]
    assert "was in no training caption and is left out" in caplog.text
    for file in (tmp_path / "run").rglob("*"):
        if file.suffix in (".json", ".yaml"):
            assert str(tmp_path) not in file.read_text(), file


def test_a_model_of_ones_own_may_lie_elsewhere_when_the_run_resumes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        shutil.copytree(resolve("bottega:miniature/weights/pixart/vae"), tmp_path / name)
    training = {"num_epochs": None, "steps": 1}

    def recipe(model: str, steps: int) -> Any:
        return tiny(autoencoder={"kind": "diffusers", "model": model}, training={**training, "steps": steps})

    run(recipe(str(tmp_path / "one"), 1), tmp_path / "run")
    assert str(tmp_path) not in (tmp_path / "run" / "checkpoints" / "step_00000001" / "state.json").read_text()
    assert run(recipe(str(tmp_path / "other"), 2), tmp_path / "run")["resumed_from"] == 1
    again = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert run(again, tmp_path / "run")["resumed_from"] == 2
    weights = read_json(tmp_path / "run" / "provenance.json")["weights"]
    assert [Path(name).name for name in weights] == ["diffusion_pytorch_model.safetensors"]
    with pytest.raises(FingerprintError, match=r"autoencoder\.kind was 'diffusers'"):
        run(tiny(training={**training, "steps": 3}), tmp_path / "run")


def test_a_frozen_clip_conditions_and_is_in_no_checkpoint(tmp_path: Path) -> None:
    clip = "bottega:miniature/weights/clip"
    text = {"kind": "clip", "model": clip}
    recipe = tiny(text=text, training={"num_epochs": None, "steps": 2, "learning_rate": 1e-2})
    run(recipe, tmp_path / "run")
    kept = tensors(tmp_path / "run", "step_00000002")
    assert all(name.split(":")[-1].startswith("unet.") for name in kept)
    work = prepare(recipe, tmp_path / "run").work
    assert work.fingerprint["clip"] and work.remembered["words"] == []
    assert work.remembered["recipe"]["text"]["model"] == clip
    rows = generate(tmp_path / "run", ["a boat", "a lake"], tmp_path / "out", device="cpu")
    assert len({row["sha256"] for row in rows}) == 2


def test_a_latent_that_is_not_finite_is_named_before_it_spoils_the_weights(tmp_path: Path) -> None:
    job = prepare(tiny(), tmp_path)
    work, loop = job.work, job.config
    step = next(k for k in range(6) if 5 in work.sampler.indices(3, k))
    work.latents.training[5, 0, 0, 0] = math.nan
    with pytest.raises(NonFiniteError, match=rf"step {step + 1}: .*circle 5 at t="):
        train(work, loop, tmp_path, validate=job.validate, write_samples=job.write_samples)
    assert all(bool(p.isfinite().all()) for p in work.model.parameters())
    file = tmp_path / "replay" / f"step_{step + 1:08d}.safetensors"
    assert "everything is finite" in str(replay(tiny(), tmp_path, file))  # the latents on disk are sound


def test_resuming_from_the_newest_checkpoint_of_the_run_itself_changes_nothing(copy: Path) -> None:
    before = names(copy / "checkpoints")
    resume_from(copy / "checkpoints" / "epoch-2", copy, carry=[LATENTS])
    assert names(copy / "checkpoints") == before


def test_resuming_from_an_older_checkpoint_than_the_newest_is_refused(copy: Path, trained: Path) -> None:
    with pytest.raises(RequestError, match="has epoch-2, which is newer than epoch-1 or of another run"):
        resume_from(copy / "checkpoints" / "epoch-1", copy, carry=[LATENTS])
    with pytest.raises(RequestError, match="give --output-dir a new folder"):
        resume_from(trained / "checkpoints" / "epoch-2", copy, carry=[LATENTS])


def test_a_copy_in_a_new_directory_continues_as_the_run_itself_did(trained: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    (new / "checkpoints" / ".epoch-1.tmp").mkdir(parents=True)  # of a copy that was killed
    (new / "checkpoints" / "epoch-1").mkdir()
    resume_from(trained / "checkpoints" / "epoch-1", new, carry=[LATENTS])
    assert names(new / "checkpoints") == ["epoch-1"] and rows(new) == rows(trained)[:3]
    assert run(tiny(), new)["resumed_from"] == 3
    assert same_bits(tensors(trained, "epoch-2"), tensors(new, "epoch-2")) and rows(new) == rows(trained)


@pytest.mark.parametrize("one_disk", [True, False])
def test_a_new_directory_takes_the_latents_along_and_changes_none_of_the_old_ones(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_disk: bool
) -> None:
    if not one_disk:

        def refused(source: str, place: str) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refused)
    before = {path.name: path.read_bytes() for path in (trained / "latents").iterdir()}
    new, encoded = tmp_path / "new", 0
    resume_from(trained / "checkpoints" / "epoch-1", new, carry=[LATENTS])

    def counted(self: MockVAE, pictures: Any, encode: Any = MockVAE.encode) -> torch.Tensor:
        nonlocal encoded
        encoded += len(pictures)
        return encode(self, pictures)  # type: ignore[no-any-return]

    monkeypatch.setattr(MockVAE, "encode", counted)
    run(tiny(data={"num_samples": 40}), new)
    assert encoded == 1 + 40 - 16  # one for its sides; of 24 the second batch of 16 was cut short
    assert {path.name: path.read_bytes() for path in (trained / "latents").iterdir()} == before


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_command_that_resumes_from_a_checkpoint_may_be_given_again_after_a_stop(
    trained: Path, copy: Path, tmp_path: Path, elsewhere: bool
) -> None:
    directory = tmp_path / "new" if elsewhere else copy
    asked = (trained if elsewhere else copy) / "checkpoints" / "epoch-2"
    resume_from(asked, directory, carry=[LATENTS])
    longer = tiny(training={"num_epochs": 4, "keep_last": 9})
    job = prepare(longer, directory)
    work, loop = job.work, job.config
    train(work, loop, directory, validate=job.validate, write_samples=job.write_samples, until=9)
    resume_from(asked, directory, carry=[LATENTS])
    assert run(longer, directory)["resumed_from"] == 9
    with pytest.raises(RequestError, match="has epoch-4, which is newer than epoch-3"):
        resume_from(directory / "checkpoints" / "epoch-3", directory, carry=[LATENTS])


def test_a_checkpoint_that_was_resumed_from_may_be_pruned_by_the_time_the_command_is_given_again(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "ldm", "--resume", str(copy / "checkpoints" / "epoch-2"), "--set", "training.num_epochs=5"]
    assert main(words) == 0 and names(copy / "checkpoints") == ["epoch-4", "epoch-5"]
    capsys.readouterr()
    assert main(words) == 0
    assert "nothing was left to train, all 15 steps are done" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change", [{"training": {"num_epochs": 1}}, {"autoencoder": {"factor": 2}}, {"unet": {"channels": [8, 8]}}]
)
def test_a_refused_request_leaves_every_file_of_the_run_as_it_was(copy: Path, change: dict[str, Any]) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(RequestError):
        run(tiny(**change), copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_caption_with_too_many_words_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="at most 4 words"):
        run(tiny(text={"max_tokens": 5}), tmp_path)
    with pytest.raises(RequestError, match=r"received 20 in '红红"):
        run(tiny(validation={"prompts": ["红" * 20]}), tmp_path)
    assert not (tmp_path / "latents").exists()  # hours, with a real autoencoder


def test_what_stops_a_training_is_reported_before_pictures_are_checked_or_encoded(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(4):
        Image.fromarray(np.roll(red_circle(64), index, axis=0)).save(photos / f"{index}.png")
    data = {"kind": "folder", "held_out": 0, "num_samples": None, "root": str(tmp_path),
            "folder": {"source": "photos", "prompt": "red"}}  # fmt: skip
    with pytest.raises(MissingError, match="no such folder"):
        run(tiny(data=data, autoencoder={"kind": "diffusers", "model": "/nowhere"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RequestError, match="an epoch needs one whole batch"):
        run(tiny(data=data), tmp_path / "run")
    assert not (tmp_path / "run" / "latents").exists()


@pytest.mark.parametrize(
    ("recipe", "given"),
    [(plain(), "training.steps=5"), (plain(), "training.validate_every=5"), (plain(), "training.checkpoint_every=5")],
)
def test_an_override_without_effect_is_refused(recipe: dict[str, Any], given: str) -> None:
    with pytest.raises(RequestError, match=f"{given}: it has no effect on a run that counts epochs"):
        read_recipe(recipe, Path(), "tiny", [given])
    name = given.partition("=")[0].partition(".")[2]
    counted = read_recipe(recipe, Path(), "tiny", ["training.num_epochs=null", given])
    assert getattr(counted.training, name) == 5


def test_a_folder_beside_a_data_root_that_is_not_there_is_read(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(12):
        Image.fromarray(np.roll(red_circle(64), index, axis=0)).save(photos / f"{index}.png")
    folder = {"source": str(photos), "prompt": "a red circle"}
    data = {"kind": "folder", "held_out": 0, "num_samples": 8, "root": str(tmp_path / "none"), "folder": folder}
    done = run(tiny(data=data, training={"num_epochs": 1}), tmp_path / "run")
    assert (done["steps"], done["samples"]) == (1, 8)


def test_a_run_that_counts_epochs_is_not_continued_by_steps(copy: Path) -> None:
    with pytest.raises(FingerprintError, match="counts was 'epochs'"):
        run(tiny(training={"num_epochs": None, "steps": 9}), copy)


def test_a_checkpoint_that_recorded_a_setting_that_may_change_by_now_is_resumed(copy: Path) -> None:
    # As one that was written before the setting was marked: it stands in the fingerprint under the stage's own name.
    state = copy / "checkpoints" / "epoch-2" / "state.json"
    recorded = read_json(state)
    del recorded["check"]  # nor had it a hash of itself
    recorded["fingerprint"]["ldm"]["training"]["device"] = "cuda"
    write_json(state, recorded)
    assert run(tiny(), copy)["resumed_from"] == 6
    recorded["fingerprint"]["ldm"]["training"]["batch_size"] = 7
    write_json(state, recorded)
    with pytest.raises(FingerprintError, match=r"training\.batch_size was 7"):
        run(tiny(), copy)


def test_what_is_no_checkpoint_is_refused_with_those_that_are_there(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"received .*epoch-7; in .*checkpoints there are epoch-1, epoch-2"):
        resume_from(trained / "checkpoints" / "epoch-7", tmp_path, carry=[LATENTS])
    with pytest.raises(MissingError, match=r"received .*tiny; in .*checkpoints there are epoch-1, epoch-2"):
        resume_from(trained, tmp_path, carry=[LATENTS])
    with pytest.raises(MissingError, match=r"received .*checkpoints; in .*checkpoints there are epoch-1, epoch-2"):
        resume_from(trained / "checkpoints", tmp_path, carry=[LATENTS])
    with pytest.raises(MissingError, match="there is none in that folder"):
        resume_from(tmp_path / "absent" / "epoch-1", tmp_path, carry=[LATENTS])


def test_a_damaged_checkpoint_is_called_so_and_not_offered(copy: Path, tmp_path: Path) -> None:
    torn = copy / "checkpoints" / "epoch-2"
    (torn / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(
        MissingError, match=r"epoch-2, which is incomplete or damaged; in .*checkpoints there are epoch-1$"
    ):
        resume_from(torn, tmp_path / "new", carry=[LATENTS])


def test_a_checkpoint_of_the_same_name_but_of_another_run_is_not_taken_for_the_one_before(
    trained: Path, copy: Path, tmp_path: Path
) -> None:
    resume_from(trained / "checkpoints" / "epoch-2", tmp_path / "new", carry=[LATENTS])
    resume_from(trained / "checkpoints" / "epoch-2", tmp_path / "new", carry=[LATENTS])
    state = copy / "checkpoints" / "epoch-2" / "state.json"
    state.write_text(state.read_text() + "\n")  # a run of its own
    with pytest.raises(RequestError, match="newer than epoch-2 or of another run"):
        resume_from(state.parent, tmp_path / "new", carry=[LATENTS])


def test_a_checkpoint_that_was_carried_away_alone_remembers_its_recipe_and_wants_a_folder(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copytree(trained / "checkpoints" / "epoch-1", tmp_path / "carried" / "epoch-1")
    words = ["train", "ldm", "--resume", str(alone)]
    assert main(words) == 2
    assert "is in no run's checkpoints/" in capsys.readouterr().err and names(tmp_path) == ["carried"]
    assert main([*words, "--output-dir", str(tmp_path / "new")]) == 0
    assert same_bits(tensors(trained, "epoch-2"), tensors(tmp_path / "new", "epoch-2"))


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The command that trains the tiny recipe into tmp_path/out."""
    (tmp_path / "tiny.yaml").write_text(as_yaml(plain()))
    return ["train", "ldm", "--config", str(tmp_path / "tiny.yaml"), "--output-dir", str(tmp_path / "out")]


def test_the_command_shows_that_resuming_changes_no_bit_and_touches_no_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--verify-resume", "4"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("equal to the bit: all ") and "(4 steps on cpu, in one go and stopped after 2)" in said
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_the_command_trains_reports_and_resumes_from_where_it_is_asked(
    words: list[str], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*words, "--set", "training.num_epochs=1"]) == 0
    said = capsys.readouterr().out
    assert "epoch-1: 3 steps, loss " in said and "verdict: " in said and "bottega generate --checkpoint" in said
    assert f"samples: {tmp_path}/out/samples; " in said
    monkeypatch.chdir(tmp_path / "out" / "checkpoints")
    assert main(["train", "ldm", "--resume", "epoch-1", "--set", "training.num_epochs=2"]) == 0
    assert same_bits(tensors(trained, "epoch-2"), tensors(tmp_path / "out", "epoch-2"))
    assert main(["train", "ldm", "--resume", "epoch-1"]) == 0  # the same command again
    assert "epoch-2: 6 steps" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["ldm", "style"])
def test_a_command_without_a_word_says_what_it_wants(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", verb]) == 2
    assert {"ldm": "give --config", "style": "--features-dir"}[verb] in capsys.readouterr().err


def test_a_checkpoint_to_resume_from_that_is_absent_is_named(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (trained, trained / "checkpoints" / "epoch-9"):
        assert main(["train", "ldm", "--resume", str(wrong)]) == 2
        assert f"received {wrong}; in {trained}/checkpoints there are epoch-1, epoch-2" in capsys.readouterr().err


def test_no_samples_are_promised_where_none_were_asked_for(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--set", "training.num_epochs=1", "--set", "validation.samples=0"]) == 0
    assert "samples:" not in (said := capsys.readouterr().out)
    assert f"more: bottega doctor training {tmp_path}/out" in said


def test_a_run_directory_that_is_a_file_is_a_wrong_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, place = tmp_path / "tiny.yaml", tmp_path / "a file"
    config.write_text(as_yaml(plain()))
    place.touch()
    assert main(["train", "ldm", "--config", str(config), "--output-dir", str(place / "run")]) == 2
    assert f"{place} is a file; name another" in capsys.readouterr().err


def test_a_dry_run_shows_the_recipe_and_trains_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--dry_run", "--set", "training.num_epochs=7"]) == 0
    assert "num_epochs: 7" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_a_red_circle_is_learned(tmp_path: Path) -> None:
    """From random weights to the picture itself, within what the autoencoder can show, in a few hundred steps."""
    training = {"steps": 300, "learning_rate": 4e-3, "schedule": "cosine", "ema_decay": None, "log_every": 50}
    recipe = textless(
        training={**training, "validate_every": 300, "checkpoint_every": 300},
        unet={"channels": [16, 32], "place_octaves": 3},
        validation={"samples": 0},
    )
    done = run(recipe, tmp_path)
    assert done["validation"]["train_loss"] < 5e-3
    drawn = generate(tmp_path, [""], tmp_path / "out", num_images=2)
    vae = MockVAE(4)
    best = vae.decode(vae.encode(red_circle(32)[None]))[0] * 255
    for row in drawn:
        picture = np.asarray(Image.open(row["file"]), dtype=np.float64)
        assert np.abs(picture - best).mean() < 4


def test_a_checkpoint_says_what_it_depends_on_in_plain_json(trained: Path) -> None:
    state = json.loads((trained / "checkpoints" / "epoch-2" / "state.json").read_text())
    assert state["step"] == 6 and state["fingerprint"]["autoencoder"] == {"factor": 4, "kind": "mock"}
    assert state["fingerprint"]["ldm"]["unet"]["channels"] == [8, 16]
    assert state["remembered"]["shape"] == [3, 8, 8] and "orange" in state["remembered"]["words"]
    assert not {"num_samples", "root"} & state["fingerprint"]["ldm"]["data"].keys()
    assert "sampling" not in state["fingerprint"]["ldm"] and "learning_rate" not in str(state["fingerprint"])
