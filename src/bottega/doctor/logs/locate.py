"""Which file a path means, and whether it is text."""

from __future__ import annotations

import shlex
from pathlib import Path

from bottega.doctor.logs.events import event_files
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import storage_error
from bottega.training.log import LOG, METRICS

HOW = "give a run directory, a metrics.jsonl, or a file with what the trainer printed (… 2>&1 | tee train.log)"
"""What to do where no log is found."""

OTHER_TRAINERS = ("metrics.csv", "progress.csv", "results.csv", "trainer_state.json", "checkpoint-*/trainer_state.json")
"""What Lightning, guided-diffusion, YOLO and transformers leave in a folder; of several the newest."""


_UNPACK = "unpack it ({0}), and name the log that comes out"
_PACKED = (
    (b"\x1f\x8b", "a gzip file", _UNPACK.format("gunzip --keep {path}")),
    (b"BZh", "a bzip2 file", _UNPACK.format("bunzip2 --keep {path}")),
    (b"\xfd7zXZ\0", "an xz file", _UNPACK.format("unxz --keep {path}")),
    (b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK.format("unzstd {path}")),
    (b"PK\x03\x04", "a zip archive or a checkpoint of PyTorch", HOW),
    *((b"\x80" + protocol, "a pickle", HOW) for protocol in (b"\2", b"\3", b"\4", b"\5")),
    (b"SQLite format 3\0", "an SQLite database", HOW),
    (b":W&B", "the transaction log of Weights & Biases", f"the output.log beside it is text; {HOW}"),
)
"""How a file begins that is no text but was taken for a log, what it is, and what to do."""


def find_log(path: Path) -> Path:
    """The log that a path means; the one for programs before the one for people.

    Raises:
        MissingError: nothing there can be read as a log.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        rule = "a training is judged from its log"
        if path.exists():  # a pipe may never end, nor give anything; opening one waits for who writes into it
            raise MissingError(
                f"{rule}, a regular file; {path} is a pipe, a socket or a device; save it first, and {HOW}"
            )
        raise MissingError(f"{rule}; there is no file or folder {path}; {HOW}")
    return _log_of_bottega(path) or _log_of_another_trainer(path) or _only_text_or_event_file(path)


def _log_of_bottega(path: Path) -> Path | None:
    """In the folder of a run or of its training; the log for programs before the one for people."""
    for name in (METRICS, LOG):
        for folder in (path, path / "training"):
            if (folder / name).is_file():
                return folder / name
    return None


def _log_of_another_trainer(path: Path) -> Path | None:
    for pattern in OTHER_TRAINERS:
        others = [other for other in path.glob(pattern) if other.is_file()]
        if others:
            return max(others, key=lambda other: other.stat().st_mtime_ns)
    return None


def _only_text_or_event_file(path: Path) -> Path:
    """The one text file of a folder, else its newest event file. Of several texts none is guessed: a verdict on the
    wrong run is worse than none."""
    texts = []
    for file in sorted(path.iterdir()):
        if file.suffix in (".log", ".jsonl") and file.is_file():
            texts.append(file)
    if len(texts) == 1:
        return texts[0]
    if not texts:
        events = event_files(path)
        if events:
            return events[-1]
    if texts:
        names = ", ".join(text.name for text in texts[:4])
        if len(texts) > 4:
            names += ", …"
        found = f"{len(texts)} files end in .log or .jsonl: name one of {names}"
    else:
        found = f"neither {METRICS} nor a .log nor an event file of TensorBoard is there"
    raise MissingError(f"a folder is judged from its one log; in {path} {found}; {HOW}")


def require_text(path: Path) -> None:
    """Refuse what is no text by its first bytes, before losses are found in it by chance.

    Raises:
        RequestError: it says what the file is, where that is known, and what to do.
        StorageError: the disk fails.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(1 << 12)
    except OSError as error:
        raise storage_error(error, path) from error
    kind, cure = "", HOW
    for start, name, what_to_do in _PACKED:
        if head.startswith(start):
            kind, cure = f": it is {name}", what_to_do.format(path=shlex.quote(str(path)))
    if kind or _is_binary(head):
        raise RequestError(f"a log must be text with a loss in its lines; {path} is not text{kind}; {cure}")


def _is_binary(head: bytes) -> bool:
    """Whether more than one in fifty bytes is one that no text has."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16
        return False
    head = head.replace(b"\0", b"")  # a hole in a log, or UTF-16 without its mark
    return sum(byte < 8 or 13 < byte < 27 for byte in head) * 50 > len(head)
