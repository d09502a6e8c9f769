"""docs/results.md and its like for the other protocols, each with its figures as CSV, from the finished results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2
import pandas as pd

from spamlit.analysis import generalisation
from spamlit.analysis import results_tables as tables
from spamlit.analysis.markdown import number, shortened, table
from spamlit.analysis.neighbours import NEAR_REPEAT
from spamlit.analysis.results import Cell
from spamlit.analysis.results_seen import by_seen, near_in_training, seen_in_training, seen_shares
from spamlit.analysis.scores import BY_THRESHOLD, METRICS
from spamlit.analysis.statistics import Interval, mean_interval
from spamlit.analysis.systems import MAIN, PROTOCOLS, SYSTEMS
from spamlit.assets import atomic_write
from spamlit.data.obfuscate import TRANSFORMS

HEADS = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "mcc": "MCC",
    "accuracy": "accuracy",
    "fp_per_1000": "false positives per 1,000 ham",
    "auprc": "AUPRC",
    "recall_at_fpr": "recall at ≤ 0.5 % false positives",
    "ece": "calibration error",
    "brier": "Brier",
}
SEEN = ("unseen metric", "seen recall", "unseen recall")
"""Columns of `by_seen`."""
COMPARISON = (
    "system",
    "threshold",
    "against",
    "seeds",
    "F1 Δ (seeds)",
    "F1 Δ (messages)",
    "AUPRC Δ (seeds)",
    "AUPRC Δ (messages)",
    "only it right : only the other",
    "McNemar p",
)
"""Heads of `_comparison`."""
LEAKS = {"raw": (MAIN, "f1"), "published": ("balanced", "accuracy")}
"""Protocols that ignore repeats: the one that differs in nothing else, and by what they are compared."""
WHEN = ("before", "after")
"""The temperature is applied."""
Found = Mapping[str, Mapping[str, tables.Outcome]]
"""Outcomes of one protocol by policy and system."""


def write_results(cells: Iterable[Cell], folder: Path) -> list[Path]:
    """A page and its figures as CSV for each protocol of which something has finished; their paths.

    Those of `MAIN` are results.md, which alone has what `_main` adds, and results.csv;
    another's are results-raw.md and so on. Pages of protocols of which nothing has finished stay as they are.

    Raises:
        ValueError: nothing has; or a file in the place of figures that a page quotes is not one of ours.
    """
    cells = list(cells)
    found = {policy: tables.outcomes(cells, policy) for policy in tables.POLICIES}
    if not found[tables.OWN]:
        raise ValueError(f"no finished result below {cells[0].root if cells else 'that'}: leave out --report.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in found[tables.OWN]:
        if name in LEAKS and LEAKS[name][0] not in found[tables.OWN]:
            _written(*LEAKS[name], tables.OWN, folder)  # a file that is not ours, before anything is written
    pages = [name for name in PROTOCOLS if name in found[tables.OWN] or (folder / f"{_stem(name)}.md").is_file()]
    paths = []
    for name in PROTOCOLS:
        if name in found[tables.OWN]:
            others = [other for other in pages if other != name]
            paths += _write_page(name, {policy: of[name] for policy, of in found.items()}, others, folder)
    return paths


def _write_page(name: str, found: Found, others: Iterable[str], folder: Path) -> list[Path]:
    figures = pd.concat([tables.figures(systems) for systems in found.values()])
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("spamlit.analysis", "."),
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("results.md.j2").render(
        file=_stem(name),
        others=[f"[{PROTOCOLS[other].title}]({_stem(other)}.md)" for other in others],
        protocol=_protocol(name, found, figures),
        systems=_systems(set(found[tables.OWN])),
        leak=_leak(name, found, folder) if name in LEAKS else None,
        main=_main(found) if name == MAIN else None,
    )
    paths = [folder / f"{_stem(name)}.md", folder / f"{_stem(name)}.csv"]
    with atomic_write(paths[0]) as temporary:
        temporary.write_text(page.rstrip() + "\n", encoding="utf-8")
    with atomic_write(paths[1]) as temporary:
        figures.to_csv(temporary, index=False, float_format="%.6f")
    return paths


def _stem(name: str) -> str:
    """Of a protocol's files."""
    return "results" if name == MAIN else f"results-{name}"


