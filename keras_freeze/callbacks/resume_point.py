"""Where a `fit` that does not begin at epoch 0 is in its schedule, and how long what trains has.

Known are: a model that went on in this process, which is remembered; and a schedule by the
calendar, which says where any epoch is. What depends on the logs of epochs that nobody
remembers can't be known, and is an error rather than a guess.
"""

from __future__ import annotations

import dataclasses
import weakref

import keras

from keras_freeze.callbacks.schedule_run import Best, Run
from keras_freeze.engine import optimizer_state
from keras_freeze.groups import LayerGroup
from keras_freeze.policies.flags import phase_flags
from keras_freeze.schedules import Phase, Progress, beginning, progress_at


@dataclasses.dataclass(frozen=True)
class Memory:
    """Where the last fit of a model has come.

    Attributes:
        epoch: Int, the next epoch.
        progress: `Progress` at its beginning.
        steps: Int, batches done in that phase.
        best: The best epoch of that phase, if it asks for it.
        optimizer: The optimizer, whose state the best epoch holds.
    """

    epoch: int
    progress: Progress
    steps: int
    best: Best | None
    optimizer: weakref.ref[keras.Optimizer]


_memory: weakref.WeakKeyDictionary[keras.Model, Memory] = weakref.WeakKeyDictionary()
_taken_as_known: weakref.WeakSet[keras.Model] = weakref.WeakSet()


def remember(model: keras.Model, run: Run, next_epoch: int) -> None:
    """Keep where a fit is, for one that goes on from there in the same process."""
    if run.progress is not None:
        optimizer = weakref.ref(model.optimizer)
        _memory[model] = Memory(next_epoch, run.progress, run.steps, run.best, optimizer)


def is_known(model: keras.Model) -> bool:
    """Tell whether this process has trained a model by a schedule before."""
    return model in _memory or model in _taken_as_known


def take_as_known(model: keras.Model) -> None:
    """Take note that a model's optimizer knows when each variable began to train."""
    _taken_as_known.add(model)


def place(run: Run, model: keras.Model, owner: str) -> None:
    """Set where in its schedule a fit is that begins at its present epoch.

    Raises:
        ValueError: if that depends on epochs that this process has not seen.
    """
    memory, epoch = _memory.get(model), run.epoch
    is_next = memory is not None and memory.epoch == epoch
    if epoch == 0:
        run.progress = beginning(run.schedule)
    elif memory is not None and is_next and memory.progress.schedule == run.schedule:
        run.progress, run.steps = memory.progress, memory.steps
        run.best = memory.best if memory.optimizer() is model.optimizer else None
    else:
        run.progress = progress_at(run.schedule, epoch, run.steps_per_epoch, run.stride)
        if run.progress is None:
            raise ValueError(
                f"{owner}(schedule=...) must go by epochs alone in a fit that begins at epoch "
                f"{epoch}, or the fit before it must have run in this process. Received: a "
                "schedule that depends on logs or steps, which nobody remembers. Use "
                "keras_freeze.BackupAndRestore to go on after an interruption."
            )
        run.steps = _steps_in_phase(run)
    if run.progress.is_last and run.progress.is_over:
        raise ValueError(
            f"{owner}(schedule=...) must not be over before the fit begins. Received: a fit from "
            f"epoch {epoch}, and a last phase that has ended by then. To train on, leave the "
            "callback out; to start over, leave initial_epoch= out."
        )


def _steps_in_phase(run: Run) -> int:
    if run.progress is None or run.steps_per_epoch is None:
        return 0
    begun = run.moments()[max(run.progress.index, 0)]
    if begun is None or run.progress.index < 0:
        return 0
    return max(0, (run.epoch - begun.epoch) * run.steps_per_epoch - begun.step)


def joined_at(
    run: Run, model: keras.Model, groups: tuple[LayerGroup, ...], owner: str
) -> dict[int, int] | None:
    """Return when each variable began to train, for a model that goes on from a file.

    A file holds the optimizer's state, but not which variables joined late, so that Adam and
    its kin would take them for old. The schedule and the iteration count tell.

    Returns:
        Dict from variable id to iteration count; None for a model that isn't such a one.

    Raises:
        ValueError: if it can't be told from them.
    """
    epoch = run.epoch
    if epoch == 0 or is_known(model) or run.progress is None:
        return None
    done = optimizer_state.iterations(model.optimizer)
    if not done or not model.optimizer.built or run.progress.phase is None:
        return None
    if run.schedule.start:
        raise ValueError(
            f"{owner}: fit(initial_epoch={epoch}) must go on in the process that began it, with a "
            "new optimizer, or with a schedule from epoch 0. Received: a schedule from epoch "
            f"{run.schedule.start}, which does not say what trained before, so that it can't be "
            "told how long the groups that thawed late have trained. Use "
            "keras_freeze.BackupAndRestore, which keeps that."
        )
    phases = run.schedule.phases[: run.progress.index]
    if not phases:
        return None
    before = [_trained(run, model, groups, phase) for phase in [*phases, run.progress.phase]]
    trained = {id(v) for v in model.trainable_variables}
    if trained not in (before[-1], before[-2]):
        return None
    steps = run.steps_per_epoch
    if steps is None or done != epoch * steps:
        raise ValueError(
            f"{owner}: fit(initial_epoch={epoch}) must go on with the training that its schedule "
            f"describes, or with a new optimizer. Received: an optimizer after {done} batches, "
            f"and {steps} batches an epoch, so that it can't be told how long the groups that "
            "thawed late have trained. Use keras_freeze.BackupAndRestore, which keeps that."
        )
    moments = run.moments()
    starts: dict[int, int] = {}
    for moment, ids in zip(moments, before, strict=False):
        begun = 0 if moment is None else moment.epoch * steps + moment.step
        starts = {i: starts.get(i, begun) for i in ids}
    return {i: start for i, start in starts.items() if start < done}


def _trained(
    run: Run, model: keras.Model, groups: tuple[LayerGroup, ...], phase: Phase | None
) -> set[int]:
    if phase is None:
        return {id(v) for v in model.trainable_variables}
    frozen = phase.policy(run.groups).select(model)
    flags = phase_flags(model, frozen, phase.batch_norm, groups)
    return {id(variable) for variable, trains in flags.variables if trains}
