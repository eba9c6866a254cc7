"""`bottega doctor run DIR`: whether what lies in a run directory is whole, and is what the run says it is.

Reads files and changes none: no lock is kept, the ledger is opened read-only, and no model is loaded. Read `examine`
from top to bottom. A cure that deletes names files that the run makes again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bottega.doctor.answer import Answer, Draft
from bottega.models.layout import ModelStatus
from bottega.models.names import fetch_command, hub_name, on_disk
from bottega.models.weights import read_header
from bottega.runtime.errors import BottegaError, MissingError
from bottega.runtime.files import read_json, sha256_file
from bottega.runtime.findings import Severity
from bottega.runtime.fingerprint import fingerprint
from bottega.runtime.paths import stays_inside
from bottega.runtime.trust import LIST, FileFault, FileHash, difference, read_list
from bottega.teacher.ledger import LEDGER
from bottega.training.checkpoint import damaged_files, folders

SAMPLE = 1024
"""Pictures, and pictures that were their inputs, whose hashes are compared without `--all`: a second or two."""

FRESH_S = 60.0
"""A temporary file that changed within this time may still be written."""

READ_AT_ONCE = 2 << 30
"""Bytes of files with recorded hashes that are read without `--all`: two or three seconds."""

SHOWN = 3
"""Files that a finding or a command names; a longer list is given by its count."""

Item = TypeVar("Item")

_PNG_END = b"IEND\xaeB`\x82"


class _StageFile(BaseModel):
    """What is read of a stage.json."""

    fingerprint: str = ""
    seconds: float = 0.0
    summary: Any = None


@dataclass(frozen=True)
class RunRequest:
    """What to look at, and what only a reader of recipes knows.

    directory: of the run. check_all: every hash, not a sample. stages: (name, folder in the directory) in order.
    data_root: what paths of inputs are relative to. models: the recipe's models, as they lie on this machine. refusal:
    why the run would refuse to continue, "" where it would not.
    """

    directory: Path
    check_all: bool = False
    stages: tuple[tuple[str, str], ...] = ()
    data_root: Path | None = None
    models: tuple[ModelStatus, ...] = ()
    refusal: str = ""


@dataclass
class _Examination(Draft):
    """What is being found. busy: a process works in the directory, so that files change."""

    request: RunRequest = field(kw_only=True)
    busy: bool = False

    @property
    def directory(self) -> Path:
        return self.request.directory

    def again(self) -> str:
        """The command that continues the run."""
        quoted = shlex.quote(str(self.directory))
        if self.request.stages:
            return f"bottega run {quoted}"
        return f"bottega train ldm --config {shlex.quote(str(self.directory / 'recipe.yaml'))} --output-dir {quoted}"

    def redo(self, *files: Path) -> str:
        """The command that deletes files, with the records of the stages that made them, and makes them again."""
        paths = list(dict.fromkeys([*files, *filter(None, map(self.record_of, files))]))
        if not paths:
            return self.again()
        return f"rm -r {_quoted(paths)} && {self.again()}"

    def redo_stage(self, record: Path) -> str:
        """The command that does the stage of a stage.json again; where it was never done, the one that does it."""
        if record.exists():
            return self.redo(record)
        return self.again()

    def record_of(self, file: Path) -> Path | None:
        """The stage.json of the stage whose folder a file lies in: while that stands, the stage counts as done."""
        for _, folder in sorted(self.request.stages, key=lambda stage: len(stage[1]), reverse=True):
            record = self.directory / folder / "stage.json"
            if file.is_relative_to(self.directory / folder) and record.exists():
                return record
        return None


def examine(request: RunRequest) -> Answer:
    """Check a run directory from end to end.

    Raises:
        MissingError: there is no such folder, or no run in it.
    """
    directory = request.directory
    if not directory.is_dir():
        raise MissingError(f"{directory}: there is no such run directory; name one, such as runs/miniature")
    if not any((directory / name).exists() for name in ("recipe.yaml", "metrics.jsonl", "summary.json")):
        raise MissingError(f"{directory}: neither recipe.yaml nor metrics.jsonl is in it; name a run directory")
    found = _Examination(request=request)

    # Whoever writes now explains temporary files and half-written ones.
    _check_locks(found)
    _check_temporary_names(found)

    # Files by themselves, before what they say: a cure that runs a stage would stop at the first torn one.
    _check_files(found)

    # Stages: what each recorded, against what it was begun with.
    _check_stages(found)
    _check_summary(found)
    if request.refusal:
        found.add("recipe was changed", Severity.ERROR, request.refusal)

    # Files against those who name them, and against the hashes that were recorded when they were written.
    _check_ledger(found)
    _check_recorded(found)
    _check_features(found)
    _check_checkpoints(found)
    _check_weights(found)
    return found.answer(f"the run {directory}")


# --- who writes ---------------------------------------------------------------------------------------------------


def _check_locks(found: _Examination) -> None:
    for path in _named(found.directory, lambda name: name.startswith(".") and name.endswith(".lock")):
        if path.is_symlink() or not path.is_file():
            found.add(
                "lock is no file",
                Severity.ERROR,
                f"{path} is a link or a folder: every command would refuse to work here",
                "delete it",
                f"rm -r {shlex.quote(str(path))}",
            )
            continue
        holder = _holder(path)
        if _is_held(path):
            found.busy = True
            found.leave_out(str(path.parent), f"{holder or 'a process'} works on it now: its files change")
        elif holder:
            found.add(
                "stale lock",
                Severity.INFO,
                f"{path} names {holder}, which ended without a word: it was killed; nobody holds the lock",
                "nothing stands in the way: the next command takes it over",
                found.again(),
            )


def _holder(path: Path) -> str:
    try:
        record = json.loads(path.read_bytes())
        return f"process {record['pid']} on {record['host']} ({record['holder']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _is_held(path: Path) -> bool:
    """Whether another process holds the lock; asks for it, and gives it back at once."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False  # it may not be written, so it is nobody's of this user
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)  # gives it back, too


