"""How deep `freeze_depth` has frozen a model, and how the layers were before."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_freeze.engine import state_of, transition
from keras_freeze.model_picture import every_layer
from keras_freeze.policies import Flags, FreezePolicy


@dataclasses.dataclass(frozen=True)
class Depth:
    """How deep a model is frozen.

    Attributes:
        value: Int or float, as it was asked for.
        policy: `FreezePolicy`, what is frozen.
    """

    value: int | float
    policy: FreezePolicy


_first_flags: dict[int, tuple[weakref.ref[Any], bool]] = {}


def note(model: keras.Model, depth: Depth) -> None:
    """Remember how deep a model has been frozen."""
    state_of(model).freeze_depth = depth


def depth_of(model: keras.Model) -> Depth | None:
    """Return how deep `freeze_depth` has frozen a model; None if it has not been asked."""
    return state_of(model).freeze_depth


def thaw_what_was_frozen(model: keras.Model) -> None:
    """Put flags back to what they were when they were first seen here."""
    variables = tuple(_with_first_flag(model.weights))
    layers = tuple(_with_first_flag(every_layer(model)))
    transition(model, Flags(variables, layers))


def _with_first_flag(owners: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    for owner in owners:
        known = _first_flags.get(id(owner))
        if known is None or known[0]() is not owner:
            forget = functools.partial(_forget, id(owner))
            known = _first_flags[id(owner)] = weakref.ref(owner, forget), bool(owner.trainable)
        yield owner, known[1]


def _forget(key: int, reference: weakref.ref[Any]) -> None:
    if _first_flags.get(key, (None,))[0] is reference:
        del _first_flags[key]
