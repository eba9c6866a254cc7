"""Finding a data set's parquet files: in the cache first, then from a mirror or the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bottega.runtime.errors import MissingError

HUB = "https://huggingface.co"
_SHARD = re.compile(r"-(\d+)-of-(\d+)")


def parquet_files(folder: Path) -> list[Path]:
    """Parquet files under a folder, in order; a hub cache, a flat download and a plain folder look alike here."""
    if not folder.is_dir():
        return []
    snapshots = sorted(folder.glob("**/snapshots/*/"))
    if len(snapshots) > 1:  # two versions of one data set: only the newest counts
        folder = max(snapshots, key=lambda path: (path.stat().st_mtime_ns, path.name))
    found = [path for path in folder.rglob("*.parquet") if path.is_file()]
    return sorted(path for path in found if not path.name.startswith("."))


def missing_shards(files: list[Path]) -> list[str]:
    """The numbers that are absent where files are called `…-00003-of-00072…`."""
    total = 0
    have = set()
    for path in files:
        match = _SHARD.search(path.name)
        if match is not None:
            have.add(int(match[1]))
            total = max(total, int(match[2]))
    return [f"{number:05d}" for number in range(total) if number not in have]


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
