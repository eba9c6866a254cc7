"""One repository of the Hub's cache, and what is wrong with it: each fault with the shell line that mends it.

Nothing is changed here, and nothing is fetched. Read `examine` from top to bottom; `names` shows the layout.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bottega.models.layout import has_tokenizer
from bottega.models.names import fetch_command, hub_name
from bottega.models.published import choose
from bottega.models.weights import DIGEST, LFS_POINTER, read_header
from bottega.runtime.errors import BottegaError, MissingError
from bottega.runtime.findings import Severity

PARTS = ("blobs", "refs", "snapshots")
OPENED = (".json", ".safetensors", ".txt", ".model")
"""Endings that bottega opens."""

LOCAL = "local"
"""The name given to a snapshot whose commit nobody knows."""

FRESH_S = 120.0
"""A download that grew within this time may still be running: pieces come every few seconds, a slow mirror's too."""

_INDEX = ".safetensors.index"


@dataclass(frozen=True)
class CacheFinding:
    """One thing that is wrong in the cache.

    place: the file or folder. cure: what to do, in words. command: the shell line that does it.
    """

    name: str
    severity: Severity
    place: Path
    evidence: str
    cure: str = ""
    command: str | None = None


@dataclass(frozen=True)
class Unjudged:
    """What could not be judged, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class CachedRepository:
    """Where a repository lies in a cache, and by which names it is used.

    cache: as `--model-cache` would name it; None where the environment names it. wanted: names of its models in a
    recipe, such as `h94/IP-Adapter/sdxl_models`. elsewhere: the same repository in another cache, with content.
    """

    entry: Path
    cache: str | None = None
    wanted: tuple[str, ...] = ()
    elsewhere: Path | None = None

    @property
    def name(self) -> str:
        """`org/name`."""
        return self.entry.name.removeprefix("models--").replace("--", "/", 1)

    def fetch(self, name: str) -> str:
        """The command that fetches one of its models, or all of it."""
        if hub_name(name) is None:  # such as `gpt2`, of the Hub's first years, which has no owner
            return f"hf download {shlex.quote(name)}"
        return fetch_command(name, self.cache)

    def at(self, commit: str) -> str:
        """Its name at a commit."""
        # The commit that main means is what a name without a revision gets.
        if commit in (LOCAL, self.main_commit()):
            return self.name
        return f"{self.name}@{commit}"

    def main_commit(self) -> str | None:
        """The commit that `refs/main` names."""
        try:
            return (self.entry / "refs" / "main").read_text("utf-8").strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def snapshots(self) -> list[Path]:
        """The folders of its snapshots, sorted."""
        return _folders(self.entry / "snapshots")


@dataclass
class RepositoryReport:
    """What was found in one repository. to_hash: snapshot file -> its blob, each blob once."""

    findings: list[CacheFinding] = field(default_factory=list)
    unjudged: list[Unjudged] = field(default_factory=list)
    to_hash: dict[Path, Path] = field(default_factory=dict)


def holds_content(entry: Path, *, if_closed: bool = True) -> bool:
    """Whether a repository's folder has a snapshot with at least one file in it.

    `if_closed` is the answer where the folder may not be read. Such a folder is not absent, and `examine` names its
    owner; but nothing can be copied from it either.
    """
    try:
        return any(_holds_a_file(snapshot) for snapshot in _folders(entry / "snapshots"))
    except PermissionError:
        return if_closed


def examine(repository: CachedRepository) -> RepositoryReport:
    """Everything that shows without reading files whole: links, references, headers, sizes, permissions."""
    report = RepositoryReport()
    entry = repository.entry

    # What may not be read cannot be judged: it would look like a missing or damaged file.
    locked = _permission_findings(entry)
    if locked:
        report.findings += locked
        report.unjudged.append(Unjudged(repository.name, "parts of it may not be read"))
        return report

    # The three folders. Without them there is nothing to look into.
    shape = _shape_finding(repository)
    if shape is not None:
        report.findings.append(shape)
        return report

    report.findings += _reference_findings(repository)
    snapshots = repository.snapshots()
    referenced = set(_references(entry).values())
    is_whole = True
    for snapshot in snapshots:
        contents = _SnapshotContents(repository, snapshot)
        found = contents.findings()
        # An old snapshot that no reference names is reached by its commit alone.
        if referenced and snapshot.name not in referenced:
            found = [_at_most_warning(finding) for finding in found]
        is_whole = is_whole and not any(finding.severity >= Severity.ERROR for finding in found)
        report.findings += found
        report.to_hash |= contents.blobs_to_hash()
        report.unjudged += contents.unjudged()

    blob_report = _blob_findings(repository, is_whole and bool(snapshots))
    report.findings += blob_report.findings
    report.unjudged += blob_report.unjudged
    return report


def wrong_content(repository: CachedRepository, file: Path, actual: str) -> CacheFinding:
    """The finding for a file of a snapshot whose content has another hash than its blob's name says."""
    inside = file.relative_to(repository.entry / "snapshots")
    snapshot = repository.entry / "snapshots" / inside.parts[0]
    contents = _SnapshotContents(repository, snapshot)
    path = file.relative_to(snapshot).as_posix()
    cure, command = contents.mend(path)
    evidence = f"{file}: its hash is {actual[:12]}…, and its blob is named {file.resolve().name[:12]}…"
    return CacheFinding("wrong content", contents.severity(path), file, evidence, cure, command)


