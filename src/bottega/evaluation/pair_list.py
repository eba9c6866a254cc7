"""The list of pairs that an evaluation is about, with hashes, and what is missing of it.

    pairs.jsonl    a line a pair: ids, style label, caption, and the hashes of the content's and the style's files

Two evaluations are compared on the pairs that both lists hold with equal hashes. A method that lacks an output would be
averaged over other pairs than the rest, so that is an error, or on demand costs every method the pair.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bottega.data.roots import picture_file
from bottega.evaluation.grid import Grid
from bottega.evaluation.records import PairLine, PairListRecord
from bottega.evaluation.scoring import Measured
from bottega.runtime.errors import WorkError
from bottega.runtime.files import sha256_file, sha256_json

PAIRS = "pairs.jsonl"
"""The file's name in the evaluation's folder."""

_NAMED = 5  # pairs that a message names


def pair_lines(grid: Grid, data_root: Path) -> list[PairLine]:
    """The lines of `pairs.jsonl`, in the order of the grid; an unreadable file has no hash, but an empty one."""
    hash_of = functools.cache(lambda path: _hash(data_root, path))
    lines: list[PairLine] = []
    for pair in grid.pairs:
        lines.append(
            {
                "pair_id": pair.pair_id,
                "content_id": pair.content_id,
                "style_id": pair.style_id,
                "style": pair.style,
                "prompt": pair.prompt,
                "content_sha256": hash_of(pair.content_path),
                "style_sha256": hash_of(pair.style_path),
            }
        )
    return lines


def _hash(data_root: Path, path: str) -> str:
    try:
        return sha256_file(picture_file(data_root, path, "the path of a pair"))
    except OSError:
        return ""


def describe(lines: Sequence[PairLine]) -> PairListRecord:
    """What the summary says of the list: one hash of all of it, one of its contents, one of its styles."""
    contents = {line["content_id"]: line["content_sha256"] for line in lines}
    styles = {line["style_id"]: line["style_sha256"] for line in lines}
    return {
        "pairs": len(lines),
        "sha256": sha256_json([dict(line) for line in lines]),
        "contents": sha256_json(sorted(contents.items())),
        "styles": sha256_json(sorted(styles.items())),
    }


@dataclass(frozen=True)
class Missing:
    """By row the pairs of its design that have no score, and why a pair has none in any row."""

    rows: dict[str, list[str]]
    broken: Mapping[str, str]

    def pairs(self) -> set[str]:
        """All of them, of whichever row."""
        found: set[str] = set(self.broken)
        for missing in self.rows.values():
            found.update(missing)
        return found


def missing_outputs(designs: Mapping[str, Iterable[str]], measured: Measured) -> Missing:
    """The outputs that methods lack.

    Args:
        designs: by row the pairs that its method was to draw; the teacher's smaller crossed grid is its design. A
            row that has no output at all is unavailable, which its status says.
        measured: what could be measured; a picture that could not be read has left its pair out of every row.
    """
    rows: dict[str, list[str]] = {}
    for row, pairs in designs.items():
        lacking = [pair_id for pair_id in pairs if (row, pair_id) not in measured.records]
        some = any(of_row == row for of_row, _ in measured.records)
        if lacking and some:
            rows[row] = lacking
    return Missing(rows, measured.broken)


def require_all(missing: Missing, allowed: bool, cure: str) -> None:
    """WorkError that counts and names what is missing, unless that is allowed.

    Args:
        cure: what to do, besides `--allow-missing`.
    """
    if allowed or not missing.pairs():
        return
    parts = [f"{row} lacks {len(pairs)} ({_first(pairs)})" for row, pairs in missing.rows.items()]
    if missing.broken:
        first = next(iter(missing.broken.values()))
        parts.append(f"{len(missing.broken)} pairs have a picture that can't be read ({first})")
    raise WorkError(
        f"every method must have an output for every pair of its design: {'; '.join(parts)}; {cure}, or give "
        "--allow-missing, which leaves these pairs out of every method"
    )


def _first(pairs: Sequence[str]) -> str:
    more = f" and {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else ""
    return ", ".join(pairs[:_NAMED]) + more


def in_common(grid: Grid, measured: Measured, missing: Missing) -> tuple[Grid, Measured]:
    """The grid and the scores without the pairs that any method lacks."""
    left_out = missing.pairs()
    kept = Measured(broken=measured.broken)
    kept.add(record for record in measured.records.values() if record.pair_id not in left_out)
    return Grid.of(pair for pair in grid.pairs if pair.pair_id not in left_out), kept
