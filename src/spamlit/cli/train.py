"""`spamlit train`, which is `python train.py`: Hydra's command line over the recipe."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import click
import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from spamlit.cli.group import INTERRUPTED, one_line, user_error
from spamlit.cli.imports import lasting_imports
from spamlit.model.allocator import keep_freed_memory
from spamlit.training.run_folder import find_run

_PACKAGE = Path(__file__).parents[1]
CONF = next((path for path in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if path.is_dir()), _PACKAGE / "conf")


def main(arguments: list[str] | None = None) -> None:
    """Runs what the command line says; exit codes: 1 a job failed, 2 a user error, 130 Ctrl-C."""
    failures: list[str] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
    def job(cfg: DictConfig) -> float | None:
        return run_job(cfg, failures)

    given = flags_first(sys.argv[1:] if arguments is None else arguments)
    try:
        given = resumed(given)
    except (ValueError, OSError) as error:
        click.echo(f"error: {one_line(error)}", err=True)
        sys.exit(2)
    # Lightning starts further processes (trainer=ddp) with this very command line: it must name a script that takes it
    sys.argv = [str(Path(__file__).resolve()), *given]
    keep_freed_memory()
    job()
    if failures:
        click.echo(f"{len(failures)} of the jobs failed; the others are whole:", err=True)
        for failure in failures:
            click.echo(f"  {failure}", err=True)
        sys.exit(1)


def run_job(cfg: DictConfig, failures: list[str]) -> float | None:
    """One job. A user error ends a single run; in a sweep it is kept for the end and the rest goes on."""
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        with lasting_imports() if "lightning" not in sys.modules else nullcontext():  # not after a sweep's first job
            from spamlit.cli.summary import print_summary  # seconds of imports, in which Ctrl-C counts too
            from spamlit.training.train import train

        if sweep and cfg.trainer.devices != 1:  # Lightning starts further processes with the whole sweep's command line
            raise ValueError(
                f"trainer.devices={cfg.trainer.devices} cannot be part of a sweep: run its jobs one by one, or choose "
                "a trainer of one process."
            )
        run = train(cfg)
    except KeyboardInterrupt:
        click.echo(f"interrupted; to go on: python train.py ckpt={_shown(cfg)}", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        kind = user_error(error)
        if kind is None or os.environ.get("SPAMLIT_DEBUG", "0") not in ("", "0"):
            raise
        room = f". Make room and go on: python train.py ckpt={_shown(cfg)}" if "No space left" in str(error) else ""
        click.echo(f"error: {one_line(error)}{room}", err=True)
        if not sweep:
            sys.exit(kind.exit_code)
        failures.append(f"{HydraConfig.get().job.override_dirname or 'defaults'}: {one_line(error)}")
        return float("nan")
    if run.trainer.is_global_zero:
        if cfg.report:
            from spamlit.analysis.report import write_report

            write_report(run.folder)
        print_summary(run.folder, run.metrics)
    return run.metrics.get("val/f1")


def resumed(arguments: list[str]) -> list[str]:
    """The command line of the run that `ckpt=` names, in its own folder, with what is given now on top.

    Raises:
        RunNotFoundError: no such run.
        ValueError: `ckpt=` in a sweep.
    """
    name = next((text.removeprefix("ckpt=") for text in arguments if text.startswith("ckpt=")), "")
    if name in ("", "null"):
        return arguments
    if "-m" in arguments or "--multirun" in arguments:
        raise ValueError(f"ckpt={name} goes on with one run; it cannot be part of a sweep. Leave out --multirun.")
    folder = find_run(name)
    stored = folder / ".hydra" / "overrides.yaml"
    if not stored.is_file():
        raise ValueError(f"{folder} is not a run folder: it has no .hydra/overrides.yaml.")
    given = [text for text in arguments if not text.startswith(("ckpt=", "hydra.run.dir="))]
    keys = {_key(text) for text in given} | {"ckpt"}
    before = [str(text) for text in OmegaConf.to_object(OmegaConf.load(stored)) if _key(str(text)) not in keys]  # type: ignore[union-attr]
    return [*before, *given, f"ckpt={folder.resolve()}", f"hydra.run.dir={folder.resolve()}"]


def flags_first(arguments: list[str]) -> list[str]:
    """Hydra takes `-m` before the overrides only; here it may stand anywhere.

    >>> flags_first(["seed=1,2", "-m"])
    ['-m', 'seed=1,2']
    """
    return sorted(arguments, key=lambda text: text not in ("-m", "--multirun"))


def _key(override: str) -> str:
    """What an override sets: `model.trainable`.

    >>> _key("+experiment=lesson"), _key("~callbacks.best"), _key("optimizer.lr=1e-4")
    ('experiment', 'callbacks.best', 'optimizer.lr')
    """
    return override.split("=", 1)[0].lstrip("+~").split("@")[0]


def _shown(cfg: DictConfig) -> str:
    folder = Path(cfg.run_dir)
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def command(overrides: tuple[str, ...]) -> None:
    """Fine-tune a backbone; OVERRIDES are Hydra's (`spamlit train --help` lists them)."""
    main(list(overrides))


if __name__ == "__main__":
    main()
