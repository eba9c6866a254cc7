"""Data sets that were fetched and not unpacked: what to say of them, with the command that unpacks them."""

from __future__ import annotations

import shlex
from pathlib import Path

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")
_OTHER = (".7z", ".rar")


def unpack_advice(place: Path) -> str:
    """What to add to a message that found nothing: the archives in a folder and the command for the first.

    Args:
        place: a folder, or an archive itself.

    Returns:
        "" where there is no archive; else text that begins with a comma.
    """
    candidates = sorted(place.iterdir()) if place.is_dir() else [place]
    archives = [path for path in candidates if path.is_file() and _is_archive(path)]
    if not archives:
        return ""
    first = archives[0]
    more = f" and {len(archives) - 1} other archives" if len(archives) > 1 else ""
    return f", but {first.name}{more}: unpack them first, by {_command(first)}"


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith((".zip", *_TAR, *_OTHER))


def _command(path: Path) -> str:
    archive, folder = shlex.quote(str(path)), shlex.quote(str(path.parent))
    name = path.name.lower()
    if name.endswith(".zip"):
        return f"python3 -m zipfile -e {archive} {folder}"  # unzip is not everywhere
    if name.endswith(_TAR):
        return f"tar -xf {archive} -C {folder}"
    return f"7z x {archive} -o{folder}"
