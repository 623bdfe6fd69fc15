"""One `fit` under a schedule: where it is, and what it does to the model at each turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_freeze.callbacks import transition_message
from keras_freeze.engine import optimizer_state, snapshot, update_rules
from keras_freeze.engine.transitions import transition
from keras_freeze.engine.update_rules import Pace
from keras_freeze.groups import Groups, LayerGroup, layer_groups
from keras_freeze.model_picture import GroupNames
from keras_freeze.policies.flags import Flags, phase_flags
from keras_freeze.policies.selection import Selection, everything_in
from keras_freeze.reports import parameter_counts
from keras_freeze.schedules.phases import FreezeSchedule, Phase
from keras_freeze.schedules.progress import Moment, Progress, timeline
from keras_freeze.schedules.rates import Rates, multipliers
from keras_freeze.schedules.triggers import improves, monitored


@dataclasses.dataclass(frozen=True)
class Best:
    """The best epoch of a phase.

    Attributes:
        value: Float, the log by which it is the best.
        epoch: Int, 0-based.
        steps: Int, batches of the phase done by its end.
        state: What `snapshot.capture` returned at its end.
    """

    value: float
    epoch: int
    steps: int
    state: snapshot.State


@dataclasses.dataclass
class Run:
    """The state of one `fit`: names and numbers, never layers.

    Attributes:
        schedule: What is frozen when.
        epochs: Int, the last epoch's number as Keras prints it.
        total_epochs: Int, the epochs of the whole training.
        steps_per_epoch: Int, batches in an epoch; None if not known.
        stride: Int, batches in an execution of the train step.
        groups: How the model is divided, as the user gave it.
        rates: Learning rates for phases that have none of their own.
        progress: Where in the schedule; None before the first epoch.
        entered: Index of the phase that the model was made ready for; None before the first.
        epoch: Int, 0-based, the present epoch.
        batch: Int, batches of the present epoch that are done.
        steps: Int, batches of the present phase that are done.
        kept: Groups that earlier training thawed and this one must not freeze again.
        frozen: Names of the groups that don't train at present.
        multipliers: Learning-rate multiplier by group at present.
        counts: Trainable and non-trainable parameters at present.
        best: The best epoch of the present phase, if it asks for it.
    """

    schedule: FreezeSchedule
    epochs: int
    total_epochs: int
    steps_per_epoch: int | None = None
    stride: int = 1
    groups: Groups | None = None
    rates: Rates = None
    progress: Progress | None = None
    entered: int | None = None
    epoch: int = 0
    batch: int = 0
    steps: int = 0
    kept: frozenset[str] = frozenset()
    frozen: tuple[str, ...] = ()
    multipliers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    counts: tuple[int, int] = (0, 0)
    best: Best | None = None

    @property
    def now(self) -> str:
        """The present moment, for messages."""
        return transition_message.moment(self.epoch, self.epochs, self.batch)

    @property
    def execution(self) -> int:
        """The batches of the next execution; an epoch's last may have fewer than others."""
        if self.steps_per_epoch is None:
            return self.stride
        return min(self.stride, self.steps_per_epoch - self.batch)

    def moments(self) -> tuple[Moment | None, ...]:
        """Return when each phase begins, None where that depends on the logs."""
        return timeline(self.schedule, self.steps_per_epoch, self.stride)

    @property
    def next_transition(self) -> int | None:
        """The first epoch that is wholly behind the present phase; None where that isn't known."""
        if self.progress is None or self.progress.is_last:
            return self.epochs
        moment = self.moments()[self.progress.index + 1]
        return None if moment is None else moment.epoch + (moment.step > 0)

    def rates_of(self, phase: Phase) -> Rates:
        """Return the group rates of a phase, which may leave them to the callback."""
        return self.rates if phase.rates is None else phase.rates

    def count_steps(self, batch: int) -> None:
        """Take note that so many batches of the present epoch are done."""
        if self.progress is not None and batch > self.batch:
            self.progress = self.progress.after_steps(batch - self.batch)
            self.steps += batch - self.batch
        self.batch = batch


def pace_of(run: Run, phase: Phase) -> Pace | None:
    """Return the learning-rate curve of a phase, from the present batch on.

    Raises:
        ValueError: if the curve is as long as the phase, and that can't be known beforehand.
    """
    if phase.curve is None:
        return None
    steps = phase.curve.steps
    if steps is None and phase.trigger is not None:
        done = (run.batch - run.steps) % (run.steps_per_epoch or 1)
        steps = phase.trigger.length(run.steps_per_epoch, done)
    elif steps is None and run.steps_per_epoch is not None:
        steps = (run.total_epochs - run.epoch) * run.steps_per_epoch - run.batch + run.steps
    if steps is None:
        raise ValueError(
            f"{type(phase.curve).__name__}(steps=...) must be given where the length of the phase "
            f"isn't known beforehand. Received: {phase.curve!r} in a phase until "
            f"{phase.until!r}, with {run.steps_per_epoch} steps an epoch. Give a number of batches."
        )
    return Pace(phase.curve, max(1, steps), -run.steps)


