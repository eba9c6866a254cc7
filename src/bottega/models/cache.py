"""The Hub's cache on this machine: whether what is in it is whole, and where a model is that seems to be absent.

    report = check_cache(CacheRequest(cache, hash_files=True))

Nothing is deleted, changed or fetched: each finding comes with the shell line that mends it. Blobs are named by the
hash of their content, SHA-256 for large files and git's SHA-1 for small ones, so that reading one shows its damage.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bottega.models.cached_repository import (
    LOCAL,
    CachedRepository,
    CacheFinding,
    Unjudged,
    examine,
    holds_content,
    wrong_content,
)
from bottega.models.names import fetch_command, hub_cache, hub_entry, hub_name
from bottega.runtime.findings import Severity
from bottega.runtime.progress import MEGABYTE, ByteCounter, Progress

_PREFIX = "models--"


@dataclass(frozen=True)
class CacheReport:
    """What a look at a cache found. size: bytes on disk of the repositories that were looked at."""

    cache: Path
    repositories: tuple[str, ...]
    size: int
    hashed: int
    findings: tuple[CacheFinding, ...]
    unjudged: tuple[Unjudged, ...]


@dataclass(frozen=True)
class CacheRequest:
    """What to look at.

    cache: the folder. is_named: by an option or a recipe, rather than by the environment. wanted: the names of the
    models that must be there. wanted_only: look at their repositories alone. hash_files: read every blob whole.
    """

    cache: Path
    is_named: bool = False
    wanted: tuple[str, ...] = ()
    wanted_only: bool = False
    hash_files: bool = False

    @property
    def option(self) -> str | None:
        """What `--model-cache` must say for this cache; None where the environment says it."""
        if self.cache == hub_cache():
            return None
        return str(self.cache)


def check_cache(request: CacheRequest) -> CacheReport:
    """Look at a cache; reads files whole only where hashes are asked for."""
    cache = request.cache
    place = _place_finding(request)
    if place is not None:
        why = "the cache could not be looked into"
        return CacheReport(cache, (), 0, 0, (place,), (Unjudged("the repositories", why),))

    findings = [*_wanted_findings(request), *_layout_findings(request)]
    unjudged = _other_entries(cache)
    to_hash: list[tuple[CachedRepository, Path, Path]] = []
    names = []
    size = 0
    for repository in _repositories(request):
        names.append(repository.name)
        report = examine(repository)
        findings += report.findings
        unjudged += report.unjudged
        size += _bytes_on_disk(repository.entry)
        to_hash += [(repository, file, blob) for file, blob in report.to_hash.items()]
    if request.hash_files:
        findings += _hash_findings(to_hash)
    elif to_hash:
        blobs = {blob for _, _, blob in to_hash}
        unjudged.append(Unjudged(f"the content of {len(blobs)} blobs", "it takes reading them whole: --hash"))
    ordered = sorted(findings, key=lambda finding: finding.severity, reverse=True)
    hashed = len(to_hash) if request.hash_files else 0
    return CacheReport(cache, tuple(names), size, hashed, tuple(ordered), tuple(dict.fromkeys(unjudged)))


def _repositories(request: CacheRequest) -> Iterator[CachedRepository]:
    wanted = _wanted_entries(request)
    for entry in _entries(request.cache):
        if request.wanted_only and entry.name not in wanted:
            continue
        names = tuple(wanted.get(entry.name, ()))
        yield CachedRepository(entry, request.option, names, _elsewhere(request.cache, entry.name))


def _wanted_entries(request: CacheRequest) -> dict[str, list[str]]:
    """Folder's name -> the names by which its models are wanted."""
    wanted: dict[str, list[str]] = {}
    for name in request.wanted:
        hub = hub_name(name)
        if hub is not None:
            wanted.setdefault(hub_entry(request.cache, hub).name, []).append(name)
    return wanted


# --- the place ----------------------------------------------------------------------------------------------------


def _place_finding(request: CacheRequest) -> CacheFinding | None:
    """Why the cache itself can't be looked into, or is empty while another place is full."""
    cache = request.cache
    closed = _closed(cache)
    if closed is not None:
        return closed
    if any(holds_content(entry) for entry in _entries(cache)) or _plain_folders(cache):
        return None
    for other in _other_caches(cache):
        full = [entry for entry in _entries(other) if holds_content(entry, if_closed=False)]
        if full:
            return _cache_elsewhere(request, other, full)
    return None


