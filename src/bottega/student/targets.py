"""What the student learns from: the accepted targets of the teacher's ledger, and Fill50K's pairs.

The ledger is read as a published file, read-only, through its view `best`: one row a target, its best try.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from bottega.data.records import read_fill50k, style_captions
from bottega.data.roots import picture_file
from bottega.runtime.databases import connect_read_only, storage_error_of
from bottega.runtime.errors import MissingError
from bottega.runtime.files import sha256_file
from bottega.runtime.paths import inside
from bottega.runtime.trust import damaged, require

_ACCEPTED = "FROM best WHERE status = 'ok' AND weight > 0 AND output_path IS NOT NULL"
_TARGETS = f"""
SELECT target, pair_id, seed, grade, weight, prompt, split, content_path, content_sha256, style_path, style_sha256,
       output_path, output_sha256, {{source}} AS source
{_ACCEPTED} ORDER BY pair_id, seed
"""
_SOURCE = "coalesce(json_extract(parameters, '$.source'), 'sdxl')"
_TARGET_CURE = "delete it and run bottega teach again, which makes it again (bottega run does by itself)"
_INPUT_CURE = "put it back, or run bottega teach again, which makes the targets of the changed picture again"
_STYLES = f"SELECT DISTINCT style_path {_ACCEPTED}"


@dataclass(frozen=True)
class Picture:
    """A picture file and the SHA-256 of its bytes."""

    path: Path
    sha256: str
    cure: str = "run bottega data fill50k again, which takes it in as it is now"

    def require_intact(self) -> None:
        """Refuse a file that is there with other bytes than were recorded.

        Its features would be taken for those of the recorded picture. One that is absent is left to whoever reads it.

        Raises:
            DamagedError: says what makes it again.
        """
        if self.path.is_file() and sha256_file(self.path) != self.sha256:
            raise damaged(self.path, "has another content than was recorded of it", self.cure)


@dataclass(frozen=True)
class Sample:
    """One training sample before encoding.

    Args:
        sample_id: names it.
        task: `main`, or `fill50k` for the structure task.
        split: `train`, `val` or `test`.
        weight: of its loss, by its grade.
        grade: of the target.
        prompt: of the target.
        target: what is to be drawn.
        content: what it is drawn from.
        style: None for the structure task, which trains with the null style.
        style_caption: what the style picture shows; empty where nobody says.
        source: what painted the target, `sdxl` or `oracle` (a drawn truth); empty for the structure task.
    """

    sample_id: str
    task: str
    split: str
    weight: float
    grade: str
    prompt: str
    target: Picture
    content: Picture
    style: Picture | None
    style_caption: str = ""
    source: str = ""


def accepted(teacher_dir: Path, data_root: Path) -> Iterator[Sample]:
    """The targets with a weight above 0, by pair and seed.

    Raises:
        MissingError: there is no ledger.
        StorageError: it cannot be read.
    """
    path = teacher_dir / "ledger.sqlite"
    if not path.is_file():
        raise MissingError(f"there is no ledger at {path}; make targets first: bottega teach")
    require(path, "put a copy back, or move the whole folder away, and bottega teach makes its targets again")
    try:
        with ExitStack() as opened:
            db = opened.enter_context(closing(connect_read_only(path, opened)))
            db.row_factory = sqlite3.Row
            captions = style_captions(data_root, (row["style_path"] for row in db.execute(_STYLES)))
            for row in db.execute(_TARGETS.format(source=_source_column(db))):
                where = f"{path}, target {row['target']}: a path"
                yield Sample(
                    sample_id=f"{row['pair_id']}_seed{row['seed']}",
                    task="main",
                    split=row["split"],
                    weight=float(row["weight"]),
                    grade=row["grade"],
                    prompt=row["prompt"],
                    target=Picture(inside(teacher_dir, row["output_path"], where), row["output_sha256"], _TARGET_CURE),
                    content=Picture(
                        picture_file(data_root, row["content_path"], where), row["content_sha256"], _INPUT_CURE
                    ),
                    style=Picture(picture_file(data_root, row["style_path"], where), row["style_sha256"], _INPUT_CURE),
                    style_caption=captions.get(row["style_path"], ""),
                    source=row["source"],
                )
    except sqlite3.DatabaseError as error:
        raise storage_error_of(error, path) from error


def _source_column(db: sqlite3.Connection) -> str:
    """What says who painted a target; nothing in a list that others made, without parameters."""
    columns = {row["name"] for row in db.execute("PRAGMA table_info(best)")}
    return _SOURCE if "parameters" in columns else "''"


def fill50k(data_root: Path, count: int) -> Iterator[Sample]:
    """The first `count` training pairs of Fill50K: outline -> filled circle.

    Raises:
        MissingError: Fill50K was not prepared, or one of its pictures is gone.
    """
    if count == 0:
        return
    path = data_root / "fill50k" / "fill50k.jsonl"
    if not path.is_file():
        raise MissingError(
            f"there is no {path}; prepare it (bottega data fill50k), or train without: features.fill50k=0 and "
            "student.fill50k_fraction=0"
        )
    taken = 0
    for row in read_fill50k(path):
        if row.split != "train":
            continue
        source = picture_file(data_root, row.source_path, f"{path}, {row.key}: source_path")
        target = picture_file(data_root, row.target_path, f"{path}, {row.key}: target_path")
        if not source.is_file() or not target.is_file():
            raise MissingError(f"{path} names {row.key}, whose pictures are not there; run bottega data fill50k again")
        yield Sample(
            sample_id=f"fill50k-{row.key}",
            task="fill50k",
            split="train",
            weight=1.0,
            grade="A",
            prompt=row.prompt,
            target=Picture(target, sha256_file(target)),
            content=Picture(source, sha256_file(source)),
            style=None,
        )
        taken += 1
        if taken == count:
            return
