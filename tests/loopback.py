"""A web server on this machine's loopback interface that serves files as the model hub does, and lies when told to.

with Loopback() as server:
    server.files["/a.zip"] = body                               # a plain file (bytes, or a Path for a large one)
    server.hub_file("org/model", COMMIT, "model.safetensors", body)   # for HF_ENDPOINT=server.address
    server.faults["/a.zip"] = [Fault.STALL, 500]                # one for each GET to come, then it behaves
    server.always["/a.zip"] = Fault.WRONG                       # or for good
    server.requests                                             # (method, path, Range header or None)
"""

import hashlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote

_CHUNK = 1 << 16


class Fault(Enum):
    DROP = auto()  # hangs up without a word
    STALL = auto()  # half of the body, then silence
    TRUNCATE = auto()  # half of the body, then hangs up
    TRICKLE = auto()  # ten bytes a second
    WRONG = auto()  # the right number of other bytes
    ENDLESS = auto()  # more than it should, without end
    REDIRECT_LOOP = auto()
    REDIRECT_TO_FILE = auto()  # to file:///etc/hostname
    REDIRECT_ENDLESS = auto()  # to the right place, with a body that has no end
    NO_RANGE = auto()  # ignores the Range header
    TRICKLE_HEADERS = auto()  # a header line now and then, without end
    TOO_LONG = auto()  # claims twice the length, then hangs up
    TOO_SHORT = auto()  # claims half of the length
    NO_NUMBER = auto()  # claims a length of five thousand digits


_CLAIMS: dict[Fault | None, Callable[[int], str]] = {
    Fault.TOO_LONG: lambda size: str(2 * size),
    Fault.TOO_SHORT: lambda size: str(size // 2),
    Fault.NO_NUMBER: lambda size: "9" * 5000,
}
"""What is said of a length instead of the length."""


@dataclass
class Loopback:
    """See the module: `files` maps a path to its body, `faults` and `always` to what goes wrong (or a status)."""

    files: dict[str, bytes | Path] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: dict[str, list[Fault | int]] = field(default_factory=dict)
    always: dict[str, Fault | int] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def __enter__(self) -> "Loopback":
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.state = self
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str) -> str:
        return self.address + path

    def gets(self, path: str) -> int:
        """How often `path` was asked for."""
        return sum(method == "GET" and asked == path for method, asked, _ in self.requests)

    def hub_file(self, repo: str, revision: str, filename: str, body: bytes | Path, *, large: bool = True) -> str:
        """Serve `body` as the hub serves a (large) file of a repository at a commit; the path under which it does."""
        path = f"/{repo}/resolve/{revision}/{filename}"
        self.files[path] = body
        etag = _sha256(body) if large else hashlib.sha1(_read(body)).hexdigest()
        linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(_size(body))} if large else {}
        self.headers[path] = {"X-Repo-Commit": revision, "ETag": f'"{etag}"', **linked}
        return path


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    state: Loopback

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Silent; `Loopback.requests` keeps what was asked."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        state, path = self.server.state, unquote(self.path.split("?")[0])
        state.requests.append((self.command, path, self.headers.get("Range")))
        fault = state.always.get(path)
        if body and state.faults.get(path):
            fault = state.faults[path].pop(0)
        if fault is Fault.DROP:
            self._hang_up()
        elif isinstance(fault, int):
            self._status(fault, {"Retry-After": "0"})
        elif fault in (Fault.REDIRECT_LOOP, Fault.REDIRECT_TO_FILE):
            self._status(302, {"Location": path if fault is Fault.REDIRECT_LOOP else "file:///etc/hostname"})
        elif fault is Fault.REDIRECT_ENDLESS:
            self._redirect_without_end(path)
        elif fault is Fault.TRICKLE_HEADERS:
            self._trickle_headers()
        elif path not in state.files:
            self._status(404, {"X-Error-Code": "EntryNotFound"})
        else:
            self._file(state.files[path], state.headers.get(path, {}), fault, body=body)

    def _status(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _redirect_without_end(self, path: str) -> None:
        self.send_response(302)
        self.send_header("Location", f"{path}?again")
        self.end_headers()
        while True:
            self.wfile.write(bytes(_CHUNK))

    def _trickle_headers(self) -> None:
        self.send_response(200)
        self.flush_headers()
        while not self.server.state.closing.wait(0.05):
            self.wfile.write(b"X: y\r\n")

    def _file(self, content: bytes | Path, headers: dict[str, str], fault: Fault | None, *, body: bool) -> None:
        size, begin, asked = _size(content), 0, self.headers.get("Range")
        if asked and fault is not Fault.NO_RANGE:
            begin = int(asked.removeprefix("bytes=").split("-")[0])
            if begin >= size:
                return self._status(416, {"Content-Range": f"bytes */{size}"})
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        else:
            self.send_response(200)
        if fault is not Fault.ENDLESS:
            self.send_header("Content-Length", _CLAIMS.get(fault, str)(size - begin))
        for name, value in {"ETag": f'"{_sha256(content)[:16]}"', "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self._body(content, begin, size, fault)
        return None

    def _body(self, content: bytes | Path, begin: int, size: int, fault: Fault | None) -> None:
        end = begin + (size - begin) // 2 if fault in (Fault.STALL, Fault.TRUNCATE) else size
        if isinstance(content, Path) and fault is None:
            with content.open("rb") as file:
                file.seek(begin)
                while chunk := file.read(_CHUNK):
                    self.wfile.write(chunk)
            return
        data = _read(content)[begin:end]
        while fault is Fault.ENDLESS:
            self.wfile.write(bytes(_CHUNK))
        if fault is Fault.TRICKLE:
            for offset in range(0, len(data), 1):
                self.wfile.write(data[offset : offset + 1])
                if self.server.state.closing.wait(0.1):
                    return
        self.wfile.write(bytes(byte ^ 0xFF for byte in data) if fault is Fault.WRONG else data)
        if fault is Fault.STALL:
            self.server.state.closing.wait(60)
        if fault in (Fault.STALL, Fault.TRUNCATE, *_CLAIMS):
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)


def _read(content: bytes | Path) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content


def _size(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _sha256(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