# --- permissions --------------------------------------------------------------------------------------------------


def _permission_findings(entry: Path) -> list[CacheFinding]:
    """Folders and files that this user may not read."""
    locked = list(_locked(entry))
    if not locked:
        return []
    first = locked[0]
    mine = os.geteuid()
    foreign = [path for path in locked if path.lstat().st_uid != mine]
    if foreign:
        owner = foreign[0].lstat().st_uid
        evidence = f"{len(locked)} files or folders may not be read; {foreign[0]} belongs to user {owner}"
        return [
            CacheFinding(
                "wrong owner",
                Severity.ERROR,
                first,
                evidence,
                "make them yours, as after a download by another user or by root in a container",
                f"sudo chown -R {mine} {shlex.quote(str(entry))} && chmod -R u+rwX {shlex.quote(str(entry))}",
            )
        ]
    return [
        CacheFinding(
            "wrong permissions",
            Severity.ERROR,
            first,
            f"{len(locked)} files or folders may not be read, first {first}",
            "let yourself read them",
            f"chmod -R u+rwX {shlex.quote(str(entry))}",
        )
    ]


def _locked(path: Path) -> Iterator[Path]:
    """What may not be read at or below a folder; where a folder is closed, nothing below it is known."""
    if path.is_symlink():
        return
    if not path.is_dir():
        if not _allowed(path, os.R_OK):
            yield path
        return
    if not _allowed(path, os.R_OK | os.X_OK):
        yield path
        return
    for child in sorted(path.iterdir()):
        yield from _locked(child)


def _allowed(path: Path, mode: int) -> bool:
    # By the effective user: the real one differs in a set-uid wrapper.
    if os.access in os.supports_effective_ids:
        return os.access(path, mode, effective_ids=True)
    return os.access(path, mode)


# --- the three folders --------------------------------------------------------------------------------------------


def _shape_finding(repository: CachedRepository) -> CacheFinding | None:
    """What is wrong with the folder itself, so that nothing in it can be looked at."""
    entry = repository.entry
    blocked = _file_for_folder(repository)
    if blocked is not None:
        return blocked
    if holds_content(entry):
        return None
    flat = _flat_copy(entry)
    if flat is not None:
        return flat
    if _has_any_link_or_blob(entry):
        return None  # dangling links and loose blobs are named as such
    if repository.elsewhere is not None:
        other = repository.elsewhere
        return CacheFinding(
            "empty beside a full copy",
            Severity.ERROR,
            entry,
            f"no file lies in {entry}, while {other} holds the model: it was fetched into another cache",
            "copy it over, links as links",
            f"cp -a {shlex.quote(f'{other}/.')} {shlex.quote(str(entry))}",
        )
    return CacheFinding(
        "downloaded but empty",
        Severity.ERROR,
        entry,
        f"{entry} is there, with no file in it",
        "fetch the model",
        _fetch_all(repository),
    )


def _file_for_folder(repository: CachedRepository) -> CacheFinding | None:
    """A file that lies where one of the three folders must be."""
    for part in PARTS:
        place = repository.entry / part
        if os.path.lexists(place) and not place.is_dir():
            away = f"mv {shlex.quote(str(place))} {shlex.quote(f'{place}.unused')}"
            return CacheFinding(
                "file in place of a folder",
                Severity.ERROR,
                place,
                f"{place} must be a folder and is none",
                "move it away and fetch the model",
                f"{away} && {_fetch_all(repository)}",
            )
    return None