def _check_temporary_names(found: _Examination) -> None:
    left = []
    for path in _named(found.directory, lambda name: name.startswith(".") and name.endswith(".tmp")):
        if found.busy or time.time() - path.lstat().st_mtime < FRESH_S:
            found.leave_out(str(path), "it may be written at this moment")
        else:
            left.append(path)
    if left:
        found.add(
            "leftover of a killed process",
            Severity.WARNING,
            f"{_listed(left)}: under a temporary name, never finished",
            "delete it; the next command would overwrite it",
            f"rm -r {_quoted(left)}",
        )


# --- stages -------------------------------------------------------------------------------------------------------


def _check_stages(found: _Examination) -> None:
    done = []
    for name, folder in found.request.stages:
        place = found.directory / folder
        error = _json(place / "error.json")
        if isinstance(error, dict):
            found.add(
                "stage failed",
                Severity.ERROR,
                f"{name}: {error.get('error')}",
                "remove the cause, and run it again",
                found.again(),
            )
        settings, record = place / "settings.json", place / "stage.json"
        if not record.exists():
            if settings.exists() and not found.busy and not isinstance(error, dict):
                found.add(
                    "stage not finished",
                    Severity.WARNING,
                    f"{name} was begun and has no stage.json",
                    "run the same command again: it continues",
                    found.again(),
                )
            continue
        done.append(name)
        _check_stage_record(found, name, settings, record)
    if found.request.stages:
        found.facts["stages done"] = done


def _check_stage_record(found: _Examination, name: str, settings: Path, record: Path) -> None:
    """Whether the settings that a stage was begun with are those that its record was made from."""
    content = _json(record)
    if content is None:
        return  # reported as a torn file
    try:
        stage = _StageFile.model_validate(content)
    except ValidationError as error:
        found.add(
            "record of another form",
            Severity.ERROR,
            f"{record}: {error.errors()[0]['msg']}",
            "delete it: the stage continues",
            found.redo(record),
        )
        return
    begun_with = _json(settings)
    if begun_with is None:
        if not settings.exists():
            found.add(
                "settings are missing",
                Severity.ERROR,
                f"{settings} is absent beside stage.json",
                "do the stage again, which writes both",
                found.redo(record),
            )
        return
    if stage.fingerprint and fingerprint(begun_with) != stage.fingerprint:
        found.add(
            "record does not fit its settings",
            Severity.ERROR,
            f"{name}: the fingerprint in stage.json ({stage.fingerprint[:12]}…) is not that of settings.json "
            f"({fingerprint(begun_with)[:12]}…)",
            "one of them was edited or copied: let the stage write both again",
            found.redo(settings, record),
        )


