"""Carry an optimizer's state over to another set of trainable variables.

Keras builds an optimizer once, for the variables that train at that moment, and refuses any
others. `carry_over` keeps the optimizer object, its settings, its iteration count and its
learning rate, and rebuilds only its slots: those of variables that go on training keep their
values, those of variables that join start as in a new optimizer, those of variables that
freeze are dropped.

With `recompile`, `structure` and `update_rules` this is where Keras's private API is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.keras_internals.optimizers import learning_rate as learning_rate

_NOT_SLOTS = frozenset({"_variables", "_trainable_variables", "_iterations", "_learning_rate"})


@dataclasses.dataclass(frozen=True)
class _State:
    """What one optimizer held, on the host, before its slots were rebuilt.

    Attributes:
        variables: The variables that it was built for.
        slots: Attribute name to one array (or None) for each of `variables`.
        scalars: Attribute name to the Keras variable found there and its value: state that
            belongs to no single variable, as a loss scale.
    """

    variables: tuple[keras.Variable, ...]
    slots: dict[str, tuple[np.ndarray | None, ...]]
    scalars: dict[str, tuple[keras.Variable, np.ndarray]]


def leaf_optimizers(optimizer: Any) -> tuple[Any, ...]:
    """Return the optimizers that update variables: the inner ones of a wrapper, else itself."""
    inner = _inner(optimizer)
    return tuple(leaf for opt in inner for leaf in leaf_optimizers(opt)) if inner else (optimizer,)


def built_variables(optimizer: Any) -> tuple[keras.Variable, ...]:
    """Return the variables an optimizer was built for, in order; none before it is built."""
    return tuple(optimizer._trainable_variables) if optimizer.built else ()


def iterations(optimizer: Any) -> int:
    """Return how many batches an optimizer has applied (accumulation steps count each)."""
    return max(int(to_host(leaf._iterations)) for leaf in leaf_optimizers(optimizer))


def to_host(variable: keras.Variable) -> np.ndarray:
    """Copy a variable to the host. A copy, since JAX reuses its buffers."""
    value = variable.value
    if hasattr(value, "values") and hasattr(value, "read_value"):
        value = value.values[0]  # of a tf.distribute strategy: the copies are alike
    return np.array(keras.ops.convert_to_numpy(value))


def check_carries(optimizer: Any) -> None:
    """Raise where `carry_over` would lose state; change nothing.

    Raises:
        ValueError: if a slot isn't held in a list with one entry a variable, or if a
            `MultiOptimizer` map gives a variable another optimizer than before.
    """
    for opt in _all(optimizer):
        _find_state(opt)
        if opt.built and isinstance(opt, keras.optimizers.MultiOptimizer):
            _check_map_is_stable(opt)


def carry_over(
    optimizer: Any,
    variables: Sequence[keras.Variable],
    scope: contextlib.AbstractContextManager[Any] | None = None,
) -> None:
    """Rebuild a built optimizer for `variables`, keeping all state that still applies.

    Args:
        optimizer: `keras.optimizers.Optimizer`, built.
        variables: The variables that train from now on.
        scope: Context in which to create slots, a `tf.distribute` strategy's. Defaults to none.
    """
    states = [(opt, _snapshot(opt)) for opt in _all(optimizer)]
    undo = [_memento(opt) for opt, _ in states]
    try:
        for opt, state in states:
            _clear(opt, state)
        with scope or contextlib.nullcontext():
            optimizer.build(list(variables))
        optimizer.built = True
        for opt, state in states:
            _restore(opt, state)
    except Exception:
        for restore in undo:
            restore()
        raise


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
        state, rate = _snapshot(opt), opt._learning_rate
        captured.append(
            {
                "class": type(opt).__name__,
                "iterations": to_host(opt._iterations),
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
    """Give an optimizer built for the same variables a captured state.

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
        lists, scalars = _find_state(opt)
        opt._iterations.assign(state["iterations"])
        if learning_rate and state["learning_rate"] is not None:
            opt._learning_rate.assign(state["learning_rate"])
        for name, variable in scalars.items():
            variable.assign(state["scalars"][name])
        position = {number: n for n, number in enumerate(state["variables"])}
        for name, slots in lists.items():
            for slot, variable in zip(slots, opt._trainable_variables, strict=True):
                if slot is not None:
                    slot.assign(state["slots"][name][position[index[id(variable)]]])


def _paired(
    optimizer: Any, captured: Sequence[Mapping[str, Any]], index: Mapping[int, int]
) -> list[tuple[Any, Mapping[str, Any]]]:
    """Return each optimizer with its captured state.

    They are found by their variables, since a `MultiOptimizer` orders those inside it by the
    variables that it has met so far. One that trains nothing now begins as new.
    """

    def form(kind: str, variables: Any, slots: Any, scalars: Any) -> tuple[Any, ...]:
        return kind, tuple(sorted(variables)), tuple(sorted(slots)), tuple(sorted(scalars))

    present, saved = {}, {}
    for opt in _all(optimizer):
        lists, scalars = _find_state(opt)
        numbers = [index[id(v)] for v in built_variables(opt)]
        present[form(type(opt).__name__, numbers, lists, scalars)] = opt
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


