"""Weight files without loading them: which files a model folder holds, whether they are whole, what tensors they name.

Only safetensors and JSON are read as models. A safetensors file begins with the length of a JSON header, which gives
the place of every tensor; so the header and the size of the file tell a torn download from a whole one, in a few
milliseconds and without torch.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from bottega.runtime.errors import MissingError, RequestError, StorageError
from bottega.runtime.files import sha256_file
from bottega.runtime.paths import open_file, stays_inside
from bottega.runtime.records import read_record

PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
STEMS = ("model", "diffusion_pytorch_model")  # what transformers and diffusers call the weights in a model's folder
DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")  # how the Hub's cache names blobs: SHA-256, or git's SHA-1
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # what git keeps in place of a large file
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEADER_LIMIT = 100_000_000  # bytes; the format's own limit: a damaged length must not make us read gigabytes
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
_BITS |= {"F32": 32, "I32": 32, "U32": 32, "F64": 64, "I64": 64, "U64": 64}


class TensorInfo(NamedTuple):
    """One entry of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]


class SafetensorsHeader(NamedTuple):
    """What a safetensors file says of itself."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    places: dict[str, tuple[int, int]]
    """First byte of each tensor in the file, and the first byte behind it."""


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse the few lines that git keeps for a large file where git-lfs did not get the file itself.

    Raises:
        RequestError: the file is such a pointer; the message has the command that gets the file.
    """
    try:
        with path.open("rb") as stream:
            first = stream.read(512)
    except OSError:
        return  # whoever reads the file says why it can't be read
    if not first.startswith(LFS_POINTER):
        return
    size = _LFS_SIZE.search(first)
    what = f" of {int(size[1]) / 1e9:.2f} GB" if size is not None else ""
    clone = next((folder for folder in path.absolute().parents if (folder / ".git").exists()), None)
    cure = (
        "the clone that it was copied from had no git-lfs: run `git lfs pull` there, or fetch the model by its name "
        "on the Hub: bottega models fetch ORG/NAME"
    )
    if clone is not None:
        cure = f"get it: git -C {shlex.quote(str(clone))} lfs pull"
    raise RequestError(f"{path}: a git-lfs pointer in place of the file{what}, which is not here; {cure}")


_LFS_SIZE = re.compile(rb"\nsize (\d{1,18})\s")


def pickled_cure(path: Path) -> str:
    """What to do about a pickled file: its safetensors twin, where one lies beside it."""
    twin = path.with_suffix(".safetensors")
    if twin.is_file():
        return f"the same in safetensors lies beside it: name {twin}"
    return "fetch the model's .safetensors file, or convert it on a machine that you can afford to lose"


def read_header(path: Path, limit: int = _HEADER_LIMIT) -> SafetensorsHeader:
    """The header of a safetensors file, checked against the size of the file.

    Args:
        path: the file.
        limit: bytes; a header of this length or more is refused before it is read.

    Raises:
        StorageError: the file is incomplete (shorter or longer than its header says) or not safetensors at all.
        RequestError: it is a pointer of git-lfs.
    """
    refuse_lfs_pointer(path)
    try:
        size = path.stat().st_size
        with open_file(path) as file:
            first = file.read(8)
            length = int.from_bytes(first, "little")
            if len(first) < 8 or 8 + length > size:
                raise _incomplete(path, f"{size} bytes, too few for the header that its first 8 bytes announce")
            if length >= limit:
                raise _incomplete(path, f"a header of {length} bytes; at most {limit} are read")
            content = json.loads(file.read(length), object_pairs_hook=_each_key_once)
    except OSError as error:
        raise StorageError(
            f"{path}: the file can't be read ({error.strerror}); check the link and its rights"
        ) from error
    except _DoubleKeyError as error:
        raise _incomplete(path, f"its header has the key {error} twice") from error
    except (ValueError, RecursionError) as error:  # brackets nested by the thousand end in the latter
        raise _incomplete(path, "its header is not JSON") from error
    return _check_header(path, content, data_begin=8 + length, data_bytes=size - 8 - length)


class _DoubleKeyError(ValueError):
    """A header's JSON object has a key twice."""


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused where a key comes twice: two readers could take two different tensors for the same."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _DoubleKeyError(repr(key[:60]))
        found[key] = value
    return found


