"""`spamlit train`, which is `python train.py`: Hydra's command line over the recipe."""

from __future__ import annotations

import errno
import itertools
import os
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import click
import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from spamlit.cli.group import INTERRUPTED, one_line, user_error
from spamlit.cli.imports import lasting_imports
from spamlit.cli.stored import check_stored
from spamlit.cli.sweep import OBJECTIVE, JobFailedError, shown
from spamlit.model.allocator import keep_freed_memory
from spamlit.training.run_folder import find_run, find_sweep, is_sweep, read_yaml, stored_overrides

_PACKAGE = Path(__file__).parents[1]
CONF = next((path for path in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if path.is_dir()), _PACKAGE / "conf")

MULTIRUN = ("-m", "--multirun")
STARTED = ("WORLD_SIZE", "SLURM_NTASKS")
"""How many processes torchrun and srun start, in their environment."""


def main(arguments: list[str] | None = None) -> None:
    """Runs what the command line says; exit codes: 1 a job of a sweep failed, 2 a user error, 130 Ctrl-C."""
    given = flags_first(sys.argv[1:] if arguments is None else arguments)
    try:
        given = resumed(given)
        _one_folder(given)
    except (ValueError, OSError) as error:
        click.echo(f"error: {one_line(error)}", err=True)
        sys.exit(2)
    # Lightning starts further processes (trainer=ddp) with this very command line: it must name a script that takes it
    sys.argv = [str(Path(__file__).resolve()), *given]
    keep_freed_memory()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # have Hydra raise what goes wrong, which it would print with a traceback
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(run_job)()
    except Exception as error:
        sys.exit(told(error))


