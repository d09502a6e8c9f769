"""What is measured: the processes (`JOBS`) and the rows that compare them (`ROWS`)."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.common import ROOT, Measurement, fingerprint

OURS = ("src/spamlit/**/*.py", "conf/**/*.yaml", "benchmarks/ours/*.py", "benchmarks/prepare.py")
LESSON_EPOCHS, LESSON_STEPS, LESSON_EVAL_FREQ = 5, 130, 50
CHALLENGE_STEPS = 500
CHECKED = 8  # messages whose logits are compared

Command = list[str]
Measured = Mapping[str, Sequence[Measurement]]


@dataclass(frozen=True)
class Bench:
    """Where things are and how large this run is."""

    work: Path
    quick: bool = False
    peer_epochs: int = 1
    challenge_steps: int | None = None
    fastest_run: str | None = None
    full_run: str | None = None
    fastest_options: str = "{}"

    @property
    def backbone(self) -> str:
        """The shape that both sides have."""
        return "tiny" if self.quick else "gpt2"

    @property
    def cache(self) -> Path:
        """Ours; only this run uses it."""
        return self.work / "cache"

    @property
    def weights(self) -> Path:
        """Random weights in the hub's layout."""
        return self.work / "hub" / self.backbone / "model.safetensors"

    @property
    def full_model(self) -> Path:
        """The full-depth model of `predict-fastest` for the pipeline."""
        return self.work / "export-full" / str(self.full_run).strip("/").replace("/", "-")

    @property
    def data(self) -> Path:
        """Splits and messages for the peers."""
        return self.work / "data"

    def run_folder(self, job: str) -> Path:
        """Where a training job leaves its run."""
        return self.work / "runs" / job

    def told(self, job: str) -> Path:
        """What a script of ours or the peer's tells about itself."""
        return self.work / "told" / f"{job}.json"

    def messages(self, n: int) -> Path:
        """`n` labelled messages as a table; a JSON list of the texts lies beside it."""
        return self.work / "data" / f"messages-{n}.csv"

    def python(self, module: str, *arguments: object) -> Command:
        """A module of ours as a command."""
        return [sys.executable, "-m", module, *map(str, arguments)]

    def train(self, job: str, *overrides: str) -> Command:
        """`python train.py`, as users run it."""
        return [sys.executable, "train.py", *overrides, f"hydra.run.dir={self.run_folder(job)}"]


@dataclass(frozen=True)
class Job:
    """One process to measure.

    Attributes:
        command: from the bench and the job's name.
        peer: whether it runs a peer, not ours.
        needs: inputs (`INPUTS`), or jobs whose run folder is read.
        cache: `cold` empties our prefix cache first; `warm` is measured again if anything had to be computed.
        told: `run` for a training job (its run.json), `script` for one that takes --out.
        whole: seconds of the whole work, where the process did a stated share of it.
    """

    name: str
    command: Callable[[Bench, str], Command]
    peer: bool = False
    needs: tuple[str, ...] = ("cache", "weights")
    cache: Literal["cold", "warm", "any"] = "any"
    told: Literal["run", "script", "nothing"] = "run"
    repeats: int = 3
    whole: Callable[[Bench, Measurement], float] = lambda _, measurement: measurement.seconds

    def mark(self, bench: Bench) -> str:
        """A hash of the command and of the code it runs; measurements with another one are not used."""
        command = self.command(bench, self.name)
        own = f"{command[2].replace('.', '/')}.py"  # python -m benchmarks.peers.…
        return fingerprint(command, (own,) if self.peer else OURS)


def lesson_seconds(bench: Bench, measurement: Measurement) -> float:
    """Five epochs of the lesson, from whole epochs, whole evaluations and the final one that were run."""
    parts: dict[str, list[float]] = measurement.told["parts"]
    if bench.quick or len(parts["epoch"]) == LESSON_EPOCHS:
        return measurement.seconds
    ends = measurement.told["startup"] + measurement.seconds - measurement.told["ended"]
    evaluations = math.ceil(LESSON_EPOCHS * LESSON_STEPS / LESSON_EVAL_FREQ)
    often = {"epoch": LESSON_EPOCHS, "evaluation": evaluations, "accuracy": LESSON_EPOCHS, "final": 1}
    return ends + sum(times * statistics.mean(parts[part]) for part, times in often.items())


