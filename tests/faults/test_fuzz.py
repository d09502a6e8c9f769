"""Any bytes at all, where bytes come from others: a valid result or the documented error, in bounded time.

200 cases of each in `make test` (100 where a model is built), 10,000 (2,000) in `make faults`; a failing case is
printed by hypothesis with the blob that repeats it.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.faults.outcome import FULL, Wrong, cases
from tests.inference.bundles import random_bundle
from tests.synthetic import byte_tokenizer

from spamlit.assets import Member, archive, sha256_settings
from spamlit.assets.registry import SourceError
from spamlit.cli.stored import check_stored
from spamlit.cli.train import CONF
from spamlit.data import sms
from spamlit.data.tokenizer import Tokenizer
from spamlit.inference.lines import open_lines
from spamlit.inference.predictor import Predictor
from spamlit.inference.requests import Limits, RequestError, check_label, check_text, check_texts, parse
from spamlit.inference.tables import Answer, Columns, TableError
from spamlit.model import bundle
from spamlit.model.bundle import BundleError

N = len(cases(200, 10_000))
N_BUNDLES = len(cases(100, 2_000))
SECONDS = 10.0
"""Of processor time, for any one case: a hundred times what one takes, for a collection of garbage falls into some."""
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner), max_leaves=6)


def mixed(*fragments: bytes, max_size: int = 24) -> st.SearchStrategy[bytes]:
    """Pieces of what is expected, between pieces of anything."""
    return st.lists(st.sampled_from(fragments) | st.binary(max_size=6), max_size=max_size).map(b"".join)


@contextmanager
def bounded(*expected: type[Exception]) -> Iterator[None]:
    """Passes over the documented errors, which say something in one line; anything else is wrong."""
    began = time.process_time()
    try:
        yield
    except expected as error:
        if not str(error):
            raise Wrong(f"{type(error).__name__} says nothing") from error
    if (took := time.process_time() - began) > SECONDS:
        raise Wrong(f"took {took:.1f} s")


Check = Callable[..., None]
Record = Callable[[str, object], None]


class Fuzzed(Protocol):
    """A test, which atheris can drive as well (`guided`)."""

    from_bytes: Callable[[bytes], object]

    def __call__(self, tmp_path: Path, record_property: Record) -> None: ...


def fuzzed(n: int = N, **strategies: st.SearchStrategy[Any]) -> Callable[[Check], Fuzzed]:
    """A test that calls `check(folder, **drawn)` with n examples, and tells the table how many there were."""

    def decorate(check: Check) -> Fuzzed:
        tried: list[Path] = []
        folder = Path(tempfile.gettempdir())

        @settings(max_examples=n, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
        @given(**strategies)
        def one(**drawn: Any) -> None:
            tried.append(folder)
            check(folder, **drawn)

        def test(tmp_path: Path, record_property: Record) -> None:
            nonlocal folder
            folder = tmp_path
            tried.clear()
            one()
            record_property("cases", len(tried))

        test.__doc__ = check.__doc__
        made = cast(Fuzzed, test)
        made.from_bytes = one.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
        return made

    return decorate


LINES = mixed(b"ham", b"spam", b"\t", b"\n", b"\r\n", b"hi", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b'"', "ü".encode())
TABLE = mixed(
    *(b"text", b"label", b"ham", b"spam", b",", b"\t", b"\n", b"\r\n", b"\r", b'"', b'""', b"=1+1", b"\0"),
    *(b"\xef\xbb\xbf", b"\xe9", b"text,label\n", b"text\tlabel\n", "🤑".encode(), b" "),
)


@pytest.mark.fault("fuzz", "SMS lines")
@fuzzed(content=LINES)
def test_lines_of_the_collection(folder: Path, content: bytes) -> None:
    (folder / "collection").write_bytes(content)
    with bounded(ValueError):
        frame = sms.parse(folder / "collection")
        if not set(frame["label"]) <= set(sms.LABELS) or len(frame) > content.count(b"\n") + 1:
            raise Wrong(frame)


@pytest.mark.fault("fuzz", "training tables")
@fuzzed(head=st.sampled_from([b"", b"text,label\n", b"text\tlabel\n", b"label,n,text\r\n"]), content=TABLE)
def test_tables_to_train_on(folder: Path, head: bytes, content: bytes) -> None:
    for name in ("mine.csv", "mine.tsv"):
        (folder / name).write_bytes(head + content)
        with bounded(ValueError):
            frame = sms.read_labelled(folder / name)
            if not set(frame["label"]) <= set(sms.LABELS) or not frame["text"].str.strip().all():
                raise Wrong(frame)


def through(content: bytes, kind: str, **columns: Any) -> bytes:
    table, made = open_lines(io.BytesIO(content), "mine", kind, Columns(**columns)), io.BytesIO()
    with table.writer(made) as write:
        for chunk in table.chunks():
            answers = [Answer("ham", 0.25, "") for _ in table.values(chunk)]
            write(chunk, answers)
    return made.getvalue()


@pytest.mark.fault("fuzz", "prediction tables")
@fuzzed(head=st.sampled_from([b"", b"text\n", b"text,b\n", b"b\ttext\r\n"]), content=TABLE, safe=st.booleans())
def test_tables_to_label(folder: Path, head: bytes, content: bytes, safe: bool) -> None:
    for kind in ("csv", "tsv"):
        made = b""
        with bounded(TableError):
            made = through(head + content, kind, safe=safe)
        if made and len(through(made, kind, safe=safe, prefix="again_")) <= len(made):  # what is written is a table
            raise Wrong(made)


OBJECTS = mixed(
    *(b"{", b"}", b'"text"', b":", b",", b'"hi"', b"\n", b"[", b"]", b"null", b"1e999", b"-", b'"\\ud800"', b"\0"),
    *(b'{"text": "hi"}\n', b'{"text": null, "n": 12}\r\n', b"\xef\xbb\xbf", b"\xe9", b"NaN"),
)


@pytest.mark.fault("fuzz", "prediction JSON Lines")
@fuzzed(content=OBJECTS)
def test_objects_and_plain_lines_to_label(folder: Path, content: bytes) -> None:
    for kind in ("jsonl", "text"):
        with bounded(TableError):
            made = through(content, kind)
            lines = [line for line in made.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
            read = [json.loads(line.decode("utf-8", "surrogateescape")) for line in lines if kind == "jsonl"]
            if any(record["label"] != "ham" for record in read):
                raise Wrong(made)


BODIES = OBJECTS | st.fixed_dictionaries({"texts": JSON}).map(lambda x: json.dumps(x).encode()) | st.binary()


@pytest.mark.fault("fuzz", "requests")
@fuzzed(body=BODIES)
def test_requests(folder: Path, body: bytes) -> None:
    limits = Limits(texts=3, characters=5)
    with bounded(RequestError):
        texts = check_texts(parse(body, "texts")["texts"], limits)
        if len(texts) > limits.texts or any(len(text.encode()) > 4 * limits.characters for text in texts):
            raise Wrong(texts)


@pytest.mark.fault("fuzz", "requests")
@fuzzed(content=JSON)
def test_fields_of_requests(folder: Path, content: Any) -> None:
    for check in (check_label, lambda value: check_text(value, "text", Limits())):
        with bounded(RequestError):
            check(content)


KEYS = [
    "text",
    "data.source",
    "callbacks.x",
    "logger.x.name",
    "hydra.launcher.n_jobs",
    "experiment",
    "+a",
    "~a",
    "seed",
]
VALUES = [
    "",
    *[
        "1",
        "a,b",
        "{a:1}",
        "{_target_:os.system}",
        "{dirpath:x}",
        "${x:y}",
        "[a,b]",
        "'q'",
        "range(1,3)",
        "../x",
        "null",
    ],
]


@pytest.mark.fault("fuzz", "stored overrides")
@fuzzed(text=st.text(max_size=30) | st.builds("{}={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES)))
def test_stored_overrides(folder: Path, text: str) -> None:
    with bounded(ValueError):
        check_stored(Path("run"), [text], CONF)
        led_out = "../x" in text and text.startswith(("experiment", "logger"))
        if led_out or any(part in text for part in ("_target_", "dirpath", "${")) or text.startswith("-"):
            raise Wrong(text)


@pytest.mark.fault("fuzz", "archives")
@fuzzed(at=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_archives(folder: Path, at: list[tuple[float, int]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../other", b"other")
        file.writestr("text", b"text" * 10)
    content = bytearray(buffer.getvalue())
    for place, value in at:
        content[int(place * len(content))] = value
    (folder / "zip").write_bytes(content)
    with bounded(SourceError):
        archive.extract(folder / "zip", Member("text", 40), folder / "text")
        if (folder / "text").stat().st_size > 40:
            raise Wrong(content)


def fresh_bundle(folder: Path) -> Path:
    """A copy of a sound one."""
    if not (folder / "sound").exists():
        random_bundle(folder / "sound", "llama")
    return shutil.copytree(folder / "sound", folder / "bundle", dirs_exist_ok=True)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes config.json and makes its digests hold again: what a stranger would hand over."""
    config = json.loads((folder / "config.json").read_text())
    config["files"] = {name: bundle.sha256_file(folder / name) for name in config["files"]}
    change(config)
    config["sha256"] = sha256_settings(config)
    (folder / "config.json").write_text(json.dumps(config))