def run_job(cfg: DictConfig) -> float | None:
    """One job; gives what a sweep compares.

    Raises:
        JobFailedError: a user error in a job of a sweep; in a single run it ends the program.
        KeyboardInterrupt: Ctrl-C in a sweep; the same.
    """
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        with lasting_imports() if "lightning" not in sys.modules else nullcontext():  # not after a sweep's first job
            import torch

            from spamlit.cli.summary import print_summary  # seconds of imports, in which Ctrl-C counts too
            from spamlit.training.train import train

        if sweep and cfg.trainer.devices != 1:  # Lightning starts further processes with the whole sweep's command line
            raise ValueError(
                f"trainer.devices={cfg.trainer.devices} cannot be part of a sweep: run its jobs one by one, or choose "
                "a trainer of one process."
            )
        if isinstance(cfg.threads, int) and cfg.threads > 0:  # else train() refuses it
            torch.set_num_threads(cfg.threads)
        run = train(cfg)
        if run.trainer.is_global_zero and cfg.report:
            from spamlit.analysis.report import write_report

            write_report(run.folder, explain=cfg.explain)
    except KeyboardInterrupt:
        if sweep:
            raise
        click.echo(f"interrupted; to go on: python train.py ckpt={shown(Path(cfg.run_dir))}", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        full = any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
        code = told(error, f". Make room and go on: python train.py ckpt={shown(Path(cfg.run_dir))}" if full else "")
        if sweep:
            raise JobFailedError(one_line(error)) from None
        sys.exit(code)
    if run.trainer.is_global_zero:
        print_summary(run.folder, run.metrics)
    return run.metrics.get(OBJECTIVE)


def told(error: Exception, advice: str = "") -> int:
    """Says on one line what went wrong, and gives the exit code.

    Raises:
        Exception: the error itself, where it is a defect, or SPAMLIT_DEBUG is set.
    """
    kind = user_error(error)
    if kind is None or os.environ.get("SPAMLIT_DEBUG", "0") not in ("", "0"):
        raise error
    click.echo(f"error: {one_line(error)}{advice}", err=True)
    return kind.exit_code


@cache
def unused_folder(path: str) -> str:
    """A folder that this process made, and no other: `path`, or with -2, -3, … behind, where another was faster."""
    for number in itertools.count(1):
        folder = Path(path if number == 1 else f"{path}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if os.path.lexists(folder):
                continue
            break  # a link above it leads nowhere
        except OSError:
            break
        return str(folder)
    return path  # Hydra makes it once more, and says why it cannot


OmegaConf.register_new_resolver("unused_folder", unused_folder, use_cache=True, replace=True)


def resumed(arguments: list[str]) -> list[str]:
    """The command line of the run or sweep that `ckpt=` names, in its own folder, with what is given now on top.

    Raises:
        RunNotFoundError: no such run; with `-m`, no such sweep.
        ValueError: the folder is damaged, or asks for more than a choice among what conf/ has.
    """
    name = next((text.removeprefix("ckpt=") for text in arguments if text.startswith("ckpt=")), "")
    if name in ("", "null"):
        return arguments
    sweep = any(flag in arguments for flag in MULTIRUN) or is_sweep(Path(name))
    folder = find_sweep(name) if sweep else find_run(name)
    links = (path for path in folder.rglob("*") if path.is_symlink())
    if out := next((link for link in links if not link.resolve().is_relative_to(folder.resolve())), None):
        raise ValueError(f"{out} is a link out of the folder, where the run would write: remove it.")
    given = [text for text in arguments if not text.startswith(("ckpt=", "hydra.run.dir=", "hydra.sweep.dir="))]
    keys = {_key(text) for text in given} | {"ckpt", "hydra.mode", "hydra.run.dir", "hydra.sweep.dir"}
    stored = _of_sweep(folder) if sweep else _of_run(folder)
    before = check_stored(folder, [text for text in stored if _key(text) not in keys], CONF)
    if sweep:
        return flags_first(["-m", *before, *(text for text in given if text not in MULTIRUN), _dir("sweep", folder)])
    return [*before, *given, f"ckpt={folder.resolve()}", _dir("run", folder)]


def _of_run(folder: Path) -> list[str]:
    """What was given on the command line of a run; a job of a sweep goes on alone."""
    overrides = stored_overrides(folder)
    if overrides is None:
        raise ValueError(f"{folder} is not a run folder: it has no .hydra/overrides.yaml.")
    return [text for text in overrides if _key(text) not in ("sweep", "launcher")]


def _of_sweep(folder: Path) -> list[str]:
    """What was given on the command line of a sweep, for its jobs and for Hydra."""
    try:
        stored = read_yaml(folder / "multirun.yaml")["hydra"]["overrides"]
        overrides = [*stored["task"], *stored["hydra"]]
    except (ValueError, KeyError, TypeError):
        overrides = [None]
    if not all(isinstance(text, str) for text in overrides):
        raise ValueError(f"{folder / 'multirun.yaml'} was cut off: give the sweep's own command line again.")
    return overrides


def _dir(kind: str, folder: Path) -> str:
    return f"hydra.{kind}.dir={folder.resolve()}"


def _one_folder(arguments: list[str]) -> None:
    """Refuses processes that torchrun or srun started for a sweep, or with a folder each, named by the second.

    Raises:
        ValueError: a sweep, or no `hydra.run.dir` for all of them.
    """
    started = next((name for name in STARTED if os.environ.get(name, "1") != "1"), None)
    if started is None:
        return
    several = f"{started}={os.environ[started]}"
    if any(text in MULTIRUN or text == "hydra.mode=MULTIRUN" or _key(text) == "sweep" for text in arguments):
        raise ValueError(f"{several}: each process would run the whole sweep. Start one alone, with {started} unset.")
    if not any(_key(text) == "hydra.run.dir" for text in arguments):
        raise ValueError(f"{several}: several processes need one folder. Add hydra.run.dir=outputs/NAME")


def flags_first(arguments: list[str]) -> list[str]:
    """Hydra takes `-m` before the overrides only; here it may stand anywhere.

    >>> flags_first(["seed=1,2", "-m"])
    ['-m', 'seed=1,2']
    """
    return sorted(arguments, key=lambda text: text not in MULTIRUN)


def _key(override: str) -> str:
    """What an override sets: `model.trainable`.

    >>> _key("+experiment=lesson"), _key("~callbacks.best"), _key("optimizer.lr=1e-4")
    ('experiment', 'callbacks.best', 'optimizer.lr')
    """
    return override.split("=", 1)[0].lstrip("+~").split("@")[0]


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