def challenge_seconds(bench: Bench, measurement: Measurement) -> float:
    """The whole epoch, from the share of steps (and of the evaluation) that was run."""
    if bench.quick or bench.challenge_steps is None:
        return measurement.seconds
    work = measurement.told["ended"] - measurement.told["startup"]
    return measurement.seconds + work * (CHALLENGE_STEPS / bench.challenge_steps - 1)


def _lesson(experiment: str, *overrides: str) -> Callable[[Bench, str], Command]:
    def command(bench: Bench, job: str) -> Command:
        size = ("backbone=tiny", "trainer.max_epochs=1", "trainer.limit_train_batches=20") if bench.quick else ()
        return bench.train(job, f"experiment={experiment}", *size, *overrides)

    return command


def _peer_lesson(model: str, pooling: str, *extra: object) -> Callable[[Bench, str], Command]:
    def command(bench: Bench, job: str) -> Command:
        size = ("--heads", 4, "--epochs", 1, "--steps", 20) if bench.quick else ("--epochs", bench.peer_epochs)
        given = ("--weights", bench.weights, "--data", bench.data, "--out", bench.told(job))
        return bench.python("benchmarks.peers.lesson", *given, "--model", model, "--pooling", pooling, *size, *extra)

    return command


def _our_logits(pooling: str) -> Callable[[Bench, str], Command]:
    def command(bench: Bench, job: str) -> Command:
        given = ("--backbone", bench.backbone, "--pooling", pooling, "--logits", CHECKED, "--out", bench.told(job))
        return bench.python("benchmarks.ours.logits", *given)

    return command


def _our_challenge(bench: Bench, job: str) -> Command:
    size = ("backbone=tiny", "trainer.limit_train_batches=20", "trainer.val_check_interval=20") if bench.quick else ()
    return bench.train(job, "experiment=challenge", "trainer.max_epochs=1", *size)


def _peer_challenge(bench: Bench, job: str) -> Command:
    steps = 20 if bench.quick else bench.challenge_steps or -1
    given = ("--model", bench.work / "model", "--data", bench.data, "--out", bench.told(job))
    return bench.python("benchmarks.peers.challenge", *given, "--steps", steps)


def _head(bench: Bench) -> tuple[object, ...]:
    return ("--head", 200) if bench.quick else ()


def _predict(run: Callable[[Bench], object], n: int | None = None) -> Callable[[Bench, str], Command]:
    """Our Predictor over all messages of the collection, or over `n` messages."""

    def command(bench: Bench, job: str) -> Command:
        messages = bench.data / "messages.json" if n is None else bench.messages(n).with_suffix(".json")
        options = ("--options", bench.fastest_options) if job == "ours-fastest" else ()
        given = ("--run", run(bench), "--messages", messages, "--out", bench.told(job))
        return bench.python("benchmarks.ours.predict", *given, *options, *_head(bench))

    return command


def _pipeline(model: Callable[[Bench], Path]) -> Callable[[Bench, str], Command]:
    def command(bench: Bench, job: str) -> Command:
        given = ("--model", model(bench), "--messages", bench.data / "messages.json", "--out", bench.told(job))
        return bench.python("benchmarks.peers.pipeline", *given, *_head(bench))

    return command


def _floor(bench: Bench, job: str) -> Command:
    return bench.python("benchmarks.ours.floor", "--backbone", bench.backbone, "--out", bench.told(job), *_head(bench))


SWEEP_LR = "5e-5,1e-4,2e-4,3e-4,5e-4"
FIRST = ("optimizer.lr=5e-5", "model.trainable=head")


def _sweep(experiment: str) -> Callable[[Bench, str], Command]:
    def command(bench: Bench, job: str) -> Command:
        single = _lesson(experiment, f"optimizer.lr={SWEEP_LR}", "model.trainable=head,last_block")(bench, job)
        return [*single[:2], "-m", *single[2:-1], f"hydra.sweep.dir={bench.run_folder(job)}"]

    return command


GROWTH = (1_000, 10_000, 100_000)