def _check_summary(found: _Examination) -> None:
    """summary.json against each stage's own record."""
    file = found.directory / "summary.json"
    content = _json(file)
    stages = _value(content, "stages")
    if not found.request.stages or not isinstance(stages, dict):
        return
    differing = []
    for name, folder in found.request.stages:
        record = _json(found.directory / folder / "stage.json")
        if _value(record, "summary") != _value(stages.get(name), "summary"):
            differing.append(name)
    if differing and not found.busy:
        found.add(
            "summary is out of date",
            Severity.WARNING,
            f"{file} says other than the stage.json of {', '.join(differing)}",
            "it is written by every run",
            found.again(),
        )


# --- files by themselves ------------------------------------------------------------------------------------------


def _check_files(found: _Examination) -> None:
    """JSON, JSON lines, safetensors and pictures that are not whole."""
    counted = 0
    pictures = []
    torn: dict[Path, str] = {}
    for file in _files(found.directory):
        if file.suffix == ".png":
            pictures.append(file)
            continue
        fault = _file_fault(file)
        counted += file.suffix in (".json", ".jsonl", ".safetensors")
        if fault is None:
            continue
        if file.suffix == ".jsonl":
            _add_line_fault(found, file, fault)
        else:
            torn[file] = fault
    if torn:
        (first, fault), *others = torn.items()
        evidence = f"{first}: {fault}"
        if others:
            evidence += f"; and {_listed([file for file, _ in others])}"
        # One command for all of them, and for edited settings: a run stops at the first of these that it meets.
        found.add(
            "torn file",
            Severity.ERROR,
            evidence,
            "delete what is torn, and let the run make it again",
            found.redo(*torn, *_edited(found)),
        )
    chosen = _sample(found, pictures, "the end of each picture", 10 * SAMPLE)
    for file in chosen:
        if not _ends_as_png(file):
            found.add(
                "torn picture",
                Severity.ERROR,
                f"{file}: its end is missing",
                "delete it, and let the run make it again",
                found.redo(file),
            )
    found.facts["files read"] = counted + len(chosen)


def _edited(found: _Examination) -> list[Path]:
    """Settings, with their stage's record, of stages whose fingerprint says that one of the two was edited."""
    paths = []
    for _, folder in found.request.stages:
        settings, record = found.directory / folder / "settings.json", found.directory / folder / "stage.json"
        begun_with, content = _json(settings), _json(record)
        if isinstance(content, dict) and isinstance(begun_with, dict):
            recorded = content.get("fingerprint")
            if recorded and recorded != fingerprint(begun_with):
                paths += [settings, record]
    return paths


def _file_fault(file: Path) -> str | None:
    """What is wrong with a file by itself."""
    try:
        if file.suffix == ".safetensors":
            read_header(file)
        elif file.suffix == ".json":
            json.loads(file.read_bytes())
        elif file.suffix == ".jsonl":
            return _line_fault(file)
    except BottegaError as error:
        return str(error).removeprefix(f"{file}: ").rpartition(";")[0]
    except (OSError, ValueError, RecursionError) as error:
        return str(error)
    return None