PATHS = [
    *(("labels",), ("threshold",), ("temperature",), ("unsure",), ("max_length",), ("normalise",), ("pooling",)),
    *(("layers",), ("causal",), ("head_bias",), ("n_classes",), ("backbone",), ("lora",), ("files",), ("format",)),
    *(("backbone", key) for key in ("vocab_size", "context", "n_layer", "n_head", "n_kv_head", "n_embd", "n_inner")),
    *(("backbone", key) for key in ("norm", "norm_eps", "position", "rope_theta", "mlp", "bias", "_target_")),
    *(("files", key) for key in ("model.safetensors", "../x", "a\0b", "x" * 300, "\ud800")),
]
BIG = st.sampled_from([0, -1, 10**6, 10**9, 10**18, 2**31, 1.5, True, "32", {"_target_": "os.system"}])


@pytest.mark.fault("fuzz", "bundle, settings")
@fuzzed(N_BUNDLES, path=st.sampled_from(PATHS), value=JSON | BIG)
def test_settings_of_bundles(folder: Path, path: tuple[str, ...], value: Any) -> None:
    made = fresh_bundle(folder)

    def change(config: dict[str, Any]) -> None:
        inner = config if len(path) == 1 else config[path[0]]
        inner[path[-1]] = value

    rewritten(made, change)
    with bounded(BundleError):
        answers = Predictor.load(made).classify(["see you", "win now"])
        if not all(0 <= answer.probability <= 1 for answer in answers):
            raise Wrong(answers)