def _grow(n: int) -> Callable[[Bench, str], Command]:
    def command(bench: Bench, job: str) -> Command:
        table = ("data=csv", f"data.source={bench.messages(n)}", "data.text_column=text", "data.label_column=label")
        return bench.train(
            job, *table, "data.positive=spam", "data.balance=none", "backbone=smollm2-135m", "backbone.n_layer=2",
            "data.batch_size=32", "trainer.max_epochs=1",
        )  # fmt: skip

    return command


def _default(bench: Bench, job: str) -> Command:
    return bench.train(job, *(("backbone=tiny",) if bench.quick else ()))


_LESSON_INPUTS = ("cache", "weights", "splits")


def _peer(name: str, command: Callable[[Bench, str], Command], **more: Any) -> Job:
    more = {"needs": _LESSON_INPUTS, "told": "script", "peer": True} | more
    return Job(name, command, **more)


JOBS = {
    job.name: job
    for job in (
        Job("ours-nonpad", _lesson("lesson-nonpad"), cache="cold"),
        Job("ours-nonpad-warm", _lesson("lesson-nonpad"), cache="warm"),
        Job("ours-padded", _lesson("lesson"), cache="cold"),
        _peer("lesson-nonpad", _peer_lesson("GPTModel", "last_nonpad"), whole=lesson_seconds),
        _peer("lesson-nonpad-fast", _peer_lesson("GPTModelFast", "last_nonpad"), whole=lesson_seconds),
        _peer("lesson-padded", _peer_lesson("GPTModel", "last"), whole=lesson_seconds),
        Job("logits-ours-nonpad", _our_logits("last_nonpad"), told="script", repeats=1),
        Job("logits-ours-padded", _our_logits("last"), told="script", repeats=1),
        _peer("logits-nonpad", _peer_lesson("GPTModel", "last_nonpad", "--logits", CHECKED), repeats=1),
        _peer("logits-nonpad-fast", _peer_lesson("GPTModelFast", "last_nonpad", "--logits", CHECKED), repeats=1),
        _peer("logits-padded", _peer_lesson("GPTModel", "last", "--logits", CHECKED), repeats=1),
        Job("ours-challenge", _our_challenge, repeats=2),
        _peer("trainer-challenge", _peer_challenge, needs=("splits", "model"), repeats=1, whole=challenge_seconds),
        Job("classifier", _lesson("lesson-nonpad", "trainer.max_epochs=1"), repeats=1),
        Job(
            "ours-predict",
            _predict(lambda bench: bench.run_folder("classifier")),
            needs=("cache", "weights", "splits", "classifier"),
            told="script",
        ),
        _peer(
            "pipeline-predict", _pipeline(lambda bench: bench.work / "export"), needs=("splits", "classifier", "export")
        ),
        Job("ours-fastest", _predict(lambda bench: bench.fastest_run), needs=("cache", "splits"), told="script"),
        _peer("pipeline-full", _pipeline(lambda bench: bench.full_model), needs=("splits", "export-full"), repeats=2),
        Job("floor", _floor, told="script"),
        *(
            job
            for kind, experiment in (("", "lesson"), ("-nonpad", "lesson-nonpad"))
            for job in (
                Job(f"first-job{kind}", _lesson(experiment, *FIRST), cache="cold", repeats=1),
                Job(f"sweep{kind}", _sweep(experiment), cache="cold", told="nothing", repeats=1),
            )
        ),
        Job("memory-train", _default, needs=("cache",), cache="cold", repeats=1),
        Job(
            "memory-predict",
            _predict(lambda bench: bench.run_folder("memory-train")),
            needs=("cache", "splits", "memory-train"),
            told="script",
            repeats=1,
        ),
        *(
            Job(f"growth-train-{n}", _grow(n), needs=("cache", f"messages-{n}"), cache="cold", repeats=1)
            for n in GROWTH
        ),
        *(
            Job(
                f"growth-predict-{n}",
                _predict(lambda bench: bench.run_folder(f"growth-train-{GROWTH[0]}"), n),
                needs=("cache", f"messages-{n}", f"growth-train-{GROWTH[0]}"),
                told="script",
                repeats=1,
            )
            for n in GROWTH
        ),
    )
}


