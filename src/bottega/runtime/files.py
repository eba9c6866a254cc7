"""Files that appear whole or not at all, streams of JSON lines that survive a torn tail, and content hashes.

A file is written under a temporary name beside its place (`.NAME.tmp`), synced, renamed, and the folder is synced.
The temporary name is fixed, so that what a killed process left behind is overwritten by its successor; the lock of the
run directory keeps two writers apart. A writer that derives the format from the suffix must be given the format.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.runtime.errors import MissingError, RequestError, StorageError
from bottega.runtime.escape import shown
from bottega.runtime.paths import no_link, open_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DECODER = json.JSONDecoder()
_BLOCK = 1 << 20  # bytes read at once
MEND = "mend it, or put back the file as it was written"
"""What to do about a file that nothing makes again by itself."""
_STORAGE_ERRNOS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM}
_CURES = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "permission denied: make the folder writable or choose another one",
    errno.EPERM: "permission denied: make the folder writable or choose another one",
    errno.EFBIG: "the file would be larger than the limit allows: raise the limit (ulimit -f)",
    errno.ENOTDIR: "a part of this path is a file, not a folder: choose another path",
    errno.EEXIST: "a part of this path is a file, not a folder: choose another path",
    errno.EISDIR: "it is a folder, not a file: move it away, or choose another path",
    errno.ELOOP: "it is a link, or its links lead in a circle: delete the link, or choose another path",
}
_LINK_CURE = "mend or delete that link, or name another folder"
_CURES_OF_READING = {
    errno.EACCES: "permission denied: make it readable (chmod u+r), or run as the user who owns it",
    errno.EPERM: "permission denied: make it readable (chmod u+r), or run as the user who owns it",
    errno.EISDIR: "it is a folder, not a file: move it away",
    errno.ELOOP: "its links lead in a circle: delete or mend the link",
    errno.EIO: "the disk failed to read it: check the disk, or restore the file from a copy",
}


def is_storage_error(error: OSError) -> bool:
    """Whether an `OSError` is about the disk or its permissions rather than a file that is not there."""
    return error.errno in _STORAGE_ERRNOS


def storage_error(error: OSError, path: Path | str | None = None) -> StorageError:
    """The one-line `StorageError` for an `OSError`, with the cure where one is known."""
    where = path if path is not None else (error.filename or "a file")
    if error.errno in (errno.EACCES, errno.EPERM) and _is_unreadable(where):
        return read_error(error, where)
    link = _broken_link(Path(where))
    if link is not None and error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
        return StorageError(f"cannot write {where}: {link} is a link that leads nowhere or in a circle: {_LINK_CURE}")
    cure = _CURES.get(error.errno or 0, error.strerror or str(error))
    return StorageError(f"cannot write {where}: {cure}")


def read_error(error: OSError, path: Path | str) -> StorageError:
    """The one-line `StorageError` for an `OSError` at reading, with the cure where one is known."""
    cure = _CURES_OF_READING.get(error.errno or 0, error.strerror or str(error))
    return StorageError(f"cannot read {path}: {cure}")


def _is_unreadable(path: Path | str) -> bool:
    """Whether there is a file or folder that this process may not read."""
    return os.path.exists(path) and not os.access(path, os.R_OK)


def _broken_link(path: Path) -> Path | None:
    """The link on the way to a path, or at its end, that leads nowhere or in a circle; None where there is none."""
    for place in (path, *path.absolute().parents):
        if os.path.islink(place) and not os.path.exists(place):
            return place
    return None


def require_folder(path: Path) -> None:
    """Check that a folder, which need not be there yet, can be written into: before hours of work, not after.

    Raises:
        RequestError: a part of its path is a file, or a link that leads nowhere, or it is not UTF-8.
        StorageError: the folder, or that in which it would be made, is not writable.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        # Arrow, and whatever writes a path into a JSON file, can't: found out after hours, it would cost them.
        raise RequestError(
            f"what is made goes into a folder whose name is UTF-8, received {shown(str(path))}; name another, or "
            "rename it"
        ) from error
    nearest = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if nearest == _broken_link(nearest):
        raise RequestError(
            f"what is made goes into a folder, received {path}, and {nearest} is a link that leads nowhere or in a "
            f"circle; {_LINK_CURE}"
        )
    if not nearest.is_dir():
        raise RequestError(f"what is made goes into a folder, received {path}, and {nearest} is a file; name another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise storage_error(PermissionError(errno.EACCES, "Permission denied"), path)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; on success it becomes `path`, on any error it is removed.

    Args:
        path: the file to write; missing parent folders are made.

    Raises:
        StorageError: if the disk is full, the folder read-only, or the file cannot be moved into its place.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        yield temporary
        sync(temporary)  # first the content: after a power cut a renamed file without it would be empty
        os.replace(temporary, path)
        sync(path.parent)  # then the name
    except BaseException as error:
        _remove_quietly(temporary)
        if isinstance(error, OSError) and (is_storage_error(error) or _is_about(error, path, temporary)):
            raise storage_error(error, path) from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON whole or not at all; NaN and infinity are refused, since they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n")


def read_json(path: Path, cure: str = MEND) -> Any:
    """Read one JSON file; `bottega.runtime.records.read_record` reads it and checks what it holds.

    Args:
        path: the file.
        cure: what to do about one that is not JSON, for the message.

    Raises:
        MissingError: if there is no such file.
        StorageError: if it can't be read or is not complete JSON.
    """
    try:
        with open_file(path) as stream:
            content = stream.read()
    except FileNotFoundError as error:
        raise MissingError(f"no such file: {path}") from error
    except OSError as error:
        raise read_error(error, path) from error
    return parse_json(content, str(path), cure)


def parse_json(text: str | bytes, where: str, cure: str = MEND) -> Any:
    """The value of JSON text.

    Args:
        text: JSON; bytes are UTF-8.
        where: what to call its origin in a message.
        cure: what to do about it, for the message.

    Raises:
        StorageError: it is not complete JSON, is nested by the thousand or has a number of thousands of digits.
    """
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise StorageError(f"{where} is not valid JSON (nested too deeply); {cure}") from error
    except json.JSONDecodeError as error:
        near = error.doc[max(0, error.pos - 20) : error.pos + 20]
        raise StorageError(f"{where} is not valid JSON ({error}), received {near!r} there; {cure}") from error
    except ValueError as error:  # no UTF-8, or more digits than Python turns into a number
        raise StorageError(f"{where} is not valid JSON ({error}); {cure}") from error


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows as JSON lines, in one write and one sync; a line torn by an earlier kill is cut off first."""
    text = "".join(_LINE.encode(row) + "\n" for row in rows)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", opener=no_link) as stream:
            _repair_tail(stream.fileno())
            stream.write(text.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise storage_error(error, path) from error


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Stream the objects of a JSON lines file.

    The last line is left out if it was torn by a kill, that is if it has no line end and is not a complete object.

    Raises:
        MissingError: if there is no such file.
        StorageError: if any other line is not one JSON object, or the file can't be read.
    """
    try:
        stream = open_file(path)
    except FileNotFoundError as error:
        raise MissingError(f"no such file: {path}") from error
    except OSError as error:
        raise read_error(error, path) from error
    with stream:
        for number, line in enumerate(stream, start=1):
            row = _object(line)
            if row is not None:
                yield row
            elif line.strip() and line.endswith(b"\n"):
                raise StorageError(f"{path}, line {number} is not a JSON object: {line[:60]!r}; mend or delete it")


def read_jsonl_leniently(path: Path, damaged: list[int]) -> Iterator[dict[str, Any]]:
    """As `read_jsonl`, for a log that must not stand in anybody's way: a line that is no object is left out.

    Args:
        path: the file.
        damaged: the numbers of lines that are left out are appended to it.
    """
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            row = _object(line)
            if row is not None:
                yield row
            elif line.strip() and line.endswith(b"\n"):
                damaged.append(number)


def count_lines(path: Path) -> int:
    """Lines of a text file, without reading it into memory; a last one without its end counts.

    Raises:
        MissingError: there is no such file.
    """
    count = 0
    last = b"\n"
    try:
        with open_file(path) as stream:
            while block := stream.read(_BLOCK):
                count += block.count(b"\n")
                last = block[-1:]
    except FileNotFoundError as error:
        raise MissingError(f"{path}: there is no such file; name another, or make it first") from error
    return count if last == b"\n" else count + 1


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as a new JSON lines file, as a stream, whole or not at all; returns the number of rows."""
    count = 0
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(_LINE.encode(row) + "\n")
            count += 1
    return count


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal, read as a stream."""
    with open_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, ASCII, no spaces): equal for equal values on any machine."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False, default=_plain)
    return sha256_bytes(text.encode("ascii"))


