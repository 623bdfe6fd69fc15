"""Where in its schedule a `fit` begins, and how long each variable has been training.

Known are: a model that continues in this process, whose position was recorded; and a schedule by
epochs, which says where any epoch is. What depends on the metrics of epochs that were not
recorded can't be known, and is an error rather than a guess.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping

import keras

from keras_freeze.callbacks.fit_plan import Best, FitPlan, StartingPoint
from keras_freeze.callbacks.schedule_run import ScheduleRun
from keras_freeze.checks import ArgumentError
from keras_freeze.engine import recordings, state_of
from keras_freeze.keras_internals.optimizers import iterations
from keras_freeze.model_picture import (
    LayerGroup,
    ModelPicture,
    is_batch_norm,
    optimizers_of,
    own_optimizers,
)
from keras_freeze.policies import phase_flags
from keras_freeze.schedules import Phase, Progress, beginning, progress_at


@dataclasses.dataclass(frozen=True)
class Position:
    """Where the last fit of a model has come.

    Attributes:
        epoch: Int, the next epoch.
        progress: `Progress` at its beginning.
        steps: Int, batches done in that phase.
        best: The best epoch of that phase, if it asks for it.
        optimizers: Those that train the model, whose state the best epoch holds.
        dials: What their rates are multiplied by, by variable id.
    """

    epoch: int
    progress: Progress
    steps: int
    best: Best | None
    optimizers: tuple[weakref.ref[keras.Optimizer], ...]
    dials: Mapping[int, float]


def record(run: ScheduleRun, next_epoch: int) -> None:
    """Keep where a fit is, for one that continues from there in the same process."""
    model = run.plan.picture.model
    optimizers = tuple(map(weakref.ref, optimizers_of(model)))
    dials = recordings.dials(run.model)
    position = Position(next_epoch, run.progress, run.steps, run.best, optimizers, dials)
    state_of(model).position = position


def is_known(model: keras.Model) -> bool:
    """Tell whether this process has trained a model by a schedule before."""
    state = state_of(model)
    return state.position is not None or state.has_exact_starts


def starting_point(plan: FitPlan, epoch: int, keeps_unfrozen: bool) -> StartingPoint:
    """Return where in its schedule a fit is that begins at an epoch.

    Args:
        plan: What the fit is to do.
        epoch: Int, 0-based.
        keeps_unfrozen: Bool, whether groups that trained before are not to be frozen again.

    Raises:
        ValueError: if that depends on epochs that this process has not seen.
    """
    start = _on_schedule(plan, epoch)
    if start.progress.is_last and start.progress.is_over:
        raise ArgumentError(
            plan.owner,
            "schedule",
            "not be over before the fit begins",
            received=f"a fit from epoch {epoch}, and a last phase that has ended by then",
            advice="To train further, leave the callback out; to start over, leave "
            "initial_epoch= out.",
        )
    return dataclasses.replace(
        start,
        kept=_unfrozen_before(plan.picture) if keeps_unfrozen and epoch > 0 else frozenset(),
        joined=_joined_at(plan, start),
    )


def _on_schedule(plan: FitPlan, epoch: int) -> StartingPoint:
    model, schedule = plan.picture.model, plan.schedule
    position = state_of(model).position
    if epoch == 0:
        return StartingPoint(epoch, beginning(schedule))
    is_next = position is not None and position.epoch == epoch
    if position is not None and is_next and position.progress.schedule == schedule:
        are_the_same = tuple(map(weakref.ref, optimizers_of(model))) == position.optimizers
        best = position.best if are_the_same else None
        progress, steps = position.progress, position.steps
        return StartingPoint(epoch, progress, steps, best, dials=position.dials)
    progress = progress_at(schedule, epoch, plan.steps_per_epoch, plan.stride)
    if progress is None:
        raise ArgumentError(
            plan.owner,
            "schedule",
            f"go by epochs alone in a fit that begins at epoch {epoch}, or the fit before it must "
            "have run in this process",
            received="a schedule that depends on metrics or steps, whose state was not saved",
            advice="Use keras_freeze.BackupAndRestore to resume after an interruption.",
        )
    return StartingPoint(epoch, progress, _steps_in_phase(plan, progress, epoch))


def _steps_in_phase(plan: FitPlan, progress: Progress, epoch: int) -> int:
    if plan.steps_per_epoch is None or progress.index < 0:
        return 0
    begun = plan.moments[progress.index]
    if begun is None:
        return 0
    return max(0, (epoch - begun.epoch) * plan.steps_per_epoch - begun.step)


def _unfrozen_before(picture: ModelPicture) -> frozenset[str]:
    """Return the groups that earlier training has unfrozen: the flags say it, if there was any."""
    training = frozenset(group.name for group in picture.groups if _trains(picture, group))
    has_trained = is_known(picture.model) or _batches_done(picture.model) > 0
    return training if has_trained or len(training) < len(picture.groups) else frozenset()


def _trains(picture: ModelPicture, group: LayerGroup) -> bool:
    """Tell whether a group trains, apart from its `BatchNormalization`."""
    weights = (w for layer in group.layers for w in picture.weights_in[id(layer)])
    return any(w.variable.trainable for w in weights if not is_batch_norm(w.layer))


def _joined_at(plan: FitPlan, start: StartingPoint) -> dict[int, int] | None:
    """Return when each variable began to train, for a model that continues from a file.

    A file holds the optimizer's state, but not which variables joined late, so that
    optimizers such as Adam would treat them as trained from step 0. The schedule and the
    iteration count tell.

    Returns:
        Dict from variable id to iteration count; None for a model that isn't such a one.

    Raises:
        ValueError: if they don't tell.
    """
    if not _continues_from_a_file(plan, start):
        return None
    if own_optimizers(plan.picture.model):
        raise ArgumentError(
            "fit",
            "initial_epoch",
            "be 0 for a model with optimizers of its own that this schedule has not trained, since "
            "it is not known how long each of its weights has trained",
            value=start.epoch,
            advice="Begin a schedule of its own at epoch 0, or train it by one from the start.",
        )
    unknown = (
        "so that it is not known how long the groups that unfroze late have trained. Use "
        "keras_freeze.BackupAndRestore, which keeps that."
    )
    if plan.schedule.start:
        raise ValueError(
            f"{plan.owner}: fit(initial_epoch={start.epoch}) must continue in the process that "
            "began it, with a new optimizer, or with a schedule from epoch 0. Received: a schedule "
            f"from epoch {plan.schedule.start}, which does not say what trained before, {unknown}"
        )
    trained = [
        _trained_in(plan, phase) for phase in plan.schedule.phases[: start.progress.index + 1]
    ]
    now = {id(v) for v in plan.picture.model.trainable_variables}
    if len(trained) < 2 or now not in trained[-2:]:
        return None
    steps, done = plan.steps_per_epoch, _batches_done(plan.picture.model)
    if steps is None or done != start.epoch * steps:
        raise ValueError(
            f"{plan.owner}: fit(initial_epoch={start.epoch}) must continue the training that its "
            f"schedule describes, or begin with a new optimizer. Received: an optimizer after "
            f"{done} batches, and {steps} batches an epoch, {unknown}"
        )
    starts: dict[int, int] = {}
    for moment, ids in zip(plan.moments, trained, strict=False):
        begun = 0 if moment is None else moment.epoch * steps + moment.step
        starts = {i: starts.get(i, begun) for i in ids}
    return {i: begun for i, begun in starts.items() if begun < done}


def _continues_from_a_file(plan: FitPlan, start: StartingPoint) -> bool:
    model = plan.picture.model
    if start.epoch == 0 or start.progress.phase is None or is_known(model):
        return False
    return _batches_done(model) > 0


def _batches_done(model: keras.Model) -> int:
    return max(iterations(optimizer) for optimizer in optimizers_of(model))


def _trained_in(plan: FitPlan, phase: Phase) -> set[int]:
    flags = phase_flags(plan.picture, plan.sketch(phase), phase.batch_norm)
    return {id(variable) for variable, trains in flags.variables if trains}
