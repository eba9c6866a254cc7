"""What is left to do of a work list: every target is compared with its rows, its inputs and its files.

A finished list of a hundred thousand targets is passed over in seconds, so the ledger is asked for many targets at
once and a content or style that many pairs share is checked once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

from bottega.data.roots import picture_file
from bottega.runtime.files import write_bytes
from bottega.runtime.trust import PreparedPictures
from bottega.teacher.ledger import Known, Ledger, TryRow
from bottega.teacher.work import Chunk, PendingTarget, WorkItem

WINDOW = 32  # targets loaded and encoded together: 50 MB of pictures at 512 px
_QUERY = 512  # targets asked of the ledger at once
_MAX_HASHES = 65_536  # kept while what is done is passed over: bounds the memory that a long list takes

# What a row takes from the pair that its target is called by now.
_RENAMED = ("pair_id", "content_id", "style_id", "content_path", "style_path", "style", "split")


class Backlog:
    """Finds the targets that are not done.

    Args:
        ledger: the run's rows; its folder holds the pictures.
        data_root: what the pairs' paths are relative to.
        chunk: targets that are written and entered together.
        list_pair_ids: all pair ids of the pair lists, beyond any limit: a row under another id whose files are the
            same was renamed. Called when such a row is met.
        retry_failed: make targets again of which no picture came out.
    """

    def __init__(
        self,
        ledger: Ledger,
        data_root: Path,
        chunk: int,
        *,
        list_pair_ids: Callable[[], frozenset[str]] = frozenset,
        retry_failed: bool = False,
    ) -> None:
        self.ledger, self.data_root, self.chunk = ledger, data_root, chunk
        self.retry_failed = retry_failed
        self._list_pair_ids = list_pair_ids
        self._folder = str(ledger.path.parent)
        self._hashes: dict[str, str] = {}  # path -> hash, while what is done is passed over

    def windows(self, work: Iterable[list[WorkItem]], at_once: int) -> Iterator[list[Chunk]]:
        """Neighbouring chunks that are loaded and encoded together; the first window is small, to see pictures soon.

        Args:
            work: the work list in chunks.
            at_once: chunks that are worked on at the same time: a window holds no fewer.
        """
        window: list[Chunk] = []
        size = 0
        room = at_once * self.chunk
        for chunk in self._unfinished(work):
            window.append(chunk)
            size += len(chunk.targets)
            if size >= room or not chunk.targets:  # what is done is reported at once
                yield window
                if size:
                    room = max(WINDOW, room)
                window = []
                size = 0
        if window:
            yield window

    def forget_hashes(self) -> None:
        """Check every content and style again: time has passed, and they may have changed."""
        # A new dictionary, never `clear()`: the generator is in the middle of a block and still reads the old one.
        self._hashes = {}

    def _unfinished(self, work: Iterable[list[WorkItem]]) -> Iterator[Chunk]:
        """Every chunk with what is not done of it; those that are wholly done are counted together."""
        # One query and one check of the files for many targets: asking for each takes minutes on a long list.
        stream = iter(work)
        while block := list(islice(stream, max(1, _QUERY // self.chunk))):
            flat = list(chain.from_iterable(block))
            known = self.ledger.known([one.target for one in flat])
            hashes = self._hash_inputs(flat)
            done = 0
            for chunk in block:
                targets = self._not_done(chunk, known, hashes)
                if targets:
                    yield Chunk(targets, len(chunk) - len(targets))
                else:
                    done += len(chunk)
            if done:
                yield Chunk([], done)

    def _hash_inputs(self, works: Sequence[WorkItem]) -> Mapping[str, str]:
        """Hashes by path, those of these contents and styles among them."""
        if len(self._hashes) > _MAX_HASHES:
            self._hashes = {}
        new: dict[str, Path] = {}
        for one in works:
            for path in (one.pair.content_path, one.pair.style_path):
                if path not in self._hashes and path not in new:
                    new[path] = picture_file(self.data_root, path, f"pair {one.pair.pair_id}: a path")
        hashed = self.ledger.file_hashes(new)
        for path, sha256 in hashed.items():
            if sha256 != "missing":
                self._prepared.require(path, sha256)
        self._hashes |= hashed
        return self._hashes

    def _not_done(
        self, chunk: Sequence[WorkItem], known: Mapping[str, Known], hashes: Mapping[str, str]
    ) -> list[PendingTarget]:
        targets: list[PendingTarget] = []
        for work in chunk:
            found = known.get(work.target)
            # `os.access` in there, not a hash: reading every picture again would take minutes, and one that was damaged
            # is found by whoever reads it.
            if found is not None and self._is_done(work, found, hashes):
                continue
            content, style = hashes[work.pair.content_path], hashes[work.pair.style_path]
            if found is not None:
                targets.append(PendingTarget(work, content, style, stale=found.paths, known=True))
            elif not self._adopt(work, content, style):
                targets.append(PendingTarget(work, content, style))
        return targets

    def _is_done(self, work: WorkItem, known: Known, hashes: Mapping[str, str]) -> bool:
        """Whether the target was made of the same inputs, and every file of it is there."""
        pair = work.pair
        return (
            (known.made or not self.retry_failed)
            and known.content_sha256 == hashes[pair.content_path]
            and known.style_sha256 == hashes[pair.style_path]
            and known.prompt == pair.prompt
            and all(os.access(f"{self._folder}/{path}", os.F_OK) for path in known.paths)
        )

    @cached_property
    def _prepared(self) -> PreparedPictures:
        """What was recorded of contents and styles when they were prepared."""
        return PreparedPictures(self.data_root)

    # --- renamed pairs ----------------------------------------------------------------------------------------------

    @cached_property
    def _pair_ids(self) -> frozenset[str]:
        return self._list_pair_ids()

    def _adopt(self, work: WorkItem, content: str, style: str) -> bool:
        """Whether the ledger has rows for the same bytes under names that no pair list has any more."""
        if "missing" in (content, style):
            return False  # two files that are not there are not the same picture
        for rows in self.ledger.same_inputs(content, style, work.seed, work.pair.prompt):
            if rows[0].pair_id in self._pair_ids or rows[0].pair_id == work.pair.pair_id:
                continue
            # Its picture or folder was renamed: rows and files get the new names, and nothing is made again.
            return self._rename(rows, work)
        return False

    def _rename(self, rows: Sequence[TryRow], work: WorkItem) -> bool:
        """Copy the pictures, rename the rows, remove the old pictures; False where a picture is not there."""
        # In this order: a kill in between leaves an extra copy, never a row without its picture.
        renamed = [_renamed(row, work) for row in rows]
        for old, new in zip(rows, renamed, strict=True):
            if old.output_path is None or new.output_path is None:
                continue
            before = self.ledger.picture_file(old.target, old.output_path)
            if not before.is_file():
                return False
            write_bytes(self.ledger.picture_file(new.target, new.output_path), before.read_bytes())
        self.ledger.rename(rows[0].target, renamed)
        for old in rows:
            if old.output_path is not None:
                self.ledger.picture_file(old.target, old.output_path).unlink(missing_ok=True)
        return True


def _renamed(row: TryRow, work: WorkItem) -> TryRow:
    names: dict[str, str] = {name: getattr(work.pair, name) for name in _RENAMED}
    path = row.output_path.replace(row.target, work.target) if row.output_path is not None else None
    return replace(row, target=work.target, output_path=path, **names)  # type: ignore[arg-type]
