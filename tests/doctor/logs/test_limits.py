"""A log that is no log, or is made to take hours: bounded before anything is expanded, and told."""

from __future__ import annotations

import bz2
import gzip
import os
import pickle
import sqlite3
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bottega.doctor import examine
from bottega.doctor.logs import LogReader
from bottega.doctor.logs.decode import LONGEST_LINE, WholeLines
from bottega.doctor.logs.lines import parse, planned_lengths, to_float, trainer_of
from bottega.doctor.text import as_text
from bottega.runtime.errors import MissingError, RequestError

STEPS = [f"step {i}/400 loss: {0.5 / i:.6f} lr 1e-4\n" for i in range(1, 201)]
GOOD = "".join(STEPS)


def losses_of(path: Path) -> int:
    return sum(len(batch.losses) for batch in LogReader(path).batches())


TOKENS = {
    "digits": "7",
    "decimals": "1.",
    "loss": "loss ",
    "names": "loss_",
    "counts": "1/1 ",
    "epochs": "epoch ",
    "thousands": "1,111",
    "objects": '{"loss":',
    "lists": "[",
    "spaces": " ",
    "bars": "%|",
    "rates": "lr_",
    "ranks": "[a]:",
    "no end": "\x1b[",
}


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("head", ["", "step 9 loss: ", '{"step": 9, "loss": '])
def test_a_line_of_900_000_characters_is_left_out_at_once_and_told(token: str, head: str, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    unit = TOKENS[token]
    path.write_text(GOOD + head + unit * (900_000 // len(unit)) + "\n" + GOOD.replace("/400", "/401"))
    begun = time.process_time()
    verdict = examine(path)
    assert time.process_time() - begun < 5
    assert f"note:  one line was longer than {LONGEST_LINE} bytes and left out" in as_text(verdict)


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("head", ["", "loss: ", "x "])
def test_the_longest_line_that_is_read_takes_time_in_proportion_to_its_bytes(token: str, head: str) -> None:
    line = (head + TOKENS[token] * LONGEST_LINE)[:LONGEST_LINE].encode()
    begun = time.process_time()
    parse(line)
    planned_lengths(line)
    trainer_of(line)
    assert time.process_time() - begun < 3  # a quadratic pattern took a minute


def test_lines_are_cut_where_they_are_and_not_in_their_middle(tmp_path: Path) -> None:
    long = b"step 3 loss: 0.1 " * (LONGEST_LINE // 17 + 1)
    for size in (1, 7, LONGEST_LINE - 1, LONGEST_LINE, 10 * LONGEST_LINE):
        lines = WholeLines()
        stream = b"a\n" + long + b"\nb\n" + long * 3 + b"\n\nc\n" + b"d" * LONGEST_LINE + b"\ne\nf"
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)] if size > 1 else [stream]
        kept = b"".join(map(lines.take, pieces))
        assert kept == b"a\nb\n\nc\n" + b"d" * LONGEST_LINE + b"\ne\n" and lines.rest == b"f"
        assert lines.num_overlong == 2


def test_megabytes_without_a_line_break_are_named_in_the_refusal(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"step 3 loss: 0.1 " * 300_000)
    with pytest.raises(RequestError, match=f"has none in 0 lines, and 1 of more than {LONGEST_LINE} bytes"):
        losses_of(path)


def test_numbers_longer_than_any_number_are_none() -> None:
    assert np.isnan(to_float("1" * 500)) and np.isnan(to_float(b"1" * 500)) and to_float("1" * 300) > 1e299


def test_nuls_of_a_crash_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"\0" * 200_000 + GOOD.encode() + b"\0" * 90_000 + b"step 201/400 loss: 0.002 lr 1e-4\n")
    assert losses_of(path) == 201
    path.write_bytes(GOOD.encode("utf-16-le"))  # without the mark at its beginning
    assert losses_of(path) == 200


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe"])
def test_what_is_no_regular_file_is_refused_and_never_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    if kind == "device":
        path = Path("/dev/zero")
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    with pytest.raises(MissingError, match="is a pipe, a socket or a device; save it first"):
        LogReader(path)


def test_a_pipe_in_a_folder_is_not_taken_for_its_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.log")
    os.mkfifo(tmp_path / "metrics.jsonl")
    (tmp_path / "b.log").write_text(GOOD)
    assert LogReader(tmp_path).path.name == "b.log"


def binary(path: Path, kind: str) -> None:
    """A file that holds lines with losses, in a form that is no text."""
    if kind == "gzip":
        path.write_bytes(gzip.compress(GOOD.encode()))
    elif kind == "bzip2":
        path.write_bytes(bz2.compress(GOOD.encode()))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("train.log", GOOD)
    elif kind == "SQLite":
        connection = sqlite3.connect(path)
        connection.execute("create table logs (line text)")
        connection.executemany("insert into logs values (?)", [(line,) for line in STEPS])
        connection.commit()
        connection.close()
    elif kind == "Weights & Biases":
        path.write_bytes(b":W&B" + GOOD.encode())
    elif kind == "pickle":
        path.write_bytes(pickle.dumps([line.encode() for line in STEPS]))
    else:
        path.write_bytes(np.arange(2048, dtype="<u2").tobytes() + GOOD.encode())


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "zip", "SQLite", "Weights & Biases", "pickle", "numbers"])
def test_a_binary_file_is_refused_by_what_it_is_before_a_loss_is_found_in_it(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    binary(path, kind)
    with pytest.raises(RequestError, match="is not text") as refused:
        losses_of(path)
    if kind != "numbers":
        assert kind in str(refused.value)
    if kind == "gzip":
        assert f"gunzip --keep {path}" in str(refused.value)
