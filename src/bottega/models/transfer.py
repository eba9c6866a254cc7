"""One repository of the Hugging Face Hub, or of a mirror: its list of files, and a file downloaded whole or continued.

Own code on top of the Hub's client, whose listing and HTTP transfer it uses. Measured with huggingface_hub 2.4: after a
connection that broke at 3 of 5 MB, its `hf_hub_download` deleted what had arrived and began again, and it accepted a
file with a wrong byte, for it checks sizes and not hashes. Here a file grows as `blobs/<hash>.incomplete`, whoever
serves it. Since that name is the content's hash, the next call continues it, from another endpoint too, and the file
gets its final name only when the hash is right.
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
CHUNK = 1 << 20  # bytes; the most that a broken connection can cost
_TIMEOUT_S = 30.0  # for answers about files; a slow mirror is given up and the next endpoint asked
_COMMIT = re.compile(r"[0-9a-f]{40}")
OnProgress = Callable[[int], None]
"""Called with the number of bytes of each piece that has arrived."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository; `digest` is its SHA-256 or, for small files kept in git, git's SHA-1 of it."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """A repository at one commit, as an endpoint lists it. `digest` is "" where the endpoint doesn't give it."""

    repository: str
    commit: str
    endpoint: str
    files: dict[str, RemoteFile]


def choose_endpoints(mirror: str | None = None) -> list[str]:
    """The addresses to ask, in order: the mirror, HF_ENDPOINT, the Hub.

    Raises:
        RequestError: one of them is not an address.
    """
    chosen = []
    for endpoint in (mirror, os.environ.get("HF_ENDPOINT"), HUB):
        if not endpoint:
            continue
        if not re.match(r"https?://[^/]", endpoint):
            raise RequestError(
                f"--mirror and HF_ENDPOINT must be an address such as https://hf-mirror.com, received {endpoint!r}; "
                "correct it or leave it out"
            )
        chosen.append(endpoint.rstrip("/"))
    return list(dict.fromkeys(chosen))


