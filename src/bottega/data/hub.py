"""Finding a data set's tables, parquet or Arrow files: in the cache first, then from a mirror or the hub."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bottega.data.folders import list_files
from bottega.runtime.errors import MissingError

HUB = "https://huggingface.co"
TABLE_ENDINGS = (".parquet", ".arrow")
_SHARD = re.compile(r"-(\d+)-of-(\d+)")


def table_files(folder: Path) -> list[Path]:
    """Tables under a folder, in order; a hub cache, a flat download and a plain folder look alike here.

    Tables are parquet files, and the Arrow files that `datasets` writes (`save_to_disk`).
    """
    if folder.is_file():
        return [folder] if folder.suffix in TABLE_ENDINGS else []
    if not folder.is_dir():
        return []
    snapshots = sorted(folder.glob("**/snapshots/*/"))
    if len(snapshots) > 1:  # two versions of one data set: only the newest counts
        folder = max(snapshots, key=lambda path: (path.stat().st_mtime_ns, path.name))
    return sorted(path for path in list_files(folder).files.values() if _is_table(path))


def _is_table(path: Path) -> bool:
    return path.suffix in TABLE_ENDINGS and path.is_file() and not _is_intermediate(path)


def _is_intermediate(path: Path) -> bool:
    """Whether an Arrow file is one that `datasets` keeps for itself, such as the result of a `map`."""
    if path.suffix != ".arrow":
        return False
    try:
        state = json.loads((path.parent / "state.json").read_text(encoding="utf-8"))
        return path.name not in [file["filename"] for file in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return path.name.startswith(("cache-", "tmp"))  # no folder of `save_to_disk`


def missing_shards(files: Sequence[Path]) -> list[str]:
    """The numbers that are absent where files are called `…-00003-of-00072…`, as ranges: `00002-00071`.

    With several series, such as `train-…` and `test-…`, a range is preceded by its series' name.
    """
    have: dict[str, set[int]] = defaultdict(set)
    total: dict[str, int] = defaultdict(int)
    for path in files:
        match = _SHARD.search(path.name)
        if match is not None:
            series = path.name[: match.start()]
            have[series].add(int(match[1]))
            total[series] = max(total[series], int(match[2]))
    found = []
    for series in sorted(have):
        absent = [number for number in range(total[series]) if number not in have[series]]
        before = f"{series}-" if len(have) > 1 else ""
        found += [f"{before}{numbers}" for numbers in _ranges(absent)]
    return found


def _ranges(numbers: Sequence[int]) -> list[str]:
    """Rising numbers as `00001`, `00003-00005`."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return [f"{first:05d}" if first == last else f"{first:05d}-{last:05d}" for first, last in found]


def is_offline() -> bool:
    """Whether the environment forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def user_cache(repository: str) -> Path:
    """Where the hub's own library keeps this data set on this machine."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"datasets--{repository.replace('/', '--')}"


def fetch(repository: str, folder: Path, mirror: str | None) -> None:
    """Fetch a data set's parquet files into `folder`: from the mirror, from `HF_ENDPOINT`, then from the hub.

    Raises:
        MissingError: none of them gave the files; it names each with its reason.
    """
    from huggingface_hub import constants, snapshot_download

    failures = []
    for endpoint in dict.fromkeys([mirror, os.environ.get("HF_ENDPOINT"), HUB]):
        if not endpoint:
            continue
        # Mirrors answer for the hub, not for the servers of its Xet protocol. The variable of the same name is read
        # when the library is imported, which may long have happened.
        constants.HF_HUB_DISABLE_XET = endpoint != HUB
        try:
            snapshot_download(
                repository, repo_type="dataset", allow_patterns=["*.parquet"], local_dir=folder, endpoint=endpoint
            )
            return
        except Exception as error:  # noqa: BLE001 (the library raises its own, its HTTP client's and OSError)
            first_line = (str(error).splitlines() or [""])[0]
            failures.append(f"{endpoint}: {type(error).__name__} {first_line[:120]}".rstrip())
    raise MissingError(
        f"{repository} is not in {folder} and could not be fetched ({'; '.join(failures)}); "
        f"name a mirror (HF_ENDPOINT or data.wikiart.mirror), or put its parquet files there"
    )
