"""What the callbacks beside a backup have counted: find it, keep it, restore it.

Keras's callbacks keep their counters in attributes and reset them when training begins. What
has changed since then is the state. It can be kept if it is plain data, a set, a counter, a
variable of Keras or TensorFlow, a metric, or a random generator; of the user's own
callbacks, other containers, objects that were replaced, and what was counted on their class are
named in a warning.
What changes inside an object of another kind can't be seen.
"""

from __future__ import annotations

import collections
import copy
import random
import sys
from collections.abc import Iterable, Mapping, MutableSequence, MutableSet
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from keras_freeze.backup.archive import is_numeric
from keras_freeze.keras_internals.host_arrays import to_host


@runtime_checkable
class Restorable(Protocol):
    """A callback that itself determines what has to be backed up.

    `training_state()` returns plain data and arrays at the end of an epoch;
    `check_training_state(state)` raises a `ValueError` if the state is not that of the same
    script, before anything is restored; `set_training_state(state)` takes it after
    `on_train_begin`.
    """

    def training_state(self) -> dict[str, Any]:
        """Return what has to be kept."""

    def check_training_state(self, state: Mapping[str, Any]) -> None:
        """Raise a `ValueError` if the state was made by another script."""

    def set_training_state(self, state: Mapping[str, Any]) -> Any:
        """Take what was kept."""


#: The key that marks the state of a `Restorable`.
IS_OWN = "is_own"

# Set by every fit.
_BY_FIT = frozenset({"_model", "params"})
# Of Keras's own callbacks, derived from other attributes.
_DERIVED = frozenset({"monitor_op", "min_delta"})


def before(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return the attributes of a callback as training begins, to compare with later."""
    every = {**_attributes(callback), **_of_its_classes(callback)}
    return {name: _copied(value) for name, value in every.items()}


def changed(
    callback: keras.callbacks.Callback, at_start: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the state of a callback.

    Returns:
        Tuple of the attributes that have changed and can be kept, and the names of those that
        can't be.
    """
    if isinstance(callback, keras.callbacks.ProgbarLogger):
        return {}, []
    kept, lost = {}, []
    for name, value in _attributes(callback).items():
        if name in at_start and _same(value, at_start[name]):
            continue
        if has_state(value):
            kept[name] = _state_of(value)
        elif _is_plain(value):
            kept[name] = copy.deepcopy(value)
        elif not type(callback).__module__.startswith(("keras.", "keras_freeze.")):
            lost.append(name)
    counted = _of_its_classes(callback).items()
    lost += [name for name, value in counted if not _same(value, at_start.get(name))]
    return kept, lost


def restore(callback: keras.callbacks.Callback, state: Mapping[str, Any]) -> None:
    """Restore the attributes that were kept; in place where the script may hold them too."""
    for name, value in state.items():
        present = vars(callback).get(name)
        if has_state(present):
            _set_state(present, value)
        elif type(present) is not type(value) or not isinstance(value, (list, dict, set)):
            setattr(callback, name, copy.deepcopy(value))
        elif isinstance(present, list):
            present[:] = copy.deepcopy(value)
        else:
            present.clear()
            present.update(copy.deepcopy(value))


def names(callbacks: Iterable[keras.callbacks.Callback]) -> list[str]:
    """Return a name for each callback, by its class and, of several, its number."""
    found: list[str] = []
    for callback in callbacks:
        kind = type(callback).__qualname__
        found.append(f"{kind}#{sum(name.startswith(f'{kind}#') for name in found)}")
    return found


def has_state(value: Any) -> bool:
    """Tell whether an object's state is plain data: a variable, metric or random generator."""
    of_keras = (keras.Variable, keras.random.SeedGenerator, keras.metrics.Metric)
    generators = (np.random.Generator, np.random.RandomState, random.Random)
    return isinstance(value, (*of_keras, *generators)) or _is_of_tensorflow(value)


def _is_of_tensorflow(value: Any) -> bool:
    tensorflow = sys.modules.get("tensorflow")  # not imported where it is not used
    return tensorflow is not None and isinstance(value, tensorflow.Variable)


def _state_of(value: Any) -> Any:
    if isinstance(value, keras.Variable):
        return to_host(value)
    if isinstance(value, keras.random.SeedGenerator):
        return to_host(value.state)
    if isinstance(value, keras.metrics.Metric):
        return [to_host(variable) for variable in value.variables]
    if isinstance(value, np.random.Generator):
        return copy.deepcopy(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    return value.getstate() if isinstance(value, random.Random) else np.array(value.numpy())


def _set_state(value: Any, state: Any) -> None:
    if isinstance(value, keras.random.SeedGenerator):
        value.state.assign(state)
    elif isinstance(value, keras.metrics.Metric):
        for variable, kept in zip(value.variables, state, strict=True):
            variable.assign(kept)
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = state
    elif isinstance(value, np.random.RandomState):
        value.set_state(state)
    elif isinstance(value, random.Random):
        value.setstate(state)
    else:
        value.assign(state)


def _attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    is_derived = any(_is_of_keras(cls) for cls in type(callback).__mro__)
    never = _BY_FIT | _DERIVED if is_derived else _BY_FIT
    return {name: value for name, value in vars(callback).items() if name not in never}


def _of_its_classes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return the plain data that the user's own classes of a callback hold, by class and name."""
    found: dict[str, Any] = {}
    for cls in type(callback).__mro__:
        if cls.__module__.startswith(("builtins", "keras.", "keras_freeze.")):
            continue
        for name, value in vars(cls).items():
            if not name.startswith("__") and (_is_plain(value) or _is_container(value)):
                found[f"{cls.__name__}.{name}"] = value
    return found


def _is_of_keras(cls: type) -> bool:
    return cls.__module__.startswith("keras.") and cls is not keras.callbacks.Callback


def _is_plain(value: Any) -> bool:
    if type(value) in (dict, collections.Counter):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    if type(value) in (list, tuple, set):
        return all(map(_is_plain, value))
    if isinstance(value, (np.ndarray, np.generic)):
        return is_numeric(value.dtype)
    return value is None or type(value) in (bool, int, float, str)


def _copied(value: Any) -> Any:
    """Return a copy to compare a value with later; the value itself if it can't be copied."""
    if has_state(value):
        return _state_of(value)
    try:
        return copy.deepcopy(value) if _is_plain(value) or _is_container(value) else value
    except Exception:  # it holds what can't be copied
        return value


def _is_container(value: Any) -> bool:
    return isinstance(value, (Mapping, MutableSequence, MutableSet, collections.deque))


def _are_equal(value: Any, other: Any) -> bool:
    try:
        return bool(value == other)
    except Exception:  # what it holds compares element by element: nothing is known of it
        return False


def _same(value: Any, other: Any) -> bool:
    if has_state(value):
        value = _state_of(value)
    if not _is_plain(value):
        return value is other or (_is_container(value) and _are_equal(value, other))
    if type(value) is not type(other):
        return False
    if isinstance(value, np.ndarray):
        return value.dtype == other.dtype and np.array_equal(value, other, equal_nan=True)
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(_same(value[k], other[k]) for k in value)
    if isinstance(value, (list, tuple)):
        return len(value) == len(other) and all(map(_same, value, other))
    return bool(value == other) or (value != value and other != other)
