"""Check that a schedule can be carried out on its model, and warn of what is hardly meant."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_freeze.callbacks.fit_plan import FitPlan
from keras_freeze.callbacks.schedule_run import ScheduleRun
from keras_freeze.checks import ArgumentError, counted, first_few
from keras_freeze.engine import (
    idle_optimizers,
    paths_with_several_optimizers,
    paths_without_optimizer,
)
from keras_freeze.keras_internals import trainer
from keras_freeze.keras_internals.layers import lora_base
from keras_freeze.model_picture import (
    ModelPicture,
    all_untouched,
    learning_rate_of,
    main_optimizer,
    own_optimizers,
)
from keras_freeze.policies import lost_in_a_file, phase_flags, warn_of_hidden_state
from keras_freeze.schedules import Phase, placed, soonest, timeline

# Multiples of a learning rate that may have been meant for learning rates.
_TINY = 0.01


def check_schedule(plan: FitPlan) -> None:
    """Raise if a phase doesn't fit the model.

    Raises:
        ValueError: if a phase names what the model does not have, leaves nothing to train, or has a
            curve of unknown length; if a phase that a file holds can't be reached.
    """
    for index, phase in enumerate(plan.schedule.phases):
        _check_phase(plan, _label(plan, index), phase)
    source, advice = _unreached(plan)
    if source is not None:
        raise ValueError(f"{source.at('until')}: {advice}")


def warn(plan: FitPlan) -> None:
    """Warn of what can be carried out and is hardly meant."""
    _warn_of_late_phases(plan)
    _warn_of_initial_values(plan)
    # What the first phase freezes and holds more than variables.
    warn_of_hidden_state(plan.owner, plan.picture, plan.sketch(plan.schedule.phases[0]))
    _warn_of_tiny_rates(plan)


def _warn_of_late_phases(plan: FitPlan) -> None:
    """Warn if a phase is not reached."""
    if plan.adaptive is not None:  # which phases are reached is what it finds out
        return
    _, advice = _unreached(plan)
    if advice:
        warnings.warn(f"{plan.owner}: {advice}", stacklevel=4)


def _check_phase(plan: FitPlan, label: str, phase: Phase) -> None:
    note = f"In {label} of {plan.owner}(schedule=...)."
    with placed(phase, "rates", note):
        plan.multipliers(phase)
    with placed(phase, "frozen", note):
        plan.sketch(dataclasses.replace(phase, weights="all"))
    with placed(phase, "weights", note):
        frozen = plan.sketch(phase)
    for policy in phase.policy().leaves():
        policy.check_in(plan.picture)
    with placed(phase, "curve", note):
        plan.curve(phase, epoch=0, batch=0, steps=0)
    flags = phase_flags(plan.picture, frozen, phase.batch_norm)
    if not any(trains for _, trains in flags.variables):
        with placed(phase, "frozen"):
            raise ArgumentError(
                plan.owner,
                "schedule",
                "leave at least one trainable variable",
                received=f"{label}, which freezes all of model {plan.picture.model.name!r}",
                advice=f"Leave out a group of: {', '.join(plan.picture.group_names)}.",
            )


def _unreached(plan: FitPlan) -> tuple[Any, str]:
    """Return the place in a file of the first phase that is not reached, and what to say of it.

    The place is None where the schedule is from no file; the text is "" where all are reached.
    """
    moments = timeline(soonest(plan.schedule), plan.steps_per_epoch, plan.stride)
    total, begins = plan.total_epochs, [None if m is None else m.epoch for m in moments]
    late = [(n, epoch) for n, epoch in enumerate(begins) if epoch is not None and epoch >= total]
    if not late:
        return None, ""
    index, epoch = late[0]
    label, is_fixed = _label(plan, index), plan.moments[index] is not None
    reason = "" if is_fixed else f", as it can't begin before epoch {epoch}"
    advice = (
        f"{label} is not reached in {total} epochs{reason}. Train longer or begin it earlier; "
        "where training is split over several fits, pass total_epochs=."
    )
    return plan.schedule.phases[max(0, index - 1)].source, advice


def _label(plan: FitPlan, index: int) -> str:
    moment = plan.moments[index]
    return f"phase {index}" if moment is None else f"the phase at epoch {moment.epoch}"


def check_optimizers(plan: FitPlan) -> None:
    """Check that it can be told what each optimizer of a model is to train, and at what rate.

    Raises:
        ValueError: if it can't, or if the train step is a `tf.function`.
    """
    model = plan.picture.model
    if not getattr(model, "compiled", False):
        return
    if trainer.has_traced_step(model):
        raise ArgumentError(
            plan.owner,
            "model",
            "have a train_step that is no tf.function: one keeps what it has traced",
            received=repr(model.name),
            advice="Remove the decorator; Keras traces the step by itself.",
        )
    own, main = own_optimizers(model), main_optimizer(model)
    if not own and main is model.optimizer is not None:
        return
    rule = None
    if main is None and not own:
        rule = "have an optimizer, compiled or in an attribute"
    elif keras.backend.backend() == "jax":
        rule = "train with the optimizer that it is compiled with, and no other, on the JAX backend"
    elif any(isinstance(o, keras.optimizers.MultiOptimizer) for o in own.values()):
        rule = "have no MultiOptimizer of its own beside the one that it is compiled with"
    if rule is not None:
        raise ArgumentError(
            plan.owner,
            "model",
            rule,
            received=f"{model.name!r}, with {_named(own) if own else 'no optimizer of its own'}",
            advice="Compile it with a keras.optimizers.MultiOptimizer, and apply all gradients in "
            "one call of `self.optimizer.apply`; or freeze what is to stay frozen before the first "
            "step, with keras_freeze.freeze.",
        )
    unbuilt = [name for name, optimizer in own.items() if not optimizer.built]
    if unbuilt:
        raise ArgumentError(
            plan.owner,
            "model",
            "have optimizers of its own that are built, each for what it is ever to train: nothing "
            "else tells which variables that is",
            received=f"{model.name!r}, with {_named(unbuilt)} not built",
            advice=f"Before fit, call `model.{unbuilt[0]}.build(variables)`, with the "
            "`trainable_variables` of its part of the model; delete one that is not used. Or "
            "compile the model with a keras.optimizers.MultiOptimizer, and apply all gradients by "
            "`self.optimizer.apply`.",
        )
    doubled = paths_with_several_optimizers(model)
    if doubled:
        raise ArgumentError(
            plan.owner,
            "model",
            "have one optimizer of its own for each variable",
            received=f"{model.name!r}, where several of {_named(own)} were built for "
            f"{first_few(doubled)}",
            advice="Delete those that are not used.",
        )
    for index, phase in enumerate(plan.schedule.phases) if own else ():
        _check_owners(plan, _label(plan, index), phase)


def _check_owners(plan: FitPlan, label: str, phase: Phase) -> None:
    model = plan.picture.model
    if phase.curve is not None:
        raise ArgumentError(
            plan.owner,
            "schedule",
            "have no curves for a model with optimizers of its own, which need not count batches",
            received=f"{label}, with a curve",
            advice="Give each optimizer a learning-rate schedule of Keras.",
        )
    flags = phase_flags(plan.picture, plan.sketch(phase), phase.batch_norm)
    trains = {id(variable): flag for variable, flag in flags.variables}
    training = [v for v in model.weights if trains.get(id(v), v.trainable)]
    ownerless, idle = paths_without_optimizer(model, training), idle_optimizers(model, training)
    if ownerless:
        raise ArgumentError(
            plan.owner,
            "schedule",
            "train nothing that none of the model's own optimizers was built for",
            received=f"{label}, which trains {first_few(ownerless)}",
            advice="Make new optimizers, and build them while all is trainable that they are ever "
            "to train.",
        )
    if idle:
        raise ArgumentError(
            plan.owner,
            "schedule",
            "leave something to train to each of the model's own optimizers",
            received=f"{label}, which freezes all that {first_few(idle)} trains",
            advice="Leave part of it trainable.",
        )


def _named(names: Iterable[str]) -> str:
    return f"optimizers of its own ({', '.join(names)})"


def check_adaptive(plan: FitPlan) -> None:
    """Raise a `ValueError` if an adaptive schedule can't run in a fit."""
    if plan.adaptive is None:
        return
    own = own_optimizers(plan.picture.model)
    if own:
        raise ArgumentError(
            plan.owner,
            "model",
            "train with the optimizer that it is compiled with, and no other, for an adaptive "
            "schedule, which keeps states of the training",
            received=f"{plan.picture.model.name!r}, with {_named(own)}",
            advice="Pass a schedule by epochs.",
        )
    if plan.total_epochs != plan.epochs:
        raise ArgumentError(
            plan.owner,
            "total_epochs",
            "be left out with an adaptive schedule, which needs a single fit",
            received=f"total_epochs={plan.total_epochs}, in a fit of {plan.epochs} epochs",
        )