def _flat_copy(entry: Path) -> CacheFinding | None:
    """A model's files in the repository's folder itself, rather than in a snapshot."""
    own = [path for path in entry.iterdir() if path.name not in PARTS and path.is_file()]
    if not any(path.suffix in (".json", ".safetensors") for path in own):
        return None
    snapshot = shlex.quote(str(entry / "snapshots" / LOCAL))
    keep = " ".join(f"! -name {part}" for part in PARTS)
    command = (
        f"mkdir -p {snapshot} && find {shlex.quote(str(entry))} -mindepth 1 -maxdepth 1 {keep} "
        f"-exec mv {{}} {snapshot} ';' && {_set_reference(entry, LOCAL)}"
    )
    return CacheFinding(
        "flat copy",
        Severity.ERROR,
        entry,
        f"{len(own)} files lie in {entry} itself, none under snapshots/: no program finds them there",
        "put them where they are looked for",
        command,
    )


def _has_any_link_or_blob(entry: Path) -> bool:
    for place in (entry / "snapshots", entry / "blobs"):
        if any(path.is_symlink() or path.is_file() for path in place.rglob("*")):
            return True
    return False


def _fetch_all(repository: CachedRepository) -> str:
    """The command that fetches every model of a repository that the recipe names, or all of it."""
    names = repository.wanted or (repository.name,)
    return " && ".join(repository.fetch(name) for name in names)


# --- references ---------------------------------------------------------------------------------------------------


def _references(entry: Path) -> dict[str, str]:
    """Revision -> commit, as refs/ has them."""
    found = {}
    folder = entry / "refs"
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        found[file.relative_to(folder).as_posix()] = file.read_text("utf-8", errors="replace").strip()
    return found


def _reference_findings(repository: CachedRepository) -> list[CacheFinding]:
    references = _references(repository.entry)
    snapshots = repository.snapshots()
    found = []
    if not snapshots and _has_whole_blobs(repository.entry):
        found.append(
            CacheFinding(
                "blobs without a snapshot",
                Severity.ERROR,
                repository.entry,
                f"{repository.entry}: blobs/ holds files, and no snapshot names them",
                "fetch the model: blobs that are whole are used again",
                _fetch_all(repository),
            )
        )
    elif snapshots and "main" not in references:
        found.append(_missing_reference(repository, snapshots))
    names = {path.name for path in snapshots}
    for revision, commit in references.items():
        if snapshots and commit not in names:
            found.append(_absent_snapshot(repository, revision, commit))
        else:
            found += _line_end(repository.entry, revision, commit)
    return found


def _has_whole_blobs(entry: Path) -> bool:
    return any(not blob.name.endswith(".incomplete") for blob in (entry / "blobs").glob("*"))


def _line_end(entry: Path, revision: str, commit: str) -> list[CacheFinding]:
    place = entry / "refs" / revision
    if place.read_text("utf-8", errors="replace") == commit:
        return []
    return [
        CacheFinding(
            "reference with a line end",
            Severity.WARNING,
            place,
            f"{place} ends with a blank or a line end, which the Hub's own client takes for a part of the name",
            "write it without",
            _set_reference(entry, commit, revision),
        )
    ]


def _missing_reference(repository: CachedRepository, snapshots: list[Path]) -> CacheFinding:
    entry = repository.entry
    best = _fullest(snapshots)
    command = _set_reference(entry, best.name)
    if len(snapshots) == 1:
        return CacheFinding(
            "missing reference",
            Severity.WARNING,
            entry / "refs" / "main",
            f"{entry}: refs/main is absent; bottega takes the only snapshot, the Hub's own client finds none",
            "write it",
            command,
        )
    listed = ", ".join(snapshot.name[:12] for snapshot in snapshots)
    return CacheFinding(
        "several snapshots and no reference",
        Severity.ERROR,
        entry / "refs" / "main",
        f"{entry}: {len(snapshots)} snapshots ({listed}) and no refs/main to choose by",
        f"choose one; {best.name[:12]} is the fullest",
        command,
    )


def _absent_snapshot(repository: CachedRepository, revision: str, commit: str) -> CacheFinding:
    entry = repository.entry
    place = entry / "refs" / revision
    received = f"the commit {commit[:12]}" if commit else "nothing"
    whole = [snapshot for snapshot in repository.snapshots() if _holds_a_file(snapshot)]
    if revision == "main" and whole:
        best = _fullest(whole)
        cure, command = f"let it name the snapshot that is here, {best.name[:12]}", _set_reference(entry, best.name)
    else:
        cure, command = "fetch that revision", repository.fetch(f"{repository.name}@{revision}")
    return CacheFinding(
        "reference to an absent snapshot",
        Severity.ERROR,
        place,
        f"{place} names {received}, and no such snapshot is here",
        cure,
        command,
    )


