"""`spamlit results`: every system on every protocol's splits, and docs/results.md."""

from __future__ import annotations

from pathlib import Path

import click

OUTPUTS = Path("outputs/results")


@click.command()
@click.option("--systems", help="Comma-separated names; default: all.")
@click.option("--protocols", help="grouped, raw, balanced, published; default: all.")
@click.option("--seeds", help="Of the splits, as 0,1; default: all of a protocol.")
@click.option("--report", is_flag=True, help="Run nothing; write the page from what has finished.")
@click.option("--list", "listing", is_flag=True, help="Say what has finished and what has not; run nothing.")
@click.option("--folder", type=click.Path(path_type=Path), default=OUTPUTS, show_default=True, help="Of the results.")
@click.option("--to", type=click.Path(path_type=Path), default=Path("docs"), show_default=True, help="Of the page.")
@click.option("--source", default="sms", show_default=True, help="sms, or the path of a file like the collection.")
def command(
    systems: str | None,
    protocols: str | None,
    seeds: str | None,
    *,
    report: bool,
    listing: bool,
    folder: Path,
    to: Path,
    source: str,
) -> None:
    """Train and test what is missing, then write results.md and results.csv.

    Stopped, it goes on where it was. The page shows everything that has finished, whatever is chosen here.

    spamlit results --systems tfidf-words-chars,default --protocols grouped --seeds 0,1
    """
    from spamlit.analysis.results import cells, check_extra, run
    from spamlit.analysis.results_page import write_results
    from spamlit.analysis.systems import PROTOCOLS, SYSTEMS

    chosen = list(
        cells(
            folder,
            protocols=_names("--protocols", protocols, list(PROTOCOLS)),
            systems=_names("--systems", systems, list(SYSTEMS)),
            seeds=[int(seed) for seed in _names("--seeds", seeds, [str(seed) for seed in _seeds()])],
            source=source,
        )
    )
    if listing:
        for cell in chosen:
            click.echo(f"{'done' if cell.done else '-':<5} {cell.folder}")
        return
    missing = [] if report else [cell for cell in chosen if not cell.done]
    check_extra({cell.system.name: cell.system for cell in missing}.values())
    for n, cell in enumerate(missing, start=1):
        click.echo(f"{n} of {len(missing)}: {cell.folder}", err=True)
        run(cell)
    for path in write_results(cells(folder, source=source), to):
        click.echo(path)


def _names(option: str, given: str | None, choices: list[str]) -> list[str]:
    names = [name.strip() for name in given.split(",")] if given else []
    for name in names:
        if name not in choices:
            raise click.UsageError(f"{option} {name}: choose from {', '.join(choices)}")
    return names


def _seeds() -> list[int]:
    from spamlit.analysis.systems import PROTOCOLS

    return sorted({seed for protocol in PROTOCOLS.values() for seed in protocol.seeds})