def _line_fault(file: Path) -> str | None:
    """`line 7` of the first line that is no JSON object, `torn` for a last one without its end."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip() or _is_object(line):
                continue
            return f"line {number}" if line.endswith(b"\n") else "torn"
    return None


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _add_line_fault(found: _Examination, file: Path, fault: str) -> None:
    if fault == "torn":
        found.add(
            "torn last line",
            Severity.WARNING,
            f"{file}: the last line has no end; readers pass it over, and the next writer cuts it off",
            "cut it off",
            f"sed -i '$d' {shlex.quote(str(file))}",
        )
        return
    number = fault.split()[1]
    found.add(
        "damaged line",
        Severity.ERROR,
        f"{file}, {fault} is no JSON object",
        "delete that line",
        f"sed -i {number}d {shlex.quote(str(file))}",
    )


def _ends_as_png(file: Path) -> bool:
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - len(_PNG_END)))
        return stream.read() == _PNG_END


# --- the ledger ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _TryRow:
    """What is compared of a row: a picture and its two inputs, with their hashes."""

    target: str
    picture: str | None
    picture_hash: str | None
    inputs: tuple[tuple[str, str], tuple[str, str]]


def _check_ledger(found: _Examination) -> None:
    folder = found.directory / "teacher"
    file = folder / LEDGER
    if not file.exists():
        if (folder / "stage.json").exists():
            found.add(
                "ledger is missing",
                Severity.ERROR,
                f"{file} is absent, and the stage counts as done",
                "make the targets again",
                found.redo(folder / "stage.json"),
            )
        return
    try:
        _check_ledger_hash(file)
        with closing(_open_read_only(file)) as ledger:
            _check_database(ledger, found.request.check_all)
            rows = _rows(ledger)
    except sqlite3.DatabaseError as error:
        # The whole folder: a run that finds pictures without a ledger asks for a copy of it.
        away = shlex.quote(str(folder.with_name(f"{folder.name}.damaged")))
        found.add(
            "damaged ledger",
            Severity.ERROR,
            f"{file}: {error}",
            "put a copy back, or move the folder away and make the targets again",
            f"mv {shlex.quote(str(folder))} {away} && {found.again()}",
        )
        return
    found.facts["targets in the ledger"] = len({row.target for row in rows})
    log = file.with_name(f"{LEDGER}-wal")
    if log.exists() and log.stat().st_size and not found.busy:
        found.add(
            "ledger with an open log",
            Severity.INFO,
            f"{log} holds what was committed last: whoever copies the ledger alone would miss it",
            "the next command folds it in",
            found.again(),
        )
    _check_pictures(found, folder, rows)
    _check_inputs(found, rows)


def _open_read_only(file: Path) -> sqlite3.Connection:
    """The ledger, without a write: where no log is open, SQLite opens it as immutable and makes no file beside it."""
    log = file.with_name(f"{LEDGER}-wal")
    mode = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    return sqlite3.connect(f"{file.absolute().as_uri()}?{mode}", uri=True)


def _check_ledger_hash(file: Path) -> None:
    """Raise sqlite's own error where the ledger is not what was written: it may be readable, and say another thing."""
    row = read_list(file.parent).get(file.name)
    reason = None if row is None else difference(file, row)
    if reason is not None:
        raise sqlite3.DatabaseError(f"it {reason}")


def _check_database(ledger: sqlite3.Connection, whole: bool) -> None:
    pragma = "integrity_check" if whole else "quick_check"
    said = ledger.execute(f"PRAGMA {pragma}(1)").fetchone()
    if said is None or said[0] != "ok":
        raise sqlite3.DatabaseError("no answer" if said is None else said[0])


def _rows(ledger: sqlite3.Connection) -> list[_TryRow]:
    query = (
        "SELECT target, output_path, output_sha256, content_path, content_sha256, style_path, style_sha256 "
        "FROM tries WHERE current ORDER BY id"
    )
    rows = []
    for target, picture, digest, content, content_hash, style, style_hash in ledger.execute(query):
        rows.append(_TryRow(target, picture, digest, ((content, content_hash), (style, style_hash))))
    return rows


def _check_pictures(found: _Examination, folder: Path, rows: Sequence[_TryRow]) -> None:
    """The pictures that rows name: inside of the run, there, and with the content that was recorded."""
    there: list[_TryRow] = []
    absent: list[Path] = []
    for row in _rows_inside(found, folder, rows):
        path = folder / str(row.picture)
        if path.is_file():
            there.append(row)
        else:
            absent.append(path)
    if absent:
        found.add(
            "missing pictures",
            Severity.ERROR,
            f"{len(absent)} of {len(rows)} rows name a picture that is not there: {_listed(absent)}",
            "let the teacher make them again: it looks for every file",
            found.redo_stage(folder / "stage.json"),
        )
    _check_hashes(found, folder, there)
    _check_nameless_pictures(found, folder, rows)


def _rows_inside(found: _Examination, folder: Path, rows: Sequence[_TryRow]) -> list[_TryRow]:
    """Rows that name a picture inside the run; the first that leads out of it is reported."""
    named = [row for row in rows if row.picture is not None]
    inside = [row for row in named if stays_inside(str(row.picture))]
    if len(inside) < len(named):
        outside = next(row for row in named if row not in inside)
        found.add(
            "row leads out of the run",
            Severity.ERROR,
            f"{folder / LEDGER}, target {outside.target}: output_path is {outside.picture!r}, outside of the run",
            "put a copy of the ledger back: every command refuses this one",
        )
    return inside