def _closed(cache: Path) -> CacheFinding | None:
    """Why nothing can be read in this place: a link that leads nowhere, a file, somebody else's folder."""
    quoted = shlex.quote(str(cache))
    if cache.is_symlink() and not cache.exists():
        target = os.path.realpath(cache)
        return CacheFinding(
            "cache is a dangling link",
            Severity.ERROR,
            cache,
            f"{cache} leads to {target}, which is not here",
            "mount the disk that it lies on, or make the folder",
            f"mkdir -p {shlex.quote(target)}",
        )
    if cache.exists() and not cache.is_dir():
        return CacheFinding(
            "cache is a file",
            Severity.ERROR,
            cache,
            f"{cache} must be a folder and is a file",
            "move it away",
            f"mv {quoted} {shlex.quote(f'{cache}.unused')} && mkdir {quoted}",
        )
    if cache.is_dir() and not os.access(cache, os.R_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        return CacheFinding(
            "cache may not be read",
            Severity.ERROR,
            cache,
            f"{cache} may not be read by user {os.geteuid()}; it belongs to user {cache.stat().st_uid}",
            "make it yours",
            f"sudo chown -R {os.geteuid()} {quoted} && chmod -R u+rwX {quoted}",
        )
    return None


def _cache_elsewhere(request: CacheRequest, other: Path, full: Sequence[Path]) -> CacheFinding:
    cure = "let the environment name that place"
    command = f"export HF_HUB_CACHE={shlex.quote(str(other))}"
    if request.is_named:
        cure = "name that place, by --model-cache or by models.cache in the recipe"
        command = f"bottega models verify --all --model-cache {shlex.quote(str(other))}"
    what = "is empty" if request.cache.is_dir() else "is absent"
    models = "1 model" if len(full) == 1 else f"{len(full)} models"
    evidence = (
        f"{request.cache} {what}, while {other} holds {models}: HF_HOME means the folder above hub/, HF_HUB_CACHE "
        "hub/ itself"
    )
    return CacheFinding("cache is elsewhere", Severity.ERROR, request.cache, evidence, cure, command)


def _other_caches(cache: Path) -> list[Path]:
    """Other places in which models may lie: where the variables of the environment, now or mixed up, have put them."""
    places = [cache / "hub", cache.parent, cache.parent / "hub"]
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "DIFFUSERS_CACHE"):
        if os.environ.get(variable):
            places.append(Path(os.environ[variable]).expanduser())
    homes = [Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"]
    if os.environ.get("HF_HOME"):
        homes.append(Path(os.environ["HF_HOME"]).expanduser())
    for home in homes:
        places += [home / "hub", home]
    own = os.path.realpath(cache)
    found = []
    for place in places:
        if os.path.realpath(place) != own and os.path.isdir(place):
            found.append(place)
    return list(dict.fromkeys(found))


def _elsewhere(cache: Path, name: str) -> Path | None:
    """The same repository in another cache, with content."""
    for other in _other_caches(cache):
        if holds_content(other / name, if_closed=False):
            return other / name
    return None


# --- names --------------------------------------------------------------------------------------------------------


def _wanted_findings(request: CacheRequest) -> list[CacheFinding]:
    """Models that must be here and are not, under their own name at least."""
    found = []
    for name in dict.fromkeys(request.wanted):
        hub = hub_name(name)
        if hub is None:
            continue
        entry = hub_entry(request.cache, hub)
        if entry.name in {other.name for other in _entries(request.cache)}:
            continue
        found.append(_absent(request, name, entry))
    return found


def _absent(request: CacheRequest, name: str, entry: Path) -> CacheFinding:
    same = [other for other in _entries(request.cache) if other.name.casefold() == entry.name.casefold()]
    if same:
        return CacheFinding(
            "other letter case",
            Severity.ERROR,
            same[0],
            f"{name} is wanted, and {same[0]} is here: upper and lower case differ",
            "give it the name that is wanted",
            f"mv {shlex.quote(str(same[0]))} {shlex.quote(str(entry))}",
        )
    other = _elsewhere(request.cache, entry.name)
    if other is not None:
        return CacheFinding(
            "model in another cache",
            Severity.ERROR,
            entry,
            f"{name} is not in {request.cache}, but in {other.parent}",
            "copy it over, links as links",
            f"mkdir -p {shlex.quote(str(request.cache))} && cp -a {shlex.quote(str(other))} {shlex.quote(str(entry))}",
        )
    return CacheFinding(
        "absent model",
        Severity.ERROR,
        entry,
        f"{name} is neither in {request.cache} nor in another known cache",
        "fetch it",
        fetch_command(name, request.option),
    )


def _layout_findings(request: CacheRequest) -> list[CacheFinding]:
    """Folders that are not where a name is looked up: below hub/, under a plain name, twice by letter case."""
    cache = request.cache
    found = []
    deeper = [entry for entry in _entries(cache / "hub") if not (cache / entry.name).exists()]
    if deeper:
        moved = " ".join(shlex.quote(str(entry)) for entry in deeper)
        found.append(
            CacheFinding(
                "models one folder too deep",
                Severity.WARNING,
                deeper[0],
                f"{len(deeper)} models lie in {cache / 'hub'}, where {cache} is the cache",
                "move them up",
                f"mv {moved} {shlex.quote(str(cache))}",
            )
        )
    for folder in _plain_folders(cache):
        found.append(_plain_name(cache, folder))
    by_case: dict[str, list[Path]] = {}  # folded name -> folders
    for entry in _entries(cache):
        by_case.setdefault(entry.name.casefold(), []).append(entry)
    for entries in by_case.values():
        if len(entries) > 1:
            found.append(_twice_by_case(request, entries))
    return found


def _plain_name(cache: Path, folder: Path) -> CacheFinding:
    name = folder.relative_to(cache).as_posix()
    entry = cache / f"{_PREFIX}{name.replace('/', '--')}"
    snapshots = shlex.quote(str(entry / "snapshots"))
    references = shlex.quote(str(entry / "refs"))
    command = (
        f"mkdir -p {snapshots} {references} && mv {shlex.quote(str(folder))} {snapshots}/{LOCAL} && "
        f"printf %s {LOCAL} > {references}/main"
    )
    return CacheFinding(
        "model under its plain name",
        Severity.WARNING,
        folder,
        f"{folder} is a model's folder, as git clone or --local-dir makes it; no program looks for {name} there",
        "move it to where that name is looked up, or give its path in place of the name",
        command,
    )


def _twice_by_case(request: CacheRequest, entries: Sequence[Path]) -> CacheFinding:
    wanted = _wanted_entries(request)

    def worth(entry: Path) -> tuple[bool, int]:
        return entry.name in wanted, _bytes_on_disk(entry)

    spare = min(entries, key=worth)
    aside = spare.with_name(f"unused.{spare.name}")
    names = " and ".join(entry.name for entry in entries)
    return CacheFinding(
        "twice by letter case",
        Severity.WARNING,
        spare,
        f"{names} differ by letter case alone; on a disk that knows no case they would be one",
        "put the smaller one aside, and delete it once nothing misses it",
        f"mv {shlex.quote(str(spare))} {shlex.quote(str(aside))}",
    )


def _plain_folders(cache: Path) -> list[Path]:
    """`org/name` folders with a model in them, directly in the cache."""
    found = []
    for owner in _readable_folders(cache):
        is_of_the_cache = owner.name in ("hub", "xet", "blobs", "refs", "snapshots")
        if is_of_the_cache or "--" in owner.name or owner.name.startswith("."):
            continue
        for folder in _readable_folders(owner):
            if (folder / "config.json").is_file() or (folder / "model_index.json").is_file():
                found.append(folder)
    return found


def _other_entries(cache: Path) -> list[Unjudged]:
    """What lies in the cache and is no model."""
    kinds = {"datasets": 0, "spaces": 0}
    for folder in _readable_folders(cache):
        kind = folder.name.partition("--")[0]
        if kind in kinds:
            kinds[kind] += 1
    found = []
    for kind, count in kinds.items():
        if count:
            found.append(Unjudged(f"{count} {kind}", "only models are looked at"))
    return found


def _entries(cache: Path) -> list[Path]:
    return [folder for folder in _readable_folders(cache) if folder.name.startswith(_PREFIX)]


def _readable_folders(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if path.is_dir())
    except OSError:
        return []


# --- content ------------------------------------------------------------------------------------------------------


def _bytes_on_disk(entry: Path) -> int:
    """Bytes of the blobs, and of what lies in a snapshot as a plain file: on a disk without links, in a rehearsal."""
    total = 0
    try:
        for blob in (entry / "blobs").glob("*"):
            total += blob.stat().st_size if blob.is_file() else 0
        for file in (entry / "snapshots").rglob("*"):
            total += file.lstat().st_size if file.is_file() and not file.is_symlink() else 0
    except OSError:
        return 0
    return total


def _hash_findings(to_hash: Iterable[tuple[CachedRepository, Path, Path]]) -> list[CacheFinding]:
    """Blobs whose content has another hash than their name says; each is read once, with a bar."""
    by_blob: dict[Path, tuple[CachedRepository, Path]] = {}
    for repository, file, blob in to_hash:
        by_blob.setdefault(blob, (repository, file))
    total = sum(blob.stat().st_size for blob in by_blob)
    found = []
    with Progress(max(1, round(total / MEGABYTE)), "hashes", "MB") as progress:
        counter = ByteCounter(progress)
        for blob, (repository, file) in by_blob.items():
            actual = content_digest(blob, blob.name, counter)
            if actual != blob.name:
                found.append(wrong_content(repository, file, actual))
    return found


def content_digest(path: Path, like: str, on_bytes: Callable[[int], None]) -> str:
    """The hash of a file, of the kind that `like` is: SHA-256 (64 digits), or git's SHA-1 of a blob (40 digits).

    Args:
        on_bytes: called with the number of bytes of each piece that was read.
    """

    if len(like) == 64:
        hasher = hashlib.sha256()
    else:
        hasher = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb", buffering=0) as stream:
        for piece in _pieces(stream):
            hasher.update(piece)
            on_bytes(len(piece))
    return hasher.hexdigest()


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(1 << 22):
        yield piece