def _check_header(path: Path, content: Any, *, data_begin: int, data_bytes: int) -> SafetensorsHeader:
    if not isinstance(content, Mapping):
        raise _incomplete(path, "its header is not a JSON object")
    metadata = content.get("__metadata__", {})
    if not isinstance(metadata, Mapping):
        raise _incomplete(path, "its header's metadata is not a JSON object")
    tensors: dict[str, TensorInfo] = {}
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for name, entry in content.items():
        if name == "__metadata__":
            continue
        tensor, first, last = _tensor_entry(path, name, entry)
        tensors[name] = tensor
        places[name] = (data_begin + first, data_begin + last)
        end = max(end, last)
    # Too short: a torn download. Too long: not the file that this header was written for.
    if end != data_bytes:
        raise _incomplete(path, f"the header announces {end} bytes of tensors, the file holds {data_bytes}")
    _refuse_overlaps(path, places.values(), data_begin)
    return SafetensorsHeader(tensors, {str(key): str(value) for key, value in metadata.items()}, places)


def _tensor_entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    """A tensor, and where its bytes begin and end in the file's data."""
    try:
        tensor = TensorInfo(str(entry["dtype"]), _whole_numbers(entry["shape"]))
        first, last = _whole_numbers(entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise _incomplete(path, f"the header's entry for {name!r} lacks dtype, shape or offsets") from error
    needed = _tensor_bytes(tensor)
    if last < first or (needed is not None and last - first != needed):
        raise _incomplete(path, f"{name!r} of shape {list(tensor.shape)} is given {last - first} bytes")
    return tensor, first, last


def _whole_numbers(values: Any) -> tuple[int, ...]:
    """A JSON list of whole numbers from 0 on. Raises TypeError or ValueError for anything else."""
    if not isinstance(values, list):
        raise TypeError(f"a list is wanted, received {type(values).__name__}")
    for value in values:
        # 1.5, "12" and true would each pass int() as another number than the format's own reader sees.
        if type(value) is not int or value < 0:
            raise ValueError(f"a whole number from 0 on is wanted, received {value!r}")
    return tuple(values)


def _refuse_overlaps(path: Path, places: Iterable[tuple[int, int]], begin: int) -> None:
    """Refuse tensors that share bytes, and bytes of no tensor: the format forbids both, as they hide content."""
    reached = begin
    for first, last in sorted(places):
        if first != reached:
            what = "belong to no tensor" if first > reached else "belong to two tensors"
            low, high = sorted((first - begin, reached - begin))
            raise _incomplete(path, f"bytes {low} to {high} of its data {what}")
        reached = last


def _tensor_bytes(tensor: TensorInfo) -> int | None:
    """Bytes that a tensor takes; None for a dtype that is not known here."""
    bits = _BITS.get(tensor.dtype)
    return None if bits is None else math.prod(tensor.shape) * bits // 8


def _incomplete(path: Path, what: str) -> StorageError:
    return StorageError(
        f"{path}: not a whole safetensors file: {what}; put a whole copy in its place, fetched or copied again"
    )


def read_config(path: Path) -> Mapping[str, Any]:
    """A JSON object from a model folder.

    Raises:
        MissingError: there is no such file.
        StorageError: it can't be read, or is no complete JSON.
        RequestError: it is a pointer of git-lfs, or not a JSON object.
    """
    refuse_lfs_pointer(path)
    try:
        return read_record(path, dict[str, Any], FETCH_AGAIN)
    except MissingError as error:
        raise MissingError(f"{path}: missing; fetch the model's folder again, whole") from error


FETCH_AGAIN = "put back the file as it was published: fetch the model again, or copy it from where it is whole"


class Weights(NamedTuple):
    """The weight files of one model folder: `files` in order, and the variant ("fp16") that their names carry."""

    files: tuple[Path, ...]
    variant: str | None


def find_weights(folder: Path) -> Weights:
    """The safetensors files that hold the weights of a model folder, one file or the shards that its index names.

    A variant such as "fp16" is taken only where the plain file is absent.

    Raises:
        RequestError: there are only pickled weights.
        MissingError: there are none, or a shard is absent.
    """
    if not folder.is_dir():
        raise MissingError(f"{folder}: the folder is missing{_folder_like(folder)} fetch the model again, whole")
    for variant in (None, *_variants(folder)):
        files = _weights_of_variant(folder, variant)
        if files:
            return Weights(files, variant)
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLED)
    if pickled:
        raise RequestError(
            f"{folder}: weights are read from safetensors only, received {pickled[0]}, which is pickled and could run "
            f"code; {pickled_cure(folder / pickled[0])}"
        )
    known = ", ".join(f"{stem}.safetensors" for stem in STEMS)
    other = sorted(path.name for path in folder.glob("*.safetensors*"))
    there = f"; there is {other[0]}, a name that nothing reads: rename it, or" if other else ";"
    raise MissingError(f"{folder}: no weights (one of {known}){there} fetch the model again, whole")


