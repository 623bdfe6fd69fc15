"""What is decided before a fit begins, and where in its schedule it begins."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

from keras_freeze.checks import ArgumentError
from keras_freeze.engine import ActiveCurve, snapshot
from keras_freeze.measures import Gauge
from keras_freeze.model_picture import ModelPicture, known_groups
from keras_freeze.policies import Selection, everything
from keras_freeze.schedules import (
    AUTO,
    AdaptivePlan,
    FreezeSchedule,
    Moment,
    Phase,
    Progress,
    Rates,
    multipliers,
    timeline,
)


@dataclasses.dataclass(frozen=True, eq=False)
class FitPlan:
    """What is decided before a fit begins, and does not change while it runs.

    Attributes:
        owner: Str, the callback in whose name errors are raised.
        picture: The picture of the model, with its groups.
        schedule: What is frozen when.
        epochs: Int, the last epoch's number as Keras prints it.
        total_epochs: Int, the epochs of the whole training.
        steps_per_epoch: Int, batches in an epoch; None if not known.
        stride: Int, batches in an execution of the train step.
        rates: Learning rates for phases that have none of their own.
        adaptive: What decides the phases while they run; None where `schedule` is all there is.
        gauge: What measures how much groups change; None where nothing depends on that.
        records: What every phase records of gradients.
    """

    owner: str
    picture: ModelPicture
    schedule: FreezeSchedule
    epochs: int
    total_epochs: int
    steps_per_epoch: int | None
    stride: int
    rates: Rates
    adaptive: AdaptivePlan | None = None
    gauge: Gauge | None = None
    records: frozenset[str] = frozenset()

    @property
    def is_race(self) -> bool:
        """Whether depths take turns, of which one is kept."""
        return self.adaptive is not None and self.adaptive.schedule.is_race

    @functools.cached_property
    def moments(self) -> tuple[Moment | None, ...]:
        """When each phase begins, None where that depends on the logs."""
        return timeline(self.schedule, self.steps_per_epoch, self.stride)

    @property
    def last_begins(self) -> int:
        """The epoch (0-based) in which the last phase of a calendar begins in this fit."""
        reached = [m.epoch for m in self.moments if m is not None and m.epoch < self.epochs]
        return max(reached, default=0)

    def multipliers(self, phase: Phase) -> dict[str, float]:
        """Return the learning-rate multiplier of each group in a phase, to begin with."""
        return multipliers(self._rates(phase), self.picture.group_names, owner=self.owner)

    def follows_gradients(self, phase: Phase | None) -> bool:
        """Tell whether the rates in a phase follow the gradients."""
        return phase is not None and self._rates(phase) == AUTO

    def _rates(self, phase: Phase) -> Rates:
        return self.rates if phase.rates is None else phase.rates

    def frozen(self, phase: Phase) -> Selection:
        """Return what a phase freezes that begins now."""
        return phase.policy(self.picture.division).select_in(self.picture) | self._kept

    def sketch(self, phase: Phase) -> Selection:
        """Return what a phase freezes, as far as that can be told before it begins."""
        return phase.policy(self.picture.division).sketch_in(self.picture) | self._kept

    @property
    def _kept(self) -> Selection:
        never = self.picture.never_trains
        return Selection(never, never) & everything(self.picture)

    def curve(self, phase: Phase, epoch: int, batch: int, steps: int) -> ActiveCurve | None:
        """Return the learning-rate curve of a phase, from the present batch on.

        Args:
            phase: The phase.
            epoch: Int, 0-based, the present epoch.
            batch: Int, batches of the present epoch that are done.
            steps: Int, batches of the phase that are done.

        Raises:
            ValueError: if the curve is as long as the phase or the training, and that can't be
                known beforehand; if it names a group that the model does not have.
        """
        if phase.curve is None:
            return None
        length, done = phase.curve.steps, steps
        if phase.curve.spans_training:
            if self.steps_per_epoch is not None:
                length = self.total_epochs * self.steps_per_epoch
                done = epoch * self.steps_per_epoch + batch
        elif length is None and phase.trigger is not None:
            before = (batch - steps) % (self.steps_per_epoch or 1)
            length = phase.trigger.length(self.steps_per_epoch, before)
        elif length is None and self.steps_per_epoch is not None:
            length = (self.total_epochs - epoch) * self.steps_per_epoch - batch + steps
        if phase.curve.spans_training and length is None:
            raise ArgumentError(
                self.owner,
                "schedule",
                f"be of data whose length is known, for {type(phase.curve).__name__}",
                received="a fit that doesn't know how many batches an epoch has",
                advice="Pass steps_per_epoch= to fit, or give a tf.data.Dataset its cardinality.",
            )
        if length is None:
            raise ValueError(
                f"{type(phase.curve).__name__}(steps=...) must be given where the length of the "
                f"phase isn't known beforehand. Received: {phase.curve!r} in a phase until "
                f"{phase.until!r}, with {self.steps_per_epoch} steps an epoch. Give a number of "
                "batches."
            )
        by_group = self.lives(phase)
        lives = {id(v): by_group[g.name] for g in self.picture.groups for v in g.variables}
        return ActiveCurve(phase.curve, max(1, length), -done, lives)

    def lives(self, phase: Phase) -> dict[str, float]:
        """Return the part of a phase's curve after which it is at its end, for each group."""
        lives = {} if phase.curve is None else phase.curve.lives
        names = self.picture.group_names
        entries = known_groups(type(phase.curve).__name__, "lives", lives, names)
        return {name: lives[entries[name]] if name in entries else 1.0 for name in names}


@dataclasses.dataclass(frozen=True)
class Best:
    """The best epoch of a phase.

    Attributes:
        value: Float, the metric by which it is the best.
        epoch: Int, 0-based.
        steps: Int, batches of the phase done by its end.
        state: What `snapshot.capture` returned at its end.
    """

    value: float
    epoch: int
    steps: int
    state: snapshot.State


@dataclasses.dataclass(frozen=True)
class StartingPoint:
    """Where in its schedule a fit begins.

    Attributes:
        epoch: Int, 0-based.
        progress: `Progress` at its beginning.
        steps: Int, batches of that phase that earlier fits have done.
        best: The best epoch of that phase so far; None for none.
        kept: Names of the groups that are not to be frozen again.
        joined: Iteration count by variable id at which it began to train, for a model whose
            optimizer was loaded; None for any other.
        dials: What the rates were multiplied by at the end of the fit before, by variable id.
    """

    epoch: int
    progress: Progress
    steps: int = 0
    best: Best | None = None
    kept: frozenset[str] = frozenset()
    joined: Mapping[int, int] | None = None
    dials: Mapping[int, float] = dataclasses.field(default_factory=dict)