def _set_reference(entry: Path, commit: str, revision: str = "main") -> str:
    place = entry / "refs" / revision
    return f"mkdir -p {shlex.quote(str(place.parent))} && printf %s {shlex.quote(commit)} > {shlex.quote(str(place))}"


def _fullest(snapshots: list[Path]) -> Path:
    """The snapshot with the most files, the newest of equals."""

    def fullness(snapshot: Path) -> tuple[int, float]:
        return sum(path.is_file() for path in snapshot.rglob("*")), snapshot.stat().st_mtime

    return max(snapshots, key=fullness)


# --- a snapshot ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Damage:
    """A file of a snapshot that is damaged: its path in the repository."""

    kind: str
    path: str
    detail: str


class _SnapshotContents:
    """The files of one snapshot, and what is wrong with them."""

    def __init__(self, repository: CachedRepository, snapshot: Path) -> None:
        self.repository = repository
        self.snapshot = snapshot
        paths = (path for path in snapshot.rglob("*") if path.is_symlink() or path.is_file())
        self.files = {path.relative_to(snapshot).as_posix(): path for path in sorted(paths)}
        self.damages = self._damages()

    def findings(self) -> list[CacheFinding]:
        """Damaged files, by kind and by the command that mends them; then what the snapshot lacks."""
        grouped: dict[tuple[str, str, str], list[_Damage]] = {}
        for damage in self.damages:
            if damage.kind == "link out of the cache":
                cure, command = self._relink(damage.path)
            else:
                cure, command = self.mend(damage.path)
            grouped.setdefault((damage.kind, cure, command), []).append(damage)
        found = []
        for (kind, cure, command), damages in grouped.items():
            first = damages[0]
            file = self.snapshot / first.path
            severity = self.severity(first.path)
            evidence = f"{file}: {first.detail}"
            if len(damages) > 1:
                evidence = f"{len(damages)} files, first {evidence}"
            found.append(CacheFinding(kind, severity, file, evidence, cure, command))
        return found + self._lacks()

    def severity(self, path: str) -> Severity:
        """Of a damage to this file: an error only where bottega reads it."""
        if self.fetch_name(path) is None:
            return Severity.WARNING
        return Severity.ERROR

    def mend(self, path: str) -> tuple[str, str]:
        """(cure, command) for a damaged file: fetched again where bottega reads it, else deleted."""
        name = self.fetch_name(path)
        if name is not None:
            return "fetch it again: only what is damaged or absent is downloaded", self.repository.fetch(name)
        file = self.snapshot / path
        places = [file]
        if file.is_symlink() and file.exists():
            places.append(file.resolve())
        cure = "bottega does not read it: delete it; a program that needs it fetches it again"
        return cure, f"rm {_quoted(places)}"

    def blobs_to_hash(self) -> dict[Path, Path]:
        """File -> its blob, where that is named by a hash."""
        found = {}
        for file in self.files.values():
            blob = Path(os.path.realpath(file))
            if file.is_symlink() and blob.is_file() and DIGEST.fullmatch(blob.name):
                found[file] = blob
        return found

    def unjudged(self) -> list[Unjudged]:
        """Files without a hash to compare with, and models that bottega cannot read."""
        found = []
        plain = [file for file in self.files.values() if not file.is_symlink()]
        if plain:
            found.append(
                Unjudged(
                    f"the content of {len(plain)} files of {self.repository.name}",
                    "they are plain files and no links to blobs, so that no hash of them is known",
                )
            )
        if any(path.endswith(".bin") for path in self.files):
            found.append(Unjudged(f"*.bin of {self.repository.name}", "pickled files are not opened"))
        return found

    def _damages(self) -> list[_Damage]:
        found = []
        for path, file in self.files.items():
            fault = _content_damage(file) if file.exists() else _link_damage(self.repository.entry, file)
            if fault is not None:
                kind, detail = fault
                found.append(_Damage(kind, path, detail))
        for index, shards in self._absent_shards().items():
            for shard in shards:
                found.append(_Damage("absent shard", shard, f"{index} names it, and it is not here"))
        return found

    def _absent_shards(self) -> dict[str, list[str]]:
        """Index -> shards that it names and that are not here."""
        found: dict[str, list[str]] = {}
        for path, file in self.files.items():
            if _INDEX not in path or not file.exists():
                continue
            folder, slash, _ = path.rpartition("/")
            for name in _shard_names(file):
                shard = f"{folder}{slash}{name}"
                if shard not in self.files:
                    found.setdefault(path, []).append(shard)
        return found

    def _lacks(self) -> list[CacheFinding]:
        """What the snapshot as a whole lacks: a model's weights, a pipeline's part."""
        if not any(file.is_file() for file in self.files.values()):
            if self.files:
                return []  # dangling links were named
            return [self._incomplete(_fetch_all(self.repository), "no file lies in it", "empty snapshot")]
        lacks = [*self._lacking_parts(), *self._lacking_choice()]
        return lacks[:1]  # the first explains the others, and its command brings all

    def _lacking_parts(self) -> list[CacheFinding]:
        index = self.files.get("model_index.json")
        if index is None or not index.exists():
            return []
        found = []
        command = self.repository.fetch(self.repository.at(self.snapshot.name))
        for part, kind in _json_object(index).items():
            if not isinstance(kind, list) or None in kind or part.startswith("_"):
                continue
            lack = self._lack_of(part)
            if lack is not None:
                found.append(self._incomplete(command, lack))
        return found

    def _lack_of(self, part: str) -> str | None:
        """What a part of a pipeline lacks; None where it is there."""
        if not any(path.startswith(f"{part}/") for path in self.files):
            return f"model_index.json names {part}, and no file of it is here"
        if part.startswith("tokenizer") and not has_tokenizer(self.snapshot / part):
            return f"{part}/ holds no whole tokenizer"
        return None

    def _lacking_choice(self) -> list[CacheFinding]:
        """Whether what bottega would read of each model is here: those that a recipe names, else the whole."""
        names = list(self.repository.wanted)
        if not names and {"model_index.json", "config.json"} & self.files.keys():
            names = [self.repository.name]
        found = []
        for name in names:
            hub = hub_name(name)
            if hub is None:
                continue
            try:
                choose(name, hub.inside, self._sizes(), self._already_here())
            except MissingError as error:
                evidence = str(error).rpartition(";")[0] or str(error)
                found.append(self._incomplete(self.repository.fetch(name), evidence.replace("the repository", "it")))
            except BottegaError:
                continue  # a choice that only the user can make, or pickled weights alone: no damage of the cache
        return found

    def _incomplete(self, command: str, evidence: str, kind: str = "incomplete snapshot") -> CacheFinding:
        return CacheFinding(
            kind, Severity.ERROR, self.snapshot, f"{self.snapshot}: {evidence}", "fetch what is missing", command
        )

    def fetch_name(self, path: str) -> str | None:
        """The shortest name of a model that this file is read for; None where bottega does not read it.

        A repository may hold several models: `bottega models fetch` wants the sub-folder that is meant.
        """
        if not path.endswith(OPENED):
            return None
        at = self.repository.at(self.snapshot.name)
        revision = at.removeprefix(self.repository.name)
        for inside in self._model_places(path):
            name = f"{self.repository.name}/{inside}" if inside else self.repository.name
            try:
                choice = choose(name, inside, self._sizes(), self._already_here())
            except BottegaError:
                continue
            if path in choice.files:
                return f"{name}{revision}"
        return None

    def _model_places(self, path: str) -> list[str]:
        """Where the model that a file belongs to may be: the places that a recipe names, then from the top down."""
        places = []
        for wanted in self.repository.wanted:
            hub = hub_name(wanted)
            if hub is not None:
                places.append(hub.inside)
        folders = path.split("/")[:-1]
        for depth in range(len(folders) + 1):
            places.append("/".join(folders[:depth]))
        if path.endswith(".safetensors"):
            places.append(path)
        return places

    def _sizes(self) -> Mapping[str, int]:
        """What the repository is known to hold: also shards that an index names and that are not here."""
        sizes = {}
        for path, file in self.files.items():
            sizes[path] = 0
            if file.exists():
                sizes[path] = file.stat().st_size
        for shards in self._absent_shards().values():
            sizes |= dict.fromkeys(shards, 0)
        return sizes

    def _already_here(self) -> set[str]:
        """What `bottega models fetch` takes for present: it verifies the content only then."""
        return {path for path, file in self.files.items() if file.exists()}

    def _relink(self, path: str) -> tuple[str, str]:
        link = self.snapshot / path
        blob = self.repository.entry / "blobs" / os.path.basename(os.readlink(link))
        target = os.path.relpath(blob, link.parent)
        command = f"ln -sfn {shlex.quote(target)} {shlex.quote(str(link))}"
        return "the blob is here: let the link lead to it", command


