"""The engine: change what trains in a compiled model, keeping all training state.

One function makes a transition: set the flags, rebuild the optimizer's slots, rebuild the
step functions. It is called between two batches, inside `fit` or outside.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import keras

from keras_freeze.checks import first_few
from keras_freeze.engine import optimizer_state, update_rules
from keras_freeze.engine.model_state import StepRecord, state_of
from keras_freeze.keras_internals import layers, trainer
from keras_freeze.keras_internals.optimizers import (
    built_variables,
    forget_extra_slots,
    refuse_unknown,
    save_without_extra_slots,
)
from keras_freeze.model_picture import every_layer, optimizers_of, own_optimizers
from keras_freeze.policies import Flags

_KINDS = ("train", "test", "predict")


def recompile(model: keras.Model, *, force: bool = False) -> bool:
    """Make a compiled model train what its flags say now, keeping all training state.

    Use it after changing `trainable` by hand, between two batches or two fits. The optimizer
    stays the same object with its settings, iterations, learning rate, loss scale and the
    state of all variables that remain trainable; the loss, the metrics with their running
    values and the other `compile` settings are not touched. Newly unfrozen variables are updated
    as by a new optimizer at its first step, with averages (EMA) starting at their values. The
    state of variables that freeze is dropped.

    Args:
        model: `keras.Model`, compiled.
        force: Bool. Rebuild even if no flag has changed, as is needed after changing
            something else that is compiled into the step, such as a dropout rate. Defaults to
            False.

    Returns:
        Bool, whether the step was rebuilt (and will be traced again).

    Raises:
        ValueError: if the model isn't compiled, or if the optimizer holds state that can't
            be carried over. Nothing has changed then.

    Example:
        >>> import keras_freeze as kf
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)]
        ... )
        >>> model.compile("adam", "mse")
        >>> model.layers[0].trainable = False
        >>> kf.recompile(model)
        True
        >>> kf.recompile(model)
        False
    """
    if not getattr(model, "compiled", False):
        raise ValueError(
            "recompile(model=...) must get a compiled model. Received: "
            f"model={getattr(model, 'name', model)!r}. Call `model.compile(...)` first."
        )
    return transition(model, Flags(), force=force)


def transition(
    model: keras.Model,
    flags: Flags,
    multipliers: Mapping[int, float] | None = None,
    curve: update_rules.ActiveCurve | None = None,
    starts: Mapping[int, int] | None = None,
    *,
    records: Collection[str] = (),
    force: bool = False,
) -> bool:
    """Set flags and learning-rate multipliers on a model, compiled or not.

    Args:
        model: `keras.Model`.
        flags: What to set.
        multipliers: Learning-rate multiplier by variable id, 1 where missing; None keeps the
            current ones and the active curve.
        curve: Learning-rate curve from this moment on. Defaults to none.
        starts: As for `update_rules.new_rules`.
        records: Names of the extra slots that the optimizer has from now on (`recordings`); where
            `multipliers` is None, it stays as it was. Defaults to none.
        force: Bool. Rebuild even if nothing has changed.

    Returns:
        Bool, whether the train step was rebuilt.

    Raises:
        ValueError: if the optimizer holds state that can't be carried over, or trains another model
            too; if it can't be told which of a model's optimizers is to train a variable; if the
            train step is a `tf.function`.
    """
    frozen_here = _frozen_here(model, flags)
    if not getattr(model, "compiled", False):
        _set_flags(flags)
        state_of(model).frozen_here = frozen_here
        return False
    trainer.sync_jax_state(model)  # by the flags before the change
    for optimizer in optimizers_of(model):
        optimizer_state.check_carries(optimizer)
    _check_can_change(model)
    baked = _baked_into_step(model)
    with _undone_if_interrupted(model, flags):
        _set_flags(flags)
        _check_owners(model)
        carried = [
            _update_optimizer(model, optimizer, multipliers, curve, starts, records, force)
            for optimizer in optimizers_of(model)
        ]
        rebuilt = _update_functions(model, baked, any(carried) or force)
        _note_flags(model)
    state_of(model).frozen_here = frozen_here
    return rebuilt


def _check_can_change(model: keras.Model) -> None:
    """Raise where another model, or what a step has traced, would be left behind."""
    if model.train_function is not None and trainer.has_traced_step(model):
        raise ValueError(
            f"The train step of model {model.name!r} must not be a tf.function: what it has traced "
            "can't be traced again. Remove the decorator; Keras traces the step by itself."
        )
    foreign = _variables_of_others(model)
    if foreign:
        raise ValueError(
            "One optimizer must train one model. Received: one of model "
            f"{model.name!r}, which was built for variables of another "
            f"({first_few(foreign)}). Compile each model with an optimizer of its own."
        )


def paths_without_optimizer(model: keras.Model, variables: Iterable[keras.Variable]) -> list[str]:
    """Return the paths of variables that none of a model's own optimizers was ever built for.

    There are none where the model trains with its main optimizer alone. One that it is compiled
    with beside its own ones proves nothing: Keras builds that for everything, used or not.
    """
    own, trained_by = own_optimizers(model).values(), _trained_by(model)
    trained = {n for optimizer in own if optimizer.built for n in trained_by[optimizer]}
    return [v.path for v in variables if trained and id(v) not in trained]


def paths_with_several_optimizers(model: keras.Model) -> list[str]:
    """Return the paths of variables that several of a model's own optimizers were built for."""
    own, trained_by = own_optimizers(model).values(), _trained_by(model)
    counts = collections.Counter(
        n for optimizer in own if optimizer.built for n in trained_by[optimizer]
    )
    return [variable.path for variable in model.weights if counts[id(variable)] > 1]