def _folder_like(folder: Path) -> str:
    """A folder beside a missing one whose name differs by a word or a letter, as after a copy by hand."""
    if not folder.parent.is_dir():
        return ";"
    names = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    like = difflib.get_close_matches(folder.name, names, n=1)
    # The two text encoders and tokenizers of SDXL are alike by name, and one is not the other.
    if not like or like[0] in _ALIKE:
        return ";"
    return f", and there is {like[0]}: rename it, or"


_ALIKE = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


def _variants(folder: Path) -> list[str]:
    """The variants that files are named after: `model.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`."""
    found = set()
    for stem in STEMS:
        for path in folder.glob(f"{stem}.*.safetensors"):
            parts = path.name.split(".")
            if len(parts) == 3:
                found.add(parts[1].partition("-0")[0])
    return sorted(found)


def _weights_of_variant(folder: Path, variant: str | None) -> tuple[Path, ...]:
    middle = f".{variant}" if variant else ""
    for stem in STEMS:
        single = folder / f"{stem}{middle}.safetensors"
        if single.exists():
            return (single,)
        index = folder / f"{stem}.safetensors.index{middle}.json"
        if index.exists():
            return _shards(index)
    return ()


@dataclass(frozen=True)
class _ShardIndex:
    """What is read of a model.safetensors.index.json."""

    weight_map: Annotated[dict[str, str], Field(min_length=1)]


def _shards(index: Path) -> tuple[Path, ...]:
    names = read_record(index, _ShardIndex, FETCH_AGAIN).weight_map
    for name in names.values():
        if not stays_inside(name):
            raise RequestError(f"{index}: weight_map names a file in its folder, received {name!r:.60}; {FETCH_AGAIN}")
    files = tuple(index.parent / name for name in sorted(set(names.values())))
    absent = [file.name for file in files if not file.exists()]
    if absent:
        raise MissingError(
            f"{index.parent}: {len(absent)} of {len(files)} shards are missing, first {absent[0]}; fetch them again"
        )
    return files


def read_headers(files: tuple[Path, ...]) -> dict[str, TensorInfo]:
    """The tensors of all files together: name -> dtype and shape. Each file is checked as by `read_header`."""
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        tensors |= read_header(file).tensors
    return tensors


def file_digest(path: Path, like: str) -> str:
    """The hash of a file, of the kind that `like` is: SHA-256 (64 digits), or git's SHA-1 of a blob (40 digits).

    The Hub names large files by the one and small ones, which it keeps in git, by the other.
    """
    if _SHA256.fullmatch(like):
        return sha256_file(path)
    sha1 = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            sha1.update(piece)
    return sha1.hexdigest()


def hash_faults(files: Iterable[Path], known: Mapping[Path, str] | None = None) -> list[str]:
    """Files whose content is not what their hash says; reads them whole.

    The hash is the one that `known` gives for a file (SHA-256), and in the Hugging Face cache the name of its blob.
    Files elsewhere carry no hash to compare with and are left out.
    """
    recorded = known or {}
    faults = []
    for file in files:
        content = file.resolve()
        name = content.name
        is_blob = content.parent.name == "blobs" and DIGEST.fullmatch(name) is not None
        if is_blob and file_digest(content, name) != name:
            faults.append(
                f"{file}: its content does not match its blob {name[:12]}…; delete the blob and fetch it again"
            )
            continue
        expected = recorded.get(file)
        if not expected:
            continue
        actual = name
        if not (is_blob and _SHA256.fullmatch(name)):  # else its content was just compared: it need not be read again
            actual = sha256_file(content)
        if actual != expected:
            faults.append(
                f"{file}: its content is not what the run was made with ({expected[:12]}…); put that file back, or "
                "begin another run"
            )
    return faults
