"""Carry an optimizer's state over to another set of trainable variables.

Keras builds an optimizer once, for the variables that are trainable at that moment, and refuses
any others. `carry_over` keeps the optimizer object, its settings, its iteration count and its
learning rate, and rebuilds only its slots: those of variables that remain trainable keep their
values, those of newly trainable variables start as in a new optimizer, those of variables that
freeze are dropped.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.keras_internals import optimizers
from keras_freeze.keras_internals.host_arrays import to_host


@dataclasses.dataclass(frozen=True)
class _State:
    """What one optimizer held, on the host, before its slots were rebuilt.

    Attributes:
        variables: The variables that it was built for.
        slots: Attribute name to one array (or None) for each of `variables`.
        scalars: Attribute name to the Keras variable found there and its value: state that
            belongs to no single variable, such as a loss scale.
    """

    variables: tuple[keras.Variable, ...]
    slots: dict[str, tuple[np.ndarray | None, ...]]
    scalars: dict[str, tuple[keras.Variable, np.ndarray]]


def leaf_optimizers(optimizer: Any) -> tuple[Any, ...]:
    """Return the optimizers that update variables: the inner ones of a wrapper, else itself."""
    inner = optimizers.inner_optimizers(optimizer)
    return tuple(leaf for opt in inner for leaf in leaf_optimizers(opt)) if inner else (optimizer,)


def check_carries(optimizer: Any) -> None:
    """Raise where `carry_over` would lose state; change nothing.

    Raises:
        ValueError: if a slot isn't held in a list with one entry per variable, or if a
            `MultiOptimizer` map gives a variable another optimizer than before.
    """
    for opt in _all(optimizer):
        _check_all_known(opt)
        variable = optimizers.remapped_variable(opt)
        if variable is not None:
            raise ValueError(
                "MultiOptimizer(optimizer_map=...) must give a variable the same optimizer object "
                f"each time it is asked. Received: another one for {variable.path!r}, so its "
                "state would be lost. Create the optimizers outside the map."
            )


def carry_over(
    optimizer: Any,
    variables: Sequence[keras.Variable],
    scope: contextlib.AbstractContextManager[Any] | None = None,
) -> None:
    """Rebuild a built optimizer for `variables`, keeping all state that still applies.

    Args:
        optimizer: `keras.optimizers.Optimizer`, built.
        variables: The variables that are trainable from now on.
        scope: Context in which to create slots, a `tf.distribute` strategy's. Defaults to none.
    """
    states = [(opt, _snapshot(opt)) for opt in _all(optimizer)]
    extra = [optimizers.extra_slots(opt).keys() for opt, _ in states]
    for opt, _ in states:
        optimizers.forget_slots(opt)
    with scope or contextlib.nullcontext():
        optimizer.build(list(variables))
        optimizer.built = True
        for (opt, _), names in zip(states, extra, strict=True):
            optimizers.renew_extra_slots(opt, names)
    for opt, state in states:
        _restore(opt, state)


def memento(optimizer: Any) -> Callable[[], None]:
    """Return a function that undoes what happens to an optimizer, and to those inside it."""
    restores = {id(opt): optimizers.memento(opt) for opt in _all(optimizer)}

    def restore() -> None:
        met_since = [opt for opt in _all(optimizer) if id(opt) not in restores]
        for opt in met_since:
            optimizers.forget_slots(opt)
        for restore_one in restores.values():
            restore_one()

    return restore


def capture(optimizer: Any, index: Mapping[int, int]) -> list[dict[str, Any]]:
    """Copy all state of an optimizer, and of those inside it, to the host.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        index: Number of each trained variable, by its id, under which its slots are kept.

    Returns:
        List of dicts of numpy arrays and plain data.
    """
    captured = []
    for opt in _all(optimizer):
        state, rate = _snapshot(opt), optimizers.rate_of(opt)
        captured.append(
            {
                "class": type(opt).__name__,
                "iterations": to_host(optimizers.iterations_of(opt)),
                "learning_rate": to_host(rate) if isinstance(rate, keras.Variable) else None,
                "variables": [index[id(v)] for v in state.variables],
                "slots": {name: list(values) for name, values in state.slots.items()},
                "scalars": {name: value for name, (_, value) in state.scalars.items()},
            }
        )
    return captured


def restore(
    optimizer: Any,
    captured: Sequence[Mapping[str, Any]],
    index: Mapping[int, int],
    *,
    learning_rate: bool = True,
) -> None:
    """Restore the captured state of an optimizer built for the same variables.

    Args:
        optimizer: `keras.optimizers.Optimizer`, built.
        captured: What `capture` returned.
        index: As for `capture`.
        learning_rate: Bool, whether to restore the learning rate too. Defaults to True.

    Raises:
        ValueError: if it is another optimizer or built for other variables. Nothing has changed
            then.
    """
    for opt, state in _paired(optimizer, captured, index):
        optimizers.iterations_of(opt).assign(state["iterations"])
        if learning_rate and state["learning_rate"] is not None:
            optimizers.rate_of(opt).assign(state["learning_rate"])
        for name, variable in optimizers.scalars_of(opt).items():
            variable.assign(state["scalars"][name])
        position = {number: n for n, number in enumerate(state["variables"])}
        optimizers.renew_extra_slots(opt, set(optimizers.EXTRA_SLOTS) & state["slots"].keys())
        for name, slots in optimizers.slots_of(opt).items():
            if name not in state["slots"]:  # extra slots that it did not have then
                continue
            for slot, variable in zip(slots, optimizers.built_variables(opt), strict=True):
                if slot is not None:
                    slot.assign(state["slots"][name][position[index[id(variable)]]])


def _paired(
    optimizer: Any, captured: Sequence[Mapping[str, Any]], index: Mapping[int, int]
) -> list[tuple[Any, Mapping[str, Any]]]:
    """Return each optimizer with its captured state.

    They are found by their variables, since a `MultiOptimizer` orders those inside it by the
    variables that it has met so far. One that trains nothing now starts as new.
    """

    def form(kind: str, variables: Any, slots: Any, scalars: Any) -> tuple[Any, ...]:
        names = sorted(set(slots) - set(optimizers.EXTRA_SLOTS))
        return kind, tuple(sorted(variables)), tuple(names), tuple(sorted(scalars))

    present, saved = {}, {}
    for opt in _all(optimizer):
        _check_all_known(opt)
        numbers = [index[id(v)] for v in optimizers.built_variables(opt)]
        slots, scalars = optimizers.slots_of(opt), optimizers.scalars_of(opt)
        present[form(type(opt).__name__, numbers, slots, scalars)] = opt
    for s in captured:
        saved[form(s["class"], s["variables"], s["slots"], s["scalars"])] = s
    for one, other in ((present, saved), (saved, present)):
        for key in one:
            if key[1] and key not in other:
                raise ValueError(
                    "An optimizer's state must be restored into the same optimizer. Received: "
                    f"state of {', '.join(f'{k} for {len(v)} variables' for k, v, *_ in saved)}, "
                    f"for {', '.join(f'{k} for {len(v)} variables' for k, v, *_ in present)}."
                )
    return [(present[key], state) for key, state in saved.items() if key in present]


def _all(optimizer: Any) -> Iterator[Any]:
    yield optimizer
    for opt in optimizers.inner_optimizers(optimizer):
        yield from _all(opt)


def _snapshot(optimizer: Any) -> _State:
    _check_all_known(optimizer)
    slots = {
        name: tuple(v if v is None else to_host(v) for v in items)
        for name, items in optimizers.slots_of(optimizer).items()
    }
    scalars = {name: (v, to_host(v)) for name, v in optimizers.scalars_of(optimizer).items()}
    return _State(optimizers.built_variables(optimizer), slots, scalars)


def _check_all_known(optimizer: Any) -> None:
    lost = optimizers.unknown_state(optimizer)
    if lost:
        raise ValueError(
            f"The state of optimizer {type(optimizer).__name__!r} can't be carried over a change "
            f"of the trainable variables: its variables {lost[:3]} are in no attribute that holds "
            "one entry for each trainable variable. Received: "
            f"{len(optimizers.built_variables(optimizer))} trainable variables. Keep slots in "
            "lists made by `self.add_optimizer_variables(variables, name)` in `build`."
        )


def _restore(optimizer: Any, state: _State) -> None:
    for name, (old, value) in state.scalars.items():
        new = getattr(optimizer, name)
        if new is not old:
            optimizers.untrack(optimizer, [old])
            new.assign(value)
    previous = {id(variable): i for i, variable in enumerate(state.variables)}
    variables = optimizers.built_variables(optimizer)
    for name, items in optimizers.slots_of(optimizer).items():
        for slot, variable in zip(items, variables, strict=True):
            if slot is None:
                continue
            if id(variable) in previous:
                slot.assign(state.slots[name][previous[id(variable)]])
            elif name == optimizers.MODEL_AVERAGE:
                # Keras starts an average at zero, which would drag the weight there.
                slot.assign(to_host(variable))
