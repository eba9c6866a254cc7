"""What a person names on the command line, looked at before anything heavy is loaded.

A path that is wrong is a wrong request, and one that is found after a model was loaded cost its loading.
"""

from __future__ import annotations

from pathlib import Path

from bottega.data.pictures import reduced
from bottega.runtime.errors import MissingError, PictureError, RequestError

_SIDE = 64  # to which a JPEG is decoded to see that it is whole: an eighth of its sides takes a fraction of the time


def require_file(option: str, path: Path | None) -> None:
    """Refuse an option's path where there is no file; None was not given.

    Raises:
        MissingError: there is nothing there.
        RequestError: it is a folder.
    """
    if path is None or path.is_file():
        return
    if path.is_dir():
        raise RequestError(f"{option} wants a file, received the folder {path}; name a file")
    raise MissingError(f"{option} {path}: there is no such file; name one that is there")


def require_folder(option: str, path: Path | None) -> None:
    """Refuse an option's path where there is no folder; None was not given.

    Raises:
        MissingError: there is nothing there.
        RequestError: it is a file.
    """
    if path is None or path.is_dir():
        return
    if path.exists():
        raise RequestError(f"{option} wants a folder, received the file {path}; name a folder")
    raise MissingError(f"{option} {path}: there is no such folder; name one that is there")


def require_picture(option: str, path: Path | None) -> None:
    """Refuse an option's path where there is no picture that can be decoded to its last pixel; None was not given.

    Raises:
        MissingError, RequestError: as of `require_file`, or it is no picture that can be read.
    """
    require_file(option, path)
    if path is None:
        return
    try:
        reduced(path, _SIDE)
    except PictureError as error:
        raise RequestError(f"{option}: {error}") from error


def require_room_for_folder(option: str, path: Path) -> None:
    """Refuse an output folder in whose place, or above it, there is a file.

    Raises:
        RequestError: there is one.
    """
    for place in (path, *path.parents):
        if place.is_dir():
            return
        if place.exists():
            raise RequestError(f"{option} wants a folder, and {place} is a file; name another place")
