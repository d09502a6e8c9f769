"""`spamlit predict`: label messages with a trained classifier."""

from __future__ import annotations

import click

from spamlit.cli.imports import lasting_imports


def read_band(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, float] | None:
    """`LOW,HIGH`, two numbers; whether they are a band is the Predictor's to say."""
    if value is None:
        return None
    try:
        low, high = map(float, value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not LOW,HIGH, as in 0.3,0.7") from None
    return low, high


@click.command()
@click.option("--run", default="latest", show_default=True, help="Run folder, bundle folder, or `latest`.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Least probability that is spam; default: the bundle's.")
@click.option(
    "--unsure",
    callback=read_band,
    metavar="LOW,HIGH",
    help="Flag what has a probability in between; default: the bundle's own band, if it has one.",
)
@click.option(
    "--precision", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True, help="int8 is faster."
)
@click.option("--percent", is_flag=True, help="Show probabilities as percentages.")
@click.argument("texts", nargs=-1, required=True)
def command(
    run: str,
    threshold: float | None,
    unsure: tuple[float, float] | None,
    precision: str,
    percent: bool,
    texts: tuple[str, ...],
) -> None:
    """Print label, spam probability and text of each of TEXTS, one a line.

    spamlit predict --run latest "You have been selected to receive a cash prize"
    """
    with lasting_imports():
        from spamlit.inference.predictor import Predictor

    predictor = Predictor.load(run, precision=precision)
    for text, answer in zip(texts, predictor.classify(texts, threshold=threshold, unsure=unsure), strict=True):
        flag = f"  [{answer.flag}]" if answer.flag else ""
        probability = f"{answer.probability:.2%}" if percent else f"{answer.probability:.4f}"
        click.echo(f"{answer.label}  {probability}  {text}{flag}")