def idle_optimizers(model: keras.Model, variables: Iterable[keras.Variable]) -> list[str]:
    """Return the names of a model's own optimizers that were built for none of some variables."""
    trained, ids = _trained_by(model), {id(variable) for variable in variables}
    own = own_optimizers(model).items()
    return [name for name, opt in own if opt.built and ids.isdisjoint(trained[opt])]


def _trained_by(model: keras.Model) -> Mapping[Any, tuple[int, ...]]:
    """Record and return what each optimizer of a model was ever built for."""
    known = state_of(model).trained_by
    for optimizer in optimizers_of(model):
        ids = [*known.get(optimizer, ()), *map(id, built_variables(optimizer))]
        known[optimizer] = tuple(dict.fromkeys(ids))
    return known


def _to_train(model: keras.Model, optimizer: Any) -> list[keras.Variable]:
    """Return what an optimizer is to train by the present flags."""
    if not own_optimizers(model):
        return list(model.trainable_variables)
    # In the order in which it was built, by which `apply` takes gradients without variables.
    trainable = {id(variable): variable for variable in model.trainable_variables}
    return [trainable[n] for n in _trained_by(model)[optimizer] if n in trainable]


def _check_owners(model: keras.Model) -> None:
    """Raise if it can't be told which optimizer is to train what trains by the present flags."""
    own = own_optimizers(model)
    if not own or not all(optimizer.built for optimizer in own.values()):
        return
    trainable, training = model.trainable_variables, optimizers_of(model)
    stale = [o for o in training if _ids(_to_train(model, o)) != _ids(built_variables(o))]
    built = {id(v) for optimizer in training for v in built_variables(optimizer)}
    if not stale and built.issuperset(_ids(trainable)):
        return
    ownerless = paths_without_optimizer(model, trainable)
    if ownerless:
        raise ValueError(
            f"It must be known which of the optimizers of model {model.name!r} trains a variable. "
            f"Received: {first_few(ownerless)}, for which none of its own ({', '.join(own)}) was "
            "built. Make new ones, and build each while all is trainable that it is ever to train: "
            "`optimizer.build(variables)`."
        )


