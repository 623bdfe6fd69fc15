"""What the callbacks beside a backup have counted: find it, keep it, restore it.

Keras's callbacks keep their counters in attributes and reset them when training begins. What
has changed since then is the state. It can be kept if it is plain data, a set, a counter or a Keras
variable; of the user's own callbacks, other containers and objects that were replaced are named
in a warning. What changes inside an object of another kind can't be seen.
"""

from __future__ import annotations

import collections
import copy
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

# Reset for each fit or each epoch, or derived from other attributes.
_NEVER = frozenset({"_model", "params", "monitor_op", "min_delta"})


def before(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return the attributes of a callback as training begins, to compare with later."""
    return {name: _copied(value) for name, value in _attributes(callback).items()}


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
        if isinstance(value, keras.Variable):
            kept[name] = to_host(value)
        elif _is_plain(value):
            kept[name] = copy.deepcopy(value)
        elif not type(callback).__module__.startswith(("keras.", "keras_freeze.")):
            lost.append(name)
    return kept, lost


def restore(callback: keras.callbacks.Callback, state: Mapping[str, Any]) -> None:
    """Restore the attributes that were kept; in place where the script may hold them too."""
    for name, value in state.items():
        present = vars(callback).get(name)
        if isinstance(present, keras.Variable):
            present.assign(value)
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


def _attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    return {name: value for name, value in vars(callback).items() if name not in _NEVER}


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
    if isinstance(value, keras.Variable):
        return to_host(value)
    try:
        return copy.deepcopy(value) if _is_plain(value) or _is_container(value) else value
    except Exception:  # it holds what can't be copied
        return value


def _is_container(value: Any) -> bool:
    return isinstance(value, (Mapping, MutableSequence, MutableSet, collections.deque))


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, keras.Variable):
        value = to_host(value)
    if not _is_plain(value):
        return value is other or (_is_container(value) and bool(value == other))
    if type(value) is not type(other):
        return False
    if isinstance(value, np.ndarray):
        return value.dtype == other.dtype and np.array_equal(value, other, equal_nan=True)
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(_same(value[k], other[k]) for k in value)
    if isinstance(value, (list, tuple)):
        return len(value) == len(other) and all(map(_same, value, other))
    return bool(value == other) or (value != value and other != other)
