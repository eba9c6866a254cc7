"""One repository of the Hugging Face Hub, or of a mirror: its list of files, and a file fetched whole or continued.

The hub's own client makes a temporary name for each call and deletes what it has when the connection breaks (version
2.4), so that 10 GB begin again. Here a file grows as `blobs/<hash>.incomplete`, whoever serves it, and is continued by
the next call, from another endpoint too, since the name is the content's hash; it gets its name when the hash is right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from bottega.models.weights import DIGEST, file_digest
from bottega.runtime.errors import BottegaError, MissingError, RequestError, StorageError, WorkError
from bottega.runtime.files import is_storage_error, storage_error

HUB = "https://huggingface.co"
CHUNK = 1 << 20  # bytes; what a broken connection can cost at most
_TIMEOUT_S = 30.0
Told = Callable[[int], None]


@dataclass(frozen=True)
class Remote:
    """A file of a repository; `digest` is its SHA-256 or, for small files kept in git, git's hash of it."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """A repository at one commit, as an endpoint lists it. `digest` is "" where the endpoint doesn't say it."""

    repository: str
    commit: str
    endpoint: str
    files: dict[str, Remote]


def endpoints(mirror: str | None = None) -> list[str]:
    """Whom to ask, in order: the mirror, HF_ENDPOINT, the hub. Raises RequestError for what is no address."""
    chosen = [e.rstrip("/") for e in (mirror, os.environ.get("HF_ENDPOINT"), HUB) if e]
    for endpoint in chosen:
        if not re.match(r"https?://[^/]", endpoint):
            raise RequestError(
                f"--mirror and HF_ENDPOINT want an address such as https://hf-mirror.com, received {endpoint!r}"
            )
    return list(dict.fromkeys(chosen))


def list_repository(repository: str, revision: str | None, ask: Sequence[str]) -> Listing:
    """The files of a repository, from the first endpoint that answers.

    Raises:
        RequestError: it is gated: its terms must be accepted first.
        MissingError: every endpoint that answered says that there is no such repository or revision.
        WorkError: no endpoint could be reached; names each with its answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    _prepare()
    answers, absent, gated = [], [], False
    for endpoint in ask:
        try:
            info = HfApi(endpoint, token=_token(endpoint)).model_info(
                repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_S
            )
            return _listing(repository, endpoint, info)
        except BottegaError:
            raise
        except Exception as error:  # noqa: BLE001 (the library raises its own, its HTTP client's and OSError)
            gated = gated or isinstance(error, GatedRepoError)
            absent.append(isinstance(error, RepositoryNotFoundError | RevisionNotFoundError))
            answers.append(_answer(endpoint, error))
    what = f"{repository}{f'@{revision}' if revision else ''}"
    if gated:
        raise RequestError(
            f"{what}: its terms must be accepted first, at {HUB}/{repository}; then log in (hf auth login): the hub "
            f"itself gives it, mirrors don't ({'; '.join(answers)})"
        )
    if all(absent):
        raise MissingError(f"{what}: no such repository or revision ({'; '.join(answers)}); check the name")
    raise WorkError(
        f"{what}: could not be asked for ({'; '.join(answers)}); check the network, or name a mirror with --mirror"
    )