def _check_hashes(found: _Examination, folder: Path, rows: Sequence[_TryRow]) -> None:
    """Whether pictures that are there are those that were recorded."""
    changed = []
    for row in _sample(found, rows, "the hashes of pictures", SAMPLE):
        path = folder / str(row.picture)
        if row.picture_hash is not None and sha256_file(path) != row.picture_hash:
            changed.append(path)
    if changed:
        found.add(
            "changed pictures",
            Severity.ERROR,
            f"the content of {_listed(changed)} is not what the ledger recorded",
            "delete them, and let the teacher make them again",
            found.redo(*changed),
        )


def _check_nameless_pictures(found: _Examination, folder: Path, rows: Sequence[_TryRow]) -> None:
    named = {str(folder / row.picture) for row in rows if row.picture is not None}
    nameless = []
    for part in ("images", "rejected", "tries"):
        for path in sorted((folder / part).rglob("*.png")):
            if str(path) not in named:
                nameless.append(path)
    if nameless and not found.busy:
        found.add(
            "pictures without a row",
            Severity.WARNING,
            f"no row of the ledger names {_listed(nameless)}: what a killed chunk left, or an older try",
            "delete them: nothing reads them",
            f"rm {_quoted(nameless)}",
        )


def _check_inputs(found: _Examination, rows: Sequence[_TryRow]) -> None:
    """Contents and styles: whether they are still those that the targets were made from."""
    root = found.request.data_root
    if root is None or not root.is_dir():
        if rows:
            found.leave_out("the pictures that targets were made from", f"no folder {root} is here")
        return
    expected: dict[str, str] = {}
    for row in rows:
        expected |= dict(row.inputs)
    changed = []
    for name in _sample(found, sorted(expected), "the hashes of input pictures", SAMPLE):
        if not _is_unchanged(root, name, expected[name]):
            changed.append(root / name)
    if changed:
        _add_changed_inputs(found, changed)


def _is_unchanged(root: Path, name: str, sha256: str) -> bool:
    path = root / name
    return stays_inside(name) and path.is_file() and sha256_file(path) == sha256


def _add_changed_inputs(found: _Examination, changed: Sequence[Path]) -> None:
    """The cure begins where the pictures come from: with the drawn world, where the run has one."""
    again = [found.directory / folder / "stage.json" for folder in ("data", "teacher")]
    drawn = [found.directory / folder for name, folder in found.request.stages if name == "world"]
    cure = "put them back, and let the run prepare its data again and make those targets again"
    if drawn:
        cure = "let the run draw its world again, prepare its data and make those targets again"
    found.add(
        "changed inputs",
        Severity.ERROR,
        f"{_listed(changed)}: absent, or not what targets were made from",
        cure,
        f"rm -rf {_quoted([*drawn, *again])} && {found.again()}",
    )


# --- recorded hashes ----------------------------------------------------------------------------------------------


def _check_recorded(found: _Examination) -> None:
    """Every file that a list of hashes names, by the code by which the stages themselves look (`runtime.trust`)."""
    folders = _folders_with_lists(found)
    faults: list[FileFault] = []
    size = 0
    left_out = 0
    for path, row in _recorded_files(found, folders):
        size += row.bytes
        if size > READ_AT_ONCE and not found.request.check_all:
            left_out += 1
            continue
        reason = difference(path, row)
        if reason is not None:
            faults.append(FileFault(path, reason, row.role))
    if left_out:
        found.leave_out(f"the content of {left_out} files", "it takes reading them whole: --all")
    if not folders and found.request.stages:
        found.leave_out("the content of files", "no hashes of them are recorded, as by earlier versions")
    if faults and not found.busy:
        _add_changed_files(found, faults)


def _recorded_files(found: _Examination, folders: Sequence[Path]) -> Iterator[tuple[Path, FileHash]]:
    """The files that the lists in some folders name, with their records."""
    teacher = found.directory / "teacher"
    for folder in folders:
        for row in read_list(folder).values():
            path = Path(os.path.normpath(folder / row.file))
            # The ledger and its pictures have been compared above.
            is_compared = folder == teacher and (path.suffix == ".png" or path.name == LEDGER)
            # What other people own may be away: it is asked for where a stage needs it.
            is_away = row.role == "source" and not path.is_file()
            if not is_compared and not is_away:
                yield path, row