def write_png(
    path: Path, picture: NDArray[np.uint8], text: Mapping[str, str] | None = None, *, latin_as_text: bool = False
) -> str:
    """Write a picture as a lossless PNG, whole or not at all; returns the file's SHA-256.

    Args:
        path: the file.
        picture: uint8 [H, W, 3], RGB.
        text: what the file says of itself, by keyword, in Unicode.
        latin_as_text: write a value whose characters are all in Latin-1 as tEXt, which every reader knows, and only
            others as iTXt, which some do not.

    Raises:
        ValueError: the picture has another dtype or shape.
    """
    import io

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    _require_rgb(picture)
    metadata = PngInfo()
    for keyword, value in (text or {}).items():
        if latin_as_text:
            metadata.add_text(keyword, value)  # falls back to iTXt by itself
        else:
            metadata.add_itxt(keyword, value)
    buffer = io.BytesIO()
    # Level 4 of zlib: files are hashed, so the level is fixed and no other may be taken for them.
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=4, pnginfo=metadata)
    data = buffer.getvalue()
    write_bytes(path, data)
    return sha256_bytes(data)


_PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_EXIF_SUB, _USER_COMMENT = 0x8769, 0x9286
_COMMENT_LIMIT = 60_000  # bytes; a JPEG's EXIF holds 64 KB in all


