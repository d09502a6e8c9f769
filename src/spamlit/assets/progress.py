"""What a person sees while a file comes: a bar on a terminal, one line anywhere else, nothing if asked to be quiet."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int], None]
"""Called with the number of bytes that have arrived so far."""


def silent(done: int) -> None:
    """A Report that tells nobody."""


def human(size: int | None) -> str:
    """A number of bytes for people, in decimal units; None is unknown.

    >>> human(477_907), human(98_362_432), human(12)
    ('477.9 kB', '98.4 MB', '12 B')
    """
    if size is None:
        return "size unknown"
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


@contextmanager
def progress_bar(name: str, total: int | None, origin: str, *, shown: bool) -> Iterator[Report]:
    """Show that `name` comes from `origin` (on standard error) and yield what to call as bytes arrive.

    Args:
        name: Of the asset.
        origin: Of the bytes, for people.
        total: Bytes that will arrive, the bar's full length; None where nobody knows.
        shown: Whether the user wants to see anything at all.
    """
    if not shown:
        yield silent
    elif not sys.stderr.isatty():
        print(f"Fetching {name} ({human(total)}): {origin}", file=sys.stderr, flush=True)  # noqa: T201
        yield silent
    else:
        from rich import progress  # slow to import, and a warm cache needs none of it
        from rich.console import Console

        columns = (
            progress.TextColumn("Fetching {task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"{name} ({origin})", total=total)
            yield lambda done: bar.update(task, completed=done if total is None else min(done, total))