def _folders_with_lists(found: _Examination) -> list[Path]:
    folders = {path.parent for path in found.directory.rglob(LIST)}
    root = found.request.data_root
    if root is not None:
        folders |= {path.parent for path in root.glob(f"*/{LIST}")}
    return sorted(folders)


def _add_changed_files(found: _Examination, faults: Sequence[FileFault]) -> None:
    shown = "; ".join(str(fault) for fault in faults[:SHOWN])
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    made = [fault for fault in faults if fault.role != "source"]
    cure = "let the run make them again; where one was changed on purpose, keep a copy elsewhere"
    if not made:
        cure = "put them back, or let the run take them in as they are now"
    redone = [fault.path for fault in made if fault.path.exists()]
    for fault in faults:
        record = found.record_of(fault.path)
        if record is not None:
            redone.append(record)
    found.add("changed files", Severity.ERROR, f"{shown}{more}", cure, found.redo(*redone))


# --- features, checkpoints, weights -------------------------------------------------------------------------------


def _check_features(found: _Examination) -> None:
    """Shards that the index names."""
    folder = found.directory / "features"
    index = folder / "index.jsonl"
    if not index.exists():
        return
    absent = []
    for row in _objects(index):
        file = row.get("file")
        if isinstance(file, str) and not (folder / file).is_file():
            absent.append(folder / file)
    if absent:
        found.add(
            "missing features",
            Severity.ERROR,
            f"the index names {_listed(absent)}, and it is not there",
            "let the stage compute it again",
            found.redo_stage(folder / "stage.json"),
        )


def _check_checkpoints(found: _Examination) -> None:
    for place in (found.directory / "training" / "checkpoints", found.directory / "checkpoints"):
        there = folders(place)
        if not there:
            continue
        chosen = there
        if not found.request.check_all and len(there) > 1:
            chosen = there[-1:]
            found.leave_out(f"{len(there) - 1} older checkpoints", "only the newest is read; --all reads each")
        for folder in chosen:
            damaged = damaged_files(folder)
            if damaged:
                _add_damaged_checkpoint(found, folder, damaged, is_first=folder == there[0])
        found.facts["checkpoints"] = len(there)


def _add_damaged_checkpoint(found: _Examination, folder: Path, damaged: list[Path], *, is_first: bool) -> None:
    before = "there is none before it" if is_first else "the one before it is resumed from"
    found.add(
        "damaged checkpoint",
        Severity.ERROR,
        f"{folder}: absent or not as it was written: {_listed(damaged)}; {before}",
        "delete it, and train on",
        f"rm -r {shlex.quote(str(folder))} && {found.again()}",
    )


def _check_weights(found: _Examination) -> None:
    """The models' files against provenance.json: by size and time, and by content where these differ."""
    file = found.directory / "provenance.json"
    _check_provenance_is_there(found, file)
    recorded = _value(_json(file), "weights")
    if not isinstance(recorded, dict):
        return
    here = {status.role: status for status in found.request.models if status.folder is not None}
    for role, model in recorded.items():
        files = _value(model, "files")
        if role not in here:
            found.leave_out(f"the weights of models.{role}", "that model is not on this machine")
        elif isinstance(files, dict):
            small = _value(model, "configuration_files")
            _check_files_of_model(found, here[role], files, small if isinstance(small, dict) else None)
    if recorded and not found.request.check_all:
        found.leave_out("the content of weights of unchanged size and time", "it takes reading them whole: --all")


def _check_provenance_is_there(found: _Examination, file: Path) -> None:
    if not file.exists() and found.request.stages:
        found.add(
            "provenance is missing",
            Severity.WARNING,
            f"{file} is absent: nobody can tell what the run was made with",
            "every run writes it",
            found.again(),
        )


def _check_files_of_model(
    found: _Examination, status: ModelStatus, weights: Mapping[str, Any], small: Mapping[str, Any] | None
) -> None:
    """Weights, and the small files beside them where the run recorded them."""
    changed = _changed_files(found, _files_by_name(status, status.files), weights)
    if small is not None:
        changed += _changed_files(found, _files_by_name(status, status.configurations), small)
    if changed:
        _add_changed_weights(found, status, changed)


