"""The server: LitServe's processes, with the Predictor in each worker and one process that speaks HTTP before them.

Three kinds of processes: the one that was started, which waits and cleans up; the HTTP process (`web_app`), which
refuses what it can without a model; the workers, each with a Predictor, which take from one queue what has come
together there. A batch is what waited while the last one was computed, and a few milliseconds' more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, Queue
from types import FrameType
from typing import Any, cast

import torch
from litserve import LitAPI, LitServer
from litserve.loops.simple_loops import BatchedLoop
from litserve.server import RegularRequestHandler
from litserve.transport.base import MessageTransport
from litserve.utils import WorkerSetupStatus
from starlette.applications import Starlette

import spamlit
from spamlit.data.normalise import normalise
from spamlit.inference.explain import cost, explain
from spamlit.inference.predictor import Predictor
from spamlit.inference.requests import Limits, Work
from spamlit.inference.web_app import Service, application, log_event, log_to_stdout
from spamlit.model.bundle import read_settings

TIMEOUT = 60.0
"""Seconds that a request may wait for a worker, and as many for its answer; the queue's limit keeps it far below."""
IDLE = 1.0
FAULTS = (ArithmeticError, LookupError, RuntimeError, ValueError)
"""What a message could cause in a model, torch's own errors among them."""
LOOPBACK = ("127.0.0.1", "localhost")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How to serve.

    Attributes:
        bundle: The bundle's folder.
        host: Address to listen at: 127.0.0.1, 0.0.0.0 or ::.
        port: From 1024.
        workers: Processes with a model.
        threads: Of each model; None: the workers' share of the processors.
        precision: fp32 or int8.
        batch: Texts that a worker classifies together; 1: none.
        wait: Seconds that it waits for more after the first.
        token: That callers must give, if any.
        corrections: SQLite file that `/correct` adds to.
        limits: What is refused.
        hosts: Names under which the server may be asked for; none: any, except at 127.0.0.1, which is nobody else's.
        log_texts: Whether the logs have the texts.
    """

    bundle: Path
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    threads: int | None = None
    precision: str = "fp32"
    batch: int = 64
    wait: float = 0.005
    token: str | None = field(default=None, repr=False)
    corrections: Path = Path("outputs/corrections.sqlite")
    limits: Limits = field(default_factory=Limits)
    hosts: Sequence[str] = ()
    log_texts: bool = False


class Batches(BatchedLoop):
    """Takes what waits, up to a number of texts. LitServe's own asks a thousand times a second while nothing comes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held: Any = None

    def get_batch_requests(
        self, lit_api: LitAPI, request_queue: Queue[Any], transport: MessageTransport
    ) -> tuple[list[Any], list[Any]]:
        """The next batch, empty after an idle second, and what waited too long. An explanation is a batch of its own.

        Returns:
            (queue of the answer, id, work) of each; (queue of the answer, id) of each.
        """
        batch: list[Any] = []
        late: list[Any] = []
        n_texts, until = 0, None
        while n_texts < lit_api.max_batch_size:
            request, self._held = self._held or _take(request_queue, until), None
            if request is None:
                break
            consumer, uid, since, work = request
            if time.monotonic() - since > TIMEOUT:
                late.append((consumer, uid))
                continue
            size = lit_api.max_batch_size if work.explain else len(work.texts)
            if batch and n_texts + size > lit_api.max_batch_size:
                self._held = request
                break
            batch.append((consumer, uid, work))
            n_texts += size
            until = until or time.monotonic() + lit_api.batch_timeout
        return batch, late


def _take(queue: Queue[Any], until: float | None) -> Any:
    """What comes next, until then; None: nothing."""
    try:
        if until is None:
            return queue.get(timeout=IDLE)
        left = until - time.monotonic()
        return queue.get(timeout=left) if left > 0 else queue.get_nowait()
    except Empty:
        return None