@pytest.mark.fault("fuzz", "bundle, bytes")
@fuzzed(
    N_BUNDLES,
    name=st.sampled_from(["config.json", "model.safetensors", "tokenizer.json", "tokenizer.tiktoken"]),
    content=st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()),
    place=st.floats(0, 1),
    whole=st.booleans(),
)
def test_files_of_bundles(folder: Path, name: str, content: bytes, place: float, whole: bool) -> None:
    """Replaced, or overwritten from some place on; the digests hold."""
    made = fresh_bundle(folder)
    before = (made / name).read_bytes()
    at = min(int(place * len(before)), 4000 if name == "model.safetensors" else len(before))  # mostly the header
    (made / name).write_bytes(content if whole else before[:at] + content + before[at + len(content) :])
    if name != "config.json":
        rewritten(made, lambda config: None)
    with bounded(BundleError, ValueError):
        Predictor.load(made).classify(["see you"])


@pytest.mark.fault("fuzz", "tokenizer")
@fuzzed(
    N_BUNDLES, key=st.sampled_from(["format", "name", "pattern", "special", "pad_id", "ranks_sha256"]), value=JSON | BIG
)
def test_settings_of_tokenizers(folder: Path, key: str, value: Any) -> None:
    byte_tokenizer().save(folder)
    content = json.loads((folder / "tokenizer.json").read_text()) | {"format": 1, key: value}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with bounded(ValueError):
        ids = Tokenizer.load(folder).encode("hi there")
        if not ids:
            raise Wrong(ids)


GUIDED = [name for name, value in list(globals().items()) if name.startswith("test_") and hasattr(value, "from_bytes")]


@pytest.mark.fault("fuzz", "guided by coverage")
@pytest.mark.skipif(not FULL or find_spec("atheris") is None, reason="full form, where atheris is installed")
@pytest.mark.parametrize("name", GUIDED)
def test_guided_by_coverage(tmp_path: Path, record_property: Record, name: str) -> None:
    runs = 2_000 if "bundle" in name or "tokenizer" in name else 10_000
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    options = [f"-runs={runs}", "-seed=1", "-max_len=512", f"-artifact_prefix={tmp_path}/"]
    command = [sys.executable, "-m", "tests.faults.guided", name, *options]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    if done.returncode:
        raise Wrong(done.stderr[-3000:])
    record_property("cases", runs)