def list_repository(repository: str, revision: str | None, endpoints: Sequence[str]) -> Listing:
    """The files of a repository, from the first endpoint that answers.

    Raises:
        RequestError: it is gated: its terms must be accepted first.
        MissingError: every endpoint that answered says that there is no such repository or revision.
        WorkError: no endpoint could be reached; names each with its reason.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError

    _configure_client()
    failures: dict[str, Exception] = {}
    for endpoint in endpoints:
        client = HfApi(endpoint, token=_token(endpoint))
        try:
            info = client.model_info(repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
            return _listing(repository, endpoint, info)
        except BottegaError:
            raise
        except Exception as error:  # noqa: BLE001 (the library raises its own, its HTTP client's and OSError)
            failures[endpoint] = error
    name = f"{repository}@{revision}" if revision else repository
    reasons = "; ".join(_reason(endpoint, error) for endpoint, error in failures.items())
    if any(isinstance(error, GatedRepoError) for error in failures.values()):
        raise RequestError(
            f"{name}: its terms must be accepted first, at {HUB}/{repository}; then log in (hf auth login): only the "
            f"Hub itself serves it, mirrors don't ({reasons})"
        )
    if all(_says_absent(error) for error in failures.values()):
        raise MissingError(f"{name}: no such repository or revision ({reasons}); check the name")
    raise WorkError(
        f"{name}: its list of files could not be read ({reasons}); check the network, or name a mirror with --mirror"
    )


def _says_absent(error: Exception) -> bool:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    return isinstance(error, RepositoryNotFoundError | RevisionNotFoundError)


def _listing(repository: str, endpoint: str, info: Any) -> Listing:
    """The client's answer, checked: names that lead out of the repository would be written elsewhere on this disk."""
    commit = str(info.sha)
    if _COMMIT.fullmatch(commit) is None:
        raise WorkError(f"{endpoint}: gives {commit!r} as the commit of {repository}; name another mirror")
    files = {}
    for entry in info.siblings or ():
        path = PurePosixPath(entry.rfilename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.rfilename:
            raise WorkError(f"{endpoint}: lists a file {entry.rfilename!r} in {repository}; name another mirror")
        files[entry.rfilename] = _remote_file(entry)
    return Listing(repository, commit, endpoint, files)


def _remote_file(entry: Any) -> RemoteFile:
    if entry.size is None:  # a mirror that lists names alone: see `with_digest`
        return RemoteFile(entry.rfilename, 0, "")
    digest = entry.lfs["sha256"] if entry.lfs else (entry.blob_id or "")
    return RemoteFile(entry.rfilename, entry.size, digest)


def with_digest(listing: Listing, path: str) -> RemoteFile:
    """A file of a listing with its size and hash; the endpoint is asked again where its list had none.

    Raises:
        WorkError: the endpoint doesn't answer, or gives no hash, so that nothing could be verified.
    """
    from huggingface_hub import get_hf_file_metadata

    file = listing.files[path]
    if not file.digest:
        address = _address(listing, path, listing.endpoint)
        try:
            facts = get_hf_file_metadata(address, token=_token(listing.endpoint), timeout=_TIMEOUT_S)
        except Exception as error:
            raise WorkError(f"{path}: {_reason(listing.endpoint, error)}; try again, or name a mirror") from error
        file = replace(file, size=facts.size or 0, digest=facts.etag or "")
    if DIGEST.fullmatch(file.digest) is None:
        raise WorkError(
            f"{listing.endpoint}: gives no hash of {listing.repository}/{path}, so it can't be verified; "
            "name another mirror"
        )
    return file


def download(listing: Listing, file: RemoteFile, blob: Path, endpoints: Sequence[str], on_progress: OnProgress) -> None:
    """Download a file into `blob`, continuing where an earlier call stopped; on return its hash is right.

    A file with a wrong hash is deleted and downloaded once more, from the next endpoint where there is one.

    Raises:
        WorkError: no endpoint gives the rest; what has arrived is kept.
        StorageError: the hash was wrong twice, or the disk is full.
    """
    partial = blob.with_name(f"{blob.name}.incomplete")
    second_order = [*endpoints[1:], *endpoints[:1]]  # a mirror that serves a damaged file is asked last
    try:
        blob.parent.mkdir(parents=True, exist_ok=True)
        for order in (endpoints, second_order):
            partial.touch()
            _complete(listing, file, partial, order, on_progress)
            if file_digest(partial, file.digest) == file.digest:
                _put_in_place(partial, blob)
                return
            partial.unlink()
    except OSError as error:
        raise storage_error(error, blob) from error
    raise StorageError(
        f"{listing.repository}/{file.path}: fetched twice, and its hash was not {file.digest[:12]}… either time; "
        f"{' and '.join(endpoints)} may serve a damaged file: name another mirror, or try again later"
    )


def _complete(
    listing: Listing, file: RemoteFile, partial: Path, endpoints: Sequence[str], on_progress: OnProgress
) -> None:
    """Let a file grow to its size, for as long as a round of all endpoints adds at least a byte."""
    while (before := partial.stat().st_size) < file.size:
        reasons = []
        for endpoint in endpoints:
            reasons.append(_append(listing, file, partial, endpoint, on_progress))
            if partial.stat().st_size >= file.size:
                return
        if partial.stat().st_size <= before:
            raise WorkError(
                f"{listing.repository}/{file.path}: {before} of {file.size} bytes are here, and no endpoint gives the "
                f"rest ({'; '.join(reasons)}); run the same command again to continue from there"
            )


def _append(listing: Listing, file: RemoteFile, partial: Path, endpoint: str, on_progress: OnProgress) -> str:
    """Append to a file what an endpoint gives of the rest; returns what went wrong, "" for nothing."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    # Compressed on the way, the bytes that have arrived would not be the file's, and could not be continued.
    headers = {**build_hf_headers(token=_token(endpoint)), "Accept-Encoding": "identity"}
    try:
        with partial.open("r+b") as stream:
            already_here = stream.seek(0, os.SEEK_END)
            http_get(
                _address(listing, file.path, endpoint),
                _CountingFile(stream, on_progress),
                resume_size=already_here,
                headers=headers,
                expected_size=file.size,
                displayed_filename=file.path,
            )
    except Exception as error:
        if isinstance(error, OSError) and is_storage_error(error):
            raise  # a full disk is no fault of this endpoint, and the next one could not help
        return _reason(endpoint, error)
    return ""


class _CountingFile:
    """A file that reports how many bytes are written to it; it has the methods that `http_get` calls."""

    def __init__(self, stream: IO[bytes], on_progress: OnProgress) -> None:
        self._stream = stream
        self._on_progress = on_progress
        self.tell = stream.tell
        self.seek = stream.seek
        self.truncate = stream.truncate

    def write(self, piece: bytes) -> int:
        count = self._stream.write(piece)
        self._on_progress(count)
        return count


def _put_in_place(partial: Path, blob: Path) -> None:
    """Synced before it is renamed: after a power cut the final name must not stand for an empty file."""
    with partial.open("r+b") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, blob)


def _address(listing: Listing, path: str, endpoint: str) -> str:
    from huggingface_hub import hf_hub_url

    return str(hf_hub_url(listing.repository, path, revision=listing.commit, endpoint=endpoint))


def _token(endpoint: str) -> bool | None:
    """The user's own token goes to the Hub alone (None: the client's own choice), never to a mirror."""
    return None if endpoint == HUB else False


def _reason(endpoint: str, error: Exception) -> str:
    first_line = (str(error).splitlines() or [""])[0]
    return f"{endpoint}: {type(error).__name__} {first_line[:120]}".rstrip()


def _configure_client() -> None:
    """Set the client up: small pieces, no bars of its own, no telemetry.

    Raises:
        RequestError: the environment forbids the network.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    if constants.HF_HUB_OFFLINE:
        raise RequestError("the environment forbids the network (HF_HUB_OFFLINE=1); unset it to fetch models")
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    constants.HF_HUB_DISABLE_TELEMETRY = True
    disable_progress_bars("huggingface_hub.http_get")