def _main(found: Found) -> dict[str, Any]:
    """What the page of `MAIN` says besides."""
    own = found[tables.OWN]
    return {
        "near": _near(found),
        "elsewhere": _elsewhere(own),
        "targets": _targets(own),
        "calibration": _calibration(own),
        "speed": _speed(own),
        "errors": _errors(found[tables.VALIDATION]),
    }


def _protocol(name: str, found: Found, figures: pd.DataFrame) -> dict[str, Any]:
    """What every page says."""
    systems = found[tables.VALIDATION]
    own, chosen = (figures[figures["threshold"] == policy] for policy in (tables.OWN, tables.VALIDATION))
    return {
        "title": PROTOCOLS[name].title,
        "counts": tables.counts(next(iter(systems.values()))),
        "seeds": max(len(outcome.cells) for outcome in systems.values()),
        "chosen": _figures(chosen, METRICS),
        "own": _figures(own, BY_THRESHOLD),
        "comparisons": _comparisons(found),
        "pairs": _pairs(found),
        "reserve": _reserve(found),
    }


def _figures(rows: pd.DataFrame, metrics: Sequence[str]) -> str:
    """A line a system; of F1 the bootstrap's bounds as well."""
    lines = []
    for system, of_system in rows.groupby("system", sort=False):
        by_metric = of_system.set_index("metric").to_dict("index")
        cells = [str(system), str(of_system["seeds"].iloc[0])]
        for metric in metrics:
            digits = 1 if metric == "fp_per_1000" else 4
            mean, half, low, high = (by_metric[metric][key] for key in ("mean", "half", "low", "high"))
            over_seeds = Interval(mean, half if of_system["seeds"].iloc[0] > 2 else math.nan)  # of two it says nothing
            cells.append(over_seeds.shown(digits) + (f" [{low:.4f}, {high:.4f}]" if metric == "f1" else ""))
        lines.append(cells)
    return table(["system", "seeds", *(HEADS[metric] for metric in metrics)], lines)


def _comparisons(found: Found) -> str:
    """With each policy to the strongest lexical baseline of the same, and, if another makes that stronger, of any."""
    strongest = [baseline for systems in found.values() if (baseline := tables.strongest(systems))]
    if not strongest:
        return ""
    lines = []
    for systems, baseline in zip(found.values(), strongest, strict=True):
        lines += [_comparison(row) for row in tables.comparisons(systems, baseline).to_dict("records")]
    best = max(reversed(strongest), key=lambda baseline: fmean(baseline.values("f1")))  # its own, where they are alike
    if best.policy != tables.OWN:
        lines += [_comparison(row) for row in tables.comparisons(found[tables.OWN], best).to_dict("records")]
    return table(COMPARISON, lines)


def _pairs(found: Found) -> str:
    rows = tables.pairs(found[tables.OWN]).to_dict("records")
    return table(COMPARISON, map(_comparison, rows)) if rows else ""


def _comparison(row: Mapping[Any, Any]) -> list[str]:
    """Cells as in `COMPARISON`."""
    other = row["other"] if row["threshold"] == row["other threshold"] else f"{row['other']}, {row['other threshold']}"
    cells = [row["system"], row["threshold"], other, str(row["seeds"])]
    for metric in tables.COMPARED:
        cells.append(Interval(row[f"{metric} mean"], row[f"{metric} half"]).shown(4, "+"))
        cells.append(f"[{row[f'{metric} low']:+.4f}, {row[f'{metric} high']:+.4f}]")
    return [*cells, f"{row['ours_only']} : {row['theirs_only']}", f"{row['p']:.2g}"]


