"""Check that a schedule and the callbacks beside it go together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import keras

from keras_freeze.backup import BackupAndRestore
from keras_freeze.callbacks.fit_plan import FitPlan
from keras_freeze.checks import ArgumentError
from keras_freeze.keras_internals.callback_list import arguments_of_fit
from keras_freeze.keras_internals.own_code import replaced_methods
from keras_freeze.model_picture import learning_rate_of
from keras_freeze.schedules import OnPlateau, Phase, every_trigger

#: The callbacks of a fit but the schedule's own.
Siblings = Sequence[keras.callbacks.Callback]

# What takes an epoch for the one after the epoch before, and what to use in a race.
_COMPARING: tuple[tuple[type[keras.callbacks.Callback], str], ...] = (
    (keras.callbacks.EarlyStopping, 'Pass Auto(then="stop"), which ends the fit where that stalls'),
    (
        keras.callbacks.ReduceLROnPlateau,
        "Compile the model with a learning-rate schedule, which each depth follows by its own "
        "iterations",
    ),
    (
        keras.callbacks.LearningRateScheduler,
        "Compile the model with a learning-rate schedule, which each depth follows by its own "
        "iterations",
    ),
    (keras.callbacks.TerminateOnNaN, "A depth whose metric is no number is dropped"),
    (
        keras.callbacks.ModelCheckpoint,
        "Save the model after fit, which ends with its best epoch; or leave save_best_only out",
    ),
)


def refuse_stock_backup(owner: str, siblings: Siblings) -> None:
    """Raise a `ValueError` if Keras's own `BackupAndRestore` stands beside a schedule."""
    for other in siblings:
        stock = keras.callbacks.BackupAndRestore
        if isinstance(other, stock) and not isinstance(other, BackupAndRestore):
            raise ArgumentError(
                "fit",
                "callbacks",
                f"not contain keras.callbacks.BackupAndRestore beside {owner}",
                received=f"{type(other).__name__}({str(other.backup_dir)!r}), which loads the "
                "optimizer before the flags are set and knows no phases",
                advice="Use keras_freeze.BackupAndRestore with the same arguments.",
            )


def check_adaptive(plan: FitPlan, siblings: Siblings) -> None:
    """Raise or warn where a callback beside an adaptive schedule compares epoch with epoch.

    Raises:
        ValueError: if one stands beside a race.
    """
    if plan.adaptive is None:
        return
    for callback in siblings:
        if plan.adaptive.schedule.is_race:
            _refuse_in_a_race(plan.owner, callback)
        elif isinstance(callback, keras.callbacks.EarlyStopping):
            trigger = plan.schedule.phases[0].trigger
            if isinstance(trigger, OnPlateau) and callback.patience <= trigger.patience:
                warnings.warn(
                    f"EarlyStopping(patience={callback.patience}) may end training at the first "
                    f"stall, before {plan.owner} unfreezes a group. Pass a patience of more than "
                    f"{trigger.patience} epochs, or leave it out.",
                    stacklevel=4,
                )


def _refuse_in_a_race(owner: str, callback: keras.callbacks.Callback) -> None:
    for kind, advice in _COMPARING:
        if isinstance(callback, kind) and getattr(callback, "save_best_only", True):
            raise ArgumentError(
                "fit",
                "callbacks",
                f"not contain {type(callback).__name__} beside a race of {owner}, in which depths "
                "take turns, so that an epoch does not follow the one before",
                received=repr(type(callback).__name__),
                advice=f'{advice}. Or use schedules.Auto("sequence").',
            )


