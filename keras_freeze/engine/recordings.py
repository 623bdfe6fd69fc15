"""What a training's own steps record of gradients, and the dials that its steps read.

Dials multiply the rates of variables, and are set without a new trace of the step, which rates are
part of.

All of it are slots of the optimizer, one for each variable that it updates: carried over, captured
and restored as all others, in backups too, but in no file of the model. Gradients are unscaled,
before clipping, and those of every batch where gradients are accumulated.
`transition(records=...)` begins and ends it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.engine.optimizer_state import leaf_optimizers
from keras_freeze.keras_internals import optimizers
from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.keras_internals.optimizers import DIALS, NORM_FIELDS, NORMS, SUMS
from keras_freeze.model_picture import optimizers_of


@dataclasses.dataclass(frozen=True)
class Norms:
    """What was recorded of the norms of one variable's gradients.

    Attributes:
        squares: Float, the sum of the squared norms of those whose square is finite.
        finite: Int, how many these were.
        steps: Int, how many there were.
        largest: Float, the largest squared norm.
        largest_at: Int, the number (from 1) of the gradient that had it.
        not_finite_at: Int, the number of the first whose square was not finite; 0 for none.
    """

    squares: float
    finite: int
    steps: int
    largest: float
    largest_at: int
    not_finite_at: int


def sums(model: keras.Model) -> dict[int, np.ndarray]:
    """Return the sum of gradients by variable id; none where nothing is recorded."""
    return {i: to_host(slot) for i, slot in _slots(model, SUMS)}


def norms(model: keras.Model) -> dict[int, Norms]:
    """Return what was recorded of norms, by variable id; none where nothing is recorded."""
    found = {}
    for i, slot in _slots(model, NORMS):
        values = dict(zip(NORM_FIELDS, to_host(slot).tolist(), strict=True))
        names = ("finite", "steps", "largest_at", "not_finite_at")
        counts = {name: int(values.pop(name)) for name in names}
        found[i] = Norms(**values, **counts)
    return found


def root_mean_square(known: Iterable[Norms]) -> float:
    """Return the root of the mean over steps of the squared norm of some variables' gradients.

    Args:
        known: What was recorded of each variable.

    Returns:
        Float; NaN where nothing finite was recorded.
    """
    means = [norm.squares / norm.finite for norm in known if norm.finite]
    return math.sqrt(sum(means)) if means else math.nan


def dials(model: keras.Model) -> dict[int, float]:
    """Return by variable id what its learning rate is multiplied by; none where there are none."""
    return {i: float(to_host(slot)) for i, slot in _slots(model, DIALS)}


def set_dials(model: keras.Model, values: Mapping[int, float]) -> None:
    """Set what the learning rates of some variables are multiplied by, from the next step on."""
    for i, slot in _slots(model, DIALS):
        if i in values:
            slot.assign(values[i])


def begin(model: keras.Model, values: Mapping[int, float]) -> None:
    """Begin a fit: with nothing recorded, and dials as they were by variable id, else at 1."""
    reset(model, SUMS, NORMS)
    set_dials(model, {i: values.get(i, 1.0) for i, _ in _slots(model, DIALS)})


def reset(model: keras.Model, *names: str) -> None:
    """Begin to record anew what these slots hold."""
    for name in names:
        for _, slot in _slots(model, name):
            slot.assign(keras.ops.zeros(slot.shape, slot.dtype))


def _slots(model: keras.Model, name: str) -> Iterator[tuple[int, Any]]:
    for optimizer in optimizers_of(model):
        for leaf in leaf_optimizers(optimizer):
            slots: Sequence[Any] = optimizers.extra_slots(leaf).get(name, ())
            for variable, slot in zip(optimizers.built_variables(leaf), slots, strict=False):
                yield id(variable), slot
