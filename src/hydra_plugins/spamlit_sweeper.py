"""Hydra's sweeper over all combinations, for sweeps that were interrupted. Hydra looks for plugins in this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from spamlit.cli.sweep import ResumingLauncher, conclude, interrupted


class ResumingSweeper(BasicSweeper):
    """Hydra's own sweeper, whose launcher skips finished jobs; at the end it shows the table of all of them."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self.launcher is not None
        self.launcher = ResumingLauncher(self.launcher, config)

    def sweep(self, arguments: Sequence[str]) -> Any:
        """Runs the jobs that are not finished; exits with 1 where one failed, with 130 after Ctrl-C."""
        assert isinstance(self.launcher, ResumingLauncher)
        try:
            returned = super().sweep(list(arguments))
        except KeyboardInterrupt:
            interrupted(self.launcher.folder)
        conclude(self.launcher.folder, self.launcher.failures)
        return returned