def _variables_of_others(model: keras.Model) -> list[str]:
    """Return the paths of variables that a model's optimizers train and that are another model's.

    A layer that is quantized loses a variable of its own, which the optimizer still has.
    """
    weights = model.weights
    known = {id(variable) for variable in weights}
    trained = (v for optimizer in optimizers_of(model) for v in built_variables(optimizer))
    gone = [v.path for v in trained if id(v) not in known]
    if not gone:
        return []
    floats = {v.path for v in weights if keras.backend.is_float_dtype(v.dtype)}
    layers = {layer.path for layer in every_layer(model)}
    return [path for path in gone if path in floats or path.rpartition("/")[0] not in layers]


def _frozen_here(model: keras.Model, flags: Flags) -> frozenset[int]:
    """Return which variables the package will have frozen when these flags are set."""
    known = state_of(model).frozen_here
    freezes = {id(v) for v, trains in flags.variables if v.trainable and not trains}
    return (known | freezes) - {id(v) for v, trains in flags.variables if trains}


@contextlib.contextmanager
def _undone_if_interrupted(model: keras.Model, flags: Flags) -> Iterator[None]:
    """Restore flags, optimizer and step functions if anything ends the block, Ctrl+C included."""
    present, restores = _present(flags), [*map(optimizer_state.memento, optimizers_of(model))]
    state = state_of(model)
    traced, in_force = state.traced, state.in_force
    functions = {f"{kind}_function": getattr(model, f"{kind}_function") for kind in _KINDS}
    try:
        yield
    except BaseException:
        _set_flags(present)
        for restore_optimizer in restores:
            restore_optimizer()
        for name, function in functions.items():
            setattr(model, name, function)
        state.traced, state.in_force = traced, in_force
        raise


def flags_in_force(model: keras.Model) -> Mapping[int, bool]:
    """Return the flags that the current train step uses, whatever the model's flags are now.

    The engine knows them from the last transition. For a step that `fit` or the user made, it takes
    those that the model has at the first request.

    Args:
        model: `keras.Model`, built and compiled.

    Returns:
        Mapping from the id of each layer and weight to its flag: another object after each
        transition and after each `compile`, else the same.
    """
    record, step = state_of(model).in_force, model.train_function
    return record.known if step is not None and record.is_of(step) else _note_flags(model)


def stale_flags(model: keras.Model) -> tuple[str, ...]:
    """Return the names of what has other flags now than the train step that exists goes by.

    Of a step that the engine has not seen, the optimizer shows what trained when it was made.
    """
    record, step = state_of(model).in_force, model.train_function
    if step is None:
        return ()
    if record.is_of(step):
        parts = (*every_layer(model), *model.weights)
        changed = [x.name for x in parts if record.known.get(id(x), x.trainable) != x.trainable]
    else:
        optimizers = optimizers_of(model)
        leaves = [x for optimizer in optimizers for x in optimizer_state.leaf_optimizers(optimizer)]
        trained = {id(v) for leaf in leaves for v in built_variables(leaf)}
        present = {id(v) for v in model.trainable_variables}
        weights = model.weights if trained else ()
        changed = [v.path for v in weights if (id(v) in present) != (id(v) in trained)]
    return tuple(dict.fromkeys(changed))


def _note_flags(model: keras.Model) -> Mapping[int, bool]:
    # By id, since a reference to a layer would keep the model alive.
    flags = {id(x): x.trainable for x in (*every_layer(model), *model.weights)}
    state_of(model).in_force = StepRecord.of(model.train_function, flags)
    return flags


def sync_jax_state_by(model: keras.Model, flags: Flags) -> None:
    """Copy a running fit's values back to the model by these flags, where Keras holds them (JAX).

    Keras pairs variables and values by the current flags. If these were changed without a
    transition, that mixes weights up, or fails.

    Args:
        model: `keras.Model`.
        flags: Those in force, by which to pair; the current ones are left as they are.
    """
    present = _present(flags)
    _set_flags(flags)
    try:
        trainer.sync_jax_state(model)
    finally:
        _set_flags(present)


