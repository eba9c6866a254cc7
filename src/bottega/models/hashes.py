"""A model's identity as one hash: for caches, fingerprints and headers, which must not take one model for another."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from bottega.models.layout import configuration_files, weight_files
from bottega.runtime.files import sha256_file, sha256_json

_BLOB = re.compile(r"[0-9a-f]{64}")


def model_hash(folder: Path) -> str:
    """A hash of a model's weights and configuration; a file of the Hugging Face cache is named by its hash already."""
    return _hash_of_all([*weight_files(folder), folder / "config.json"])


def folder_hash(folder: Path) -> str:
    """A hash of all files of a small folder, such as a tokenizer's."""
    return _hash_of_all(path for path in folder.iterdir() if path.is_file())


def configuration_hash(role: str, folder: Path) -> str:
    """A hash of the small files that loading a role's model reads: its weights alone don't say what it computes."""
    base = folder if folder.is_dir() else folder.parent
    found = {}
    for file in configuration_files(role, folder):
        name = file.relative_to(base).as_posix() if file.is_relative_to(base) else file.name
        found[name] = file_hash(file)
    return sha256_json(found)


def _hash_of_all(files: Iterable[Path]) -> str:
    # By name and not by path: the same model in another folder is the same model.
    return sha256_json({file.name: file_hash(file) for file in sorted(files)})


def file_hash(file: Path) -> str:
    """A file's SHA-256, read from its name where the Hugging Face cache has put it there."""
    target = file.resolve().name
    if file.is_symlink() and _BLOB.fullmatch(target):
        return target
    return sha256_file(file)
