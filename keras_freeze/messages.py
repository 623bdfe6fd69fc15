"""What the checks of arguments and their messages have in common."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Sequence
from typing import Any, TypeGuard


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Return "Did you mean ...? " with the names nearest to an unknown one, or "" if none is.

    Example:
        >>> did_you_mean("block44", ["block3", "block4", "head"])
        "Did you mean 'block4' or 'block3'? "
    """
    nearest = difflib.get_close_matches(name, dict.fromkeys(names), n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(map(repr, nearest))}? " if nearest else ""


def known_group(owner: str, name: Any, names: Sequence[str]) -> str:
    """Return a group's name, the last for `"head"`; raise in the name of `owner` if unknown."""
    if name in names:
        return str(name)
    if name == "head":
        return names[-1]
    raise ValueError(
        f"{owner} must name layer groups of the model. Received: {name!r}. "
        f"{did_you_mean(str(name), names)}Available groups: {', '.join(names)}."
    )


def is_int(value: Any) -> TypeGuard[int]:
    """Tell whether a value is a whole number, of Python or numpy; True and False are none.

    Example:
        >>> is_int(3), is_int(True), is_int(3.0)
        (True, False, False)
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