def _listing(repository: str, endpoint: str, info: Any) -> Listing:
    commit = str(info.sha)
    if re.fullmatch(r"[0-9a-f]{40}", commit) is None:
        raise WorkError(f"{endpoint}: names {commit!r} as the commit of {repository}; name another mirror")
    files = {}
    for entry in info.siblings or ():
        path = PurePosixPath(entry.rfilename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.rfilename:
            raise WorkError(f"{endpoint}: lists a file {entry.rfilename!r} in {repository}; name another mirror")
        digest = entry.lfs["sha256"] if entry.lfs else (entry.blob_id or "")
        files[entry.rfilename] = Remote(entry.rfilename, entry.size or 0, digest if entry.size is not None else "")
    return Listing(repository, commit, endpoint, files)


def described(listing: Listing, path: str) -> Remote:
    """A file of a listing with size and hash, asked for where the endpoint's list had none."""
    from huggingface_hub import get_hf_file_metadata

    remote = listing.files[path]
    if not remote.digest:
        address = _address(listing, path, listing.endpoint)
        try:
            facts = get_hf_file_metadata(address, token=_token(listing.endpoint), timeout=_TIMEOUT_S)
        except Exception as error:
            raise WorkError(f"{path}: {_answer(listing.endpoint, error)}; try again, or name a mirror") from error
        remote = replace(remote, size=facts.size or 0, digest=facts.etag or "")
    if DIGEST.fullmatch(remote.digest) is None:
        raise WorkError(
            f"{listing.endpoint}: gives no hash of {listing.repository}/{path}, so it can't be verified; "
            "name another mirror"
        )
    return remote


def bring(listing: Listing, remote: Remote, blob: Path, ask: Sequence[str], told: Told) -> None:
    """Fetch a file into `blob`, going on where an earlier call stopped; on return its hash is right.

    What has a wrong hash is deleted and fetched once more, from the next endpoint where there is one.

    Args:
        told: called with the number of bytes of each piece that has arrived.

    Raises:
        WorkError: no endpoint gives the rest; what has arrived is kept.
        StorageError: the hash was wrong twice, or the disk is full.
    """
    partial = blob.with_name(blob.name + ".incomplete")
    try:
        blob.parent.mkdir(parents=True, exist_ok=True)
        for order in (list(ask), [*ask[1:], *ask[:1]]):
            partial.touch()
            _fill(listing, remote, partial, order, told)
            if file_digest(partial, remote.digest) == remote.digest:
                _settle(partial, blob)
                return
            partial.unlink()
    except OSError as error:
        raise storage_error(error, blob) from error
    raise StorageError(
        f"{listing.repository}/{remote.path}: fetched twice, and its hash was not {remote.digest[:12]}… either time; "
        f"{' and '.join(ask)} may serve a damaged file: name another mirror, or try again later"
    )


def _fill(listing: Listing, remote: Remote, partial: Path, ask: Sequence[str], told: Told) -> None:
    """Let a file grow to its size, as long as a round of all endpoints brings anything."""
    while (have := partial.stat().st_size) < remote.size:
        answers = []
        for endpoint in ask:
            answers.append(_pull(listing, remote, partial, endpoint, told))
            if partial.stat().st_size >= remote.size:
                return
        if partial.stat().st_size <= have:
            raise WorkError(
                f"{listing.repository}/{remote.path}: {have} of {remote.size} bytes are here, and nobody gives the "
                f"rest ({'; '.join(answers)}); run the same command again to go on from there"
            )


def _pull(listing: Listing, remote: Remote, partial: Path, endpoint: str, told: Told) -> str:
    """Append to a file what an endpoint gives of the rest; returns what went wrong, "" for nothing."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = {**build_hf_headers(token=_token(endpoint)), "Accept-Encoding": "identity"}
    try:
        with partial.open("r+b") as stream:
            have = stream.seek(0, os.SEEK_END)
            http_get(
                _address(listing, remote.path, endpoint),
                _Metered(stream, told),
                resume_size=have,
                headers=headers,
                expected_size=remote.size,
                displayed_filename=remote.path,
            )
    except Exception as error:
        if isinstance(error, OSError) and is_storage_error(error):
            raise
        return _answer(endpoint, error)
    return ""


class _Metered:
    """A file that tells how much is written to it."""

    def __init__(self, stream: IO[bytes], told: Told) -> None:
        self._stream, self._told = stream, told
        self.tell, self.seek, self.truncate = stream.tell, stream.seek, stream.truncate

    def write(self, piece: bytes) -> int:
        count = self._stream.write(piece)
        self._told(count)
        return count


def _settle(partial: Path, blob: Path) -> None:
    with partial.open("r+b") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, blob)


def _address(listing: Listing, path: str, endpoint: str) -> str:
    from huggingface_hub import hf_hub_url

    return str(hf_hub_url(listing.repository, path, revision=listing.commit, endpoint=endpoint))


def _token(endpoint: str) -> bool | None:
    """The user's own token goes to the hub alone (None: the client's own choice), never to a mirror."""
    return None if endpoint == HUB else False


def _answer(endpoint: str, error: Exception) -> str:
    first_line = (str(error).splitlines() or [""])[0]
    return f"{endpoint}: {type(error).__name__} {first_line[:120]}".rstrip()


def _prepare() -> None:
    """The client as it is wanted here: no bars of its own, small pieces, and no question to the hub about the caller.

    Raises RequestError where the environment forbids the network.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    if constants.HF_HUB_OFFLINE:
        raise RequestError("the environment forbids the network (HF_HUB_OFFLINE=1); unset it to fetch models")
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    constants.HF_HUB_DISABLE_TELEMETRY = True
    disable_progress_bars("huggingface_hub.http_get")
