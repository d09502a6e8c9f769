"""The server among good and bad requests: no answer lost or swapped, nothing grows, and no end hangs anybody."""

import http.client
import json
import os
import random
import signal
import socket
import statistics
import time
import urllib.error
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.faults.outcome import FULL, Lost, Wrong, cases
from tests.inference.bundles import random_bundle
from tests.serving import Server, served
from tests.synthetic import HAM, SPAM, messages

from spamlit.inference import serve
from spamlit.inference.predictor import Predictor

CLIENTS = 6
SECONDS = 600.0 if FULL else 9.0
GROWTH = 1.05 if FULL else 1.1
APART = 1e-4
CLOSE = 1e-5
ENDED = 45.0
"""Seconds within which a server that is told to stop, or that lost a worker, is gone."""
GONE = (ConnectionError, urllib.error.URLError, http.client.HTTPException, TimeoutError)

Known = list[tuple[str, float]]

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in Linux's /proc")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "llama", "llama")


@pytest.fixture(scope="module")
def known(bundle: Path) -> Known:
    """Messages and their probabilities, no two alike, so that an answer that belongs to another message shows."""
    drawn = random.Random(0)
    texts = [*islice(messages(HAM, drawn), 400), *islice(messages(SPAM, drawn), 400)]
    answers = sorted(zip((p.probability for p in Predictor.load(bundle).classify(texts)), texts, strict=True))
    kept = answers[:1]
    for probability, text in answers:
        if probability - kept[-1][0] > APART:
            kept.append((probability, text))
    assert len(kept) > 100
    return [(text, probability) for probability, text in kept]


def predict(server: Server, drawn: random.Random, known: Known) -> None:
    asked = drawn.choices(known, k=drawn.randint(1, 20))
    status, answer = server.ask("/predict", {"texts": [text for text, _ in asked]})
    if status != 200 or len(answer["results"]) != len(asked):
        raise Lost(f"{len(asked)} texts: {status} {answer}")
    for (text, probability), said in zip(asked, answer["results"], strict=True):
        if abs(said["probability"] - probability) > CLOSE:
            raise Wrong(f"{text!r} is {probability}, and the answer {said}")


def explain(server: Server, drawn: random.Random, known: Known) -> None:
    text, probability = drawn.choice(known)
    status, answer = server.ask("/explain", {"text": text})
    if status == 503:  # as many explanations at once as there may be
        return
    if status != 200 or abs(answer["probability"] - probability) > CLOSE:
        raise Wrong(f"{text!r} is {probability}, and the answer {status} {answer}")


def correct(server: Server, drawn: random.Random, known: Known) -> None:
    status, answer = server.ask("/correct", {"text": drawn.choice(known)[0], "label": drawn.choice(["ham", "spam"])})
    if status != 200 or answer["id"] < 1:
        raise Lost(f"a correction: {status} {answer}")


BAD: tuple[tuple[Any, int], ...] = (
    (b"", 400),
    (b"\xff\xfe", 400),
    (b'{"texts": ["a"', 400),
    (b"[" * 50_000, 400),
    ({"texts": "hello"}, 422),
    ({"texts": ["a", 1]}, 422),
    ({"texts": ["a"] * 1_001}, 422),
    ({"texts": ["a" * 10_001]}, 422),
    (b'{"texts": ["\\ud83d"]}', 422),
    (b'{"texts": ["' + b"a" * 300_000 + b'"]}', 413),
)


def refuse(server: Server, drawn: random.Random, known: Known) -> None:
    body, wanted = drawn.choice(BAD)
    try:
        status, answer = server.ask("/predict", body)
    except (BrokenPipeError, ConnectionResetError, urllib.error.URLError):
        if wanted == 413:  # it need not read a long body to its end
            return
        raise
    if status != wanted or "error" not in answer:
        raise Wrong(f"{status} {answer} instead of {wanted}")