def _memento(optimizer: Any) -> Callable[[], None]:
    """Return what puts an optimizer back as it is now, whatever a failed build left behind."""
    attributes = dict(vars(optimizer))
    tracked, indices = list(optimizer._variables), dict(optimizer._trainable_variables_indices)

    def restore() -> None:
        vars(optimizer).clear()
        vars(optimizer).update(attributes)
        optimizer._variables.clear()
        optimizer._variables.extend(tracked)
        optimizer._tracker.stored_ids["variables"] = {id(v) for v in tracked}
        optimizer._trainable_variables_indices.clear()
        optimizer._trainable_variables_indices.update(indices)

    return restore


def _inner(optimizer: Any) -> tuple[Any, ...]:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return (optimizer.inner_optimizer,)
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        return tuple(optimizer.optimizers)
    return ()


def _all(optimizer: Any) -> Iterator[Any]:
    yield optimizer
    for opt in _inner(optimizer):
        yield from _all(opt)


def _slot_lists(optimizer: Any) -> dict[str, Sequence[keras.Variable | None]]:
    count = len(optimizer._trainable_variables)
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in _NOT_SLOTS
        and isinstance(value, (list, tuple))
        and len(value) == count
        and any(isinstance(item, keras.Variable) for item in value)
        and all(item is None or isinstance(item, keras.Variable) for item in value)
    }


def _find_state(
    optimizer: Any,
) -> tuple[dict[str, Sequence[keras.Variable | None]], dict[str, keras.Variable]]:
    """Return slots and scalars by attribute; raise if the optimizer has state elsewhere."""
    lists = _slot_lists(optimizer) if optimizer.built else {}
    scalars = {
        name: value
        for name, value in vars(optimizer).items()
        if name not in _NOT_SLOTS and isinstance(value, keras.Variable)
    }
    known = [v for items in lists.values() for v in items if v is not None]
    known += [*scalars.values(), optimizer._iterations, optimizer._learning_rate]
    _check_all_known(optimizer, known)
    return lists, scalars


def _snapshot(optimizer: Any) -> _State:
    lists, scalars = _find_state(optimizer)
    return _State(
        variables=built_variables(optimizer),
        slots={n: tuple(v if v is None else to_host(v) for v in s) for n, s in lists.items()},
        scalars={name: (v, to_host(v)) for name, v in scalars.items()},
    )


def _check_all_known(optimizer: Any, known: list[Any]) -> None:
    ids = {id(v) for v in known}
    lost = [v.path for v in optimizer._variables if id(v) not in ids]
    if lost:
        raise ValueError(
            f"The state of optimizer {type(optimizer).__name__!r} can't be carried over a change "
            f"of the trainable variables: its variables {lost[:3]} are in no attribute that holds "
            "one entry for each trainable variable. Received: "
            f"{len(optimizer._trainable_variables)} trainable variables. Keep slots in lists made "
            "by `self.add_optimizer_variables(variables, name)` in `build`."
        )


def _check_map_is_stable(optimizer: Any) -> None:
    for variable in optimizer._trainable_variables:
        index = optimizer._var_to_optimizer_idx[optimizer._var_key(variable)]
        if optimizer._optimizer_map(variable) is not optimizer._inner_optimizers[index]:
            raise ValueError(
                "MultiOptimizer(optimizer_map=...) must give a variable the same optimizer object "
                f"each time it is asked. Received: another one for {variable.path!r}, so its "
                "state would be lost. Create the optimizers outside the map."
            )


def _clear(optimizer: Any, state: _State) -> None:
    for items in _slot_lists(optimizer).values() if optimizer.built else ():
        for variable in items:
            if variable is not None:
                optimizer._untrack_variable(variable)
    for name in state.slots:
        setattr(optimizer, name, [])
    optimizer._trainable_variables_indices.clear()
    optimizer._trainable_variables = []
    optimizer.built = False


def _restore(optimizer: Any, state: _State) -> None:
    for name, (old, value) in state.scalars.items():
        new = getattr(optimizer, name)
        if new is not old:
            optimizer._untrack_variable(old)
            new.assign(value)
    previous = {id(variable): i for i, variable in enumerate(state.variables)}
    rebuilt = _slot_lists(optimizer) if optimizer.built else {}
    for name, items in rebuilt.items():
        for slot, variable in zip(items, optimizer._trainable_variables, strict=True):
            if slot is None:
                continue
            if id(variable) in previous:
                slot.assign(state.slots[name][previous[id(variable)]])
            elif name == "_model_variables_moving_average":
                # Keras starts an average at zero, which would drag the joining weight there.
                slot.assign(to_host(variable))