def _reserve(found: Found) -> str:
    lines = []
    for system in found[tables.OWN]:
        values = [tables.reserve_fpr(found[policy][system]) for policy in tables.POLICIES]
        if all(values):
            means = [mean_interval([100 * value for value in each]) for each in values]
            lines.append([system, *(mean.shown(2) for mean in means)])
    return table(["system", "threshold from validation, %", "own threshold, %"], lines) if lines else ""


def _systems(names: set[str]) -> str:
    return table(["system", "what it is"], [[name, each.about] for name, each in SYSTEMS.items() if name in names])


def _leak(name: str, found: Found, folder: Path) -> dict[str, Any]:
    """What is told of repeats on the page of a protocol of `LEAKS`."""
    grouped, metric = LEAKS[name]
    seen = seen_in_training(found[tables.OWN])
    lines: list[list[str]] = []
    elsewhere: dict[str, float] = {}
    for policy in tables.POLICIES:
        written = _written(grouped, metric, policy, folder)
        elsewhere |= written
        for row in by_seen(found[policy], seen, metric).to_dict("records"):
            values = [row["metric"], written.get(row["system"]), *(row.get(key) for key in SEEN)]
            lines.append([row["system"], policy, *map(number, values)])
    shown = HEADS[metric]
    head = [
        "system",
        "threshold",
        f"{shown} raw",
        f"{shown} grouped",
        f"{shown} unseen",
        "recall seen",
        "recall unseen",
    ]
    return {
        "table": table(head, lines),
        "grouped": f"{shown} grouped is that of [{_stem(grouped)}.csv]({_stem(grouped)}.csv)" if elsewhere else "",
        **seen_shares(found[tables.OWN], seen),
    }


def _near(found: Found) -> dict[str, Any]:
    """What is told of near-repeats, which grouping leaves."""
    near = near_in_training(found[tables.OWN])
    lines = [
        [row["system"], policy, *(number(row.get(key)) for key in SEEN[1:])]
        for policy in tables.POLICIES
        for row in by_seen(found[policy], near).to_dict("records")
    ]
    head = ["system", "threshold", "recall of near-repeats", "recall of other spam"]
    return {"table": table(head, lines), "least": NEAR_REPEAT, **seen_shares(found[tables.OWN], near)}


def _written(name: str, metric: str, policy: str, folder: Path) -> dict[str, float]:
    """Of each system under another protocol, by the figures in the folder: this time's, or an earlier one's.

    Raises:
        ValueError: that file is not one of ours.
    """
    path = folder / f"{_stem(name)}.csv"
    if not path.is_file():
        return {}
    try:
        rows = pd.read_csv(path)
        wanted = (rows["protocol"] == name) & (rows["metric"] == metric) & (rows["threshold"] == policy)
        return dict(zip(rows.loc[wanted, "system"], rows.loc[wanted, "mean"].astype(float), strict=True))
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or not written by spamlit results: move it away.") from error


def _elsewhere(systems: Mapping[str, tables.Outcome]) -> dict[str, Any] | None:
    """Of the systems that were asked about other messages; what has no column of systems, of spamlit's first."""
    asked = {name: outcome for name, outcome in systems.items() if outcome.system.elsewhere}
    if not asked:
        return None
    found = {name: _said(outcome) for name, outcome in asked.items()}
    seeds = set.intersection(*(set(outcome.cells) for outcome in asked.values()))
    shared = {name: outcome.of(seeds) for name, outcome in asked.items()} if seeds else {}
    first = next(iter(_ours(asked)), next(iter(found)))
    columns = ["balanced accuracy", "recall", "false positives", "of look-alike ham", "of chat"]
    over_messages = ["balanced accuracy, over messages", "of look-alike ham, over messages"]
    costs = ["recall lost, points", "ham taken for spam, %"]
    return {
        "system": first,
        "seeds": sorted(seeds),
        "ham": generalisation.MOST_HAM,
        "parts": table(
            ["system", "F1", "AUPRC", *generalisation.PARTS],
            [
                [
                    name,
                    *(f"{fmean(each.values(metric)):.3f}" for metric in ("f1", "auprc")),
                    *generalisation.part_row(_said(each)),
                ]
                for name, each in shared.items()
            ],
        ),
        "challenge": table(["system", "half", "seeds", *columns, *over_messages], generalisation.challenge_rows(found)),
        "errors": {
            by: table([by, "messages", "wrong"], generalisation.error_rows(found[first], "final", by))
            for by in ("category", "variety")
        },
        "transforms": len(TRANSFORMS),
        "costs": table(["system", "seeds", *costs, "recall lost, not undone"], generalisation.cost_rows(found)),
        "disguised": table(["disguise", "changed, %", *costs], generalisation.disguise_rows(found[first])),
        "changed": table(
            ["change", "changed, %", "became spam, %", "of dev changed, %", "of dev became spam, %"],
            generalisation.change_rows(found[first]),
        ),
        "sentences": table(
            ["system", *(f"{text} ({label})" for text, label in generalisation.SENTENCES.items())],
            generalisation.sentence_rows(found),
        ),
    }


