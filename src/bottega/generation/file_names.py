"""What the file of a drawn picture is called."""

from __future__ import annotations

import re
from pathlib import Path

from bottega.generation.records import GeneratedPicture
from bottega.runtime.seeds import derive

_STEM_WORDS = 8
"""Words of a prompt that name its file; `_STEM_BYTES` keeps it below the 255 bytes that file systems allow."""
_STEM_BYTES = 80


def free_path(folder: Path, prompt: str, picture: GeneratedPicture) -> Path:
    """Where a picture goes: by the first words of its prompt and its seed; a number where another has that name."""
    stem = f"{file_stem(prompt)}-{picture.seed}"
    path = folder / f"{stem}.png"
    number = 2
    while path.exists() or path.with_suffix(".json").exists():
        path = folder / f"{stem}-{number}.png"
        number += 1
    return path


def file_stem(prompt: str) -> str:
    """The first words of a prompt as a file name, such as `orange-circle-with-teal-background`.

    Where words are left out, six hexadecimal digits distinguish it from prompts that begin alike.
    """
    words = re.findall(r"\w+", prompt.lower())
    whole = "-".join(words)
    stem = "-".join(words[:_STEM_WORDS]).encode()[:_STEM_BYTES].decode(errors="ignore")
    if stem != whole:
        stem = f"{stem}-{six_digits(prompt)}"
    return stem or "picture"


def six_digits(text: str) -> str:
    """Six hexadecimal digits of a text."""
    return f"{derive(text) % 16**6:06x}"
