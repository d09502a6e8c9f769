"""`spamlit serve` as a process: batches over requests, what it does when it is told to stop."""

import http.client
import json
import queue
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from litserve.transport.process_transport import MPQueueTransport
from tests.runs import tiny_run
from tests.serving import WAIT, Server, served

from spamlit.cli import main
from spamlit.inference.predictor import Predictor
from spamlit.inference.requests import Work
from spamlit.inference.serve import TIMEOUT, Batches, Options, Worker


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", "data.reserve=false").folder


@pytest.fixture(scope="module")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with served(run, folder / "log", "--corrections", str(folder / "said.sqlite"), "--batch", "16") as server:
        yield server


@pytest.mark.fault("server", "good and bad requests")
def test_thirty_two_callers_at_once_get_their_own_answers(server: Server, run: Path) -> None:
    texts = pd.read_csv(run / "test.csv")["text"].tolist()
    asked = [[f"{text} {i}" for text in texts[: 1 + i % 5]] for i in range(64)]
    bad = {"texts": [1]}
    with ThreadPoolExecutor(32) as pool:
        bodies = [body for some in asked for body in ({"texts": some}, bad)]
        answers = list(pool.map(lambda body: server.ask("/predict", body), bodies))
    assert {status for status, _ in answers[1::2]} == {422}
    predictor = Predictor.load(run)
    for some, (status, answer) in zip(asked, answers[::2], strict=True):
        assert status == 200
        expected = [one.probability for one in predictor.classify(some)]
        assert [one["probability"] for one in answer["results"]] == pytest.approx(expected, abs=1e-5)


def test_it_says_what_it_is(server: Server) -> None:
    assert server.ask("/health") == (200, {"status": "ok"})
    _, info = server.ask("/info")
    assert info["backbone"] == "tiny"
    assert info["limits"]["texts"] == 1000
    assert (info["threshold"], info["temperature"]) == (0.5, 1.0)
    assert server.ask("/docs")[0] == 404  # its page would come from another host


def test_explanations_and_corrections_reach_the_workers(server: Server) -> None:
    status, answer = server.ask("/explain", {"text": "You have won"})
    assert status == 200
    assert len([part for part in answer["parts"] if part["score"] is not None]) == 3
    assert server.ask("/correct", {"text": "You have won", "label": "ham"}) == (200, {"id": 1})


@pytest.mark.fault("server", "good and bad requests")
def test_a_body_that_stops_coming_holds_nobody_up(server: Server) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    head = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    with socket.create_connection((host, int(port))) as stalled:
        stalled.sendall(head)
        assert server.ask("/predict", {"texts": ["hello"]})[0] == 200
    assert server.ask("/predict", {"texts": ["hello"]})[0] == 200


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks at sockets in Linux's /proc")
@pytest.mark.fault("server", "exposure")
def test_it_listens_at_this_machine_s_own_address_alone(server: Server) -> None:
    port = f":{int(server.address.rpartition(':')[2]):04X}"
    sockets = [line.split() for table in Path("/proc/net").glob("tcp*") for line in table.read_text().splitlines()]
    assert [own for _, own, _, state, *_ in sockets if state == "0A" and own.endswith(port)] == [f"0100007F{port}"]


@pytest.mark.fault("server", "SIGTERM")
@pytest.mark.slow
def test_sigterm_answers_what_is_under_way_and_leaves_no_process(run: Path, tmp_path: Path) -> None:
    body = json.dumps({"texts": [f"call me {i}" for i in range(150)]})
    with served(run, tmp_path / "log", "--batch", "1", "--wait", "0") as server:
        callers = [http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=WAIT) for _ in range(4)]
        for caller in callers:
            caller.request("POST", "/predict", body, {"Content-Type": "application/json"})
        # callers are accepted in the order in which they came: when this one has its answer, those are under way
        assert server.ask("/health")[0] == 200
        assert not any("texts" in line for line in server.lines())
        assert server.stop(signal.SIGTERM) == 0
        responses = [caller.getresponse() for caller in callers]
        answers = [(response.status, json.load(response)) for response in responses]
        for caller in callers:
            caller.close()
    assert [(status, len(answer["results"])) for status, answer in answers] == [(200, 150)] * 4
    lines = server.lines()
    assert [line["event"] for line in lines if "event" in line] == ["ready", "stopped"]
    assert [line["texts"] for line in lines if "texts" in line] == [150] * 4
    assert "call me" not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(server.address.removeprefix("http://").split(":"), timeout=5)  # type: ignore[arg-type]


def batches(*works: Work, size: int = 4, waited: float = 0.0) -> list[tuple[list[str], list[str]]]:
    """Ids of what a worker takes together from a queue that holds these, and of what it gives up."""
    requests: Any = queue.Queue()
    for i, work in enumerate(works):
        requests.put((0, str(i), time.monotonic() - waited, work))
    loop, api = Batches(), Worker(Options(Path(), batch=size, wait=0))
    taken: list[tuple[list[str], list[str]]] = []
    while sum(len(uids) for some in taken for uids in some) < len(works):
        some, late = loop.get_batch_requests(api, requests, MPQueueTransport(None, []))
        taken.append(([uid for _, uid, _ in some], [uid for _, uid in late]))
    return taken


def test_a_batch_is_what_waits_up_to_a_number_of_texts() -> None:
    works = [Work(["a"]), Work(["b", "c"]), Work(["d", "e"]), Work(["f"]), Work(["g"], explain=True), Work(["h"])]
    assert batches(*works) == [(["0", "1"], []), (["2", "3"], []), (["4"], []), (["5"], [])]
    assert [uids for uids, _ in batches(*works, size=1)] == [["0"], ["1"], ["2"], ["3"], ["4"], ["5"]]


def test_what_waited_too_long_is_given_up() -> None:
    assert batches(Work(["a"]), waited=TIMEOUT + 1) == [([], ["0"])]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--run", "nowhere"], "nowhere is not a run folder"),
        (["--port", "80"], "80 is not in the range"),
        (["--host", "example.org"], "'example.org' is not one of"),
        (["--max-queue", "10"], "give --max-queue at least --max-texts"),
    ],
)
def test_what_cannot_be_served_is_refused(run: Path, options: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["serve", *(["--run", str(run)] if "--run" not in options else []), *options])
    assert done.exit_code == 2
    assert said in done.output


def test_a_port_that_somebody_has_is_named(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = CliRunner().invoke(main, ["serve", "--run", str(run), "--port", str(port)])
    assert done.exit_code == 1
    assert f"error: --port {port} at 127.0.0.1: Address already in use; choose another port." in done.output


def test_an_empty_token_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("\n")
    for options, variable in ((["--token-file", str(tmp_path / "token")], "ok"), ([], "nö")):
        monkeypatch.setenv("SPAMLIT_TOKEN", variable)
        done = CliRunner().invoke(main, ["serve", "--run", str(run), *options])
        assert done.exit_code == 2
        assert "is empty or has characters beyond printable ASCII" in done.output
