"""The engine: change what trains in a compiled model and lose nothing.

One function makes a transition: set the flags, rebuild the optimizer's slots, rebuild the
step functions. It is called between two batches, inside `fit` or outside.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping
from typing import Any

import keras

from keras_freeze.engine import optimizer_state, update_rules
from keras_freeze.model_picture import structure
from keras_freeze.policies.flags import Flags

_traced: weakref.WeakKeyDictionary[keras.Model, Any] = weakref.WeakKeyDictionary()
_in_force: weakref.WeakKeyDictionary[keras.Model, Any] = weakref.WeakKeyDictionary()


def recompile(model: keras.Model, *, force: bool = False) -> bool:
    """Make a compiled model train what its flags say now, keeping all training state.

    Use it after changing `trainable` by hand, between two batches or two fits. The optimizer
    stays the same object with its settings, iterations, learning rate, loss scale and the
    slots of all variables that go on training; the loss, the metrics with their running
    values and the other `compile` settings are not touched. Variables that join are updated
    as by a new optimizer at its first step, with averages (EMA) starting at their values. The
    slots of variables that freeze are dropped.

    Args:
        model: `keras.Model`, compiled.
        force: Bool. Rebuild even if no flag has changed, as is needed after changing
            something else that the step has baked in, a dropout rate say. Defaults to False.

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
    pace: update_rules.Pace | None = None,
    starts: Mapping[int, int] | None = None,
    *,
    force: bool = False,
) -> bool:
    """Set flags and learning-rate multipliers on a model, compiled or not.

    Args:
        model: `keras.Model`.
        flags: What to set.
        multipliers: Learning-rate multiplier by variable id, 1 where missing; None keeps the
            present ones and the present pace.
        pace: Learning-rate curve from this moment on. Defaults to none.
        starts: As for `update_rules.new_rules`.
        force: Bool. Rebuild even if nothing has changed.

    Returns:
        Bool, whether the train step was rebuilt.

    Raises:
        ValueError: if the optimizer holds state that can't be carried over.
    """
    if not getattr(model, "compiled", False):
        _set_flags(flags)
        return False
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()  # pairs values and variables by the order before the change
    optimizer_state.check_carries(model.optimizer)
    before = _present(flags)
    _set_flags(flags)
    try:
        carried = _update_optimizer(model, multipliers, pace, starts, force)
    except Exception:
        _set_flags(before)
        raise
    rebuilt = _update_functions(model, carried or force)
    _note_flags(model)
    return rebuilt


def flags_in_force(model: keras.Model) -> Mapping[int, bool]:
    """Return the flags that the present train step goes by, whatever the model's say now.

    The engine knows them from the last transition. Of a step that `fit` or the user made, it
    takes those that it finds when it is first asked.

    Args:
        model: `keras.Model`, built and compiled.

    Returns:
        Mapping from the id of each layer and weight to its flag: another object after each
        transition and after each `compile`, else the same.
    """
    function, flags = _in_force.get(model, (None, None))
    step = model.train_function
    if step is None or function is None or function() is not step:
        return _note_flags(model)
    return flags


def stand_in(model: keras.Model, function: Any, other: Any) -> None:
    """Take note that another train function stands in for one, with the same step inside.

    Args:
        model: `keras.Model`.
        function: The function that was there.
        other: The one that is called from now on.
    """
    for known in (_traced, _in_force):
        present, what = known.get(model, (None, None))
        if present is not None and present() is function:
            known[model] = _weak(other), what


def _note_flags(model: keras.Model) -> Mapping[int, bool]:
    # By id, for a reference to a layer would keep the model alive, as one to the step would.
    flags = {id(x): x.trainable for x in (*structure.every_layer(model), *model.weights)}
    _in_force[model] = (_weak(model.train_function), flags)
    return flags


def sync_state(model: keras.Model, flags: Flags) -> None:
    """Bring a running fit's values back to the model, where Keras holds them elsewhere (JAX).

    Keras pairs variables and values by the present flags. Where these were changed without a
    transition, that mixes weights up, or fails.

    Args:
        model: `keras.Model`.
        flags: Those in force, by which to pair; the present ones are left as they are.
    """
    if not hasattr(model, "jax_state_sync"):
        return
    present = _present(flags)
    _set_flags(flags)
    try:
        model.jax_state_sync()
    finally:
        _set_flags(present)


def _update_optimizer(
    model: keras.Model,
    multipliers: Mapping[int, float] | None,
    pace: update_rules.Pace | None,
    starts: Mapping[int, int] | None,
    force: bool,
) -> bool:
    optimizer, variables = model.optimizer, list(model.trainable_variables)
    old = {id(v) for v in optimizer_state.built_variables(optimizer)}
    was_built = optimizer.built
    stale = _ids(variables) != _ids(optimizer_state.built_variables(optimizer))
    if was_built and (stale or force):
        optimizer_state.carry_over(optimizer, variables, strategy_scope(model))
    elif not was_built and (multipliers or pace):
        with strategy_scope(model):
            optimizer.build(variables)
    for leaf in optimizer_state.leaf_optimizers(optimizer):
        trained = optimizer_state.built_variables(leaf)
        joined = [v for v in trained if was_built and id(v) not in old]
        rules = update_rules.new_rules(leaf, trained, joined, multipliers, pace, starts)
        update_rules.set_rules(leaf, trained, rules)
    return was_built and stale


def _update_functions(model: keras.Model, changed: bool) -> bool:
    state = _step_state(model)
    function, traced = _traced.get(model, (None, None))
    if function is None or function() is not model.train_function:
        traced = None if _changed_since_compile(model) else state
    rebuild = changed or state != traced
    if rebuild:
        _rebuild_functions(model)
    # Weakly, for the step refers to its model, which would then never be freed.
    _traced[model] = (_weak(model.train_function), state)
    return rebuild


def _weak(function: Any) -> Any:
    return (lambda: None) if function is None else weakref.ref(function)


def _rebuild_functions(model: keras.Model) -> None:
    if model.train_function is not None:
        model.make_train_function(force=True)
    if keras.backend.backend() != "tensorflow":
        # Elsewhere these pass the variables by their order; they are made again when called.
        model.test_function = None
        model.predict_function = None


def _step_state(model: keras.Model) -> tuple[Any, ...]:
    """Return all that a traced train step has baked in and a transition can change."""
    leaves = map(update_rules.rules_of, optimizer_state.leaf_optimizers(model.optimizer))
    rules = tuple((tuple(sorted(rules.cohorts.items())), rules.pace) for rules in leaves)
    layers = tuple(layer.trainable for layer in structure.every_layer(model))
    return id(model.optimizer), _ids(model.trainable_variables), layers, rules


def _changed_since_compile(model: keras.Model) -> bool:
    return any(flag != layer.trainable for layer, flag in model._compiled_trainable_state.items())


def _ids(variables: Any) -> list[int]:
    return [id(v) for v in variables]


def _present(flags: Flags) -> Flags:
    return Flags(
        tuple((variable, variable.trainable) for variable, _ in flags.variables),
        tuple((layer, layer.trainable) for layer, _ in flags.layers),
    )


def _set_flags(flags: Flags) -> None:
    # Past `layer.trainable = x`, which sets everything below the layer too and, on
    # TensorFlow, does nothing at all where the layer's own flag has that value already.
    for layer, value in flags.layers:
        layer._trainable = value
    for variable, value in flags.variables:
        variable.trainable = value


def strategy_scope(model: keras.Model) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which variables of a model have to be created."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()