def _changed_files(found: _Examination, now: Mapping[str, Path], recorded: Mapping[str, Any]) -> list[str]:
    changed = sorted(now.keys() ^ recorded.keys())
    for name in sorted(now.keys() & recorded.keys()):
        if _is_changed(now[name], recorded[name], found.request.check_all):
            changed.append(name)
    return changed


def _files_by_name(status: ModelStatus, files: Sequence[Path]) -> dict[str, Path]:
    """A model's files by their path in its folder, as provenance.json names them."""
    if status.folder is None:
        return {}
    base = status.folder
    if not base.is_dir():
        base = base.parent
    found = {}
    for file in files:
        name = file.name
        if file.is_relative_to(base):
            name = file.relative_to(base).as_posix()
        found[name] = file
    return found


def _is_changed(file: Path, recorded: Mapping[str, Any], read_all: bool) -> bool:
    """Whether a file's content is another; one of the recorded size and time is believed, unless all are read."""
    stat = file.stat()
    is_known = recorded.get("bytes") == stat.st_size and recorded.get("mtime_ns") == stat.st_mtime_ns
    if is_known and not read_all:
        return False
    return sha256_file(file) != recorded.get("sha256")


def _add_changed_weights(found: _Examination, status: ModelStatus, changed: Sequence[str]) -> None:
    directory = found.directory
    again = directory.with_name(f"{directory.name}-again")
    command = f"bottega run {shlex.quote(str(directory / 'recipe.yaml'))} --directory {shlex.quote(str(again))}"
    cure = "put the files of then back, or begin another run"
    if not on_disk(status.name) and hub_name(status.name) is not None:
        cure = "fetch the model again, which verifies it; where it was updated, begin another run"
        command = fetch_command(status.name)
    found.add(
        "other weights than recorded",
        Severity.ERROR,
        f"models.{status.role} ({status.name}): {', '.join(changed[:SHOWN])} differ from provenance.json",
        cure,
        command,
    )


# --- what all use -------------------------------------------------------------------------------------------------


def _sample(found: _Examination, items: Sequence[Item], what: str, count: int) -> list[Item]:
    """All of them, or `count` spread evenly; says what was left out."""
    if found.request.check_all or len(items) <= count:
        return list(items)
    found.leave_out(f"{what}: {len(items) - count} of {len(items)}", "a sample was read; --all reads each")
    return [items[number * len(items) // count] for number in range(count)]


def _files(directory: Path) -> Iterator[Path]:
    """Every file of a run but its data sets, which may be links to what belongs to others, and temporary ones."""
    for folder, subfolders, names in os.walk(directory):
        here = Path(folder)
        subfolders[:] = _own_subfolders(here, subfolders)
        if here == directory / "data":
            subfolders[:] = []
        for name in sorted(names):
            if not name.startswith(".") and (here / name).is_file():
                yield here / name


def _own_subfolders(folder: Path, names: Sequence[str]) -> list[str]:
    """Without links and hidden ones, in order."""
    found = []
    for name in sorted(names):
        if not name.startswith(".") and not (folder / name).is_symlink():
            found.append(name)
    return found


def _named(directory: Path, is_meant: Callable[[str], bool]) -> list[Path]:
    """Files and folders by their names, anywhere in the run."""
    found = []
    for folder, subfolders, names in os.walk(directory):
        found += [Path(folder) / name for name in sorted([*subfolders, *names]) if is_meant(name)]
        subfolders[:] = [name for name in subfolders if not is_meant(name)]
    return found


def _json(file: Path) -> Any:
    """The content of a JSON file; None where there is none, or it is torn (which is reported as such)."""
    try:
        return read_json(file)
    except BottegaError:
        return None


def _value(content: Any, key: str) -> Any:
    """What a JSON object has under a key; None where it has none, or is no object."""
    if isinstance(content, dict):
        return content.get(key)
    return None


def _objects(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as stream:
        for line in stream:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue  # reported as a damaged line
            if isinstance(row, dict):
                yield row


def _listed(paths: Sequence[Path]) -> str:
    shown = ", ".join(map(str, paths[:SHOWN]))
    if len(paths) > SHOWN:
        shown += f" and {len(paths) - SHOWN} more"
    return shown


def _quoted(paths: Sequence[Path]) -> str:
    return " ".join(shlex.quote(str(path)) for path in paths)
