"""`spamlit export`: a classifier for other software."""

from __future__ import annotations

from pathlib import Path

import click

from spamlit.cli.imports import lasting_imports


@click.command()
@click.option("--run", default="latest", show_default=True, help="Run folder, bundle folder, or `latest`.")
@click.option(
    "--to",
    type=click.Choice(["hf", "onnx"]),
    required=True,
    help="hf: a folder for transformers. onnx: a model for onnxruntime.",
)
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write; a new one."
)
@click.option("--int8", is_flag=True, help="ONNX with eight-bit weights: smaller and faster, a little less exact.")
def command(run: str, to: str, output: Path, int8: bool) -> None:
    """Write a classifier for transformers or onnxruntime, with its tokenizer and a model card.

    The export is loaded again and must give the Predictor's probabilities, to 0.0001, on real messages at several
    shapes; otherwise nothing is written and the exit code is 1. With --int8 the largest difference is reported.

    spamlit export --run latest --to onnx --output spam-onnx
    """
    with lasting_imports():
        from spamlit.inference.export import export

    done = export(run, to, output, int8=int8)
    found = done.checked
    click.echo(
        f"checked      {found.messages} messages, {found.answers} answers: the same ids, probabilities within "
        f"{found.difference:.2g}, {found.changed} labels changed"
    )
    if to == "hf":
        click.echo(
            "note         transformers reads the last token whose id is not the padding's: encode with this folder's "
            "tokenizer, whose texts never have that id",
            err=True,
        )
    if done.normalise != "none":
        click.echo(
            f"note         the classifier reads texts after normalise={done.normalise}, which the tokenizer does not "
            "do: MODEL_CARD.md says how to",
            err=True,
        )
    click.echo(f"export       {done.folder}")