def refuse_later_start(plan: FitPlan, epoch: int) -> None:
    """Raise a `ValueError` if what has been decided in earlier phases isn't known any more."""
    if epoch and any(phase.decides_late for phase in plan.schedule.phases):
        raise ArgumentError(
            "fit",
            "initial_epoch",
            f"be 0 with a schedule of {plan.owner} in which TopGradient decides, since what it "
            "chose is in no file of the model",
            value=epoch,
            advice="Use keras_freeze.BackupAndRestore to resume after an interruption.",
        )
    if plan.adaptive is not None and epoch:
        raise ArgumentError(
            "fit",
            "initial_epoch",
            f"be 0 with an adaptive schedule of {plan.owner}, since what it has seen and kept is "
            "in no file of the model",
            value=epoch,
            advice="Use keras_freeze.BackupAndRestore to resume after an interruption. To train "
            "the model further at the depth that was found, use FreezeScheduler({0: "
            'callback.decisions.freeze_depth}, rates="default").',
        )


def refuse_several_workers(owner: str, model: keras.Model) -> None:
    """Raise where TensorFlow spreads a model over several workers, which Keras 3 can't train."""
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return
    import tensorflow as tf

    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ArgumentError(
            owner,
            "model",
            "not be spread over several workers by TensorFlow, since fit of Keras 3 fails there "
            "(a PerReplica can't be converted), with callbacks and without",
            received=f"{model.name!r}, built under {type(strategy).__name__}",
            advice="For several devices of one machine, build it under "
            "tf.distribute.MirroredStrategy; for several machines, use keras.distribution on the "
            "JAX backend.",
        )


