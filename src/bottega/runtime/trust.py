"""Whether a file still is what was written.

    hashes.jsonl    in a folder: {"file", "bytes", "hash", "role"}, a line a file; a file's last line counts

Whoever writes files that others read records their hashes; whoever reads one first holds it against its record. A file
that differs is made again where that can be, else it is refused with the command that mends it. A file of which nothing
is recorded, of an earlier version or of people's own, is read as it is.

Size and time answer "is it done?" alone (`Depth.QUICK`): a file of the recorded size that is older than the list is not
read again, any other is. Whether it is right, only its content says. A list states no times, so that equal runs have
equal lists.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bottega.runtime.errors import DamagedError
from bottega.runtime.files import append_jsonl, write_jsonl

if TYPE_CHECKING:
    import torch

LOGGER = logging.getLogger(__name__)

LIST = "hashes.jsonl"
"""The file's name in a folder."""

KEPT = ".damaged"
"""What is appended to the name of a damaged file that is set aside."""

CHECK = "check"
"""The key under which a JSON object has the hash of all its other keys."""

_BYTES = 16  # of a BLAKE2b hash: 128 bits, for what is guarded against is damage and not an attack
_LEVELS = 6  # folders above a file that are searched for its list: data/raw/coco/annotations/train2017/x.png has 4
_LISTS = 32  # lists kept in memory


Role = Literal["result", "view", "kept", "source"]
"""What a file is to the run.

result: made here, read by later stages, and made again where it is damaged. view: the same, but for people: it may tell
times, and no later stage depends on it. kept: made here, and not simply made again. source: somebody else's.
"""


class Depth(enum.Enum):
    """How a file is held against its record."""

    QUICK = "by size and time; where these differ, by its content"
    WHOLE = "by its content"


@dataclass(frozen=True, slots=True)
class FileHash:
    """A line of a list.

    Args:
        file: relative to the list's folder, with `/`; it may lead out of it, to a source.
        bytes: its size.
        hash: `blake2b:…` or `sha256:…`, in hexadecimal.
        role: see `Role`.
    """

    file: str
    bytes: int
    hash: str
    role: Role = "result"


@dataclass(frozen=True)
class FileFault:
    """A file that is not what was written: `reason` completes "it …"."""

    path: Path
    reason: str
    role: Role

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


# --- hashes -----------------------------------------------------------------------------------------------------------


def blake2b(data: bytes) -> str:
    """The hash of bytes as a list has it."""
    return f"blake2b:{hashlib.blake2b(data, digest_size=_BYTES).hexdigest()}"


def hash_file(path: Path, kind: str = "blake2b") -> str:
    """The hash of a file's content, read as a stream.

    Args:
        path: the file.
        kind: `blake2b` or `sha256`.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        if kind == "sha256":
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=_BYTES))
        return f"blake2b:{digest.hexdigest()}"


def hash_json(value: object) -> str:
    """The hash of a value's canonical JSON, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return blake2b(text.encode("ascii"))


def hash_tensors(tensors: Mapping[str, torch.Tensor], facts: object = None) -> str:
    """The hash of tensors on the CPU by name, dtype, shape and bits, and of JSON that belongs to them."""
    import torch

    digest = hashlib.blake2b(digest_size=_BYTES)
    digest.update(hash_json(facts).encode("ascii"))
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return f"blake2b:{digest.hexdigest()}"


