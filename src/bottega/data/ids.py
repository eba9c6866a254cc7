"""Ids that survive in a file name: `{content_id}_{style_id}_seed{seed}.png` must be readable back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

LONGEST = 100
"""Characters of an id: a target's file name holds two of them, and may have 255 bytes."""

_OTHER = re.compile(r"[^A-Za-z0-9.-]+")


def clean_id(text: str) -> str:
    """An id of the characters `[A-Za-z0-9.-]`: any run of others, `_` too, becomes one `-`; never empty.

    Leading and trailing dots and dashes go, so that no id is a hidden file or looks like an option. A long one ends in
    a hash of the whole text, so that two of them stay different where they are cut.
    """
    identity = _OTHER.sub("-", text).strip("-.") or "x"
    if len(identity) <= LONGEST:
        return identity
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return f"{identity[: LONGEST - 9]}-{digest}"


class Ids:
    """Gives out ids, each once; a clash gets the first free of the suffixes `-2`, `-3`, …

    Letter case does not make two ids different: they name files, and some file systems fold case.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = {identity.lower() for identity in taken}
        self._next: dict[str, int] = {}

    def give(self, text: str) -> str:
        """`clean_id(text)`, with a suffix where that id was given before."""
        wanted = clean_id(text)
        candidate = wanted
        # Not from 2 each time: ten thousand pictures of one name would then take fifty million steps.
        number = self._next.get(wanted.lower(), 2)
        while candidate.lower() in self._taken:
            candidate = f"{wanted}-{number}"
            number += 1
        self._next[wanted.lower()] = number
        self._taken.add(candidate.lower())
        return candidate
