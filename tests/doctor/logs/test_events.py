"""TensorBoard's event files and its CSV: written by tensorboard's own writers, damaged on purpose, and bounded."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from bottega.doctor import examine
from bottega.doctor.logs import LogReader
from bottega.doctor.logs.events import LARGEST_EVENT, EventFiles
from bottega.runtime.errors import MissingError, RequestError

COUNT = 400
LOSSES = [float(np.float32(0.05 + 3 / (i + 20))) for i in range(1, COUNT + 1)]
RATES = [float(np.float32(1e-4)) if i <= 250 else 0.0 for i in range(1, COUNT + 1)]
NORMS = [0.5 if i <= 300 else math.nan for i in range(1, COUNT + 1)]


def write_events(
    folder: Path, tags: Mapping[str, Sequence[float]], *, every: int = 10, as_tensor: bool = False
) -> Path:
    """An event file with these tags at steps every, 2 · every …; returns it."""
    writer = EventFileWriter(str(folder))
    for place in range(max(map(len, tags.values()))):
        for tag, values in tags.items():
            if place >= len(values):
                continue
            value = Summary.Value(tag=tag, simple_value=values[place])
            if as_tensor:
                value = Summary.Value(tag=tag, tensor=make_tensor_proto(np.float32(values[place])))
                value.metadata.plugin_data.plugin_name = "scalars"
            event = Event(wall_time=1.7e9 + 3 * place, step=(place + 1) * every, summary=Summary(value=[value]))
            writer.add_event(event)
    writer.close()
    return max(folder.glob("events.out.tfevents.*"), key=lambda file: file.stat().st_mtime_ns)


def read(path: Path) -> tuple[list[float], list[float], LogReader]:
    reader = LogReader(path)
    batches = list(reader.batches())
    steps = [float(step) for batch in batches for step in batch.steps]
    return steps, [float(loss) for batch in batches for loss in batch.losses], reader


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("place", ["file", "folder", "folder above", "another name"])
def test_event_files_give_losses_rate_norm_and_validations(place: str, as_tensor: bool, tmp_path: Path) -> None:
    tags = {"train/loss": LOSSES, "train/lr": RATES, "grad_norm": NORMS, "val/loss": LOSSES[:40], "fid": LOSSES}
    file = write_events(tmp_path / "run" / "version_0", tags, as_tensor=as_tensor)
    path = {"file": file, "folder": file.parent, "folder above": tmp_path / "run"}.get(place)
    if path is None:
        path = file.rename(tmp_path / "train.log")
    steps, losses, reader = read(path)
    assert losses == LOSSES and steps == [10.0 * i for i in range(1, COUNT + 1)]
    log = reader.summary()
    assert [loss for _, loss in log.validations] == LOSSES[:40] and log.seconds_per_step == pytest.approx(0.3)
    verdict = examine(path)
    found = {finding.name: finding.evidence for finding in verdict.findings}
    assert "from step 2510 to the end" in found["learning rate zero"]
    assert "for the first time at step 3010" in found["gradient not finite"]
    assert "of the tags in the event files 'train/loss' was read as the loss" in verdict.notes


def test_columns_at_other_steps_than_the_loss_belong_to_the_next_loss(tmp_path: Path) -> None:
    write_events(tmp_path / "a", {"loss": LOSSES})
    every = write_events(tmp_path / "b", {"lr": [1e-3 * i for i in range(1, 101)]}, every=45)
    every.rename(tmp_path / "a" / f"{every.name}.1")
    batches = list(LogReader(tmp_path / "a").batches())
    rates = np.concatenate([batch.sides.rates for batch in batches if batch.sides is not None])
    named = np.flatnonzero(np.isfinite(rates))
    assert list(10 * (named[:4] + 1)) == [50, 90, 140, 180] and rates[4] == pytest.approx(1e-3)


def test_a_resumed_run_is_read_from_all_event_files_of_its_folder(tmp_path: Path) -> None:
    first = write_events(tmp_path, {"loss": LOSSES[:200]})
    first.rename(tmp_path / "events.out.tfevents.1000.host")
    (tmp_path / "second").mkdir()
    second = write_events(tmp_path / "second", {"loss": LOSSES})
    second.rename(tmp_path / "events.out.tfevents.2000.host")
    (tmp_path / "second").rmdir()
    steps, _, reader = read(tmp_path)
    assert len(steps) == 600 and reader.summary().num_runs == 2
    assert len(read(tmp_path / "events.out.tfevents.1000.host")[0]) == 200


def test_of_several_runs_none_is_guessed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_events(tmp_path / name, {"loss": LOSSES})
    with pytest.raises(MissingError, match=r"has some in 2 folders: name one of a, b"):
        LogReader(tmp_path)


def test_what_is_no_scalar_or_no_loss_is_passed_over_or_named(tmp_path: Path) -> None:
    file = write_events(tmp_path, {"accuracy": LOSSES, "psnr": LOSSES})
    with pytest.raises(RequestError, match=r"no tag with that word: 'accuracy', 'psnr'"):
        read(file)
    writer = EventFileWriter(str(tmp_path / "b"))
    for step, loss in enumerate(LOSSES):
        picture = Summary.Value(tag="loss picture", image=Summary.Image(encoded_image_string=b"x" * 2 * LARGEST_EVENT))
        text = Summary.Value(tag="loss text", tensor=make_tensor_proto("words"))
        vector = Summary.Value(tag="loss vector", tensor=make_tensor_proto(np.ones(3, np.float32)))
        scalar = Summary.Value(tag="loss", simple_value=loss)
        for value in (picture, text, vector, scalar) if step < 20 else (scalar,):
            writer.add_event(Event(step=step, summary=Summary(value=[value])))
    writer.close()
    assert read(tmp_path / "b")[1] == LOSSES


def record(content: bytes) -> bytes:
    header = struct.pack("<Q", len(content))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (header, content)]
    return header + checksums[0] + content + checksums[1]


@pytest.mark.parametrize("damage", ["torn", "flipped", "a length of 2^60", "no protobuf", "bytes of another file"])
def test_a_damaged_event_file_is_read_up_to_the_damage_which_is_told(damage: str, tmp_path: Path) -> None:
    file = write_events(tmp_path, {"loss": LOSSES})
    whole = file.read_bytes()
    half = len(whole) // 2
    length = struct.pack("<Q", 1 << 60)
    spoilt = {
        "torn": whole[:half],
        "flipped": whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :],
        "a length of 2^60": whole + length + struct.pack("<I", masked_crc32c(length)) + b"x" * 90,
        "no protobuf": whole + record(b"\xff" * 40),
        "bytes of another file": whole + b"step 3 loss: 0.1\n" * 20,
    }
    told = {
        "torn": "breaks off",
        "flipped": "is damaged at byte",
        "no protobuf": "1 records of",
        "bytes of another file": "is damaged at byte",
    }
    file.write_bytes(spoilt[damage])
    _, losses, _ = read(file)
    assert losses == LOSSES[: len(losses)] and len(losses) >= COUNT // 2 - 5
    assert any(told.get(damage, "breaks off") in note for note in EventFiles([file]).notes)


def test_what_bottega_writes_for_tensorboard_is_read_where_its_own_log_is_gone(tmp_path: Path) -> None:
    from bottega.training.log import METRICS, TrainingLog

    with TrainingLog(tmp_path, 0, tensorboard=True) as log:
        for step, loss in enumerate(LOSSES, 1):
            log.points(step, {"step": step, "loss": loss, "loss_main": loss, "learning_rate": 1e-4, "grad_norm": 0.5})
    (tmp_path / METRICS).unlink()
    (tmp_path / "train.log").unlink()
    steps, losses, _ = read(tmp_path)
    assert losses == LOSSES and steps[-1] == COUNT


EXPORTS = {
    "run-.-tag-train_loss.csv": None,
    "run-lora_v1-tag-Loss_train.csv": None,
    "loss (1).csv": None,
    "export.csv": "does not say what it is of",
    "run-a-tag-val_loss.csv": "those of a validation",
}


@pytest.mark.parametrize("name", EXPORTS)
@pytest.mark.parametrize("quote", ["", '"'])
def test_tensorboards_csv_is_read_and_what_was_assumed_is_told(name: str, quote: str, tmp_path: Path) -> None:
    path = tmp_path / name
    head = ",".join(f"{quote}{word}{quote}" for word in ("Wall time", "Step", "Value"))
    rows = (f"{1.7e9 + i:.6f},{10 * i},{loss!r}\n" for i, loss in enumerate(LOSSES, 1))
    path.write_text(head + "\n" + "".join(rows))
    steps, losses, _ = read(path)
    assert losses == LOSSES and steps[-1] == 10 * COUNT
    notes = " ".join(examine(path).notes)
    assert (EXPORTS[name] or "") in notes and (EXPORTS[name] is not None or "TensorBoard" not in notes)


def test_an_export_of_another_tag_is_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "run-a-tag-accuracy.csv"
    path.write_text("Wall time,Step,Value\n" + "".join(f"{i},{i},0.5\n" for i in range(1, 99)))
    with pytest.raises(RequestError, match="has none in"):
        read(path)
