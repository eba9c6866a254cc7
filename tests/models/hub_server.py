"""A server that speaks as the Hub does, for tests that fetch: never the network."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """As much of the Hub's API as a download uses: list of files, HEAD with hashes, redirects of large files, Range."""

    daemon_threads = True

    def __init__(self, folders: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folders = folders
        self.commit = COMMIT
        self.log: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.down = False
        self.break_at: int | None = None  # bytes of a large file after which the connection breaks and all is down
        self.damage = 0  # so many answers of large files have one byte wrong
        self.bare = False  # the list of files names no sizes and hashes
        self.gated = False  # the terms of every repository must be accepted first
        self.pause = 0.0  # seconds between pieces

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed in the middle of a transfer is a case of these tests, not an error of the server."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def storage(self) -> str:
        """Where large files are redirected to: another host, as at the Hub."""
        return f"http://localhost:{self.server_address[1]}"

    def files(self, repository: str) -> dict[str, Path]:
        folder = self.folders[repository]
        return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}

    def sent(self, ending: str) -> list[tuple[str, str | None]]:
        """Method and Range of the requests whose path ends so."""
        return [(method, range_) for method, path, range_ in self.log if path.endswith(ending)]


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Tests read `log` instead."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server, urlparse(self.path).path
        hub.log.append((self.command, path, self.headers.get("Range")))
        if hub.down:
            return self._send(503, b"down")
        if hub.gated:
            return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._list("/".join(parts[2:4]))
        if parts[0] == "cdn":
            return self._large("/".join(parts[1:3]), "/".join(parts[3:]))
        repository, name = "/".join(parts[:2]), "/".join(parts[4:])
        if name not in hub.files(repository):
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": hub.commit})
        content = hub.files(repository)[name].read_bytes()
        digest, large = digest_of(name, content)
        headers = {"X-Repo-Commit": hub.commit, "ETag": f'"{digest}"'}
        if not large:
            return self._send(200, content, headers)
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        return self._send(302, b"", {**headers, **linked, "Location": f"{hub.storage}/cdn/{repository}/{name}"})

    def _list(self, repository: str) -> None:
        hub = self.server
        if repository not in hub.folders:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        siblings = []
        for name, file in hub.files(repository).items():
            digest, large = digest_of(name, file.read_bytes())
            size = file.stat().st_size
            lfs = {"lfs": {"size": size, "sha256": digest, "pointerSize": 130}} if large else {}
            facts = {} if hub.bare else {"size": size, "blobId": "f" * 40 if large else digest, **lfs}
            siblings.append({"rfilename": name, **facts})
        body = {"id": repository, "modelId": repository, "sha": hub.commit, "siblings": siblings}
        return self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _large(self, repository: str, name: str) -> None:
        hub = self.server
        content = bytearray(hub.files(repository)[name].read_bytes())
        if hub.damage:
            hub.damage -= 1
            content[-1] ^= 1
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        status = 206 if self.headers.get("Range") else 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) - first))
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = len(content) if hub.break_at is None else hub.break_at
        for start in range(first, end if self.command == "GET" else 0, 1 << 18):
            self.wfile.write(content[start : min(start + (1 << 18), end)])
            time.sleep(hub.pause)
        if hub.break_at is not None:
            hub.break_at, hub.down, self.close_connection = None, True, True

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def digest_of(name: str, content: bytes) -> tuple[str, bool]:
    """The hash under which the Hub keeps a file, and whether that is in LFS."""
    if name.endswith((".safetensors", ".bin")):
        return hashlib.sha256(content).hexdigest(), True
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), False