def _update_optimizer(
    model: keras.Model,
    optimizer: Any,
    multipliers: Mapping[int, float] | None,
    curve: update_rules.ActiveCurve | None,
    starts: Mapping[int, int] | None,
    records: Collection[str],
    force: bool,
) -> bool:
    variables = _to_train(model, optimizer)
    if own_optimizers(model):
        for part in (optimizer, *optimizer_state.leaf_optimizers(optimizer)):
            refuse_unknown(part, model.name)
    old = {id(v) for v in built_variables(optimizer)}
    was_built = optimizer.built
    stale = _ids(variables) != _ids(built_variables(optimizer))
    if was_built and (stale or force):
        optimizer_state.carry_over(optimizer, variables, strategy_scope(model))
    elif not was_built and (multipliers or curve or records):
        with strategy_scope(model):
            optimizer.build(variables)
    for leaf in optimizer_state.leaf_optimizers(optimizer):
        trained = built_variables(leaf)
        joined = [v for v in trained if was_built and id(v) not in old]
        rules = update_rules.new_rules(
            leaf, trained, joined, multipliers, curve, starts, records=records
        )
        with strategy_scope(model):
            update_rules.set_rules(leaf, trained, rules)
        if leaf is not optimizer and rules.records:
            save_without_extra_slots(optimizer)
        elif leaf is not optimizer:
            forget_extra_slots(optimizer)
    return was_built and stale


def _baked_into_step(model: keras.Model) -> Any:
    """Return what is compiled into the present train step; None if that is not known."""
    traced = state_of(model).traced
    if traced.is_of(model.train_function):
        return traced.known
    at_compile = trainer.flags_at_compile(model).items()
    return _baked_in(model) if all(flag == layer.trainable for layer, flag in at_compile) else None


def _update_functions(model: keras.Model, before: Any, changed: bool) -> bool:
    """Make anew what has other flags compiled into it; return whether that is the train step.

    Regularizers of frozen weights, for one, are left out of the loss, in validation too.
    """
    state, baked = state_of(model), _baked_in(model)
    rebuild = changed or baked != before
    if rebuild and model.train_function is not None:
        trainer.make_function(model, "train", model.make_train_function)
    for kind in ("test", "predict"):
        function, made = getattr(model, f"{kind}_function"), state.made.get(kind)
        # Of one that Keras made since the last transition it isn't known what it has seen.
        if function is not None and (rebuild or made is None or not made.is_of(function)):
            trainer.make_function(model, kind, getattr(model, f"make_{kind}_function"))
            state.made[kind] = StepRecord.of(getattr(model, f"{kind}_function"), None)
    state.traced = StepRecord.of(model.train_function, baked)
    return rebuild


def _baked_in(model: keras.Model) -> tuple[Any, ...]:
    """Return all that is compiled into a train step and a transition can change."""
    optimizers = optimizers_of(model)
    leaves = (leaf for opt in optimizers for leaf in optimizer_state.leaf_optimizers(opt))
    rules = tuple(
        (tuple(sorted(rules.cohorts.items())), rules.curve, rules.records)
        for rules in map(update_rules.rules_of, leaves)
    )
    layers = tuple(layer.trainable for layer in every_layer(model))
    return _ids(optimizers), _ids(model.trainable_variables), layers, rules


def _ids(variables: Any) -> list[int]:
    return [id(v) for v in variables]


def _present(flags: Flags) -> Flags:
    return Flags(
        tuple((variable, variable.trainable) for variable, _ in flags.variables),
        tuple((layer, layer.trainable) for layer, _ in flags.layers),
    )


def _set_flags(flags: Flags) -> None:
    for layer, value in flags.layers:
        layers.set_own_flag(layer, value)
    for variable, value in flags.variables:
        variable.trainable = value


def strategy_scope(model: keras.Model) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which variables of a model have to be created."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()
