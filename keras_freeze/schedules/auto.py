"""`Auto`: find the freeze depth in one fit, by a race of depths or one more group at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from keras_freeze.checks import ArgumentError, check_count, is_number
from keras_freeze.schedules.adaptive import AdaptiveSchedule, Decision, Outcome, Setting
from keras_freeze.schedules.metrics import Direction, Mode, direction
from keras_freeze.schedules.one_by_one import OneByOne
from keras_freeze.schedules.race import Race
from keras_freeze.schedules.schedule import FreezeSchedule
from keras_freeze.schedules.scores import Metric
from keras_freeze.schedules.triggers import OnPlateau


@dataclasses.dataclass(frozen=True)
class Auto(AdaptiveSchedule):
    """Find the freeze depth while training; for `GradualUnfreeze`, where `"auto"` stands for it.

    As a *race* (successive halving): depths take turns, the deepest first, an epoch or a few each,
    all from the weights at the start of `fit`. The worse half is dropped, the others go on where
    they were, until one is left, which trains for the rest of the epochs. Each depth has its own
    weights, optimizer state and iteration count; the learning rate that other callbacks set is
    shared. The logs have `freeze_depth`, and `candidate`, the number of the depth in the race.

    In *sequence*: the last group trains until the metric stalls and goes back to its best epoch;
    then one more group unfreezes, and so on. At the end, groups that unfroze after the last
    gain are frozen again, and training ends or goes on at the depth that is left.

    Either way the model ends with the best epoch of the depth that was found. Until then the host's
    memory holds the last and the best state of each depth in the race (in sequence, of the best
    depth): weights that are the same in several are held once, optimizer state of what trains each
    time.

    Args:
        method: `"race"` (default) or `"sequence"`.
        monitor: Str, the metric that decides, after each epoch. Defaults to `"val_loss"`. The loss
            on training data would unfreeze everything.
        mode: `"min"`, `"max"`, or `"auto"` (default), which infers it from the metric's name.
        min_gain: Float, non-negative, in the metric's units: what each further group that unfreezes
            has to bring, and an epoch not to count as a stall. Defaults to 0.
        budget: Float, between 0 and 1, the part of the epochs that a race may take. Where these are
            too few for all depths, some are left out. Defaults to a third.
        stall: Int, positive: after so many epochs without improvement a phase of a sequence ends,
            and the training with `then="stop"`. Defaults to 3.
        patience: Int, positive, in groups: a sequence ends after so many in a row that bring no
            gain. Defaults to 1.
        then: `"continue"` (default) to train at the depth that was found for all epochs of the fit,
            or `"stop"` to end the fit when that stalls or, in sequence, when it is found.

    Raises:
        ValueError: if an argument is invalid; at the start of training, if the epochs are too few
            for a race; after its first epoch, if there is no such metric.

    Example:
        >>> import keras_freeze as kf
        >>> callback = kf.GradualUnfreeze(Auto(min_gain=0.01))

    Reference:
        - [Jamieson and Talwalkar, 2016](https://arxiv.org/abs/1502.07943): successive halving.
    """

    method: Literal["race", "sequence"] = "race"
    monitor: str = "val_loss"
    mode: Mode = "auto"
    min_gain: float = 0.0
    budget: float = 1 / 3
    stall: int = 3
    patience: int = 1
    then: Literal["continue", "stop"] = "continue"

    def __post_init__(self) -> None:
        for name, choices in (("method", ("race", "sequence")), ("then", ("continue", "stop"))):
            value = getattr(self, name)
            if value not in choices:
                rule = f'be "{choices[0]}" or "{choices[1]}"'
                raise ArgumentError("Auto", name, rule, value=value)
        if not isinstance(self.monitor, str) or not self.monitor:
            raise ArgumentError("Auto", "monitor", "be the name of a metric", value=self.monitor)
        direction("Auto", self.monitor, self.mode)
        if not is_number(self.min_gain) or not 0 <= self.min_gain < math.inf:
            rule = "be a non-negative number"
            raise ArgumentError("Auto", "min_gain", rule, value=self.min_gain)
        if not is_number(self.budget) or not 0 < self.budget < 1:
            raise ArgumentError("Auto", "budget", "be between 0 and 1", value=self.budget)
        check_count("Auto", "stall", self.stall)
        check_count("Auto", "patience", self.patience)

    @property
    def best_by(self) -> tuple[str, Direction] | None:
        """The metric that decides, and whether it is to fall or to rise."""
        return self._method.best_by

    @property
    def criterion(self) -> str:
        """The metric that decides."""
        return self.monitor

    @property
    def is_race(self) -> bool:
        """Whether depths take turns in one fit."""
        return self._method.is_race

    @property
    def depends_on_epochs(self) -> bool:
        """Whether what is decided depends on the epochs of the training."""
        return self._method.depends_on_epochs

    def outline(self, setting: Setting) -> FreezeSchedule:
        """Return all phases of a sequence; of a race, the first round."""
        return self._method.outline(setting)

    @property
    def prospect(self) -> str:
        """How the depth is found, in a sentence."""
        return self._method.prospect

    def remarks(self, setting: Setting) -> tuple[str, ...]:
        """Return which depths are left out of a race, and why."""
        return self._method.remarks(setting)

    def decide(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return what follows the phases that have ended."""
        return self._method.decide(setting, outcomes)

    def conclude(self, setting: Setting, outcomes: Sequence[Outcome]) -> Decision:
        """Return where a training ends that doesn't reach its final phase."""
        return self._method.conclude(setting, outcomes)

    def verdict(self, setting: Setting, outcomes: Sequence[Outcome]) -> str:
        """Return in a sentence what was found."""
        return self._method.verdict(setting, outcomes)

    @property
    def _method(self) -> AdaptiveSchedule:
        metric = Metric(self.monitor, direction("Auto", self.monitor, self.mode), self.min_gain)
        plateau = OnPlateau(self.monitor, self.stall, self.min_gain, metric.direction)
        if self.method == "sequence":
            return OneByOne(metric, plateau, self.patience, self.then)
        return Race(metric, self.budget, plateau if self.then == "stop" else None)
