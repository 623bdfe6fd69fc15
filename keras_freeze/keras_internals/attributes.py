"""Temporary attributes of an object of Keras, such as a wrapped method."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def own_attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of one object, and restore what was there before at the end.

    A plain assignment would pass through `keras.Layer.__setattr__`, which tracks the layers and
    variables that it finds in the value.
    """
    own = vars(owner)
    was_set, before = name in own, own.get(name)
    object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        object.__delattr__(owner, name)
        if was_set:
            object.__setattr__(owner, name, before)
