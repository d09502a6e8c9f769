"""`spamlit results`: every system on every protocol's splits, and docs/results.md and its like."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spamlit.training.run_folder import read_yaml

if TYPE_CHECKING:
    from spamlit.analysis.results import Cell

OUTPUTS = Path("outputs/results")


@click.command()
@click.option("--systems", help="Comma-separated names; default: all.")
@click.option("--protocols", help="grouped, raw, balanced, published; default: all.")
@click.option("--seeds", help="Of the splits, as 0,1; default: all of a protocol.")
@click.option("--report", is_flag=True, help="Run nothing; write the pages from what has finished.")
@click.option("--list", "listing", is_flag=True, help="Say what has finished and what has not; run nothing.")
@click.option("--folder", type=click.Path(path_type=Path), default=OUTPUTS, show_default=True, help="Of the results.")
@click.option("--to", type=click.Path(path_type=Path), default=Path("docs"), show_default=True, help="Of the pages.")
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
    """Train and test what is missing, then write a page and its figures for each protocol: results.md, results-raw.md …

    Stopped, it goes on where it was. A system whose weights only the model hub has is left out where they cannot be
    had, unless --systems names it. The pages show everything that has finished, whatever is chosen here; that of a
    protocol of which nothing has finished stays as it is.

    spamlit results --systems tfidf-words-chars,default --protocols grouped --seeds 0,1
    """
    from spamlit.analysis.results import cells, check_extra, run
    from spamlit.analysis.results_page import write_results
    from spamlit.analysis.systems import PROTOCOLS, SYSTEMS
    from spamlit.assets import AssetError

    named = _names("--systems", systems, list(SYSTEMS))
    chosen = list(
        cells(
            folder,
            protocols=_names("--protocols", protocols, list(PROTOCOLS)),
            systems=named,
            seeds=[int(seed) for seed in _names("--seeds", seeds, [str(seed) for seed in _seeds()])],
            source=source,
        )
    )
    if listing:
        for cell in chosen:
            click.echo(f"{'done' if cell.done else '-':<5} {cell.folder}")
        return
    _check_recipes(cells(folder, source=source))
    missing = [] if report else [cell for cell in chosen if not cell.done]
    check_extra({cell.system.name: cell.system for cell in missing}.values())
    unreachable: set[str] = set()
    for n, cell in enumerate(missing, start=1):
        if cell.system.name in unreachable:
            continue
        click.echo(f"{n} of {len(missing)}: {cell.folder}", err=True)
        try:
            run(cell)
        except AssetError as error:
            if not cell.system.hub or named:
                raise
            click.echo(f"left out {cell.system.name}: {error}", err=True)
            unreachable.add(cell.system.name)
    for path in write_results(cells(folder, source=source), to):
        click.echo(path)


def _check_recipes(cells: Iterable[Cell]) -> None:
    """Refuses runs whose recipe conf/ has changed since: another recipe's figures would stand under its name.

    A setting that came later is passed over where the recipe leaves it at its default, and so is one that is gone.

    Raises:
        ValueError: with the folders, the keys and both values; or a file that is no configuration.
    """
    from spamlit.analysis.results import INDIFFERENT

    default = _composed([])
    changed = []
    for cell in cells:
        path = cell.folder / ".hydra" / "config.yaml"
        if cell.system.kind != "spamlit" or not path.is_file():
            continue
        if not isinstance(stored := read_yaml(path), dict):
            raise ValueError(f"{path} is damaged, or not a configuration.")
        was, now = default | _flat(stored), _composed(cell.overrides)
        if was["data.source"] == now["data.source"]:  # else the cell itself refuses it
            keys = sorted(key for key in now if was.get(key) != now[key] and not key.startswith(INDIFFERENT))
            if keys:
                changed.append(f"{cell.folder} ({', '.join(f'{key}={was.get(key)}, now {now[key]}' for key in keys)})")
    if changed:
        raise ValueError(f"made by another recipe; move away, to have it made anew: {'; '.join(changed)}")


def _composed(overrides: list[str]) -> dict[str, Any]:
    """What a run of spamlit would be configured as, by dotted key."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from spamlit.cli.train import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return _flat(OmegaConf.to_container(compose("train", overrides=overrides)))


def _flat(settings: Any, path: str = "") -> dict[str, Any]:
    """Nested settings by dotted key.

    >>> _flat({"model": {"head": {"lean": 2}}, "seed": 1})
    {'model.head.lean': 2, 'seed': 1}
    """
    if not isinstance(settings, dict):
        return {path.removeprefix("."): settings}
    return {key: value for name, inner in settings.items() for key, value in _flat(inner, f"{path}.{name}").items()}


def _names(option: str, given: str | None, choices: list[str]) -> list[str]:
    names = [name.strip() for name in given.split(",")] if given else []
    for name in names:
        if name not in choices:
            raise click.UsageError(f"{option} {name}: choose from {', '.join(choices)}")
    return names


def _seeds() -> list[int]:
    from spamlit.analysis.systems import PROTOCOLS

    return sorted({seed for protocol in PROTOCOLS.values() for seed in protocol.seeds})
