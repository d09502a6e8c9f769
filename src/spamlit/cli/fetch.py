"""`spamlit fetch`: have the data, the tokenizers and the weights on this machine before they are needed."""

from pathlib import Path

import click

from spamlit.assets import ASSETS, DEFAULT_ASSETS, AssetError, FileSource, cached, fetch, path_of
from spamlit.assets.progress import human

_WIDTH = max(map(len, ASSETS))


@click.command(
    epilog="Files go to SPAMLIT_CACHE (default ~/.cache/spamlit). Exit status 1 if any could not be fetched."
)
@click.argument("names", nargs=-1, type=click.Choice(list(ASSETS)), metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Every asset, the larger GPT-2 weights (11 GB) too.")
@click.option(
    "--list", "listing", is_flag=True, help="Say what there is and what of it is in the cache; fetch nothing."
)
@click.option("--offline", is_flag=True, help="Only verify what this machine has; touch no network.")
@click.option(
    "--from",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the one NAME from this file (or archive) instead of the network; its SHA-256 must be right.",
)
@click.option("--quiet", is_flag=True, help="No progress, only the result.")
def command(
    names: tuple[str, ...], *, everything: bool, listing: bool, offline: bool, file: Path | None, quiet: bool
) -> None:
    """Download and verify assets, and print the name, size and path of each.

    Without NAME: what the default recipe and both tokenizers need.
    """
    if everything and names:
        raise click.UsageError("give names or --all, not both")
    if file and len(names) != 1:
        raise click.UsageError("--from needs exactly one NAME, the asset that the file is")
    wanted = tuple(ASSETS) if everything else names or (tuple(ASSETS) if listing else DEFAULT_ASSETS)
    if listing:
        for name in wanted:
            click.echo(_row(name, cached(name) or "not in the cache"))
        return
    failed = []
    for name in dict.fromkeys(wanted):
        try:
            path = fetch(name, progress=not quiet, offline=offline, sources=(FileSource(file),) if file else None)
        except AssetError as error:
            failed.append(name)
            click.echo(f"error: {error}", err=True)
        else:
            click.echo(_row(name, path))
    if failed:
        raise click.exceptions.Exit(1)


def _row(name: str, where: Path | str) -> str:
    path = path_of(name)
    size = path.stat().st_size if path.is_file() else ASSETS[name].size
    return f"{name:<{_WIDTH}}  {human(size):>8}  {where}"