def with_check(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the hash of itself under `check`."""
    content = {key: item for key, item in value.items() if key != CHECK}
    return {**content, CHECK: hash_json(content)}


def holds(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object still has the content that its own `check` was made of; one without is believed."""
    if CHECK not in value:
        return True
    return bool(with_check(value)[CHECK] == value[CHECK])


# --- lists ------------------------------------------------------------------------------------------------------------


def read_list(folder: Path) -> Mapping[str, FileHash]:
    """The recorded hashes of a folder by file; empty where it has no list. A damaged line counts as not there."""
    path = folder / LIST
    try:
        stat = os.stat(path)
    except OSError:
        return {}
    return _parse(str(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=_LISTS)
def _parse(path: str, size: int, mtime_ns: int) -> Mapping[str, FileHash]:
    found: dict[str, FileHash] = {}
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            row = _line(line)
            if row is None:
                LOGGER.warning("%s, line %d can't be read: the file that it names is not checked", path, number)
            else:
                found[row.file] = row
    return found


def _line(line: bytes) -> FileHash | None:
    try:
        row = FileHash(**json.loads(line))
    except (ValueError, TypeError):
        return None
    is_right = isinstance(row.file, str) and isinstance(row.hash, str) and isinstance(row.bytes, int)
    return row if is_right else None


def seal(folder: Path, files: Mapping[Path, Role], known: Mapping[Path, str] | None = None) -> None:
    """Replace a folder's list: these files, and no others.

    Args:
        folder: of the list.
        files: by what each is. One of the size of its line that is older than the list keeps its hash; any other is
            read. One that is not there is left out.
        known: hashes that are known already, from when the files were written or inspected.
    """
    before = read_list(folder)
    rows: list[FileHash] = []
    for path in sorted(files):
        row = _record(folder, path, before, (known or {}).get(path), files[path])
        if row is not None:
            rows.append(row)
    write_jsonl(folder / LIST, map(asdict, rows))


def add(folder: Path, files: Mapping[Path, str | None], role: Role = "result") -> None:
    """Append files to a folder's list, as they are written.

    Args:
        folder: of the list.
        files: file -> its hash; None where it is still to be computed.
        role: of all of them.
    """
    rows: list[Mapping[str, Any]] = []
    for path, hashed in files.items():
        row = _record(folder, path, {}, hashed, role)
        if row is not None:
            rows.append(asdict(row))
    append_jsonl(folder / LIST, rows)


def renew(*files: Path) -> None:
    """Record files again that were written outside of the stage that lists them; nothing where no list names them."""
    for path in files:
        row = read_list(path.parent).get(path.name)
        if row is not None:
            add(path.parent, {path: None}, row.role)


def _record(folder: Path, path: Path, before: Mapping[str, FileHash], known: str | None, role: Role) -> FileHash | None:
    """A file's line; None where there is no such file."""
    name = _name(folder, path)
    try:
        size = path.stat().st_size
        hashed = known
        row = before.get(name)
        if hashed is None and row is not None and _is_as_recorded(folder, path, row):
            hashed = row.hash
        return FileHash(name, size, hashed or hash_file(path), role)
    except OSError:
        return None


def _is_as_recorded(folder: Path, path: Path, row: FileHash) -> bool:
    """Whether a file has the size of its record and is older than the list; OSError where there is no such file."""
    stat = os.stat(path)
    # Older, not as old: within one tick of the clock a file may be written again after the list.
    return stat.st_size == row.bytes and stat.st_mtime_ns < os.stat(folder / LIST).st_mtime_ns


def _name(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


def contents_hash(folder: Path) -> str:
    """A hash of the results in a folder, by its list: what stages that read them depend on; empty where it has none."""
    rows = read_list(folder)
    if not rows:
        return ""
    results = [[row.file, row.hash] for row in rows.values() if row.role == "result"]
    return hash_json(sorted(results))


# --- files against their record ---------------------------------------------------------------------------------------


def faults(folder: Path, depth: Depth) -> Iterator[FileFault]:
    """The files of a folder's list that are not what was written.

    Args:
        folder: of the list; one without a list has none.
        depth: how to look. Sources are looked at by size and time alone, for whoever reads one looks again.
    """
    for row in read_list(folder).values():
        path = Path(os.path.normpath(folder / row.file))
        if row.role == "source" and not path.is_file():
            continue  # a run that is done needs its sources no more; a stage that does says itself what is missing
        is_quick = depth is Depth.QUICK or row.role == "source"
        if is_quick and path.is_file() and _is_as_recorded(folder, path, row):
            continue
        reason = difference(path, row)
        if reason is not None:
            yield FileFault(path, reason, row.role)


def difference(path: Path, row: FileHash) -> str | None:
    """Why a file is not the one of its record; None where it is."""
    if row.role == "kept" and path.with_name(f"{path.name}-wal").exists():
        return None  # a database whose log was left open by a kill: part of its content is there
    try:
        size = os.stat(path).st_size
        if size != row.bytes:
            return f"has {size} bytes, {row.bytes} were written"
        if hash_file(path, row.hash.partition(":")[0]) != row.hash:
            return "has another content than was written"
    except FileNotFoundError:
        return "is not there any more"
    except OSError as error:
        return f"can't be read ({error.strerror})"
    return None


def is_intact(path: Path, depth: Depth = Depth.WHOLE) -> bool:
    """Whether a file is there, and is the one that was written as far as that is recorded."""
    if not path.is_file():
        return False
    folder, row = _recorded(path)
    if folder is None or row is None:
        return True
    if depth is Depth.QUICK and _is_as_recorded(folder, path, row):
        return True
    return difference(path, row) is None


def _recorded(path: Path) -> tuple[Path | None, FileHash | None]:
    """The record of a file and the folder of its list, its own or one above; None where nothing is recorded of it."""
    for folder in list(path.parents)[:_LEVELS]:
        rows = read_list(folder)
        if rows:
            return folder, rows.get(_name(folder, path))
    return None, None


def require(path: Path, cure: str) -> None:
    """Refuse a file that is not what was written; one of which nothing is recorded is accepted.

    Args:
        path: a file that is about to be read.
        cure: the command that makes it again.

    Raises:
        DamagedError: says what is wrong with it, and what to do.
    """
    _, row = _recorded(path)
    reason = None if row is None else difference(path, row)
    if reason is not None:
        raise damaged(path, reason, cure)


def damaged(path: Path, reason: str, cure: str) -> DamagedError:
    """The error for a file that is not what was written.

    Args:
        path: the file.
        reason: completes "it …".
        cure: the command that makes it again.
    """
    return DamagedError(
        f"{path} {reason}; {cure}. If it was changed on purpose, delete its line in the {LIST} of its folder"
    )


class PreparedPictures:
    """The pictures under a data root, against what was recorded when they were prepared.

    Args:
        data_root: what the paths of pictures are relative to.
    """

    def __init__(self, data_root: Path) -> None:
        self._root = data_root
        self._rows: dict[str, str] = {}  # path relative to the data root -> hash; a row would take three times the room
        for found in sorted(data_root.glob(f"*/{LIST}")):
            folder = found.parent.name
            for row in read_list(found.parent).values():
                self._rows[os.path.normpath(f"{folder}/{row.file}")] = row.hash

    def require(self, path: str, sha256: str | None = None) -> None:
        """Refuse a picture that is not the one that was prepared; one of which nothing is recorded is accepted.

        Args:
            path: relative to the data root.
            sha256: of its content, where that is known already.

        Raises:
            DamagedError: says what to do.
        """
        expected = self._rows.get(os.path.normpath(path))
        if expected is None:
            return
        kind, _, digest = expected.partition(":")
        file = self._root / path
        try:
            is_same = sha256 == digest if kind == "sha256" and sha256 is not None else hash_file(file, kind) == expected
        except OSError:
            return  # whoever reads it says what is wrong
        if not is_same:
            raise damaged(
                file,
                "has another content than when it was prepared",
                "put it back, or take it in as it is now: bottega run or bottega data, whichever prepared it",
            )


def set_aside(path: Path) -> None:
    """Rename a damaged file, so that it is made again and nothing is lost; an earlier one of that name goes."""
    if path.is_file():
        os.replace(path, path.with_name(path.name + KEPT))
