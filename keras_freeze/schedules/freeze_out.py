"""FreezeOut: the rates of layer groups fall to zero, the lowest group's first, and they freeze."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from keras_freeze.checks import ArgumentError, is_number
from keras_freeze.model_picture import GroupNames, ModelPicture
from keras_freeze.policies import BatchNormMode, check_batch_norm
from keras_freeze.schedules.curves import Annealing
from keras_freeze.schedules.phase import Phase
from keras_freeze.schedules.planners import Planner
from keras_freeze.schedules.rates import AUTO, Rates, multipliers
from keras_freeze.schedules.schedule import FreezeSchedule
from keras_freeze.schedules.triggers import AfterSteps

_POWERS = {"linear": 1, "cubic": 3}


@dataclasses.dataclass(frozen=True)
class FreezeOut(Planner):
    """Plan when each group freezes, and at what rate it trains until then.

    With `L` groups above the lowest, group `i` from the input on freezes after the part
    `s(first + (1 - first) * i / L)` of the training, where `s` is `shape`; the last, with 1, never
    does. Its rate falls by half a cosine until then.

    Args:
        owner: Str, the class in whose name errors are raised.
        first: Float above 0, at most 1.
        shape: `"cubic"` or `"linear"`.
        scales_rates: Bool, whether rates are divided by these parts, so that each group's rates add
            up to the same.
        rates: Learning rates of the groups, as multiples of the compiled one.
        batch_norm: Mode for `BatchNormalization` in all phases.
        stride: Int, batches in an execution of the train step, with which groups freeze.

    Raises:
        ValueError: if an argument is invalid.

    Example:
        >>> planner = FreezeOut("ProgressiveFreeze", first=0.5, shape="linear", scales_rates=False)
        >>> schedule = planner.plan_for(["low", "middle", "head"], epochs=2, steps=4)
        >>> [(phase.frozen, phase.until) for phase in schedule.phases]
        [((), AfterSteps(steps=4)), (('low',), AfterSteps(steps=2)), (('low', 'middle'), None)]
    """

    owner: str
    first: float = 0.8
    shape: Literal["cubic", "linear"] = "cubic"
    scales_rates: bool = True
    rates: Rates = None
    batch_norm: BatchNormMode = "frozen"
    stride: int = 1

    def __post_init__(self) -> None:
        check_batch_norm(self.owner, self.batch_norm)
        if self.rates == AUTO:
            rule = 'be other than "auto", since rates follow the calendar'
            raise ArgumentError(self.owner, "rates", rule, value=self.rates)
        if not is_number(self.first) or not 0 < self.first <= 1:
            raise ArgumentError(self.owner, "first", "be above 0, at most 1", value=self.first)
        if self.shape not in _POWERS:
            raise ArgumentError(self.owner, "shape", 'be "cubic" or "linear"', value=self.shape)

    def plan(self, picture: ModelPicture, epochs: int, steps: int | None = None) -> FreezeSchedule:
        """Return the schedule; rates may name groups that never train."""
        names = picture.group_names
        rates = multipliers(self.rates, names, owner=self.owner)
        stride = getattr(picture.model, "steps_per_execution", 1)
        known = dataclasses.replace(self, rates=rates, stride=stride)
        return known.plan_for(GroupNames.of(picture.groups_that_may_train), epochs, steps)

    def plan_for(
        self, names: Sequence[str], epochs: int, steps: int | None = None
    ) -> FreezeSchedule:
        """Return the schedule.

        Raises:
            ValueError: if it isn't known how many batches an epoch has.
        """
        if steps is None:
            raise ArgumentError(
                self.owner,
                "steps_per_epoch",
                "be known, since groups freeze in the middle of epochs",
                received="no number of batches in an epoch",
                advice="Pass steps_per_epoch=, or give a tf.data.Dataset its cardinality.",
            )
        lives = self._lives(names, epochs * steps)
        rates = self.rates
        if isinstance(rates, Mapping):
            rates = {name: rate for name, rate in rates.items() if name in names}
        base = multipliers(rates, names, owner=self.owner)
        rates = {n: base[n] / (lives[n] if self.scales_rates else 1.0) for n in names}
        ends = {
            name: self._with_execution(round(lives[name] * epochs * steps), steps)
            for name in names[:-1]
        }
        phases, begin = [], 0
        for end in sorted(set(ends.values()) - {epochs * steps}):
            until = AfterSteps(end - begin)
            phases.append(self._phase(lives, ends, begin, rates, until))
            begin = end
        phases.append(self._phase(lives, ends, begin, rates, None))
        return FreezeSchedule(phases)

    def _with_execution(self, end: int, steps: int) -> int:
        """Return when the execution ends in which so many batches are done."""
        epoch, step = divmod(end, steps)
        return epoch * steps + min(steps, math.ceil(step / self.stride) * self.stride)

    def _lives(self, names: Sequence[str], total: int) -> dict[str, float]:
        """Return the part of the training after which each group's rate is 0: a step, at least."""
        last, power = len(names) - 1, _POWERS[self.shape]
        below = {
            name: max(1 / total, (self.first + (1 - self.first) * i / last) ** power)
            for i, name in enumerate(names[:-1])
        }
        return {**below, names[-1]: 1.0}

    def _phase(
        self,
        lives: Mapping[str, float],
        ends: Mapping[str, int],
        begin: int,
        rates: Mapping[str, float],
        until: AfterSteps | None,
    ) -> Phase:
        frozen = tuple(name for name in ends if ends[name] <= begin)
        curve = Annealing(lives)
        return Phase(frozen, rates=rates, until=until, curve=curve, batch_norm=self.batch_norm)