def refuse_without_validation(
    plan: FitPlan, epoch: int, phase: Phase | None, siblings: Siblings
) -> None:
    """Raise if a fit begins with a phase that waits for validation, and its first epoch has none.

    Args:
        plan: What the fit is to do.
        epoch: Int, 0-based, where it begins.
        phase: The phase that it begins with.
        siblings: The callbacks beside the schedule's own. One that is not Keras's may add metrics
            to the logs, as may a function, a train step of the user's own and an output that is
            called `val`; with those, nothing is raised.

    Raises:
        ValueError: if that is so.
    """
    model = plan.picture.model
    given = arguments_of_fit()
    every = given.get("validation_freq", 1)
    is_late = isinstance(every, int) and bool((epoch + 1) % every)
    if given.get("validation_data", plan) is not None and not is_late:
        return
    what = f"with validation_freq={every}" if is_late else "without validation data"
    has_own_step = "train_step" in replaced_methods(model)
    outputs = getattr(model, "output_names", None) or ()
    if has_own_step or "val" in outputs or any(map(_may_add_metrics, siblings)):
        return
    for owner, argument, monitor in _monitors(plan, phase):
        if monitor.startswith("val_"):
            raise ArgumentError(
                owner,
                argument,
                "name a metric of this fit",
                received=f"{monitor!r}, in a fit {what}",
                advice="Pass validation_data= or validation_split= to fit, and validation_freq=1.",
            )


def _monitors(plan: FitPlan, phase: Phase | None) -> Iterator[tuple[str, str, str]]:
    """Yield the metrics that a phase waits for, each with the argument that names it."""
    schedule = None if plan.adaptive is None else plan.adaptive.schedule
    if schedule is not None and schedule.monitor is not None:
        yield plan.owner if schedule.best_by is None else "Auto", "monitor", schedule.monitor
    if phase is None:
        return
    for trigger in every_trigger(phase.trigger):
        if isinstance(trigger, OnPlateau):
            yield type(trigger).__name__, "monitor", trigger.monitor
    if phase.best_by is not None:
        yield "Phase", "restore_best", phase.best_by[0]


def _may_add_metrics(callback: keras.callbacks.Callback) -> bool:
    is_known = type(callback).__module__.startswith(("keras.", "keras_freeze."))
    return not is_known or any(name.startswith("on_") for name in vars(callback))


def warn_of_impatience(plan: FitPlan, epoch: int, siblings: Siblings) -> None:
    """Warn if a callback may end a fit, or lower its rate, before the last phase begins.

    Args:
        plan: What the fit is to do.
        epoch: Int, 0-based, where it begins.
        siblings: The callbacks beside the schedule's.
    """
    last = plan.last_begins
    for callback in siblings if last > 0 else ():
        if isinstance(callback, keras.callbacks.EarlyStopping):
            earliest = max(callback.start_from_epoch, epoch) + max(callback.patience, 1)
            what = f"EarlyStopping may end training at epoch {earliest}"
            advice = f"start_from_epoch={last} to EarlyStopping to let it begin"
        elif isinstance(callback, keras.callbacks.ReduceLROnPlateau):
            rate = learning_rate_of(plan.picture.model)
            if rate is not None and callback.min_lr >= rate:  # it has nothing to lower
                continue
            earliest = epoch + max(callback.patience, 1)
            what = f"ReduceLROnPlateau may lower the learning rate at epoch {earliest}"
            advice = f"patience={last} to it, or use curves of the schedule's phases"
        else:
            continue
        if earliest < last:
            warnings.warn(
                f"{what}, before the last phase of {plan.owner} begins at epoch {last}. "
                f"Pass {advice}.",
                stacklevel=2,
            )


def warn_of_h5(plan: FitPlan, siblings: Siblings) -> None:
    """Warn if models are saved in a form that mixes up the weights of layers partly frozen."""
    picture = plan.picture
    for callback in siblings:
        path = str(getattr(callback, "filepath", ""))
        is_checkpoint = isinstance(callback, keras.callbacks.ModelCheckpoint)
        if not is_checkpoint or not path.endswith(".h5") or path.endswith(".weights.h5"):
            continue
        frozen = [plan.sketch(phase).variables for phase in plan.schedule.phases]
        for layer in picture.model.layers:
            own = {id(variable) for variable in picture.trainable_in[id(layer)]}
            if any(own & selected and own - selected for selected in frozen):
                warnings.warn(
                    f"ModelCheckpoint({path!r}): a .h5 file has a layer's weights in another order "
                    f"while a part of it is frozen, as {layer.name} is in {plan.owner}, and loads "
                    "mixed up into a model with other flags. Save to a .keras or a .weights.h5 "
                    "file, which are right.",
                    stacklevel=3,
                )
                break
