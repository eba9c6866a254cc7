"""Fetching models into the Hub's cache: the mirror first, resumable, verified. Using them never asks the network.

    wanted = plan(requests, cache, ask)     what each name is read from, by the repositories' lists of files
    findings = fetch(wanted, cache, ask)    the bytes, each file's hash, then the files that a pipeline needs

The cache is laid out as the Hub's own client does it (`names`), so that either finds what the other has fetched.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bottega.models.config import ModelsConfig
from bottega.models.layout import ROLES, Finding, inspect
from bottega.models.names import HubName, hub_entry, hub_name, on_disk
from bottega.models.published import Choice, choose
from bottega.models.transfer import Listing, Remote, bring, described, list_repository
from bottega.models.weights import file_digest, read_header
from bottega.runtime.errors import BottegaError, MissingError, RequestError, StorageError
from bottega.runtime.files import storage_error, write_text
from bottega.runtime.locks import lock
from bottega.runtime.progress import Progress

LOGGER = logging.getLogger(__name__)
_MB = 1_000_000


@dataclass(frozen=True)
class Request:
    """A model to fetch: its name, and the role that it has in the recipe ("" for none)."""

    role: str
    name: str


@dataclass(frozen=True)
class Wanted:
    """A model with the files that it is read from, and where they will lie."""

    request: Request
    hub: HubName
    listing: Listing
    choice: Choice
    files: tuple[Remote, ...]
    entry: Path

    def place(self, file: Remote) -> Path:
        """Where the file is found under its own name."""
        return self.entry / "snapshots" / self.listing.commit / file.path

    def blob(self, file: Remote) -> Path:
        """Where its content lies."""
        return self.entry / "blobs" / file.digest

    def absent(self) -> list[tuple[Remote, int]]:
        """The files that are not here in full, with the bytes that are still to come."""
        rest = []
        for file in self.files:
            there = [p for p in (self.place(file), self.blob(file)) if p.exists() and p.stat().st_size == file.size]
            if not there:
                partial = Path(f"{self.blob(file)}.incomplete")
                have = partial.stat().st_size if partial.exists() else 0
                rest.append((file, file.size - have if have <= file.size else file.size))
        return rest


def requests(names: Sequence[str], models: ModelsConfig | None) -> list[Request]:
    """What `names` mean, each a role of the recipe's `models` or an id of the Hub; all of the recipe's without names.

    What the recipe reads from a folder is left out, since there is nothing to fetch.
    Raises RequestError for a name that can't be fetched, MissingError for a role that the recipe leaves empty.
    """
    values = {role: getattr(models, role) for role in ROLES} if models is not None else {}
    if not names:
        return [Request(role, name) for role, name in values.items() if name is not None and not on_disk(name)]
    found = []
    for given in names:
        role, name = (given, values.get(given)) if given in ROLES else (_role_of(given, values), given)
        if name is None:
            raise MissingError(f"models.{role}: the recipe names none; set models.{role}, or name an `org/name`")
        if on_disk(name) or hub_name(name) is None:
            raise RequestError(
                f"{name}: only an `org/name[/sub-folder][@revision]` of the Hugging Face Hub or one of the roles "
                f"{', '.join(ROLES)} can be fetched"
            )
        found.append(Request(role, name))
    return list(dict.fromkeys(found))


def _role_of(name: str, values: dict[str, str | None]) -> str:
    return next((role for role, value in values.items() if value == name), "")


def plan(wished: Iterable[Request], cache: Path, ask: Sequence[str]) -> list[Wanted]:
    """What there is to fetch; asks for lists of files, and for no file.

    A name without a revision means the commit that the cache holds, so that the weights of a run don't change under it;
    `@main` asks for the newest. Raises the errors of `list_repository` and `choose`.
    """
    return [_wanted(request, cache, ask) for request in wished]


def _wanted(request: Request, cache: Path, ask: Sequence[str]) -> Wanted:
    hub = hub_name(request.name)
    if hub is None:
        raise RequestError(f"{request.name}: no name of a repository on the Hugging Face Hub; use org/name")
    entry = hub_entry(cache, hub)
    listing = list_repository(hub.repository, hub.revision or _held(entry), ask)
    snapshot = entry / "snapshots" / listing.commit
    here = {path for path in listing.files if (snapshot / path).exists()}
    choice = choose(request.name, hub.inside, {path: file.size for path, file in listing.files.items()}, here)
    return Wanted(request, hub, listing, choice, tuple(described(listing, path) for path in choice.files), entry)


def _held(entry: Path) -> str | None:
    reference = entry / "refs" / "main"
    commit = reference.read_text("utf-8").strip() if reference.is_file() else ""
    return commit if commit and (entry / "snapshots" / commit).is_dir() else None


def fetch(wanted: Sequence[Wanted], cache: Path, ask: Sequence[str], sdxl: str | None = None) -> list[Finding]:
    """Bring every file, verify its hash, and say of each model whether it is whole and fits the others.

    A file that is here already is read and verified too, and replaced where its hash is wrong. A stopped call is
    continued by the next one, from the byte where it stopped.

    Args:
        sdxl: the recipe's teacher, which its IP-Adapter must fit where no teacher is among `wanted`.

    Raises:
        StorageError: the disk is too small (said before anything is fetched) or full, or a hash is wrong twice.
        WorkError: nobody gives the rest of a file; what has arrived is kept.
        LockedError: another process fetches the same repository.
    """
    check_room(wanted, cache)
    total = sum(file.size for one in wanted for file in one.files)
    with Progress(max(1, round(total / _MB)), "models", "MB") as progress:
        meter = _Meter(progress)
        for one in wanted:
            with lock(cache / ".locks" / f"{one.entry.name}.bottega.lock", "bottega models fetch"):
                ordered = [one.listing.endpoint, *(e for e in ask if e != one.listing.endpoint)]
                for file in one.files:
                    _have(one, file, ordered, meter)
                _refer(one)
    return _findings(wanted, cache, sdxl)


def check_room(wanted: Sequence[Wanted], cache: Path) -> tuple[int, int]:
    """Bytes to fetch and bytes free. Raises StorageError where the disk is too small for them."""
    need = sum({one.blob(file): rest for one in wanted for file, rest in one.absent()}.values())
    place = next(p for p in (cache.absolute(), *cache.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if need > free:
        raise StorageError(
            f"{cache}: {need / 1e9:.2f} GB are to be fetched and {free / 1e9:.2f} GB are free; free some space, or "
            "name another disk with --model-cache"
        )
    return need, free


class _Meter:
    """Bytes, told to a bar that counts megabytes."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._bytes = progress, 0

    def __call__(self, count: int) -> None:
        self._bytes += count
        if whole := self._bytes // _MB:
            self._progress.update(whole)
            self._bytes -= whole * _MB


