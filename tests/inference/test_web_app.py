"""Every request gets an answer or a refusal with its reason, and none harms another; here without LitServe."""

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient
from tests.runs import tiny_run

from spamlit.data.corrections import read_corrections
from spamlit.inference.predictor import Predictor
from spamlit.inference.requests import Limits, Work
from spamlit.inference.serve import Options, Worker
from spamlit.inference.web_app import PAGE, Service, application

TEXTS = ["You have won a prize!", "see you tonight", "", "a\0b", "£ ü 😀 \u202e", "word " * 60]
LIMITS = Limits(body=60_000, texts=20, characters=1_000, queue=20, requests=3, explanations=1, explained=4_000)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    run = tiny_run(tmp_path_factory.mktemp("runs") / "run", "data.reserve=false", "data.normalise=unicode").folder
    worker = Worker(Options(run / "classifier", limits=LIMITS))
    worker.predictor = Predictor.load(run)
    return worker


@pytest.fixture
def service(worker: Worker, tmp_path: Path) -> Service:
    async def ask(work: Work) -> tuple[int, dict[str, Any]]:
        await asyncio.sleep(0)
        return worker.predict([work])[0]

    return Service(
        ask=ask,
        info={"backbone": "tiny"},
        ready=lambda: True,
        limits=LIMITS,
        together=3,
        token=None,
        corrections=tmp_path / "new" / "corrections.sqlite",
    )


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(application(service)) as client:
        yield client


def test_results_are_the_predictor_s_in_order(client: TestClient, worker: Worker) -> None:
    answer = client.post("/predict", json={"texts": TEXTS})
    assert answer.status_code == 200
    said = answer.json()["results"]
    expected = worker.predictor.classify(TEXTS)
    assert [(one["label"], one["flag"]) for one in said] == [(one.label, one.flag) for one in expected]
    assert [one["probability"] for one in said] == pytest.approx([one.probability for one in expected], abs=1e-6)
    assert {"empty", "truncated"} <= {one["flag"] for one in said}
    assert client.post("/predict", json={"texts": []}).json() == {"results": []}


REFUSED: list[tuple[bytes, int, str]] = [
    (b"", 400, "not JSON"),
    (b'{"texts": ["a"', 400, "not JSON"),
    (b"\xff\xfe", 400, "not JSON"),
    (b"[" * 50_000, 400, "nests too deeply"),
    (b'{"texts": [' + b"9" * 5_000 + b"]}", 400, "not JSON"),
    (b"[]", 422, 'the body is a list; expected {"texts": …}'),
    (b"null", 422, "the body is null"),
    (b"{}", 422, "the body has no texts"),
    (b'{"texts": [], "threshold": 0}', 422, "unknown keys, such as 'threshold'"),
    (b'{"texts": "hello"}', 422, "texts is a string; expected a list of strings"),
    (b'{"texts": ["a", 1]}', 422, "texts[1] is a number; expected a string"),
    (b'{"texts": [true]}', 422, "texts[0] is true or false"),
    (b'{"texts": [["a"]]}', 422, "texts[0] is a list"),
    (b'{"texts": ["ok", "ab\\ud83d"]}', 422, "texts[1] is not Unicode text: character 2 is U+D83D"),
    (json.dumps({"texts": ["a"] * 21}).encode(), 422, "21 texts; send at most 20"),
    (json.dumps({"texts": ["a"] * 10_000}).encode(), 422, "10000 texts; send at most 20"),
    (json.dumps({"texts": ["a" * 1_001]}).encode(), 422, "texts[0] has 1001 characters; send at most 1000"),
    (b'{"texts": ["' + b"a" * 1_000_000 + b'"]}', 413, "longer than 60000 bytes"),
]


@pytest.mark.fault("server", "good and bad requests")
@pytest.mark.parametrize(("body", "status", "reason"), REFUSED, ids=[reason for _, _, reason in REFUSED])
def test_bad_requests_are_refused_with_a_reason(client: TestClient, body: bytes, status: int, reason: str) -> None:
    answer = client.post("/predict", content=body, headers=JSON)
    assert answer.status_code == status
    assert reason in answer.json()["error"]


