"""What an optimizer would hold for some variables, without making any of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_freeze.keras_internals.optimizers import (
    forget_extra_slots,
    forget_slots,
    inner_optimizers,
    memento,
    scalars_of,
)
from keras_freeze.keras_internals.required import require


@dataclasses.dataclass(frozen=True, eq=False)
class Sketched:
    """A variable that an optimizer would make.

    Attributes:
        shape: Tuple of int.
        dtype: Str.
    """

    shape: tuple[int, ...]
    dtype: str


def sketched_state(optimizer: Any, variables: Sequence[keras.Variable]) -> list[Any]:
    """Return what an optimizer, with those inside it, would hold if it were built for variables.

    Its own `build` runs, with a method in place of `add_variable` that only takes note of shape and
    dtype, and all that this changes is undone. What a `build` makes by itself, as `Adafactor` does
    with a few numbers, is made and dropped.

    Args:
        optimizer: `keras.optimizers.Optimizer`, built or not.
        variables: The variables to train.

    Returns:
        List of `Sketched` and of `keras.Variable`, as many as `optimizer.variables` would be.
    """
    every = list(dict.fromkeys(_every(optimizer, variables)))
    restores = [memento(opt) for opt in every]
    found: list[Any] = []
    try:
        scalars = [(opt, scalars_of(opt)) for opt in every]
        for opt in every:
            forget_extra_slots(opt)
            forget_slots(opt)
            object.__setattr__(opt, "add_variable", _noting(found))
            object.__setattr__(opt, "assign", lambda variable, value: None)
        optimizer.build(list(variables))
        replaced = {
            id(v) for opt, own in scalars for n, v in own.items() if vars(opt).get(n) is not v
        }
        for opt in every:
            require("read an optimizer's variables", "keras", opt, "_variables")
            found += [variable for variable in opt._variables if id(variable) not in replaced]
    finally:
        for restore in restores:
            restore()
    return found


def _every(optimizer: Any, variables: Sequence[keras.Variable]) -> Iterator[Any]:
    """Yield an optimizer and those inside it, those that it would meet for the first time too."""
    yield optimizer
    inner = list(inner_optimizers(optimizer))
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        require("read an optimizer's map", "keras", optimizer, "_optimizer_map")
        inner += [optimizer._optimizer_map(variable) for variable in variables]
    for opt in inner:
        yield from _every(opt, variables)


def _noting(found: list[Any]) -> Callable[..., Sketched]:
    def add_variable(
        shape: Sequence[int],
        initializer: Any = "zeros",
        dtype: Any = None,
        *others: Any,
        **settings: Any,
    ) -> Sketched:
        dtype = keras.backend.standardize_dtype(dtype or keras.config.floatx())
        found.append(Sketched(tuple(shape), dtype))
        return found[-1]

    return add_variable
