"""How deep a model is frozen by `freeze_depth` (in `spaces`), and how its layers were before."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from typing import Any

import keras

from keras_freeze.engine import state_of, transition
from keras_freeze.model_picture import every_layer
from keras_freeze.policies import Flags, FreezePolicy


@dataclasses.dataclass(frozen=True)
class Depth:
    """How deep a model is frozen.

    Attributes:
        value: Int or float, as requested.
        policy: `FreezePolicy`, what is frozen.
        backbone: Names of what is pretrained; None if it was to be found.
    """

    value: int | float
    policy: FreezePolicy
    backbone: Any = None


# The flag that a layer or variable had when it was first seen here, by its id since variables
# compare by value. It belongs to no single model: a backbone may be in the models of many trials.
_first_flags: dict[int, tuple[weakref.ref[Any], bool]] = {}


def record_depth(model: keras.Model, depth: Depth) -> None:
    """Record how deep a model has been frozen."""
    state_of(model).freeze_depth = depth


def depth_of(model: keras.Model) -> Depth | None:
    """Return how deep `freeze_depth` has frozen a model; None if it was not called."""
    return state_of(model).freeze_depth


def backbone_of(model: keras.Model) -> Any:
    """Return what `freeze_depth` was told is pretrained in a model, None if nothing."""
    depth = depth_of(model)
    return None if depth is None else depth.backbone


def restore_first_flags(model: keras.Model) -> None:
    """Set flags to what they were when they were first seen here."""
    variables = tuple((variable, _first_flag(variable)) for variable in model.weights)
    layers = tuple((layer, _first_flag(layer)) for layer in every_layer(model))
    transition(model, Flags(variables, layers))


def _first_flag(owner: Any) -> bool:
    key = id(owner)
    known = _first_flags.get(key)
    if known is None or known[0]() is not owner:
        known = weakref.ref(owner, functools.partial(_forget, key)), bool(owner.trainable)
        _first_flags[key] = known
    return known[1]


def first_flag_of(owner: Any) -> bool | None:
    """Return the flag that a layer or variable had when it was first seen here; None if never."""
    reference, flag = _first_flags.get(id(owner), (None, None))
    return flag if reference is not None and reference() is owner else None


def _forget(key: int, reference: weakref.ref[Any]) -> None:
    if _first_flags.get(key, (None,))[0] is reference:
        del _first_flags[key]