def enter(run: Run, model: keras.Model, starts: Mapping[int, int] | None = None) -> str | None:
    """Make a model ready for the phase that a fit is in, if it isn't yet.

    Args:
        run: The present fit.
        model: The model.
        starts: Iteration count by variable id at which it began to train, for a model whose
            optimizer was loaded; None for any other.

    Returns:
        Str, the line that says what changed; None if nothing is to be said.
    """
    progress = run.progress
    if progress is None or run.entered == progress.index:
        return None
    is_first, run.entered = run.entered is None, progress.index
    groups, phase = layer_groups(model, run.groups), progress.phase
    if phase is None:
        run.frozen = frozen_groups(model, groups, Selection())
        run.counts = parameter_counts(model)
        return None
    before = None if is_first else run.frozen
    flags_before = [variable.trainable for variable in model.weights]
    frozen = _without(phase.policy(run.groups).select(model), groups, run.kept)
    run.multipliers = multipliers(run.rates_of(phase), GroupNames.of(groups))
    by_variable = {id(v): run.multipliers[group.name] for group in groups for v in group.variables}
    flags = phase_flags(model, frozen, phase.batch_norm, groups)
    transition(model, flags, by_variable, pace_of(run, phase), starts)
    run.frozen = frozen_groups(model, groups, frozen)
    run.counts = parameter_counts(model)
    is_changed = flags_before != [variable.trainable for variable in model.weights]
    change = transition_message.change(run.multipliers, before, run.frozen, is_changed)
    rate = optimizer_state.learning_rate(model.optimizer)
    numbers = transition_message.numbers(run.counts, run.multipliers, run.frozen, rate)
    return f"{run.now}: {change}. {numbers}"


def advance(run: Run, model: keras.Model) -> list[str]:
    """Leave the phase that is over and enter the next; the last is left by the fit's end.

    Returns:
        List of str, the lines that say what changed.
    """
    said: list[str | None] = []
    while run.progress is not None and run.progress.is_over and not run.progress.is_last:
        said.append(restore_best(run, model, run.now))
        run.progress, run.steps = run.progress.next(), 0
    said.append(enter(run, model))
    return [line for line in said if line]


def keep_best(run: Run, model: keras.Model, logs: Mapping[str, Any]) -> None:
    """Copy the model if this was the best epoch of a phase that asks for it."""
    phase = run.progress.phase if run.progress is not None else None
    if phase is None or phase.best_by is None:
        return
    monitor, mode, min_delta = phase.best_by
    value = monitored("Phase", monitor, logs, argument="restore_best")
    if improves(value, run.best.value if run.best else None, min_delta, mode):
        run.best = Best(value, run.epoch, run.steps, snapshot.capture(model))


def restore_best(run: Run, model: keras.Model, when: str) -> str | None:
    """Take a model back to the best epoch of the phase that ends, if that is another.

    The learning rate stays, since other callbacks may have changed it on purpose.
    """
    best, run.best = run.best, None
    phase = run.progress.phase if run.progress is not None else None
    if best is None or phase is None or phase.best_by is None or best.steps == run.steps:
        return None
    snapshot.restore(model, best.state, learning_rate=False)
    return f"{when}: back to epoch {best.epoch + 1}, with {phase.best_by[0]} {best.value:.4g}."


def leave(run: Run, model: keras.Model) -> str | None:
    """End a fit: go back to the best of the last phase, and take the group rates back."""
    said, goes_on = None, run.epoch + 1 == run.epochs < run.total_epochs
    if run.progress is not None and run.progress.is_last and not goes_on:
        said = restore_best(run, model, "After training")
    if run.entered is not None:
        transition(model, Flags(), {})
    return said


def frozen_groups(
    model: keras.Model, groups: Sequence[LayerGroup], frozen: Selection
) -> tuple[str, ...]:
    """Return the names of the groups of which nothing trains."""
    able = everything_in(model).variables
    variables = {group.name: {id(v) for v in group.variables} & able for group in groups}
    training = {id(v) for v in model.trainable_variables}
    return tuple(
        name
        for name, own in variables.items()
        if own <= frozen.variables or own.isdisjoint(training)
    )


def pace_factor(model: keras.Model) -> float:
    """Return by what the curve of the phase multiplies the learning rate of the next batch."""
    leaf = optimizer_state.leaf_optimizers(model.optimizer)[0]
    pace = update_rules.rules_of(leaf).pace
    if pace is None:
        return 1.0
    done = float(optimizer_state.iterations(leaf) - pace.start)
    return float(keras.ops.convert_to_numpy(pace.curve.factor(done, pace.steps)))


def _without(selection: Selection, groups: Sequence[LayerGroup], kept: frozenset[str]) -> Selection:
    keep = [group for group in groups if group.name in kept]
    variables = {id(v) for group in keep for v in group.variables}
    layers = {id(layer) for group in keep for layer in group.layers}
    return Selection(selection.variables - variables, selection.layers - layers)
