"""results.json, README.md and the plot, from what has been measured."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence, Set
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.rows import GROWTH, JOBS, Bench, Measured, Row

PACKAGES = ("torch", "transformers", "accelerate", "llms-from-scratch", "lightning")
NOISE = 0.5  # load average above which something else was running


def result(bench: Bench, row: Row, measured: Measured, stale: Set[str]) -> dict[str, Any]:
    """A row of results.json."""
    ours, peer = row.compare(bench, measured)
    ratio = ours / peer if row.limit else peer / ours
    note = row.note(bench, measured)
    unit = {"s": {"ours_s": round(ours, 2), "peer_s": round(peer, 2)}, "GB": {"ours_s": None, "peer_s": None}}[row.unit]
    return {
        "name": row.name,
        "peer": row.against,
        **unit,
        "ratio": round(ratio, 3),
        "target": row.target,
        "met": note.ok and (ratio <= row.target if row.limit else ratio >= row.target),
        "aim": row.aim,
        "better": "lower" if row.limit else "higher",
        **({"ours_gb": round(ours, 3), "peer_gb": round(peer, 3)} if row.unit == "GB" else {}),
        "note": "; ".join(filter(None, (note.text, _spread(bench, row, measured), _stale(row, stale)))),
    }


def _spread(bench: Bench, row: Row, measured: Measured) -> str:
    """Repeats and range of each side, and whether the machine was busy with something else."""
    sides = dict.fromkeys((row.ours, row.peer))
    texts = []
    for job in sides:
        seconds = [JOBS[job].whole(bench, measurement) for measurement in measured[job]]
        span = f"{min(seconds):.1f}–{max(seconds):.1f} s" if len(seconds) > 1 else f"{seconds[0]:.1f} s"
        texts.append(f"{job} × {len(seconds)}: {span}")
    busy = max(measurement.load for job in sides for measurement in measured[job])
    return ", ".join(texts) + (f"; load average up to {busy:.1f} before a start" if busy > NOISE else "")


def _stale(row: Row, stale: Set[str]) -> str:
    old = sorted(stale & set(row.jobs))
    return f"measured before the last change of the code: {', '.join(old)}" if old else ""


def write(folder: Path, bench: Bench, rows: Sequence[Row], measured: Measured, stale: Set[str]) -> list[dict[str, Any]]:
    """Writes what can be said of the rows that are wholly measured."""
    done = [row for row in rows if all(measured.get(job) for job in row.jobs)]
    results = [result(bench, row, measured, stale) for row in done]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if results:
        (folder / "README.md").write_text(markdown(bench, done, results, measured), encoding="utf-8")
        plot(folder / "results.png", results)
    return results


def markdown(bench: Bench, rows: Sequence[Row], results: Sequence[dict[str, Any]], measured: Measured) -> str:
    """README.md."""
    lines = [
        "# Benchmarks",
        "",
        "Ours and the peer's in turn, as processes of their own, on one machine, with equal weights and data; whole "
        "wall time from a process's start to its end, imports included, the median of the repeats. GPT-2 124M shape "
        "with random weights unless a row says otherwise. Written by `make bench`.",
        "",
        f"Machine: {machine()}.{_QUICK if bench.quick else ''}",
        "",
        "| row | against | ours | peer or limit | ratio | target | aim | met |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row, figures in zip(rows, results, strict=True):
        unit = "gb" if row.unit == "GB" else "s"
        shown = [f"{figures[f'{side}_{unit}']:,.4g} {row.unit}" for side in ("ours", "peer")]
        sign = "≤" if row.limit else "≥"
        met = "yes" if figures["met"] else "**no**"
        lines.append(
            f"| `{row.name}` | {row.against} | {shown[0]} | {shown[1]} | {figures['ratio']:.2f} × "
            f"| {sign} {row.target:g} | {row.aim:g} | {met} |"
        )
    lines += ["", "![ratios](results.png)", "", "## How each was measured", ""]
    lines += [f"- `{row.name}`: {row.how}. {figures['note']}." for row, figures in zip(rows, results, strict=True)]
    lines += growth(measured)
    lines += ["", "## Again", "", *_AGAIN]
    return "\n".join(lines) + "\n"


_QUICK = " **Quick run with a tiny model: no figure here means anything.**"
_GROWTH = "SmolLM2 cut to 2 of 30 blocks, so that 100,000 take minutes; beyond the collection, synthetic messages."
_AGAIN = (
    "```bash",
    "make bench                                         # everything; a stopped run goes on where it was",
    'make bench ARGS="--rows lesson-nonpad,predict-fp32 --again"  # some rows, measured anew',
    'make bench ARGS="--quick"                          # the whole path in minutes, with a tiny model',
    "```",
    "",
    "Measurements are kept in `measurements.jsonl` with a hash of the command and the code behind them; those of other "
    "code are not used. Peers: `pip install --no-deps llms-from-scratch==1.0.19`, `transformers` and `accelerate` "
    "(`make setup` installs them).",
    "",
    "## By themselves",
    "",
    "Each says in its head how it is run, and fails where something does not hold:",
    "",
    "- `python -m benchmarks.files`: 100,000 messages through `spamlit predict`: peak of memory, rows and order, what "
    "a kill leaves, the bytes of Ray's workers.",
    "- `python -m benchmarks.serve`: the server under 32 callers, with batches and without, and asked for too much.",
    "- `python -m benchmarks.start`: the commands from cold.",
    "- `python -m benchmarks.depth`: what fewer blocks and eight bits cost ([depth.md](depth.md)).",
)


def growth(measured: Measured) -> list[str]:
    """Time and memory by number of messages."""
    kinds = [kind for kind in ("train", "predict") if all(measured.get(f"growth-{kind}-{n}") for n in GROWTH)]
    if not kinds:
        return []
    lines = [
        "",
        "## How cost grows",
        "",
        _GROWTH,
        "",
    ]
    lines += ["| messages | " + " | ".join(f"{kind}, s | peak GB | of it anonymous" for kind in kinds) + " |"]
    lines += ["|---:|" + "---:|---:|---:|" * len(kinds)]
    for n in GROWTH:
        cells = []
        for kind in kinds:
            one = measured[f"growth-{kind}-{n}"][-1]
            cells.append(f"{one.seconds:.1f} | {one.peak_mb / 1000:.2f} | {one.anonymous_mb / 1000:.2f}")
        lines.append(f"| {n:,} | {' | '.join(cells)} |")
    return lines


def machine() -> str:
    """Processor, cores and versions."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next((int(line.split()[1]) / 1e6 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    processor = names[0] if names else platform.processor()
    return f"{processor}, {os.cpu_count()} cores, {memory:.0f} GB; Python {platform.python_version()}, {packages}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def plot(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Ratios with targets: those to be high on a log scale, and the limits."""
    from matplotlib.figure import Figure  # only at the end of a round

    kinds = [(kind, [r for r in results if r["better"] == kind]) for kind in ("higher", "lower")]
    kinds = [(kind, rows) for kind, rows in kinds if rows]
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(results)), layout="constrained")
    axes = figure.subplots(len(kinds), 1, squeeze=False, height_ratios=[len(rows) for _, rows in kinds])[:, 0]
    for axis, (kind, rows) in zip(axes, kinds, strict=True):
        names = [row["name"] for row in rows][::-1]
        values = [row["ratio"] for row in rows][::-1]
        colors = ["tab:blue" if row["met"] else "tab:red" for row in rows][::-1]
        bars = axis.barh(names, values, color=colors)
        axis.bar_label(bars, fmt="%.2f", padding=3)
        axis.plot([row["target"] for row in rows][::-1], names, "k|", markersize=14, label="target")
        axis.plot([row["aim"] for row in rows][::-1], names, "|", color="gray", markersize=14, label="aim")
        axis.margins(x=0.12)
        if kind == "higher":
            axis.set_xscale("log")
            axis.set_xlim(left=1 if min(values) >= 1 else min(values) / 2)
        axis.set_xlabel("times faster than the peer" if kind == "higher" else "times the limit, or the floor")
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    figure.savefig(path, dpi=120)
