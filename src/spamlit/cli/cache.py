"""`spamlit cache`: what the frozen prefix keeps on disk."""

from __future__ import annotations

import time

import click


@click.group()
def command() -> None:
    """List or clear the activations of frozen blocks kept in the cache."""


@command.command("list")
def list_stores() -> None:
    """Show each store: size, last use, what it holds."""
    from spamlit.training.prefix_folders import stores

    found = stores()
    for folder, key, size, used in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(used))
        holds = " ".join(f"{name}={value}" for name, value in sorted(key.items()) if name != "version")
        click.echo(f"{size / 2**20:9.1f} MiB  {when}  {folder}  {holds}")
    click.echo(f"{sum(size for _, _, size, _ in found) / 2**20:9.1f} MiB in {len(found)} stores")


@command.command("clear")
def clear() -> None:
    """Remove every store that no process is filling; they are computed again when needed."""
    from spamlit.assets import cache_dir
    from spamlit.training.prefix_folders import evict

    removed = evict(cache_dir() / "prefix", limit_bytes=-1)
    click.echo(f"removed {len(removed)} stores")
