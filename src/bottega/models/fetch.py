"""Fetching models into the Hub's cache: the mirror first, resumable, verified. Using them never asks the network.

    planned = plan(requests, cache, endpoints)     the files that each name is read from, by the repositories' lists
    statuses = fetch(planned, cache, endpoints)    the bytes, each file's hash, then whether each model is whole

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
from bottega.models.layout import ROLES, ModelStatus, inspect
from bottega.models.names import HubName, hub_entry, hub_name, on_disk
from bottega.models.published import Choice, choose
from bottega.models.rehearsal.marker import MARKER
from bottega.models.transfer import Listing, RemoteFile, download, list_repository, with_digest
from bottega.models.weights import file_digest, read_header
from bottega.runtime.errors import BottegaError, MissingError, RequestError, StorageError
from bottega.runtime.files import storage_error, write_text
from bottega.runtime.locks import lock
from bottega.runtime.progress import MEGABYTE, ByteCounter, Progress

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class FetchRequest:
    """A model to fetch: its name, and the role that it has in the recipe ("" for none)."""

    role: str
    name: str


@dataclass(frozen=True)
class PlannedModel:
    """A model with the files that it is read from, and where they will be."""

    request: FetchRequest
    hub: HubName
    listing: Listing
    choice: Choice
    files: tuple[RemoteFile, ...]
    entry: Path
    """The repository's folder in the cache."""

    @property
    def snapshot(self) -> Path:
        """The folder where the files are found under their own names."""
        return self.entry / "snapshots" / self.listing.commit

    def link(self, file: RemoteFile) -> Path:
        """Where a file is found under its own name."""
        return self.snapshot / file.path

    def blob(self, file: RemoteFile) -> Path:
        """Where a file's content is, named by its hash."""
        return self.entry / "blobs" / file.digest

    def partial(self, file: RemoteFile) -> Path:
        """Where a file's content grows while it is downloaded."""
        return Path(f"{self.blob(file)}.incomplete")

    def remaining(self) -> dict[RemoteFile, int]:
        """The files that are not here in full, with the bytes that are still to come."""
        found = {}
        for file in self.files:
            places = (self.link(file), self.blob(file))
            if any(_size(place) == file.size for place in places):
                continue
            already_here = _size(self.partial(file)) or 0
            if already_here > file.size:
                already_here = 0  # no part of this file: it will be downloaded from the start
            found[file] = file.size - already_here
        return found


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def requests(names: Sequence[str], models: ModelsConfig | None) -> list[FetchRequest]:
    """What `names` mean, each a role of the recipe's `models` or an id of the Hub; all of the recipe's without names.

    What the recipe reads from a folder is left out, since there is nothing to fetch.

    Raises:
        RequestError: a name can't be fetched.
        MissingError: the recipe leaves a role empty.
    """
    values: dict[str, str | None] = {}
    if models is not None:
        values = {role: getattr(models, role) for role in ROLES}
    if names:
        return list(dict.fromkeys(_request(given, values) for given in names))
    all_of_them = []
    for role, name in values.items():
        if name is not None and not on_disk(name):
            all_of_them.append(FetchRequest(role, name))
    return all_of_them


def _request(given: str, values: dict[str, str | None]) -> FetchRequest:
    name: str | None = given
    role = ""
    if given in ROLES:
        role = given
        name = values.get(given)
    else:
        for known, value in values.items():
            if value == given:
                role = known
                break
    if name is None:
        raise MissingError(f"models.{role}: the recipe names none; set models.{role}, or name an `org/name`")
    if on_disk(name) or hub_name(name) is None:
        raise RequestError(
            f"{name}: only an `org/name[/sub-folder][@revision]` of the Hugging Face Hub or one of the roles "
            f"{', '.join(ROLES)} can be fetched; name one of these"
        )
    return FetchRequest(role, name)


def plan(wished: Iterable[FetchRequest], cache: Path, endpoints: Sequence[str]) -> list[PlannedModel]:
    """What there is to fetch; asks for lists of files, and for no file.

    A name without a revision means the commit that the cache holds, so that the weights of a run don't change under it;
    `@main` asks for the newest. Raises the errors of `list_repository` and `choose`.

    Raises:
        RequestError: the cache is that of a rehearsal: real weights among random ones would be taken for random, or
            worse, random ones for real.
    """
    if (cache / MARKER).is_file():
        raise RequestError(
            f"{cache}: holds models with random weights, made by bottega models rehearse; fetch into another folder "
            "with --model-cache, or make what is missing by bottega models rehearse --output"
        )
    return [_plan_model(request, cache, endpoints) for request in wished]


def _plan_model(request: FetchRequest, cache: Path, endpoints: Sequence[str]) -> PlannedModel:
    hub = hub_name(request.name)
    if hub is None:
        raise RequestError(f"{request.name}: not the name of a repository on the Hugging Face Hub; use org/name")
    entry = hub_entry(cache, hub)
    listing = list_repository(hub.repository, hub.revision or _cached_commit(entry), endpoints)
    snapshot = entry / "snapshots" / listing.commit
    sizes = {path: file.size for path, file in listing.files.items()}
    already_here = {path for path in sizes if (snapshot / path).exists()}
    choice = choose(request.name, hub.inside, sizes, already_here)
    files = tuple(with_digest(listing, path) for path in choice.files)
    return PlannedModel(request, hub, listing, choice, files, entry)


