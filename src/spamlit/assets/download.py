"""HTTP download with time-outs, bounded retries with back-off, and resumption where the server allows it.

On the standard library: which HTTP client the hub's library brings along changed with its versions, and what is needed
here is little. Every wait is bounded, a trickle as well as a silence; the number of bytes accepted is bounded too.
"""

import http.client
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from spamlit.assets.progress import Report, silent
from spamlit.assets.registry import SourceError

_CHUNK = 1 << 16
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE_NOT_SATISFIABLE = 416
_LONGEST_NUMBER = 18  # digits of a length; Python refuses those of some thousands


@dataclass(frozen=True)
class Patience:
    """How long a server may keep us waiting. Times in seconds.

    Attributes:
        silence: For a connection, or between two pieces of a reply.
        attempts: Requests before giving up, all told.
        connect_attempts: Of those, in which no connection came about.
        backoff: First pause between attempts; doubles each time, up to `longest_pause`.
        window: A reply whose headers take longer, or that brought less than `least` bytes in such a span, is given up
            as a trickle.
    """

    silence: float = 10.0
    attempts: int = 5
    connect_attempts: int = 2
    backoff: float = 0.5
    longest_pause: float = 10.0
    window: float = 30.0
    least: int = 30_000


PATIENCE = Patience()


class _InterruptedError(Exception):
    """The transfer broke off in a way that another attempt may mend."""

    def __init__(self, reason: str, *, connected: bool = True, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.connected = connected
        self.pause = pause


def download(url: str, target: Path, *, limit: int, report: Report = silent) -> None:
    """Write what `url` delivers to `target`.

    A broken transfer goes on from where it stopped when the server supports ranges, and from the start otherwise.

    Args:
        url: Of the file, http or https.
        target: Written to; what an earlier attempt left there is continued.
        limit: Bytes; a server that sends more is cut off.
        report: Told of progress.

    Raises:
        SourceError: The server could not be reached, refused, or kept failing; with the last reason.
        OSError: `target` cannot be written (a full disk).
    """
    transfer = _Transfer(url, target, limit, report)
    unconnected = 0
    for attempt in range(1, PATIENCE.attempts + 1):
        try:
            return transfer.go_on()
        except _InterruptedError as error:
            unconnected += not error.connected
            if attempt == PATIENCE.attempts or unconnected == PATIENCE.connect_attempts:
                raise SourceError(f"{error} (attempt {attempt}, given up)") from error
            pause = max(error.pause, PATIENCE.backoff * 2 ** (attempt - 1))
            time.sleep(min(pause, PATIENCE.longest_pause) * random.uniform(0.8, 1.0))  # spread a crowd's retries
    raise AssertionError("the last attempt returns or raises")


@dataclass
class _Transfer:
    """The state that attempts share: what is on disk, and the server's name for that version of the file."""

    url: str
    target: Path
    limit: int
    report: Report
    validator: str | None = None

    def go_on(self) -> None:
        """One attempt, from where the last one stopped."""
        offset = self.target.stat().st_size if self.target.exists() else 0
        with self._open(offset) as response:
            self._refuse_encoded(response)
            if not _continues(response, offset):
                offset = 0
            self.validator = response.headers.get("ETag")
            length = response.headers.get("Content-Length")
            stated = int(length) if length and length.isdecimal() and len(length) <= _LONGEST_NUMBER else None
            expected = None if stated is None else offset + stated
            if expected is not None and expected > self.limit:
                raise SourceError(f"the server offers {expected:,} bytes, expected at most {self.limit:,}")
            received = self._write(response, offset)
        if expected is not None and received < expected:
            raise _InterruptedError(f"the reply ended after {received:,} of {expected:,} bytes")

    def _open(self, offset: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": "spamlit", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self.validator and not self.validator.startswith("W/"):
                headers["If-Range"] = self.validator  # a changed file comes whole
        request = urllib.request.Request(self.url, headers=headers)
        began = time.monotonic()
        try:
            response = _opener().open(request, timeout=PATIENCE.silence)
        except urllib.error.HTTPError as error:
            error.close()
            if offset and error.code == _RANGE_NOT_SATISFIABLE:
                self.target.unlink()
            elif error.code not in _RETRIED_STATUS:
                raise SourceError(f"HTTP {error.code} {error.reason}") from error
            asked = error.headers.get("Retry-After", "")
            pause = float(asked) if asked.isdecimal() else 0.0
            raise _InterruptedError(f"HTTP {error.code} {error.reason}", pause=pause) from error
        except urllib.error.URLError as error:
            raise _InterruptedError(f"no connection: {error.reason}", connected=False) from error
        except (OSError, http.client.HTTPException) as error:
            _refuse_trickle(began)
            raise _InterruptedError(_reason(error)) from error
        _refuse_trickle(began)  # what was cut off may look like the end of the headers
        assert isinstance(response, http.client.HTTPResponse)
        return response

    def _refuse_encoded(self, response: http.client.HTTPResponse) -> None:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise SourceError(f"the server encodes the file ({encoding}) although asked not to")

    def _write(self, response: http.client.HTTPResponse, offset: int) -> int:
        """Append the reply at `offset`; the file's length afterwards. Errors of the disk pass through as OSError."""
        with self.target.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.truncate()
            for chunk in _chunks(response):
                offset += file.write(chunk)
                if offset > self.limit:
                    raise SourceError(f"the server sends more than the {self.limit:,} bytes expected")
                self.report(offset)
        return offset


class _Hurried(http.client.HTTPConnection):
    """A connection whose time-out holds for each piece of the headers, and whose patience for all of them ends too."""

    def getresponse(self) -> http.client.HTTPResponse:
        timer = threading.Timer(PATIENCE.window, _hang_up, [self.sock])
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()
        finally:
            timer.cancel()


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):  # it has ended meanwhile
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of TLS too: its own would pull the layer from under a reader


class _HurriedTLS(http.client.HTTPSConnection, _Hurried):
    """The same over TLS."""


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Hurried, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HurriedTLS, req)


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    """The library's reads a redirect's own body to its end, if it has one."""

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        fp.close()
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS with the environment's proxies; not ftp:, file: and data:, to which a redirect might lead."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _HTTPHandler(),
        _HTTPSHandler(),
        _RedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _refuse_trickle(began: float) -> None:
    if (elapsed := time.monotonic() - began) > PATIENCE.window:
        raise SourceError(f"the server trickles: its headers had no end after {elapsed:.0f} s")


def _continues(response: http.client.HTTPResponse, offset: int) -> bool:
    """Whether the reply is the file from `offset` on, not the whole of it."""
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    began, received = time.monotonic(), 0
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _InterruptedError(_reason(error)) from error
        if not chunk:
            return
        yield chunk
        received += len(chunk)
        if (elapsed := time.monotonic() - began) > PATIENCE.window:
            if received < PATIENCE.least:
                raise SourceError(f"the server trickles: {received:,} bytes in {elapsed:.0f} s")
            began, received = time.monotonic(), 0


def _reason(error: Exception) -> str:
    return f"connection broken: {error or type(error).__name__}"
