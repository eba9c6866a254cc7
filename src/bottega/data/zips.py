"""Pictures in zip files, read one by one into memory: bounded before they are unpacked, and never written by name."""

from __future__ import annotations

import logging
import lzma
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

from bottega.runtime.errors import RequestError
from bottega.runtime.escape import shown

LOGGER = logging.getLogger(__name__)

MAX_MEMBERS = 1_000_000
"""Members of a zip file; Fill50K's have 50 000."""

MAX_MEMBER_BYTES = 256_000_000
"""Bytes that one member may unpack to: a picture of 80 million pixels without compression."""

MAX_RATIO = 200
"""How many times larger a zip file may become unpacked: pictures are compressed already, and grow by a hundredth."""

SMALL = 1_000_000
"""Bytes of a member, or of all together, that may unpack from any size: a plain bitmap of one colour shrinks to
nothing."""

_ENCRYPTED = 1  # a bit of a member's flags

_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, NotImplementedError)


class PictureZip:
    """A zip file whose members are read by name; close it after use.

    Raises:
        RequestError: it is no complete zip file, is encrypted, or unpacks to more than the limits of this module.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise RequestError(f"{path} is no complete zip file ({error}); put a whole copy in its place") from error
        members = self._zip.infolist()
        if any(member.flag_bits & _ENCRYPTED for member in members):
            raise RequestError(
                f"a zip file is read without a password, received {path}, whose members are encrypted; unpack it with "
                f"its password (unzip {path.name}) and delete it or move it away"
            )
        if len(members) > MAX_MEMBERS:
            self._refuse(f"{len(members)} members, at most {MAX_MEMBERS} are read")
        size = path.stat().st_size
        unpacked = sum(member.file_size for member in members)
        # All together, for members may share their bytes: a zip of 42 kB that unpacks to 4.5 PB does.
        if unpacked > max(MAX_RATIO * size, SMALL):
            self._refuse(f"{unpacked} bytes unpacked, at most {MAX_RATIO} times its own {size} are read")
        self._members = {member.filename: member for member in members}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> bytes:
        """A member's bytes; none of one that is damaged, which is then rejected as no picture.

        Raises:
            RequestError: it unpacks to more than the limits of this module.
        """
        member = self._members[name]
        declared = member.file_size
        if declared > MAX_MEMBER_BYTES:
            self._refuse(f"{shown(name)} of {declared} bytes unpacked, at most {MAX_MEMBER_BYTES} are read")
        if declared > max(MAX_RATIO * member.compress_size, SMALL):
            self._refuse(f"{shown(name)}, which unpacks to more than {MAX_RATIO} times its size")
        try:
            with self._zip.open(member) as stream:
                content = stream.read(declared + 1)
        except _DAMAGE as error:
            LOGGER.warning("%s: %s can't be read (%s); its example is left out", self._path, shown(name), error)
            return b""
        if len(content) > declared:
            self._refuse(f"{shown(name)}, which unpacks to more than the {declared} bytes that it declares")
        return content

    def _refuse(self, what: str) -> None:
        raise RequestError(f"{self._path} has {what}; unpack it by other means if you trust it, and name the folder")