def _link_damage(entry: Path, link: Path) -> tuple[str, str]:
    target = os.readlink(link)
    if (entry / "blobs" / os.path.basename(target)).is_file():
        return "link out of the cache", f"it leads to {target}, which is not here, while blobs/ has the file"
    if not any((entry / "blobs").glob("*")):
        return "dangling link", "it leads nowhere: blobs/ is empty, as after a copy of snapshots/ alone"
    return "dangling link", f"it leads to {target}, which is not here"


def _content_damage(file: Path) -> tuple[str, str] | None:
    """(kind, detail) of what is wrong with a file's content, without reading a large one whole."""
    if file.suffix not in OPENED:
        return None
    if file.stat().st_size == 0:
        return "empty file", "0 bytes"
    with file.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            return "pointer of Git LFS", "it is the text that stands for a large file where git-lfs was not installed"
    try:
        if file.suffix == ".safetensors":
            read_header(file)
        elif file.suffix == ".json":
            json.loads(file.read_bytes())
    except BottegaError as error:
        detail = str(error).removeprefix(f"{file}: ").rpartition(";")[0]
        return "truncated file", detail
    except (ValueError, OSError, RecursionError) as error:
        return "broken JSON", str(error)
    return None


def _shard_names(index: Path) -> list[str]:
    names = _json_object(index).get("weight_map")
    if not isinstance(names, dict):
        return []
    return sorted({str(name) for name in names.values()})


