"""Building the models of a rehearsal in a folder that has the layout of the Hub's cache.

    REHEARSAL.json                                        what this is; written first
    models--org--name/refs/main, snapshots/<commit>/…     one for each repository
    checkpoints/, loras/, lpips/                          what is published as single files

With this folder as `models.cache`, a recipe finds the models under their published names. Nothing is ever written into
a folder that holds anything else, such as the cache with the real weights.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bottega import __version__
from bottega.models.names import hub_entry, hub_name
from bottega.models.rehearsal.catalogue import PLANS, Contents, Header, as_json
from bottega.models.rehearsal.configurations import Scale
from bottega.models.rehearsal.marker import MARKER, RehearsalMarker, header
from bottega.models.rehearsal.noise import NoiseSource
from bottega.models.rehearsal.writing import SmallFile, WeightFile, is_written, write_weights
from bottega.runtime.errors import RequestError, StorageError
from bottega.runtime.files import require_folder, sha256_json, write_bytes, write_json
from bottega.runtime.locks import LOCK, lock
from bottega.runtime.progress import MEGABYTE, ByteCounter, Progress

SINGLE_FILES = ("checkpoints", "loras", "lpips")
"""Folders of what is no repository of the Hub."""

_WHAT = (
    "Models of the published sizes, names and layouts with random weights, made by `bottega models rehearse`. Their "
    "pictures are noise and no result. The vocabularies of the tokenizers are made up."
)

FilePlan = Callable[[Scale, Header], Contents]
"""What makes the plan of a model that is published as a single file: paths are within the folder that is built."""


@dataclass(frozen=True)
class RandomModelsRequest:
    """What to build.

    output: the folder. only: names of models; none: all. seed: of the weights.
    """

    output: Path
    only: tuple[str, ...] = ()
    scale: Scale = "full"
    seed: int = 0


@dataclass(frozen=True)
class RandomModelsReport:
    """What was built. written, kept: bytes of weights. models: name -> bytes of all its files."""

    output: Path
    models: dict[str, int]
    written: int
    kept: int
    seconds: float


def build(request: RandomModelsRequest, files: Mapping[str, FilePlan] | None = None) -> RandomModelsReport:
    """Write the models that are not there yet; the same request continues after a stop.

    Args:
        request: what to build.
        files: models that are published as single files, by their names.

    Raises:
        RequestError: a name is unknown, or the folder holds something else, or a rehearsal of another scale or seed.
        StorageError: the disk has too little room, found before anything is written, or is full.
        WorkError: the installed libraries make another network of a published configuration.
    """
    start = time.monotonic()
    known = files or {}
    names = _chosen(request.only, [*PLANS, *known])
    require_folder(request.output)
    _refuse_other_content(request)
    planned = {name: _contents(name, request, known) for name in names}
    request.output.mkdir(parents=True, exist_ok=True)
    with lock(request.output / LOCK, "bottega models rehearse"):
        kept, written = _write(planned, request)
    sizes = {name: sum(file.size for file in contents) for name, contents in planned.items()}
    return RandomModelsReport(request.output, sizes, written, kept, round(time.monotonic() - start, 1))


def _write(planned: Mapping[str, Contents], request: RandomModelsRequest) -> tuple[int, int]:
    """(bytes of weights that were there, bytes that were written)."""
    weights, small = _by_kind(planned.values())
    todo = [file for file in weights if not is_written(file, request.output / file.path)]
    _check_room(todo, request.output)
    _write_marker(request)
    for text in small:
        write_bytes(request.output / text.path, text.content)
    kept = sum(file.size for file in weights if file not in todo)
    _write_weights(todo, kept, request)
    _write_references(planned, request)
    return kept, sum(file.size for file in todo)


def discard(output: Path) -> int:
    """Delete what `build` made, and nothing else; returns the bytes that were freed.

    Raises:
        RequestError: the folder is not one that `build` made.
    """
    if not (output / MARKER).is_file():
        raise RequestError(
            f"{output}: no rehearsal to delete: it has no {MARKER}; name the folder that one was made in"
        )
    freed = 0
    with lock(output / LOCK, "bottega models rehearse --discard"):
        for folder in (*output.glob("models--*"), *(output / name for name in SINGLE_FILES)):
            if folder.is_symlink() or not folder.is_dir():
                continue  # a link may lead to real models
            freed += sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
            shutil.rmtree(folder)
        # Last: as long as it is there, a deletion that was stopped can be given again.
        (output / MARKER).unlink()
    (output / LOCK).unlink(missing_ok=True)
    if not any(output.iterdir()):
        output.rmdir()
    return freed


def _chosen(only: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in only:
        if name not in known:
            raise RequestError(f"--only {name!r:.60}: no model of that name; there are {', '.join(known)}")
    return list(dict.fromkeys(only)) or list(known)


def _refuse_other_content(request: RandomModelsRequest) -> None:
    """Refuse a folder with anything in it that no rehearsal made: random weights must never come among real ones."""
    output = request.output
    if not output.is_dir():
        return
    marker = output / MARKER
    if not marker.is_file():
        other = sorted(path.name for path in output.iterdir() if path.name != LOCK)
        if other:
            raise RequestError(
                f"{output}: random weights are written into an empty folder, or one with a rehearsal in it; this one "
                f"has {other[0]}; name a new folder"
            )
        return
    there = read_marker(output)
    if (there.scale, there.seed) != (request.scale, request.seed):
        raise RequestError(
            f"{output}: holds a rehearsal of scale {there.scale} and seed {there.seed}, asked for are {request.scale} "
            f"and {request.seed}; name another folder, or delete this one: bottega models rehearse --output {output} "
            "--discard"
        )


def read_marker(output: Path) -> RehearsalMarker:
    """What a folder's REHEARSAL.json says.

    Raises:
        MissingError: there is none.
        RequestError, StorageError: it is damaged.
    """
    from bottega.runtime.records import read_record

    return read_record(output / MARKER, RehearsalMarker, "delete the folder, and make it again")


def commit_of(request: RandomModelsRequest) -> str:
    """The name of the snapshots, in the form of a commit: the same for the same weights."""
    return sha256_json(["rehearsal", request.scale, request.seed])[:40]


def _contents(name: str, request: RandomModelsRequest, files: Mapping[str, FilePlan]) -> Contents:
    """The files of a model, by their paths in the folder."""
    head = header(request.seed, __version__, request.scale)
    if name in files:
        return files[name](request.scale, head)
    plan = PLANS[name](request.scale, head)
    hub = hub_name(plan.repository)
    assert hub is not None
    snapshot = hub_entry(Path(), hub) / "snapshots" / commit_of(request)
    found: Contents = [SmallFile(str(snapshot / MARKER), as_json({"what": _WHAT}))]
    for file in plan.contents:
        path = str(snapshot / file.path)
        if isinstance(file, WeightFile):
            found.append(WeightFile(path, file.tensors, file.metadata))
        else:
            found.append(SmallFile(path, file.content))
    return found


def _by_kind(planned: Iterable[Contents]) -> tuple[list[WeightFile], list[SmallFile]]:
    weights: list[WeightFile] = []
    small: list[SmallFile] = []
    for contents in planned:
        for file in contents:
            if isinstance(file, WeightFile):
                weights.append(file)
            else:
                small.append(file)
    return weights, small


_SPARE = 500_000_000
"""Bytes left free: a disk that is full to the last byte fails every other program on it."""


def _check_room(todo: Iterable[WeightFile], output: Path) -> None:
    need = sum(file.size for file in todo)
    free = shutil.disk_usage(output).free
    if need and need + _SPARE > free:
        raise StorageError(
            f"{output}: {need / 1e9:.1f} GB are to be written and {free / 1e9:.1f} GB are free; free some space, name "
            "another disk, or take some of the models (--only)"
        )


def _write_marker(request: RandomModelsRequest) -> None:
    """First of all: whatever a kill leaves behind is known as what it is."""
    if (request.output / MARKER).is_file():
        return
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(request.output / MARKER, asdict(RehearsalMarker(_WHAT, made, __version__, request.seed, request.scale)))


def _write_weights(todo: Sequence[WeightFile], kept: int, request: RandomModelsRequest) -> None:
    """Write what is to do; `kept` bytes were there."""
    if not todo:
        return
    noise = NoiseSource(request.seed)
    total = kept + sum(file.size for file in todo)
    megabytes = max(1, round(total / MEGABYTE))
    with Progress(megabytes, "random weights", "MB", done=round(kept / MEGABYTE)) as progress:
        on_bytes = ByteCounter(progress)
        for file in todo:
            write_weights(file, request.output / file.path, noise, on_bytes)


def _write_references(planned: Mapping[str, Contents], request: RandomModelsRequest) -> None:
    """Last: only now do names without a commit mean these snapshots."""
    for name in planned:
        if name not in PLANS:
            continue
        first = next(file for file in planned[name] if isinstance(file, SmallFile))
        entry = request.output / Path(first.path).parts[0]
        write_bytes(entry / "refs" / "main", commit_of(request).encode())