def _said(outcome: tables.Outcome) -> list[dict[str, Any]]:
    return generalisation.read([cell.folder for cell in outcome.cells.values()])


def _targets(systems: Mapping[str, tables.Outcome]) -> str:
    """Of spamlit's systems."""
    lines = [
        [
            row["system"],
            row["policy"],
            f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]",
            row["met"],
            f"{row['recall']:.3f}",
            f"{row['attained']} of {row['seeds']}",
        ]
        for row in tables.targets(_ours(systems))
    ]
    head = ["system", "threshold", "on test", "target within", "recall there", "attained on validation"]
    return table(head, lines) if lines else ""


def _calibration(systems: Mapping[str, tables.Outcome]) -> str:
    """Of spamlit's systems."""
    lines = []
    for name, outcome in _ours(systems).items():
        found = tables.calibrations(outcome)
        if found:
            means = [mean_interval([one[when][key] for one in found]) for key in ("ece", "brier") for when in WHEN]
            lines.append([name, str(len(found)), *(mean.shown(4) for mean in means)])
    head = [f"{name} {when}" for name in ("calibration error", "Brier") for when in WHEN]
    return table(["system", "seeds", *head], lines) if lines else ""


def _ours(systems: Mapping[str, tables.Outcome]) -> dict[str, tables.Outcome]:
    return {name: outcome for name, outcome in systems.items() if outcome.system.kind == "spamlit"}


def _speed(systems: Mapping[str, tables.Outcome]) -> str:
    lines = [
        [
            row["system"],
            f"{row['median']:.2f}",
            f"{row['most']:.2f}",
            "" if pd.isna(row["computed"]) else f"{row['computed']:,.0f}",
            f"{row['messages']:,.0f}",
        ]
        for row in tables.speeds(systems).to_dict("records")
    ]
    return table(["system", "training, s (median)", "training, s (most)", "computed", "messages a second"], lines)


def _errors(systems: Mapping[str, tables.Outcome]) -> dict[str, str]:
    wrong = []
    for system, outcome in systems.items():
        missed = [test[test["label"] == "spam"] for test in outcome.tests.values()]
        alarmed = [test[test["label"] == "ham"] for test in outcome.tests.values()]
        few = fmean(float((test["probability"] < test["threshold"]).sum()) for test in missed)
        many = fmean(float((test["probability"] >= test["threshold"]).sum()) for test in alarmed)
        wrong.append([system, f"{few:.1f}", f"{many:.1f}"])
    hard = [
        [
            str(row["id"]),
            row["label"],
            f"{row['wrong']} of {row['asked']}",
            f"{row['probability']:.2f}",
            shortened(row["text"]),
        ]
        for row in tables.errors(systems).to_dict("records")
    ]
    return {
        "counts": table(["system", "missed spam", "ham taken for spam"], wrong),
        "hard": table(["line", "label", "wrong", "mean probability", "message"], hard) if hard else "",
    }
