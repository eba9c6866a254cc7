"""A model's identity as one hash: for caches, fingerprints and headers, which must not take one model for another."""

from __future__ import annotations

import re
from pathlib import Path

from bottega.models.layout import weight_files
from bottega.runtime.files import sha256_file, sha256_json

_BLOB = re.compile(r"[0-9a-f]{64}")


def model_hash(folder: Path) -> str:
    """A hash of a model's weights and configuration; a file of the Hugging Face cache is named by its hash already."""
    # By name and not by path: the same model in another folder is the same model.
    files = [*weight_files(folder), folder / "config.json"]
    return sha256_json({file.name: file_hash(file) for file in files})


def folder_hash(folder: Path) -> str:
    """A hash of all files of a small folder, such as a tokenizer's."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return sha256_json({file.name: file_hash(file) for file in files})


def file_hash(file: Path) -> str:
    """A file's SHA-256, read from its name where the Hugging Face cache has put it there."""
    target = file.resolve().name
    return target if file.is_symlink() and _BLOB.fullmatch(target) else sha256_file(file)