def leave(server: Server, drawn: random.Random, known: Known) -> None:
    """Sends a request, or a part of one, and goes."""
    host, port = server.address.removeprefix("http://").split(":")
    body = json.dumps({"texts": [drawn.choice(known)[0]] * 50}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    request = head.encode() + b"\r\n\r\n" + body
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(request[: drawn.choice([5, len(request) // 2, len(request)])])


def look(server: Server, drawn: random.Random, known: Known) -> None:
    path, wanted = drawn.choice([("/health", 200), ("/info", 200), ("/nowhere", 404), ("/predict", 405)])
    status, _ = server.ask(path)
    if status != wanted:
        raise Wrong(f"{path}: {status}")


VISITS: dict[Callable[[Server, random.Random, Known], None], int] = {
    predict: 10, explain: 1, correct: 1, refuse: 4, leave: 2, look: 2,
}  # fmt: skip


def visit(server: Server, seed: int, known: Known, until: float) -> Counter[str]:
    """What a client asked, one thing after another; each answer was looked at."""
    drawn, done = random.Random(seed), Counter[str]()
    while time.monotonic() < until:
        (what,) = drawn.choices(list(VISITS), list(VISITS.values()))
        what(server, drawn, known)
        done[what.__name__] += 1
        time.sleep(drawn.uniform(0, 0.08))
    return done


def family(pid: int) -> list[int]:
    """A process and all that come from it."""
    try:
        tasks = [(task / "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:  # it has ended
        return []
    return [pid, *(each for task in tasks for child in task for each in family(int(child)))]


def left(pids: list[int]) -> list[int]:
    """Those that do not end, though all that they served is gone."""
    deadline = time.monotonic() + 10
    while (there := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return there


def resident(pids: list[int]) -> int:
    """Bytes in memory."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.fault("server", "soak")
def test_a_soak_loses_swaps_and_keeps_nothing(
    bundle: Path, known: Known, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    options = ("--corrections", str(tmp_path / "said.sqlite"), "--batch", "16", "--workers", "2")
    with served(bundle, tmp_path / "log", *options) as server, ThreadPoolExecutor(CLIENTS) as pool:
        began = time.monotonic()
        clients = [pool.submit(visit, server, seed, known, began + SECONDS) for seed in range(CLIENTS)]
        pids, sizes = family(server.process.pid), []
        while (now := time.monotonic() - began) < SECONDS and not any(client.done() for client in clients):
            sizes.append((now / SECONDS, resident(pids)))
            time.sleep(SECONDS / 300)
        asked = sum((client.result() for client in clients), Counter())
        assert family(server.process.pid) == pids
        assert server.stop() == 0
    warm = statistics.median(size for share, size in sizes if 0.3 < share < 0.45)
    late = statistics.median(size for share, size in sizes if share > 0.85)
    record_property("cases", asked.total())
    print(dict(asked), f"{warm / 1e6:.1f} MB, then {late / 1e6:.1f} MB")
    if late > GROWTH * warm:
        raise Wrong(f"memory grew from {warm / 1e6:.1f} to {late / 1e6:.1f} MB")
    if "Traceback" in server.log.read_text():
        raise Wrong(server.log.read_text()[-2000:])


def keep_asking(server: Server, seed: int, known: Known) -> tuple[int, float, str]:
    """Asks until the server is gone: how often it was answered, when it last asked, and what came instead."""
    drawn, answered = random.Random(seed), 0
    while True:
        asked = time.monotonic()
        try:
            predict(server, drawn, known)
        except GONE as error:
            return answered, asked, repr(error)
        answered += 1


@pytest.mark.slow
@pytest.mark.fault("server", "SIGTERM")
@pytest.mark.parametrize("case", cases(1, 10))
def test_what_was_asked_before_sigterm_is_answered(bundle: Path, known: Known, tmp_path: Path, case: int) -> None:
    drawn = random.Random(case)
    options = ("--workers", str(drawn.choice([1, 2])), "--batch", str(drawn.choice([1, 16, 64])))
    with served(bundle, tmp_path / "log", *options) as server, ThreadPoolExecutor(CLIENTS) as pool:
        pids = family(server.process.pid)
        clients = [pool.submit(keep_asking, server, seed, known) for seed in range(CLIENTS)]
        time.sleep(drawn.uniform(0.3, 1.5))
        told = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=ENDED) == 0
        for answered, asked, error in (client.result(timeout=ENDED) for client in clients):
            if asked < told - 1.0:  # not on its way from socket to socket
                raise Lost(f"asked {told - asked:.2f} s before the end, after {answered} answers: {error}")
    assert left(pids) == []


@pytest.mark.slow
@pytest.mark.fault("server", "killed worker")
@pytest.mark.parametrize("case", cases(1, 6))
def test_a_worker_that_is_killed_hangs_nobody(bundle: Path, known: Known, tmp_path: Path, case: int) -> None:
    drawn = random.Random(case)
    options = ("--workers", str(1 + case % 2), "--batch", "16")
    with served(bundle, tmp_path / "log", *options) as server, ThreadPoolExecutor(CLIENTS) as pool:
        pids = family(server.process.pid)
        workers = [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        clients = [pool.submit(keep_asking, server, seed, known) for seed in range(CLIENTS)]
        time.sleep(drawn.uniform(0.3, 1.5))
        killed = time.monotonic()
        os.kill(drawn.choice(workers), signal.SIGKILL)
        assert server.process.wait(timeout=ENDED) == 1
        ends = [client.exception(timeout=ENDED) for client in clients]
        print(f"all over after {time.monotonic() - killed:.1f} s")
    for end in ends:
        if not isinstance(end, Lost | None):  # what the worker had is lost, and its callers know
            raise end
    assert "a worker died" in server.log.read_text()
    assert left(pids) == []


@pytest.mark.fault("server", "killed worker")
def test_a_worker_that_hangs_hangs_nobody(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await serve.asyncio.sleep(60)

    monkeypatch.setattr(serve, "TIMEOUT", 0.05)
    monkeypatch.setattr(serve.RegularRequestHandler, "handle_request", never)
    app: Any = serve._server(serve.Options(bundle)).app
    answer = TestClient(app, base_url="http://localhost").post("/predict", json={"texts": ["hello"]})
    assert (answer.status_code, answer.json()) == (504, {"error": "the classifier did not answer in time"})
