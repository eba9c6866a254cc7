"""Which file a path means, and whether it is text."""

from __future__ import annotations

from pathlib import Path

from bottega.runtime.errors import MissingError
from bottega.training.log import LOG, METRICS

HOW = "give a run directory, a metrics.jsonl, or a file with what the trainer printed (… 2>&1 | tee train.log)"
"""What to do where no log is found."""

OTHER_TRAINERS = ("metrics.csv", "progress.csv", "results.csv", "trainer_state.json", "checkpoint-*/trainer_state.json")
"""What Lightning, guided-diffusion, YOLO and transformers leave in a folder; of several the newest."""


def find_log(path: Path) -> Path:
    """The log that a path means; the one for programs before the one for people.

    Raises:
        MissingError: nothing there can be read as a log.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise MissingError(f"a training is judged from its log; there is no file or folder {path}; {HOW}")
    return _log_of_bottega(path) or _log_of_another_trainer(path) or _only_text_file(path)


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


def _only_text_file(path: Path) -> Path:
    """The one text file of a folder. Of several none is guessed: a verdict on the wrong run is worse than none."""
    texts = []
    for file in sorted(path.iterdir()):
        if file.suffix in (".log", ".jsonl") and file.is_file():
            texts.append(file)
    if len(texts) == 1:
        return texts[0]
    if texts:
        names = ", ".join(text.name for text in texts[:4])
        if len(texts) > 4:
            names += ", …"
        found = f"{len(texts)} files end in .log or .jsonl: name one of {names}"
    else:
        found = f"neither {METRICS} nor a .log is there"
    raise MissingError(f"a folder is judged from its one log; in {path} {found}; {HOW}")


def is_binary(path: Path) -> bool:
    """Whether more than one in fifty of its first bytes is one that no text has."""
    with open(path, "rb") as stream:
        head = stream.read(1 << 12)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16
        return False
    return sum(byte < 8 or 13 < byte < 27 for byte in head) * 50 > len(head)