def _cached_commit(entry: Path) -> str | None:
    """The commit that the cache holds as `main`, where its snapshot is there."""
    reference = entry / "refs" / "main"
    if not reference.is_file():
        return None
    commit = reference.read_text("utf-8").strip()
    if commit and (entry / "snapshots" / commit).is_dir():
        return commit
    return None


def fetch(
    planned: Sequence[PlannedModel], cache: Path, endpoints: Sequence[str], sdxl: str | None = None
) -> list[ModelStatus]:
    """Download every file, verify its hash, and say of each model whether it is whole and fits the others.

    A file that is here already is read and verified too, and replaced where its hash is wrong. A stopped call is
    continued by the next one, from the byte where it stopped.

    Args:
        planned: what `plan` gave.
        cache: the Hub's cache.
        endpoints: addresses to ask, in order.
        sdxl: the recipe's teacher, which its IP-Adapter must fit where no teacher is among `planned`.

    Raises:
        StorageError: the disk is too small (found before anything is downloaded) or full, or a hash is wrong twice.
        WorkError: no endpoint gives the rest of a file; what has arrived is kept.
        LockedError: another process fetches the same repository.
    """
    check_room(planned, cache)  # first: a disk that fills up after an hour leaves nothing to use
    total = 0
    for model in planned:
        total += sum(file.size for file in model.files)
    with Progress(max(1, round(total / MEGABYTE)), "models", "MB") as progress:
        count_bytes = ByteCounter(progress)
        for model in planned:
            with lock(cache / ".locks" / f"{model.entry.name}.bottega.lock", "bottega models fetch"):
                first = model.listing.endpoint  # whoever gave the list has the files of its commit
                order = [first, *(endpoint for endpoint in endpoints if endpoint != first)]
                for file in model.files:
                    _ensure_file(model, file, order, count_bytes)
                _write_reference(model)
    return _statuses(planned, cache, sdxl)


def check_room(planned: Sequence[PlannedModel], cache: Path) -> tuple[int, int]:
    """(bytes to download, bytes free). Raises StorageError where the disk is too small for them."""
    by_blob: dict[Path, int] = {}  # two models may share a file
    for model in planned:
        for file, missing_bytes in model.remaining().items():
            by_blob[model.blob(file)] = missing_bytes
    need = sum(by_blob.values())
    free = shutil.disk_usage(_nearest_folder(cache)).free
    if need > free:
        raise StorageError(
            f"{cache}: {need / 1e9:.2f} GB are to be fetched and {free / 1e9:.2f} GB are free; free some space, or "
            "name another disk with --model-cache"
        )
    return need, free


def _nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there already."""
    whole = path.absolute()
    return next(folder for folder in (whole, *whole.parents) if folder.exists())


def _ensure_file(model: PlannedModel, file: RemoteFile, endpoints: Sequence[str], count_bytes: ByteCounter) -> None:
    """Have a file here, verified: what is here already first, then the rest of it from the endpoints."""
    link, blob = model.link(file), model.blob(file)
    # What is here is verified too: a file of the right size may have been damaged on the disk.
    for existing in (link, blob):
        if not existing.exists():
            continue
        if file_digest(existing, file.digest) == file.digest:
            count_bytes(file.size)
            _link(blob, link)
            return
        LOGGER.warning("%s: its content does not match its hash; fetched again", existing)
        existing.resolve().unlink()
    # The bar starts from what an earlier call downloaded, so that it ends at the total.
    count_bytes(_size(model.partial(file)) or 0)
    download(model.listing, file, blob, endpoints, count_bytes)
    _link(blob, link)


def _link(blob: Path, link: Path) -> None:
    """Let `link` lead to `blob`, by a relative link; on a disk without links the file itself goes there."""
    if link.exists():
        return
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)  # a link that leads nowhere
        try:
            link.symlink_to(os.path.relpath(blob, link.parent))
        except (OSError, NotImplementedError):
            os.replace(blob, link)
    except OSError as error:
        raise storage_error(error, link) from error


def _write_reference(model: PlannedModel) -> None:
    """Only now, when all is here, do names without a commit mean this snapshot."""
    revision = model.hub.revision or "main"
    if revision != model.listing.commit:
        write_text(model.entry / "refs" / revision, model.listing.commit)


def _statuses(planned: Sequence[PlannedModel], cache: Path, sdxl: str | None) -> list[ModelStatus]:
    fetched_teachers = [model.request.name for model in planned if model.choice.kind == "sdxl"]
    statuses = []
    for model in planned:
        # Without a role the recipe's teacher says nothing of this adapter; one fetched beside it does.
        teacher = sdxl if model.request.role else None
        if fetched_teachers:
            teacher = fetched_teachers[0]
        statuses.append(_status(model, cache, teacher))
    return statuses


def _status(model: PlannedModel, cache: Path, sdxl: str | None) -> ModelStatus:
    kind, name = model.choice.kind, model.request.name
    role = model.request.role
    if not role and kind in ROLES:
        role = kind
    if role:
        settings: dict[str, str | None] = {"cache": str(cache), role: name}
        if role == "ip_adapter":
            settings["sdxl"] = sdxl
        return inspect(ModelsConfig.model_validate(settings), [role])[0]
    files = tuple(model.link(file) for file in model.files if file.path.endswith(".safetensors"))
    faults = []
    for file in files:
        try:
            read_header(file)
        except BottegaError as error:
            faults.append(str(error))
    return ModelStatus(role, name, model.snapshot / model.hub.inside, files, tuple(faults))