def require_picture_ending(path: Path) -> None:
    """Refuse the name of a new picture by whose ending a program would take it for another format than is written.

    Raises:
        RequestError: it ends in none of the formats, or is a folder.
    """
    from bottega.runtime.errors import RequestError

    if path.suffix.lower() not in _PICTURE_FORMATS:
        raise RequestError(
            f"a picture is written as its name ends, {', '.join(_PICTURE_FORMATS)}; received {path.name}: name "
            f"{path.stem or 'picture'}.png, for instance"
        )
    if path.is_dir():
        raise RequestError(f"{path} is a folder; name the picture's file in it, such as {path / 'picture.png'}")


def write_image(
    path: Path, picture: NDArray[np.uint8], text: Mapping[str, str] | None = None, *, comment: str = ""
) -> str:
    """Write a picture in the format that the path ends in, whole or not at all; returns the file's SHA-256.

    Args:
        path: ends in .png (lossless), .webp (lossless), .jpg or .jpeg (quality 95, colours in full resolution).
        picture: uint8 [H, W, 3], RGB.
        text: what a PNG says of itself, see `write_png`.
        comment: what the other formats say of themselves, in EXIF's UserComment, where other tools look for it; left
            out where EXIF has no room for it.

    Raises:
        RequestError: another ending.
        ValueError: the picture has another dtype or shape.
    """
    require_picture_ending(path)
    kind = _PICTURE_FORMATS[path.suffix.lower()]
    if kind == "PNG":
        return write_png(path, picture, text, latin_as_text=True)
    import io

    from PIL import Image

    _require_rgb(picture)
    exif = Image.Exif()
    content = b"UNICODE\0" + comment.encode("utf-16-be", "replace")
    if comment and len(content) <= _COMMENT_LIMIT:
        exif.get_ifd(_EXIF_SUB)[_USER_COMMENT] = content
    options: dict[str, int | bool] = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True}
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=kind, exif=exif, **options)
    data = buffer.getvalue()
    write_bytes(path, data)
    return sha256_bytes(data)


def _require_rgb(picture: NDArray[np.uint8]) -> None:
    if picture.dtype.name != "uint8" or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture is uint8 [H, W, 3], received {picture.dtype} {list(picture.shape)}")


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        text = line.decode().strip()
        row, end = _DECODER.raw_decode(text)  # a third faster than `loads`, which guesses the encoding of bytes first
    except (ValueError, RecursionError):  # the latter of brackets nested by the thousand
        return None
    return row if isinstance(row, dict) and end == len(text) else None


def _repair_tail(descriptor: int) -> None:
    """End a complete last line that lacks its line end; cut off an incomplete one, which never parses."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    start = size
    tail = b""
    while start > 0 and b"\n" not in tail:
        step = min(4096, start)
        start -= step
        tail = os.pread(descriptor, step, start) + tail
    last = tail[tail.rfind(b"\n") + 1 :]
    if _object(last) is not None:
        os.write(descriptor, b"\n")
    else:
        os.ftruncate(descriptor, size - len(last))


def _plain(value: Any) -> Any:
    """A NumPy or torch scalar as a Python number; everything else must be JSON already."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


_LINE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain)


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_quietly(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # the error that brought us here is the one to report; the successor overwrites this name


def _is_about(error: OSError, *paths: Path) -> bool:
    """Whether the error is about one of these paths or their folders."""
    concerned = set(paths)
    for path in paths:
        concerned.update(path.parents)
    return str(error.filename) in map(str, concerned)
