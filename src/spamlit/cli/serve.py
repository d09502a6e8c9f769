"""`spamlit serve`: a classifier behind HTTP, with a page to try it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import click

from spamlit.cli.imports import lasting_imports

LOCAL = "127.0.0.1"


@click.command()
@click.option("--run", default="latest", show_default=True, help="Run folder, bundle folder, or `latest`.")
@click.option(
    "--host",
    type=click.Choice([LOCAL, "0.0.0.0", "::"]),  # what LitServe takes
    default=LOCAL,
    show_default=True,
    help="Where to listen: this machine alone, or all its IPv4 or IPv6 addresses.",
)
@click.option("--port", type=click.IntRange(1024, 65535), default=8000, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes with a model each.")
@click.option("--threads", type=click.IntRange(1), help="Of each model; default: the workers' share of the processors.")
@click.option(
    "--precision", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True, help="int8 is faster."
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with the token that callers must give (Authorization: Bearer …); or the variable SPAMLIT_TOKEN.",
)
@click.option(
    "--corrections",
    type=click.Path(path_type=Path, dir_okay=False),
    default="outputs/corrections.sqlite",
    show_default=True,
    help="SQLite file for what people say is wrong; `data.extra=[FILE]` trains on it.",
)
@click.option(
    "--batch", type=click.IntRange(1), default=64, show_default=True, help="Texts classified together; 1: none."
)
@click.option(
    "--wait",
    type=click.FloatRange(0, 1000),
    default=5,
    show_default=True,
    help="Milliseconds to wait for more of them.",
)
@click.option("--max-body", type=click.IntRange(1), default=256, show_default=True, help="KiB of a request.")
@click.option("--max-texts", type=click.IntRange(1), default=1_000, show_default=True, help="Texts of a request.")
@click.option("--max-characters", type=click.IntRange(1), default=10_000, show_default=True, help="Of a text.")
@click.option("--max-queue", type=click.IntRange(1), default=2_000, show_default=True, help="Texts that may wait.")
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    help="Name under which the server may be asked for, as behind a proxy; default: any, at 127.0.0.1 its own.",
)
@click.option("--log-texts", is_flag=True, help="Write the messages into the log; they are left out otherwise.")
def command(
    run: str,
    host: str,
    port: int,
    workers: int,
    threads: int | None,
    precision: str,
    token_file: Path | None,
    corrections: Path,
    batch: int,
    wait: float,
    max_body: int,
    max_texts: int,
    max_characters: int,
    max_queue: int,
    hosts: tuple[str, ...],
    log_texts: bool,
) -> None:
    """Answer POST /predict, /explain and /correct, GET /health and /info, and show a page at /.

    The log is one JSON object a line on standard output. SIGTERM or Ctrl-C stops after what is under way.

    spamlit serve --run latest --port 8000
    """
    if find_spec("litserve") is None:
        raise ValueError('spamlit serve needs a package that is not here: pip install "spamlit[serve]".')
    token = read_token(token_file)
    with lasting_imports():
        from spamlit.inference.requests import Limits
        from spamlit.inference.serve import Options, serve
        from spamlit.training.run_folder import find_bundle

    options = Options(
        bundle=find_bundle(run),
        host=host,
        port=port,
        workers=workers,
        threads=threads,
        precision=precision,
        batch=batch,
        wait=wait / 1000,
        token=token,
        corrections=corrections,
        limits=Limits(body=1024 * max_body, texts=max_texts, characters=max_characters, queue=max_queue),
        hosts=hosts,
        log_texts=log_texts,
    )
    if host != LOCAL and token is None:
        click.echo(f"warning: whoever reaches {host}:{port} can use it; --token-file FILE asks for a token", err=True)
    serve(options)


def read_token(path: Path | None) -> str | None:
    """The token of a file, else of the environment; None: none is asked for.

    Raises:
        ValueError: it is empty, or could not be in a header.
    """
    token = path.read_text(encoding="utf-8").strip() if path else os.environ.get("SPAMLIT_TOKEN")
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token and token):
        raise ValueError(f"the token of {path or 'SPAMLIT_TOKEN'} is empty or has characters beyond printable ASCII.")
    return token