def refuse_quantized_lora(owner: str, picture: ModelPicture) -> None:
    """Raise where LoRA can't train: on float8, or base weights without a gradient."""
    for weight in picture.weights:
        layer, variable = weight.layer, weight.variable
        is_base = variable is lora_base(layer)
        if is_base and getattr(layer, "quantization_mode", None) == "float8":
            raise ArgumentError(
                owner,
                "model",
                "have LoRA on float, int8 or int4 layers, since Keras has none on float8",
                received=f"layer {layer.name!r}, which has both",
                advice="Call enable_lora on a layer that is not quantized to float8.",
            )
        has_gradient = keras.backend.is_float_dtype(variable.dtype)
        if is_base and picture.lora_base_trains and not has_gradient:
            raise ArgumentError(
                owner,
                "lora",
                'be "adapters" where base weights are quantized',
                received=f"'with_base', where {variable.path} is {variable.dtype}",
                advice="Only float weights have a gradient.",
            )


def _warn_of_initial_values(plan: FitPlan) -> None:
    """Warn if a schedule freezes layers that nothing has trained, where it isn't told which."""
    picture = plan.picture
    if picture.backbone is not None:
        return
    frozen = plan.sketch(plan.schedule.phases[0]).variables
    waiting = []
    for group in picture.groups_that_may_train[:-1]:
        for layer in group.layers:
            own = {id(variable) for variable in picture.trainable_in[id(layer)]}
            if own & frozen and all_untouched(picture, [layer]):
                waiting.append(layer.name)
    if waiting:
        warnings.warn(
            f"{plan.owner}: {counted(len(waiting), 'layer')} of model {picture.model.name!r} "
            f"({first_few(waiting)}) will be frozen at initial values that nothing has trained. If "
            "these layers are new, pass backbone= to say what is pretrained.",
            stacklevel=4,
        )


def _warn_of_tiny_rates(plan: FitPlan) -> None:
    """Warn if multiples of the compiled rate look like rates: all of them are tiny."""
    first = plan.multipliers(plan.schedule.phases[0])
    if isinstance(plan.rates, Mapping) and max(first.values()) <= _TINY:
        compiled = learning_rate_of(plan.picture.model)
        unit = "the compiled learning rate" if compiled is None else f"{compiled:.1e}, as compiled"
        warnings.warn(
            f"{plan.owner}: rates= are multiples of {unit}, and no group has more than "
            f"{_TINY} of it. Give 1.0 to the group that is to train at that rate.",
            stacklevel=4,
        )


def warn_of_files(run: ScheduleRun) -> None:
    """Warn if a fit leaves flags behind that a plain file of the model can't keep."""
    lost = lost_in_a_file(run.plan.picture)
    if lost:
        owner, prepare = run.plan.owner, ""
        phase = run.progress.phase
        if run.plan.adaptive is None and not (phase is not None and phase.decides_late):
            prepare = (
                "To continue from such a file with the optimizer's state: load it, call "
                f"`{owner}(...).prepare(model, phase={run.progress.index})`, then "
                "`model.load_weights(path)`. "
            )
        warnings.warn(
            f"{owner}: model {run.plan.picture.model.name!r} ends with flags of single variables "
            f"({first_few(lost)}), which a plain .keras file can't keep, and a .h5 file loads "
            f"mixed up. {prepare}keras_freeze.BackupAndRestore keeps everything.",
            stacklevel=4,
        )
