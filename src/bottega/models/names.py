"""From the name of a model to a folder on this machine, never asking the network.

A name is a folder; or `bottega:miniature/weights/sdxl`, inside the installed package; or the id of a repository on the
Hugging Face Hub, `org/name`, with a sub-folder after it (`h94/IP-Adapter/sdxl_models`) and `@revision` at the end where
wanted, looked up in the Hub's cache as it is on disk:

    <cache>/models--org--name/refs/<revision>      a file with the commit
    <cache>/models--org--name/snapshots/<commit>/  the files, as links into ../../blobs/
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bottega.runtime.errors import MissingError, RequestError, StorageError
from bottega.runtime.paths import stays_inside

PACKAGE = "bottega:"
_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<inside>[\w./-]+?))?(?:@(?P<revision>[\w./-]+))?")
_OPENED = (".json", ".safetensors", ".txt", ".model")  # endings that bottega opens; a dangling README harms nobody


def hub_cache(cache: str | None = None) -> Path:
    """The Hub's cache: `cache` where given, else what HF_HUB_CACHE, HF_HOME and XDG_CACHE_HOME say now."""
    if cache is not None:
        return Path(cache).expanduser()
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    if os.environ.get("HF_HOME"):
        home = Path(os.environ["HF_HOME"])
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return home.expanduser() / "hub"


class HubName(NamedTuple):
    """`org/name[/inside][@revision]` in its parts; `inside` is "" for the whole repository."""

    repository: str
    inside: str
    revision: str | None


def hub_name(name: str) -> HubName | None:
    """The parts of a name on the Hub, or None where it can't be one."""
    match = _HUB.fullmatch(name)
    if match is None or ".." in name or name.startswith("."):
        return None
    return HubName(match["repo"], match["inside"] or "", match["revision"])


def hub_entry(cache: Path, hub: HubName) -> Path:
    """The folder of a repository in the Hub's cache."""
    return cache / ("models--" + hub.repository.replace("/", "--"))


def on_disk(name: str) -> bool:
    """Whether a name means a folder or a file of this machine, so that there is nothing to fetch."""
    return name.startswith(PACKAGE) or Path(name).expanduser().exists()


def resolve(name_or_path: str, base: Path | None = None, *, cache: str | None = None) -> Path:
    """The folder (or the single file) that `name_or_path` means.

    Nothing is downloaded.

    Args:
        name_or_path: see the module's head.
        base: where relative folders are looked for first; then in the working directory.
        cache: the Hub's cache, if not the one that the environment names.

    Raises:
        MissingError: it is not on this machine; the message has the command that gets it.
        StorageError: the cache holds links that lead nowhere.
        RequestError: it can't be a name.
    """
    if name_or_path.startswith(PACKAGE):
        return _in_package(name_or_path)
    path = Path(name_or_path).expanduser()
    if base is not None and (base / path).exists():  # an absolute path stays itself: then `base / path` is `path`
        return base / path
    if path.exists():
        return path
    hub = hub_name(name_or_path)
    if hub is None:
        raise MissingError(
            f"{name_or_path}: no such folder; name a folder, `{PACKAGE}…`, or an `org/name` of the Hugging Face Hub"
        )
    return _in_cache(name_or_path, hub, hub_cache(cache), fetch_command(name_or_path, cache))


def fetch_command(name: str, cache: str | None = None) -> str:
    """The exact command that fetches the model `name` into the cache."""
    if hub_name(name) is None:
        return f"name another folder than {name}, or an `org/name` of the Hugging Face Hub"
    command = f"bottega models fetch {name}"
    if cache:
        command += f" --model-cache {shlex.quote(cache)}"
    return command


def _in_package(name: str) -> Path:
    import bottega

    if bottega.__file__ is None:
        raise RequestError(f"{name}: the package bottega lies in no folder; install it with pip")
    root = Path(bottega.__file__).parent
    inside = root / name.removeprefix(PACKAGE)
    if not inside.resolve().is_relative_to(root.resolve()):
        raise RequestError(f"{name}: must stay inside the package; name a folder without `..`")
    if not inside.exists():
        raise MissingError(
            f"{name}: not part of this installation ({inside.name} is absent); reinstall bottega, or make "
            "the models: bottega miniature build"
        )
    return inside


def _in_cache(name: str, hub: HubName, cache: Path, get: str) -> Path:
    repository = hub_entry(cache, hub)
    if not repository.is_dir():
        if hub_entry(cache / "hub", hub).is_dir():
            raise MissingError(
                f"{name}: not in {cache}, but in {cache / 'hub'}; set models.cache or HF_HUB_CACHE to the latter"
            )
        raise MissingError(f"{name}: neither a folder nor in the cache {cache}; get it: {get}")
    snapshot = _snapshot(name, repository, hub.revision, get)
    found = snapshot / hub.inside
    _check_links(name, found, get)
    if not found.exists():
        raise MissingError(f"{name}: the cache holds this repository without {hub.inside}; get it: {get}")
    return found


def _snapshot(name: str, repository: Path, revision: str | None, get: str) -> Path:
    snapshots = repository / "snapshots"
    reference = repository / "refs" / (revision or "main")
    if revision and (snapshots / revision).is_dir():
        return snapshots / revision
    if reference.is_file():
        commit = reference.read_text("utf-8").strip()  # a reference written by hand often ends with a newline
        if stays_inside(commit) and (snapshots / commit).is_dir():
            return snapshots / commit
        raise MissingError(f"{name}: {reference} names the commit {commit!r}, whose snapshot is absent; get it: {get}")
    if revision is None:
        only = _only_snapshot(name, snapshots)
        if only is not None:
            return only
    raise MissingError(f"{name}: the cache holds no snapshot of {revision or 'main'}; get it: {get}")


def _only_snapshot(name: str, snapshots: Path) -> Path | None:
    """The snapshot of a repository that was fetched by its commit, or copied without `refs/`; None where there is none.

    Raises:
        RequestError: there are several, and nothing says which is meant.
    """
    if not snapshots.is_dir():
        return None
    there = sorted(path for path in snapshots.iterdir() if path.is_dir())
    if len(there) > 1:
        raise RequestError(
            f"{name}: {len(there)} snapshots and no refs/main to choose by; add one of them to the name: "
            f"{name}@{there[0].name}"
        )
    return there[0] if there else None


def _check_links(name: str, found: Path, get: str) -> None:
    """Refuse links that lead nowhere: copied without the blobs, or a download that was killed."""
    files: Iterable[Path] = [found]
    if not found.is_symlink() and not found.is_file():
        files = found.rglob("*")
    dangling = []
    for path in files:
        if path.suffix in _OPENED and path.is_symlink() and not path.exists():
            dangling.append(path)
    if dangling:
        dangling.sort()
        raise StorageError(
            f"{name}: {len(dangling)} files in the cache are links that lead nowhere, first "
            f"{dangling[0]}; get them again: {get}"
        )
