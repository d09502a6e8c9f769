"""Hydra's sweeper that searches with Optuna. Hydra looks for plugins in this package."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from spamlit.assets import atomic_write
from spamlit.cli.sweep import OBJECTIVE, ResumingLauncher, conclude, interrupted

if TYPE_CHECKING:  # imported when a study is made: Hydra imports every plugin at each start
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

DIGITS = 4
"""Significant digits of a searched number: what stands in the table is what was run."""


class StudySweeper(Sweeper):
    """Searches for the job with the highest figure; what is searched is written in Hydra's own grammar.

    `interval(1e-4,1e-2)` is a range of numbers, `int(interval(1,8))` and `range(1,9)` one of whole numbers,
    `tag(log,…)` searches it by its logarithm, `a,b,c` are choices; anything else is fixed.

    Args:
        trials: how many there are to be in all, those of earlier starts included.
        max_batch_size: trials that are asked for at a time, which a parallel launcher runs at once; None is one.
        seed: of the search.
        params: `key: value`s that the command line may override.
    """

    def __init__(self, trials: int, max_batch_size: int | None, seed: int, params: dict[str, Any] | None) -> None:
        if trials < 1 or (max_batch_size or 1) < 1:
            raise ValueError(f"trials={trials}, max_batch_size={max_batch_size}: choose whole numbers from 1 on.")
        self.trials, self.at_once, self.seed, self.params = trials, max_batch_size or 1, seed, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.launcher: ResumingLauncher = ResumingLauncher(launcher, config)

    def sweep(self, arguments: list[str]) -> None:
        """Runs the trials that are missing, and writes the table and importance.csv; exits with 2 without Optuna."""
        if find_spec("optuna") is None:
            click.echo('error: sweep=study needs Optuna: pip install "spamlit[study]".', err=True)
            sys.exit(2)
        given = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        assert self.hydra_context is not None
        parsed = OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(given)
        overrides = {override.get_key_element(): override for override in parsed}  # the last one counts
        searched = {key: distribution(override) for key, override in overrides.items() if override.is_sweep_override()}
        fixed = [each.input_line or "" for each in overrides.values() if not each.is_sweep_override()]
        folder = self.launcher.folder
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        study = open_study(folder, self.seed)
        try:
            while batch := self._next(study, searched):
                self._run(study, batch, fixed)
        except KeyboardInterrupt:
            interrupted(folder)
        tell_importance(study, folder)
        conclude(folder, self.launcher.failures)

    def _next(self, study: Study, searched: dict[str, BaseDistribution]) -> dict[int, dict[str, Any]]:
        """Number and values of the trials to run now: those that were interrupted, or new ones; none at the end.

        One that was interrupted and is none of this search counts as failed: its values would become overrides, which
        can name code, and the folder may be a stranger's.
        """
        from optuna.trial import TrialState

        trials = study.get_trials(deepcopy=False)
        stopped = []
        for trial in trials:
            if trial.distributions == searched and not trial.state.is_finished():
                stopped.append(trial)
            elif not trial.state.is_finished():
                study.tell(trial.number, state=TrialState.FAIL)
        if stopped:
            return {trial.number: trial.params for trial in stopped[: self.at_once]}
        new = [study.ask(searched) for _ in range(min(self.at_once, self.trials - len(trials)))]
        return {trial.number: trial.params for trial in new}

    def _run(self, study: Study, batch: dict[int, dict[str, Any]], fixed: Sequence[str]) -> None:
        from optuna.trial import TrialState

        jobs = [[*fixed, *(f"{key}={text(value)}" for key, value in values.items())] for values in batch.values()]
        self.validate_batch_is_legal(jobs)
        for number, result in zip(batch, self.launcher.launch(jobs, initial_job_idx=min(batch)), strict=True):
            value = float(result.return_value)
            if math.isnan(value):
                study.tell(number, state=TrialState.FAIL)
            else:
                study.tell(number, value)


def open_study(folder: Path, seed: int) -> Study:
    """The study kept in a sweep's folder, a new one where there is none."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{folder.resolve()}/study.db"
    study = optuna.create_study(study_name="spamlit", storage=storage, load_if_exists=True, direction="maximize")
    # not the first trials' random numbers again, where it goes on
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.get_trials(deepcopy=False)))
    return study


def distribution(override: Override) -> BaseDistribution:
    """What Optuna draws from, for an override that names several values.

    >>> parse = OverridesParser.create().parse_override
    >>> distribution(parse("optimizer.lr=tag(log,interval(1e-4,1e-2))"))
    FloatDistribution(high=0.01, log=True, low=0.0001, step=None)
    >>> distribution(parse("model.last_k=range(1,5)"))
    IntDistribution(high=4, log=False, low=1, step=1)
    >>> distribution(parse("model.pooling=first,mean_nonpad"))
    CategoricalDistribution(choices=('first', 'mean_nonpad'))
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep) and value.start is not None and value.end is not None:
        log = "log" in value.tags
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        return FloatDistribution(value.start, value.end, log=log)
    if isinstance(value, RangeSweep) and isinstance(value.start, int) and isinstance(value.stop, int):
        whole = range(value.start, value.stop, int(value.step))
        return IntDistribution(whole[0], whole[-1], step=whole.step)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def text(value: object) -> str:
    """A value as it is typed.

    >>> text(0.00123456), text("first"), text(3)
    ('0.001235', 'first', '3')
    """
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def tell_importance(study: Study, folder: Path) -> None:
    """The best trial, and how much of the figure's spread each choice explains, printed and as importance.csv."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    done: list[FrozenTrial] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        return
    best = max(done, key=lambda trial: trial.value or -math.inf)
    chosen = " ".join(f"{key}={text(value)}" for key, value in best.params.items())
    click.echo(f"best of {len(done)} trials: {OBJECTIVE}={best.value:.4f} with {chosen}")
    if len({trial.value for trial in done}) > 1:
        importance = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        rows = [f"{key},{share:.4f}" for key, share in importance.items()]
        with atomic_write(folder / "importance.csv") as temporary:
            temporary.write_text("\n".join(["key,importance", *rows]) + "\n", encoding="utf-8")
        click.echo(f"importance (PED-ANOVA): {'  '.join(rows).replace(',', ' ')}")