class Worker(LitAPI):
    """A Predictor in a process of its own."""

    def __init__(self, options: Options) -> None:
        super().__init__(max_batch_size=options.batch, batch_timeout=options.wait, loop=Batches())
        self.options = options

    def setup(self, device: str) -> None:
        """Loads the model. Ctrl-C goes to all processes of a terminal; this one ends when it is told to."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(self.options.threads or max(1, (os.cpu_count() or 1) // self.options.workers))
        self.predictor = Predictor.load(self.options.bundle, precision=self.options.precision)

    def predict(self, x: list[Work], **_: Any) -> list[tuple[int, dict[str, Any]]]:
        """Status and answer of each; when they fail together, each is asked alone, so that only the cause fails."""
        try:
            return self._explained(x[0].texts[0]) if x[0].explain else self._classified(x)
        except FAULTS as error:
            if len(x) > 1:
                return [answer for work in x for answer in self.predict([work])]
            at = error.__traceback__
            while at is not None and at.tb_next is not None:
                at = at.tb_next
            where = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at is not None else "?"
            log.error("%s at %s", type(error).__name__, where)  # what it says may quote the text
            return [(500, {"error": "the classifier failed on this message"})]

    def _classified(self, works: list[Work]) -> list[tuple[int, dict[str, Any]]]:
        found = iter(self.predictor.classify([text for work in works for text in work.texts]))
        return [(200, {"results": [next(found)._asdict() for _ in work.texts]}) for work in works]

    def _explained(self, text: str) -> list[tuple[int, dict[str, Any]]]:
        """Verdict, and the parts that make up the message as the classifier reads it, with what each word adds."""
        (said,) = self.predictor.classify([text])
        read = normalise(text, self.predictor.normalise)
        tokens = cost(self.predictor, read)
        if tokens > (most := self.options.limits.explained):
            return [(422, {"error": f"text is too long to explain: {tokens} tokens to read, at most {most}"})]
        parts: list[dict[str, Any]] = []
        end = 0
        for word in explain(self.predictor, read).words:
            parts += [{"text": read[end : word.start], "score": None}] if word.start > end else []
            parts.append({"text": read[word.start : word.end], "score": word.score})
            end = word.end
        parts += [{"text": read[end:], "score": None}] if end < len(read) else []
        return [(200, {**said._asdict(), "parts": parts})]


def serve(options: Options) -> None:
    """Serves until SIGTERM or Ctrl-C; then what is under way is answered, for at most thirty seconds.

    Raises:
        ValueError: no sound bundle, or limits that exclude each other.
        OSError: somebody else listens at the port.
        RuntimeError: a worker could not start, or died.
    """
    server = _server(options)
    _check_port(options.host, options.port)
    own = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:  # the HTTP process begins as a copy of this one
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            # LitServe's monitor may look at its event once more when the process that held it has ended
            logging.getLogger("litserve.server").addFilter(lambda record: record.msg != "Monitoring worker crashed")
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        server.run(
            host=options.host,
            port=options.port,
            num_api_servers=1,
            log_level="warning",
            generate_client_file=False,
            access_log=False,
            server_header=False,
        )
    except (EOFError, ConnectionError) as error:  # LitServe has shut down, and its queues with it
        raise RuntimeError("a worker died, so the server stopped; start it again") from error
    finally:
        for worker in getattr(server, "inference_workers", []):
            worker.kill()


def _check_port(host: str, port: int) -> None:
    """Binds it for a moment, as uvicorn will, which would say that it cannot without saying what."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"--port {port} at {host}: {error.strerror}; choose another port.") from error


def _server(options: Options) -> LitServer:
    """LitServe's server with our web application in place of its own."""
    if options.limits.queue < options.limits.texts:
        raise ValueError(
            f"the queue holds {options.limits.queue} texts and a request may have {options.limits.texts}: "
            "give --max-queue at least --max-texts."
        )
    info = describe(options)
    api = Worker(options)
    server = LitServer(api, accelerator="cpu", devices=1, workers_per_device=options.workers, timeout=TIMEOUT)
    handler = RegularRequestHandler(api, server)

    async def ask(work: Work) -> tuple[int, dict[str, Any]]:
        try:
            async with asyncio.timeout(2 * TIMEOUT):  # a worker that hangs cannot say so
                answer: tuple[int, dict[str, Any]] = cast(Any, await handler.handle_request(work, Work))
        except TimeoutError:
            return 504, {"error": "the classifier did not answer in time"}
        return answer

    def ready() -> bool:
        return WorkerSetupStatus.READY in server.workers_setup_status.values()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with server.lifespan(app):  # type: ignore[arg-type]
            host = f"[{options.host}]" if ":" in options.host else options.host
            log_event("ready", address=f"http://{host}:{options.port}", run=str(options.bundle))
            yield
        log_event("stopped")

    log_to_stdout()
    hosts = options.hosts or (LOOPBACK if options.host == LOOPBACK[0] else ())
    service = Service(
        ask=ask,
        info=info,
        ready=ready,
        limits=options.limits,
        together=options.batch,
        token=options.token,
        corrections=options.corrections,
        hosts=hosts,
        log_texts=options.log_texts,
    )
    server.app = application(service, lifespan)  # type: ignore[assignment]  # it uses no more than Starlette has
    return server


def describe(options: Options) -> dict[str, Any]:
    """What `/info` says of the bundle and the limits.

    Raises:
        BundleError: the bundle's config.json is damaged.
    """
    settings = read_settings(options.bundle)
    shown = ("labels", "threshold", "threshold_policy", "temperature", "unsure", "max_length", "normalise", "pooling")
    versions = {"spamlit": spamlit.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return {
        "backbone": settings["backbone"]["name"],
        **{key: settings.get(key) for key in shown},
        "precision": options.precision,
        "batch": options.batch,
        "workers": options.workers,
        "limits": asdict(options.limits),
        "versions": versions,
    }