def _json_object(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, OSError, RecursionError):
        return {}  # named as broken JSON
    if not isinstance(content, dict):
        return {}
    return content


def _at_most_warning(finding: CacheFinding) -> CacheFinding:
    severity = min(finding.severity, Severity.WARNING)
    return CacheFinding(finding.name, severity, finding.place, finding.evidence, finding.cure, finding.command)


# --- blobs --------------------------------------------------------------------------------------------------------


def _blob_findings(repository: CachedRepository, is_whole: bool) -> RepositoryReport:
    """Downloads that were not finished, and blobs that nothing names."""
    report = RepositoryReport()
    blobs = repository.entry / "blobs"
    if not blobs.is_dir():
        return report
    used = _used_blobs(repository)
    loose = []
    for blob in sorted(blobs.iterdir()):
        if blob.name.endswith(".incomplete"):
            _add_unfinished(report, repository, blob, is_whole)
        elif blob.is_file() and Path(os.path.realpath(blob)) not in used:
            loose.append(blob)
    # Without a snapshot the blobs wait for the fetch that names them.
    if loose and repository.snapshots():
        size = sum(blob.stat().st_size for blob in loose)
        report.findings.append(
            CacheFinding(
                "unused blobs",
                Severity.INFO,
                loose[0],
                f"{len(loose)} blobs of {repository.name}, {size / 1e6:.1f} MB, are named by no snapshot",
                "nothing reads them: delete them to free the space",
                f"rm {_quoted(loose)}",
            )
        )
    return report


def _used_blobs(repository: CachedRepository) -> set[Path]:
    """Where the links of all snapshots lead."""
    used = set()
    for snapshot in repository.snapshots():
        for path in snapshot.rglob("*"):
            if path.is_symlink():
                used.add(Path(os.path.realpath(path)))
    return used


def _add_unfinished(report: RepositoryReport, repository: CachedRepository, partial: Path, is_whole: bool) -> None:
    facts = partial.stat()
    if time.time() - facts.st_mtime < FRESH_S:
        report.unjudged.append(Unjudged(str(partial), "it grew a moment ago: a download may be running"))
        return
    size = f"{facts.st_size / 1e6:.2f} MB of a file have arrived in {partial}"
    done = partial.with_name(partial.name.split(".")[0])
    if is_whole or done.is_file():
        report.findings.append(
            CacheFinding(
                "leftover of a download",
                Severity.WARNING,
                partial,
                f"{size}, and what is read is whole without it",
                "delete it",
                f"rm {shlex.quote(str(partial))}",
            )
        )
        return
    report.findings.append(
        CacheFinding(
            "half-finished download",
            Severity.ERROR,
            partial,
            f"{size}, and the download was not finished",
            "continue it",
            _fetch_all(repository),
        )
    )


def _quoted(paths: Iterable[Path]) -> str:
    return " ".join(shlex.quote(str(path)) for path in paths)


def _holds_a_file(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(path for path in place.iterdir() if path.is_dir())