def _have(one: Wanted, file: Remote, ask: Sequence[str], meter: _Meter) -> None:
    """Make a file be here, verified: what is here already first, then the rest of it from the endpoints."""
    place, blob = one.place(file), one.blob(file)
    for there in (place, blob):
        if there.exists() and file_digest(there, file.digest) == file.digest:
            meter(file.size)
            _link(blob, place)
            return
        if there.exists():
            LOGGER.warning("%s: its content is not what its hash says; fetched again", there)
            there.resolve().unlink()
    partial = Path(f"{blob}.incomplete")
    meter(partial.stat().st_size if partial.exists() else 0)
    bring(one.listing, file, blob, ask, meter)
    _link(blob, place)


def _link(blob: Path, place: Path) -> None:
    """Let `place` lead to `blob`, by a relative link; on a disk without links the file itself goes there."""
    if place.exists():
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)  # a link that leads nowhere
        try:
            place.symlink_to(os.path.relpath(blob, place.parent))
        except (OSError, NotImplementedError):
            os.replace(blob, place)
    except OSError as error:
        raise storage_error(error, place) from error


def _refer(one: Wanted) -> None:
    """Only now, when all is here, do names without a commit mean this snapshot."""
    revision = one.hub.revision or "main"
    if revision != one.listing.commit:
        write_text(one.entry / "refs" / revision, one.listing.commit)


def _findings(wanted: Sequence[Wanted], cache: Path, sdxl: str | None) -> list[Finding]:
    teachers = [one.request.name for one in wanted if one.choice.kind == "sdxl"]
    return [_finding(one, cache, teachers[0] if teachers else sdxl if one.request.role else None) for one in wanted]


def _finding(one: Wanted, cache: Path, sdxl: str | None) -> Finding:
    role = one.request.role or (one.choice.kind if one.choice.kind in ROLES else "")
    if role:
        named = {"sdxl": sdxl} if role == "ip_adapter" else {}
        models = ModelsConfig.model_validate({"cache": str(cache), **named, role: one.request.name})
        return inspect(models, [role])[0]
    files = tuple(one.place(file) for file in one.files if file.path.endswith(".safetensors"))
    faults = []
    for file in files:
        try:
            read_header(file)
        except BottegaError as error:
            faults.append(str(error))
    folder = one.entry / "snapshots" / one.listing.commit / one.hub.inside
    return Finding(role, one.request.name, folder, files, tuple(faults))
