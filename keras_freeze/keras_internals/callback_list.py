"""The list of callbacks that Keras is calling: it tells a callback nothing of the others."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import keras


def sibling_callbacks(callback: Any) -> tuple[Any, ...]:
    """Return the callbacks beside one, when a hook of it asks; none outside of that."""
    owner = _callback_list()
    return () if owner is None else tuple(x for x in owner.callbacks if x is not callback)


def move_to_end(callback: Any) -> None:
    """Let Keras call a callback after the others, when its `set_model` asks.

    Where several want that, the class attribute `rank_at_end` (an int, 1 where missing) orders
    them, whichever asks first.
    """
    owner = _callback_list()
    if owner is not None:
        # A new list, since Keras is going through the old one.
        owner.callbacks = sorted(
            owner.callbacks, key=lambda other: getattr(other, "rank_at_end", int(other is callback))
        )


def is_called_by(name: str) -> bool:
    """Tell whether the function that asks was called by one of this name."""
    # No name for a frame: its own would keep it and its callers' values until a collection.
    return sys._getframe(2).f_code.co_name == name


def _callback_list() -> Any | None:
    """Return the list that is calling a hook: Keras tells a callback nothing of the others."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return owner
        frame = frame.f_back
    return None