def test_a_long_body_is_refused_whatever_it_says_of_its_length(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield from [b" " * 10_000] * 10

    assert client.post("/predict", content=pieces(), headers=JSON).status_code == 413
    assert client.post("/predict", content=b"{}", headers={**JSON, "Content-Length": "9" * 30}).status_code == 413


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_what_the_form_of_another_site_can_send_is_refused(client: TestClient, service: Service, kind: str) -> None:
    answer = client.post("/correct", content=b'{"text": "a", "label": "ham"}', headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert not service.corrections.exists()


@pytest.mark.parametrize("path", ["/predict", "/explain", "/correct", "/info"])
@pytest.mark.parametrize(
    "given", [None, "Bearer wrong", "Basic secret", "Bearer", "Bearer secret2", "secret", "Bearer é"]
)
def test_without_the_token_there_is_neither_answer_nor_hint(service: Service, path: str, given: str | None) -> None:
    service.token = "secret"
    with TestClient(application(service)) as client:
        headers = {b"Authorization": given.encode()} if given else {}
        answer = client.request("GET" if path == "/info" else "POST", path, content=b"{", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        allowed = {"Authorization": "bearer secret"}
        assert client.get("/info", headers=allowed).json() == {"backbone": "tiny"}
        assert client.get("/health").status_code == client.get("/").status_code == 200


def together(service: Service, requests: list[tuple[str, Any]]) -> list[Any]:
    """Answers to requests that are sent at once; they are worked on when all have come in."""

    async def send() -> list[Any]:
        gate, ask = asyncio.Event(), service.ask

        async def waiting(work: Work) -> tuple[int, dict[str, Any]]:
            await gate.wait()
            return await ask(work)

        service.ask = waiting
        transport = httpx.ASGITransport(application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            tasks = [asyncio.create_task(client.post(path, json=body)) for path, body in requests]
            await asyncio.sleep(0.2)
            gate.set()
            return list(await asyncio.gather(*tasks))

    return asyncio.run(send())


@pytest.mark.fault("server", "good and bad requests")
def test_too_much_at_once_is_refused_at_once_and_the_rest_answered(service: Service) -> None:
    many = {"texts": ["a b"] * 15}
    answers = together(service, [("/predict", many), ("/predict", many), ("/predict", {"texts": ["c"] * 5})])
    assert [answer.status_code for answer in answers] == [200, 503, 200]
    assert answers[1].headers["Retry-After"] == "1"
    assert "busy with 15 texts" in answers[1].json()["error"]
    assert service.texts == 0
    answers = together(service, [("/explain", {"text": "a b"})] * 2)
    assert [answer.status_code for answer in answers] == [200, 503]
    answers = together(service, [("/predict", {"texts": ["a"]})] * 5)
    assert [answer.status_code for answer in answers].count(503) == 2
    assert service.requests == 0


@pytest.mark.fault("server", "good and bad requests")
def test_one_bad_message_does_not_fail_its_neighbours(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    classify = worker.predictor.classify

    def choosy(texts: list[str]) -> Any:
        if "poison" in texts:
            raise RuntimeError("the text was: poison")
        return classify(texts)

    monkeypatch.setattr(worker.predictor, "classify", choosy)
    works = [Work(["a"]), Work(["b", "poison"]), Work(["c", "d"])]
    answers = worker.predict(works)
    assert [status for status, _ in answers] == [200, 500, 200]
    assert "poison" not in str(answers[1])
    assert answers[2][1]["results"] == [one._asdict() for one in classify(["c", "d"])]


def test_the_parts_of_an_explanation_make_up_the_message_and_its_log_odds(client: TestClient) -> None:
    answer = client.post("/explain", json={"text": "  You have  won, ünfortunately 😀 "}).json()
    assert "".join(part["text"] for part in answer["parts"]).split() == ["You", "have", "won,", "ünfortunately", "😀"]
    words = [part for part in answer["parts"] if part["score"] is not None]
    assert [part["text"] for part in words] == ["You", "have", "won,", "ünfortunately", "😀"]
    (said,) = client.post("/predict", json={"texts": ["  You have  won, ünfortunately 😀 "]}).json()["results"]
    assert {key: answer[key] for key in said} == pytest.approx(said)
    assert client.post("/explain", json={"text": " "}).json()["flag"] == "empty"
    long = client.post("/explain", json={"text": "a " * 400})
    assert long.status_code == 422
    assert "too long to explain" in long.json()["error"]


def test_corrections_are_kept_and_the_last_word_counts(client: TestClient, service: Service) -> None:
    said = [("first, it's; drop table", "spam"), ("nul \0 here", "ham"), ("first, it's; drop table", "ham")]
    answers = [client.post("/correct", json={"text": text, "label": label}) for text, label in said]
    assert [answer.json() for answer in answers] == [{"id": 1}, {"id": 2}, {"id": 3}]
    kept = read_corrections(service.corrections)
    assert kept[["text", "label"]].values.tolist() == [["first, it's; drop table", "ham"], ["nul \0 here", "ham"]]
    with sqlite3.connect(service.corrections) as database:
        rows = database.execute("SELECT time, probability FROM correction").fetchall()
    assert all(time.endswith("+00:00") and 0 < probability < 1 for time, probability in rows)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"text": "a", "label": "junk"}, "label is 'junk'; choose one of ham, spam"),
        ({"text": "a", "label": 1}, "label is a number"),
        ({"text": "a", "label": ["ham"]}, "label is a list"),
        ({"text": " \n", "label": "ham"}, "text is empty"),
        ({"text": None, "label": "ham"}, "text is null"),
        ({"text": "a"}, "the body has no label"),
    ],
)
def test_bad_corrections_are_refused(client: TestClient, service: Service, body: Any, reason: str) -> None:
    answer = client.post("/correct", json=body)
    assert answer.status_code == 422
    assert reason in answer.json()["error"]
    assert not service.corrections.exists()


def test_corrections_that_cannot_be_kept(client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.corrections.parent.mkdir()
    service.corrections.write_text("this is not a database, but a longer text than a header")
    answer = client.post("/correct", json={"text": "a", "label": "ham"})
    assert answer.status_code == 507
    assert str(service.corrections) not in answer.text
    service.corrections.unlink()
    monkeypatch.setattr("spamlit.data.corrections.MOST", 1)
    answers = [client.post("/correct", json={"text": text, "label": "ham"}) for text in "ab"]
    assert [answer.status_code for answer in answers] == [200, 507]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    monkeypatch.setattr(logging.getLogger("spamlit.serve"), "propagate", True)
    caplog.set_level(logging.INFO, "spamlit.serve")
    return lambda: [json.loads(record.message) for record in caplog.records if record.name == "spamlit.serve"]


def test_logs_have_no_text_unless_asked(
    client: TestClient, service: Service, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    client.post("/predict", json={"texts": ["sesame", "open"]})
    client.post("/predict", content=b"sesame", headers=JSON)
    client.get("/nowhere?sesame")
    lines = logged()
    assert [(line["method"], line["path"], line["status"], line.get("texts")) for line in lines] == [
        ("POST", "/predict", 200, 2), ("POST", "/predict", 400, None), ("GET", "/nowhere", 404, None)
    ]  # fmt: skip
    assert all(line["ms"] >= 0 and line["time"].endswith("+00:00") for line in lines)
    assert "sesame" not in str(lines)
    service.log_texts = True
    client.post("/predict", json={"texts": ["sesame"]})
    assert logged()[-1]["messages"] == ["sesame"]


def test_the_page_may_load_nothing_from_elsewhere(client: TestClient) -> None:
    for path in PAGE:
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in answer.text
    assert client.get("/../pyproject.toml").status_code == 404
    assert client.get("/predict").status_code == 405


def test_other_names_are_refused_where_names_are_known(service: Service) -> None:
    service.hosts = ["localhost"]
    with TestClient(application(service), base_url="http://evil.example") as client:
        assert client.get("/info").status_code == 400
    with TestClient(application(service), base_url="http://localhost:8000") as client:
        assert client.get("/info").status_code == 200


def test_health_says_when_no_worker_is_ready(service: Service) -> None:
    service.ready = lambda: False
    with TestClient(application(service)) as client:
        assert (client.get("/health").status_code, client.get("/health").json()) == (503, {"status": "starting"})