def inputs(bench: Bench) -> dict[str, tuple[Path, Command]]:
    """Each input's path and the command that makes it."""
    prepare, export = "benchmarks.prepare", "benchmarks.peers.export"
    model = bench.work / "model"
    weights = ("--weights", bench.weights, "--backbone", bench.backbone)
    return {
        "cache": (bench.cache / "assets", bench.python(prepare, "cache", "--out", bench.cache)),
        "weights": (
            bench.weights,
            bench.python(
                prepare, "weights", "--backbone", bench.backbone, "--out", bench.weights.parent, "--cache", bench.cache
            ),
        ),
        "splits": (bench.data / "messages.json", bench.python(prepare, "splits", "--out", bench.data)),
        "model": (model / "tokenizer.json", bench.python(export, *weights, "--out", model)),
        "export": (
            bench.work / "export" / "tokenizer.json",
            bench.python(export, "--run", bench.run_folder("classifier"), "--out", bench.work / "export"),
        ),
        "export-full": (
            bench.full_model / "tokenizer.json",
            bench.python(export, "--run", bench.full_run, "--out", bench.full_model),
        ),
        **{
            f"messages-{n}": (
                bench.messages(n),
                bench.python(prepare, "messages", "-n", n // 10 if bench.quick else n, "--out", bench.messages(n)),
            )
            for n in GROWTH
        },
    }


class Note(NamedTuple):
    """What else is to be said of a row, and whether its answers are what they must be (else it is not met)."""

    text: str
    ok: bool = True


@dataclass(frozen=True)
class Row:
    """Ours against a peer (`target`: times faster), or against a limit (`target`: at most so many times it).

    Attributes:
        ours, peer: jobs.
        against: who or what the peer is, in words.
        how: what was measured, for the README.
        limit: the row is met at or under its target.
        figures: (ours, peer's) from the measurements, where they are not the medians of the whole seconds.
        checks: further jobs, run once, that `note` reads.
        note: what else is to be said of the measurements.
    """

    name: str
    ours: str
    peer: str
    against: str
    target: float
    aim: float
    how: str
    limit: bool = False
    unit: Literal["s", "GB"] = "s"
    figures: Callable[[Bench, Measured], tuple[float, float]] | None = None
    checks: tuple[str, ...] = field(default=())
    note: Callable[[Bench, Measured], Note] = lambda *_: Note("")

    @property
    def jobs(self) -> tuple[str, ...]:
        """All that the row needs, in the order in which a round runs them."""
        return tuple(dict.fromkeys((self.ours, self.peer, *self.checks)))

    def compare(self, bench: Bench, measured: Measured) -> tuple[float, float]:
        """(ours, the peer's or the limit), in the row's unit."""
        if self.figures is not None:
            return self.figures(bench, measured)
        ours, peer = (
            statistics.median(JOBS[job].whole(bench, measurement) for measurement in measured[job])
            for job in (self.ours, self.peer)
        )
        return ours, peer


def _same_logits(ours: str, peer: str) -> Callable[[Bench, Measured], Note]:
    def note(bench: Bench, measured: Measured) -> Note:
        pairs = zip(measured[ours][0].told["logits"], measured[peer][0].told["logits"], strict=True)
        apart = max(abs(a - b) for row in pairs for a, b in zip(*row, strict=True))
        ok = apart <= 1e-4
        same = "same logits" if ok else "LOGITS DIFFER"
        said = f"{same} before training (at most {apart:.1e} apart)"
        if bench.quick or bench.peer_epochs == LESSON_EPOCHS:
            return Note(said, ok)
        return Note(
            f"{said}; the peer's five epochs are counted from {bench.peer_epochs} whole one(s), its 13 evaluations "
            "from those made; its final evaluation is whole",
            ok,
        )

    return note


def _share_of_steps(bench: Bench, measured: Measured) -> Note:
    del measured
    if bench.challenge_steps is None:
        return Note("the peer's whole epoch was run")
    return Note(f"the peer's epoch is counted from {bench.challenge_steps} of its {CHALLENGE_STEPS} steps")


def _same_labels(bench: Bench, measured: Measured) -> Note:
    del bench
    ours, peer = (measured[job][0].told["probabilities"] for job in ("ours-predict", "pipeline-predict"))
    differ = sum((a >= 0.5) != (b >= 0.5) for a, b in zip(ours, peer, strict=True))
    apart = max(abs(a - b) for a, b in zip(ours, peer, strict=True))
    spam = sum(p >= 0.5 for p in peer)
    same = "same labels" if differ == 0 else f"{differ} LABELS DIFFER"
    return Note(f"{same} on {len(ours)} messages ({spam} spam), probabilities at most {apart:.1e} apart", differ == 0)


def _same_quality(bench: Bench, measured: Measured) -> Note:
    """F1 of both sides on the full run's validation messages."""
    import csv
    import json

    if bench.full_run is None:
        return Note("validation F1 unknown: --full-run was not given", ok=False)
    with (ROOT / bench.full_run / "validation.csv").open(newline="", encoding="utf-8") as file:
        truth = {row["text"]: row["label"] == "spam" for row in csv.DictReader(file)}
    texts = json.loads((bench.data / "messages.json").read_text())
    scores = []
    for job in ("ours-fastest", "pipeline-full"):
        said = dict(zip(texts, measured[job][0].told["probabilities"], strict=False))
        pairs = [(said[text] >= 0.5, spam) for text, spam in truth.items() if text in said]
        hits = sum(decided and spam for decided, spam in pairs)
        scores.append(2 * hits / max(1, sum(d for d, _ in pairs) + sum(s for _, s in pairs)))
    ok = scores[0] >= scores[1] - 0.002
    within = "within 0.002" if ok else "NOT within 0.002"
    return Note(f"validation F1 {scores[0]:.4f} against {scores[1]:.4f}, {within}; ours {bench.fastest_run}", ok)


def _floor_figures(bench: Bench, measured: Measured) -> tuple[float, float]:
    del bench
    told = sorted((m.told for m in measured["floor"]), key=lambda t: t["prefix"] / t["floor"])
    middle = told[len(told) // 2]
    return middle["prefix"], middle["floor"]


def _floor_note(bench: Bench, measured: Measured) -> Note:
    del bench
    told = measured["floor"][-1].told
    rates = [rate / 1e9 for m in measured["floor"] for rate in m.told["rates"]]
    work = f"{told['messages']} messages, {told['tokens']} tokens, {told['operations'] / 1e12:.2f}e12 operations"
    return Note(f"{work}; matrix products at {min(rates):.0f} to {max(rates):.0f} GFLOP/s")


def _memory(job: str, limit_gb: float) -> Callable[[Bench, Measured], tuple[float, float]]:
    return lambda _, measured: (max(m.peak_mb for m in measured[job]) / 1000, limit_gb)


def _linear(kind: str) -> Callable[[Bench, Measured], tuple[float, float]]:
    def figures(bench: Bench, measured: Measured) -> tuple[float, float]:
        del bench
        small, large = (measured[f"growth-{kind}-{n}"][0].seconds for n in GROWTH[1:])
        return large, small * GROWTH[2] / GROWTH[1]

    return figures


def _flat(kind: str) -> Callable[[Bench, Measured], tuple[float, float]]:
    def figures(bench: Bench, measured: Measured) -> tuple[float, float]:
        del bench
        small, large = (measured[f"growth-{kind}-{n}"][0].peak_mb for n in GROWTH[1:])
        return large / 1000, small / 1000

    return figures


def _growth_rows(kind: str) -> tuple[Row, Row]:
    jobs = tuple(f"growth-{kind}-{n}" for n in GROWTH)
    what = "training for one epoch, cold cache" if kind == "train" else "prediction"
    how = f"{what}, SmolLM2 cut to 2 of 30 blocks so that 100,000 messages take minutes"
    small, large = jobs[1:]
    return (
        Row(
            f"growth-{kind}-time",
            large,
            small,
            "10 × the time of 10,000 messages",
            1.1,
            1.0,
            how,
            limit=True,
            figures=_linear(kind),
            checks=jobs,
        ),
        Row(
            f"growth-{kind}-memory",
            large,
            small,
            "the peak memory of 10,000 messages",
            1.1,
            1.0,
            how,
            limit=True,
            unit="GB",
            figures=_flat(kind),
            checks=jobs,
        ),
    )


_LESSON = "`llms-from-scratch` GPTModel, the lesson's loop"
_FIVE = "5 epochs with the lesson's evaluations, whole wall time from process start"
ROWS = {
    row.name: row
    for row in (
        Row(
            "lesson-nonpad",
            "ours-nonpad",
            "lesson-nonpad",
            _LESSON,
            14,
            20,
            f"`experiment=lesson-nonpad`, cold prefix cache; {_FIVE}",
            checks=("logits-ours-nonpad", "logits-nonpad"),
            note=_same_logits("logits-ours-nonpad", "logits-nonpad"),
        ),
        Row(
            "lesson-nonpad-warm",
            "ours-nonpad-warm",
            "lesson-nonpad",
            _LESSON,
            35,
            60,
            f"the same with a warm prefix cache; {_FIVE}",
            checks=("logits-ours-nonpad", "logits-nonpad"),
            note=_same_logits("logits-ours-nonpad", "logits-nonpad"),
        ),
        Row(
            "lesson-fast-peer",
            "ours-nonpad",
            "lesson-nonpad-fast",
            "`llms-from-scratch` GPTModelFast",
            10,
            15,
            f"`experiment=lesson-nonpad`, cold prefix cache; {_FIVE}",
            checks=("logits-ours-nonpad", "logits-nonpad-fast"),
            note=_same_logits("logits-ours-nonpad", "logits-nonpad-fast"),
        ),
        Row(
            "lesson-padded",
            "ours-padded",
            "lesson-padded",
            _LESSON,
            4,
            6,
            f"`experiment=lesson`, padded to 120, cold prefix cache; {_FIVE}",
            checks=("logits-ours-padded", "logits-padded"),
            note=_same_logits("logits-ours-padded", "logits-padded"),
        ),
        Row(
            "challenge-all",
            "ours-challenge",
            "trainer-challenge",
            "`transformers` Trainer, GPT2ForSequenceClassification",
            2.2,
            3.2,
            "`experiment=challenge trainer.max_epochs=1`: all weights, 64 tokens, batch 8, 4,000 messages, evaluation "
            "and checkpoint at step 500",
            note=_share_of_steps,
        ),
        Row(
            "predict-fp32",
            "ours-predict",
            "pipeline-predict",
            "`transformers` text-classification pipeline, batch 32",
            2.5,
            4,
            "all 5,574 messages, float32, from process start",
            note=_same_labels,
        ),
        Row(
            "predict-fastest",
            "ours-fastest",
            "pipeline-full",
            "the same pipeline, the same weights, full depth",
            6,
            12,
            "all 5,574 messages, SmolLM2, the fastest setting whose validation F1 is within 0.002",
            note=_same_quality,
        ),
        Row(
            "prefix-floor",
            "floor",
            "floor",
            "its matrix products at the rate measured in the same process",
            1.35,
            1.15,
            "the prefix pass over the lesson's messages (11 of 12 blocks), activations written",
            limit=True,
            figures=_floor_figures,
            note=_floor_note,
        ),
        *(
            Row(
                f"sweep-10{kind}",
                f"sweep{kind}",
                f"first-job{kind}",
                "the first job alone",
                2.5,
                1.5,
                f"10 jobs of `experiment={experiment}`: `optimizer.lr={SWEEP_LR} model.trainable=head,last_block`; "
                f"both from a cold cache; {why}",
                limit=True,
            )
            for kind, experiment, why in (
                ("", "lesson", "the lesson as published, so that the shared part is its frozen blocks over 120 tokens"),
                ("-nonpad", "lesson-nonpad", "without padding there is a quarter as much to share"),
            )
        ),
        Row(
            "memory-train",
            "memory-train",
            "memory-train",
            "1.6 GB",
            1.0,
            1.0,
            "peak resident size of `python train.py` (SmolLM2, float32, cold cache)",
            limit=True,
            unit="GB",
            figures=_memory("memory-train", 1.6),
        ),
        Row(
            "memory-predict",
            "memory-predict",
            "memory-predict",
            "1.1 GB",
            1.0,
            1.0,
            "peak resident size of predicting all 5,574 messages (SmolLM2, float32)",
            limit=True,
            unit="GB",
            figures=_memory("memory-predict", 1.1),
        ),
        *_growth_rows("train"),
        *_growth_rows("predict"),
    )
}
