"""The other callbacks of a running fit, to which Keras gives a callback no access."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable
from typing import Any

import keras


def sibling_callbacks(callback: Any) -> tuple[Any, ...]:
    """Return the other callbacks of a fit, if called from a hook; otherwise none."""
    owner = _callback_list()
    return () if owner is None else tuple(x for x in owner.callbacks if x is not callback)


def is_in_fit_with(kind: type) -> bool:
    """Tell whether a fit is running, anywhere on the stack, that has a callback of this class."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("callbacks") if frame.f_code.co_name == "fit" else None
        callbacks = owner.callbacks if isinstance(owner, keras.callbacks.CallbackList) else ()
        if any(isinstance(callback, kind) for callback in callbacks):
            return True
        frame = frame.f_back
    return False


def arguments_of_fit() -> dict[str, Any]:
    """Return what the fit that is running was given, {} if none is.

    Returns:
        `x`, `y`, `batch_size`, `validation_data` as Keras has split it off, `validation_freq`.
    """
    names = ("x", "y", "batch_size", "validation_data", "validation_freq")
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "fit" and isinstance(
            frame.f_locals.get("callbacks"), keras.callbacks.CallbackList
        ):
            return {name: frame.f_locals.get(name) for name in names}
        frame = frame.f_back
    return {}


def add_to_fit(callback: Any, model: keras.Model) -> None:
    """Let another callback run in a fit, if called from a hook, as if it stood in its list.

    To be called from `set_model`, after which Keras gives parameters to all.
    """
    owner = _callback_list()
    if owner is not None:
        # A new list, since Keras is going through the old one.
        owner.callbacks = [*owner.callbacks, callback]
        callback.set_model(model)


def move_to_end(callback: Any) -> None:
    """Make Keras call a callback after the others, if called from its `set_model`.

    If several callbacks do this, the class attribute `rank_at_end` (an int, 1 where missing) orders
    them, whichever is set up first.
    """
    owner = _callback_list()
    if owner is not None:
        # A new list, since Keras is going through the old one.
        owner.callbacks = sorted(
            owner.callbacks, key=lambda other: getattr(other, "rank_at_end", int(other is callback))
        )


def move_before_progress_bar(callback: Any) -> None:
    """Make Keras call a callback after the user's others, and before it prints its progress.

    To be called from the callback's `set_model`. What has a `rank_at_end` stays behind it.
    """
    owner = _callback_list()
    if owner is None or callback not in owner.callbacks:
        return
    others = [other for other in owner.callbacks if other is not callback]
    of_keras = (keras.callbacks.History, keras.callbacks.ProgbarLogger)
    place = 0
    for number, other in enumerate(others, 1):
        if not isinstance(other, of_keras) and not getattr(other, "rank_at_end", 0):
            place = number
    owner.callbacks = [*others[:place], callback, *others[place:]]


def when_released(function: Callable[[], None]) -> Any | None:
    """Call a function when the running fit's list of callbacks is gone, as after an error.

    Returns:
        `weakref.finalize`, whose `detach` takes that back; None if not called from a hook.
    """
    owner = _callback_list()
    return None if owner is None else weakref.finalize(owner, function)


def is_called_by(name: str) -> bool:
    """Tell whether the calling function was itself called by a function of this name."""
    # No frame is bound to a name: it would keep itself and its callers' values until a collection.
    return sys._getframe(2).f_code.co_name == name


def _callback_list() -> Any | None:
    """Return the `CallbackList` on the stack, which is calling a hook; None if there is none."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return owner
        frame = frame.f_back
    return None
