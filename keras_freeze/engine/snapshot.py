"""All that training changes in a model, as plain data on the host: capture it, restore it.

It is what a backup writes, and what a phase goes back to when it restores its best epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.engine import optimizer_state, update_rules
from keras_freeze.engine.model_state import state_of
from keras_freeze.engine.transitions import strategy_scope, transition
from keras_freeze.engine.update_rules import Curve
from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.keras_internals.optimizers import built_variables
from keras_freeze.model_picture import (
    every_layer,
    hidden_states,
    main_optimizer,
    own_optimizers,
    set_hidden_state,
)
from keras_freeze.policies import Flags

State = dict[str, Any]


def capture(model: keras.Model) -> State:
    """Copy weights, optimizer state and hidden state of layers of a compiled model.

    Returns:
        Dict of numpy arrays and plain data.
    """
    main, numbers = main_optimizer(model), _numbers(model)
    return {
        "weights": [to_host(v) for v in model.weights],
        "optimizer": optimizer_state.capture(main, numbers),
        "own_optimizers": {
            label: optimizer_state.capture(optimizer, numbers)
            for label, optimizer in own_optimizers(model).items()
            if optimizer.built
        },
        "hidden": {found.number: found.saved for found in hidden_states(model)},
    }


def restore(model: keras.Model, state: Mapping[str, Any], *, learning_rate: bool = True) -> None:
    """Restore weights and optimizer state captured while the same variables trained.

    Args:
        model: `keras.Model`, compiled.
        state: What `capture` returned.
        learning_rate: Bool, whether to restore the learning rate too. Defaults to True.

    Raises:
        ValueError: if model or optimizer don't fit. Nothing has changed then.
    """
    _check_arrays(model.name, model.weights, state["weights"])
    own, kept_own = own_optimizers(model), state.get("own_optimizers", {})  # since 0.3
    kept = [(own[label], saved) for label, saved in kept_own.items()]
    kept.append((main_optimizer(model), state["optimizer"]))
    for optimizer, saved in kept:
        optimizer_state.restore(optimizer, saved, _numbers(model), learning_rate=learning_rate)
    for variable, value in zip(model.weights, state["weights"], strict=True):
        variable.assign(value)
    hidden = state.get("hidden", {})  # earlier versions kept none
    layers = every_layer(model) if hidden else ()
    for number, saved in hidden.items():
        set_hidden_state(layers[number], saved)


def capture_all(model: keras.Model) -> State:
    """Copy what `capture` does, and flags, group rates, step counts and random states."""
    numbers = _numbers(model)
    leaves = optimizer_state.leaf_optimizers(main_optimizer(model))
    return {
        **capture(model),
        "seeds": [to_host(v) for v in _seeds(model)],
        "variable_flags": [bool(v.trainable) for v in model.weights],
        "layer_flags": [bool(layer.trainable) for layer in every_layer(model)],
        "rules": [_plain_rules(leaf, numbers) for leaf in leaves],
    }


def restore_all(
    model: keras.Model,
    state: Mapping[str, Any],
    curve: Curve | None,
    *,
    learning_rate: bool = True,
) -> None:
    """Restore a model to the state that `capture_all` captured, flags included.

    Args:
        model: `keras.Model`, compiled, with the same structure.
        state: What `capture_all` returned.
        curve: The learning-rate curve of its phase; length and start are in the state.
        learning_rate: Bool, whether to restore the learning rate too. Defaults to True.

    Raises:
        ValueError: if model or optimizer don't fit. No value has changed then.
    """
    _check_arrays(model.name, model.weights, state["weights"])
    _check_arrays(model.name, _seeds(model), state["seeds"])
    weights, layers = model.weights, every_layer(model)
    flags = Flags(
        tuple(zip(weights, state["variable_flags"], strict=True)),
        tuple(zip(layers, state["layer_flags"], strict=True)),
    )
    optimizer: Any = main_optimizer(model)
    if not optimizer.built:
        with strategy_scope(model):
            optimizer.build(model.trainable_variables)
    transition(model, flags, {})
    restore(model, state, learning_rate=learning_rate)
    for variable, value in zip(_seeds(model), state["seeds"], strict=True):
        variable.assign(value)
    by_variables = {tuple(rules["variables"]): rules for rules in state["rules"]}
    for leaf in optimizer_state.leaf_optimizers(optimizer):
        rules = by_variables.get(tuple(_trained(leaf, _numbers(model))))
        if rules is not None:
            variables = built_variables(leaf)
            update_rules.set_rules(leaf, variables, _rules(rules, weights, curve))
    transition(model, Flags(), force=True)
    state_of(model).restored += 1


def _trained(optimizer: Any, numbers: Mapping[int, int]) -> list[int]:
    return sorted(numbers[id(v)] for v in built_variables(optimizer))


def _plain_rules(optimizer: Any, numbers: Mapping[int, int]) -> State:
    rules = update_rules.rules_of(optimizer)
    return {
        "variables": _trained(optimizer, numbers),
        "cohorts": {
            str(numbers[i]): [c.start, c.multiplier, c.life] for i, c in rules.cohorts.items()
        },
        "pace": None if rules.curve is None else [rules.curve.steps, rules.curve.start],
        "records": sorted(rules.records),
    }


def _rules(
    state: Mapping[str, Any],
    weights: Sequence[keras.Variable],
    curve: Curve | None,
) -> update_rules.Rules:
    cohorts = {
        id(weights[int(number)]): update_rules.Cohort(*cohort)
        for number, cohort in state["cohorts"].items()
    }
    records = frozenset(state.get("records", ()))  # since 0.3
    if curve is None or state["pace"] is None:
        return update_rules.Rules(cohorts, records=records)
    steps, start = state["pace"]
    return update_rules.Rules(cohorts, update_rules.ActiveCurve(curve, steps, start), records)


def _numbers(model: keras.Model) -> dict[int, int]:
    return {id(v): number for number, v in enumerate(model.weights)}


def _seeds(model: keras.Model) -> list[keras.Variable]:
    """Return the states of a model's random generators: what is neither weight nor metric."""
    other = {id(v) for v in [*model.weights, *model.metrics_variables]}
    return [v for v in model.variables if id(v) not in other]


def _check_arrays(
    name: str, variables: Sequence[keras.Variable], arrays: Sequence[np.ndarray]
) -> None:
    shapes, given = [tuple(v.shape) for v in variables], [array.shape for array in arrays]
    if shapes != given:
        raise ValueError(
            f"Model {name!r} must have the weights that the state was captured from. Received: "
            f"{len(given)} arrays for {len(shapes)} weights"
            + ("." if len(shapes) != len(given) else ", some of other shapes.")
        )
