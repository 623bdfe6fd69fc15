"""Check before a fit that a schedule can be carried out on a model in it."""

from __future__ import annotations

import dataclasses
import warnings

import keras

from keras_freeze.callbacks import schedule_run
from keras_freeze.callbacks.schedule_run import Run
from keras_freeze.checks import first_few
from keras_freeze.groups import LayerGroup, layer_groups
from keras_freeze.model_picture import GroupNames
from keras_freeze.policies.flags import lost_in_a_file, phase_flags
from keras_freeze.schedules.phases import Phase, placed
from keras_freeze.schedules.progress import soonest, timeline
from keras_freeze.schedules.rates import multipliers


def check(run: Run, model: keras.Model, owner: str) -> None:
    """Raise if a phase doesn't fit the model, and say if one is not reached.

    Args:
        run: The fit that is to begin.
        model: `keras.Model`, built.
        owner: Str, in whose name errors are raised.

    Raises:
        ValueError: if a phase names what the model has not, leaves nothing to train, or has a
            curve of unknown length; if a phase that a file holds can't be reached.
    """
    groups = layer_groups(model, run.groups)
    for index, phase in enumerate(run.schedule.phases):
        _check_phase(run, model, owner, _label(run, index), phase, groups)
    _check_reach(run, owner)


def warn_of_files(run: Run, model: keras.Model, owner: str) -> None:
    """Warn if a fit leaves flags behind that a plain file of the model can't keep."""
    lost = lost_in_a_file(model)
    if lost and run.entered is not None:
        warnings.warn(
            f"{owner}: model {model.name!r} ends with flags of single variables "
            f"({first_few(lost)}), which a plain .keras file can't keep. To go on from such a "
            f"file with the optimizer's state: load it, call `{owner}(...).prepare(model, "
            f"phase={run.entered})`, then `model.load_weights(path)`. "
            "keras_freeze.BackupAndRestore keeps everything.",
            stacklevel=3,
        )


def _check_phase(
    run: Run,
    model: keras.Model,
    owner: str,
    label: str,
    phase: Phase,
    groups: tuple[LayerGroup, ...],
) -> None:
    names = GroupNames.of(groups)
    note = f"In {label} of {owner}(schedule=...)."
    with placed(phase, "rates", note):
        multipliers(run.rates_of(phase), names, owner=owner)
    with placed(phase, "frozen", note):
        dataclasses.replace(phase, weights="all").policy(run.groups).select(model)
    with placed(phase, "weights", note):
        frozen = phase.policy(run.groups).select(model)
    with placed(phase, "curve", note):
        schedule_run.pace_of(run, phase)
    flags = phase_flags(model, frozen, phase.batch_norm, groups)
    if not any(trains for _, trains in flags.variables):
        with placed(phase, "frozen"):
            raise ValueError(
                f"{owner}(schedule=...) must leave something to train. Received: {label}, which "
                f"freezes all of model {model.name!r}. Leave out a group of: {', '.join(names)}."
            )


def _check_reach(run: Run, owner: str) -> None:
    moments = timeline(soonest(run.schedule), run.steps_per_epoch, run.stride)
    total, begin = run.total_epochs, [None if m is None else m.epoch for m in moments]
    late = [(n, epoch) for n, epoch in enumerate(begin) if epoch is not None and epoch >= total]
    if not late:
        return
    index, epoch = late[0]
    label = _label(run, index)
    reason = f", as it can't begin before epoch {epoch}" if label == f"phase {index}" else ""
    advice = (
        f"{label} is not reached in {total} epochs{reason}. Train longer or begin it earlier; "
        "where training is split over several fits, pass total_epochs=."
    )
    source = run.schedule.phases[max(0, index - 1)].source
    if source is not None:
        raise ValueError(f"{source.at('until')}: {advice}")
    warnings.warn(f"{owner}: {advice}", stacklevel=4)


def _label(run: Run, index: int) -> str:
    moment = run.moments()[index]
    return f"phase {index}" if moment is None else f"the phase at epoch {moment.epoch}"
