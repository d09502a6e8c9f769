"""The server's HTTP side: routes, limits, token, logs. Who answers is given to it; it never touches the model."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from spamlit.data.corrections import FullError, save_correction
from spamlit.inference.requests import Limits, RequestError, Work, check_label, check_text, check_texts, parse

BODY_SECONDS = 30
"""That a client may take to send a body."""
RETRY = {"Retry-After": "1"}
PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/csv.js": ("csv.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path: file of `web/` and its type."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

log = logging.getLogger("spamlit.serve")


@dataclass
class Service:
    """What the routes need.

    Attributes:
        ask: Has some texts classified, or one explained: status and answer.
        info: What `/info` says.
        ready: Whether the workers are.
        limits: What is refused.
        together: Texts that are asked for at once; more of one request follow one after the other, between others'.
        token: That callers must give, if any.
        corrections: Where they go.
        hosts: Names under which the server may be asked for; none: any.
        log_texts: Whether the logs have the texts.
    """

    ask: Callable[[Work], Awaitable[tuple[int, dict[str, Any]]]]
    info: dict[str, Any]
    ready: Callable[[], bool]
    limits: Limits
    together: int
    token: str | None
    corrections: Path
    hosts: Sequence[str] = ()
    log_texts: bool = False
    texts: int = field(default=0, init=False)
    """that are being classified or wait for it"""
    explanations: int = field(default=0, init=False)
    requests: int = field(default=0, init=False)

    async def predict(self, request: Request) -> Response:
        """`POST /predict`."""
        texts = check_texts((await self._content(request, "texts"))["texts"], self.limits)
        self._tell(request, texts)
        return JSONResponse({"results": await self._classify(texts)})

    async def explain(self, request: Request) -> Response:
        """`POST /explain`."""
        text = check_text((await self._content(request, "text"))["text"], "text", self.limits)
        self._tell(request, [text])
        with self._admitted("explanations", 1, self.limits.explanations):
            status, answer = await self.ask(Work([text], explain=True))
        return JSONResponse(answer, status)

    async def correct(self, request: Request) -> Response:
        """`POST /correct`."""
        content = await self._content(request, "text", "label")
        text, label = check_text(content["text"], "text", self.limits), check_label(content["label"])
        if not text.strip():
            raise RequestError(422, "text is empty; there is nothing to learn from it")
        self._tell(request, [text])
        (said,) = await self._classify([text])
        try:
            number = await asyncio.to_thread(
                save_correction, self.corrections, label=label, text=text, probability=said["probability"]
            )
        except FullError as error:
            raise RequestError(507, str(error)) from error
        except OSError as error:
            log.error(json.dumps({"time": _now(), "event": "correction not saved", "reason": str(error)}))
            raise RequestError(507, "the correction could not be saved; the server's log says why") from error
        return JSONResponse({"id": number})

    async def get_info(self, request: Request) -> Response:
        """`GET /info`."""
        self._authorize(request)
        return JSONResponse(self.info)

    async def health(self, request: Request) -> Response:
        """`GET /health`."""
        ready = self.ready()
        return JSONResponse({"status": "ok" if ready else "starting"}, 200 if ready else 503)

    async def _classify(self, texts: list[str]) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        with self._admitted("texts", len(texts), self.limits.queue):
            for start in range(0, len(texts), self.together):
                status, answer = await self.ask(Work(texts[start : start + self.together]))
                if status != 200:
                    raise RequestError(status, answer["error"])
                results += answer["results"]
        return results

    async def _content(self, request: Request, *keys: str) -> dict[str, Any]:
        """A JSON body: authorized, of the right type, not too long, in time."""
        self._authorize(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # a form of another site's page could send anything else
            raise RequestError(415, f"Content-Type is {kind[:60]!r}; send application/json")
        body, too_long = bytearray(), RequestError(413, f"the body is longer than {self.limits.body} bytes")
        length = request.headers.get("content-length", "0")
        if len(length) > 20 or int(length) > self.limits.body:  # HTTP's parser lets digits alone pass
            raise too_long
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self.limits.body:
                        raise too_long
        except TimeoutError:
            raise RequestError(408, f"the body did not come within {BODY_SECONDS} seconds") from None
        except ClientDisconnect:
            raise RequestError(400, "the body was cut off") from None
        return parse(bytes(body), *keys)

    def _authorize(self, request: Request) -> None:
        if self.token is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), self.token.encode()):
            raise RequestError(
                401, "a token is needed: Authorization: Bearer …", {"WWW-Authenticate": 'Bearer realm="spamlit"'}
            )

    @contextmanager
    def _admitted(self, what: str, n: int, most: int) -> Iterator[None]:
        """Counts what is under way; refuses what would be too much."""
        if getattr(self, what) + n > most:
            raise RequestError(503, f"the server is busy with {getattr(self, what)} {what}; try again later", RETRY)
        setattr(self, what, getattr(self, what) + n)
        try:
            yield
        finally:
            setattr(self, what, getattr(self, what) - n)

    def _tell(self, request: Request, texts: list[str]) -> None:
        """Leaves for the log what only the route knows."""
        request.scope["told"]["texts"] = len(texts)
        if self.log_texts:
            request.scope["told"]["messages"] = texts


class Front:
    """Around all routes: how many requests there are at once, headers of the answers, and a log line for each."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        told: dict[str, Any] = {}
        scope["told"] = told

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        self.service.requests += 1
        try:
            if self.service.requests > self.service.limits.requests and scope["path"] != "/health":
                answer = JSONResponse({"error": "the server has too many requests; try again later"}, 503, RETRY)
                await answer(scope, receive, sending)
            else:
                await self.app(scope, receive, sending)
        finally:
            self.service.requests -= 1
            line = {"time": _now(), "method": scope["method"], "path": scope["path"][:100], "status": status}
            log.info(json.dumps({**line, "ms": round(1000 * (time.perf_counter() - started), 1), **told}))


def application(service: Service, lifespan: Lifespan[Starlette] | None = None) -> Starlette:
    """The web application; its page is read once."""
    routes = [
        Route("/predict", service.predict, methods=["POST"]),
        Route("/explain", service.explain, methods=["POST"]),
        Route("/correct", service.correct, methods=["POST"]),
        Route("/info", service.get_info),
        Route("/health", service.health),
        *(Route(path, _file(name, kind)) for path, (name, kind) in PAGE.items()),
    ]
    middleware = [Middleware(Front, service=service)]
    if service.hosts:  # else a page of another site could have its name lead here
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(service.hosts), www_redirect=False))
    handlers: dict[Any, Any] = {RequestError: _refuse, HTTPException: _refuse_http}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)


def log_to_stdout() -> None:
    """One JSON object a line."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def log_event(event: str, **told: Any) -> None:
    """A line that is no request's."""
    log.info(json.dumps({"time": _now(), "event": event, **told}))


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = (files("spamlit.inference") / "web" / name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse({"error": str(error)}, error.status, error.headers)


async def _refuse_http(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (404, 405), and LitServe's (504)."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
