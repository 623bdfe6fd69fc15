"""What the checks of arguments and their messages have in common."""

from __future__ import annotations

import difflib
import inspect
import numbers
import re
from collections.abc import Iterable, Sequence
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


def known_groups(owner: str, given: Iterable[Any], names: Sequence[str]) -> dict[str, str]:
    """Return the groups that names or patterns stand for, each with what named it.

    An entry that is not a group's name is a regular expression that has to match a whole one.

    Args:
        owner: Str, in whose name errors are raised.
        given: Names and patterns.
        names: All groups, from input to head.

    Returns:
        Dict from group to entry, in the order of the entries.

    Raises:
        ValueError: if an entry matches nothing, or if two stand for the same group.

    Example:
        >>> known_groups("freeze", ["block[12]", "head"], ["block1", "block2", "block3", "top"])
        {'block1': 'block[12]', 'block2': 'block[12]', 'top': 'head'}
    """
    found: dict[str, str] = {}
    for entry in given:
        matching = [] if entry in names else _full_matches(entry, names)
        for name in matching or [known_group(owner, entry, names)]:
            if name in found:
                raise ValueError(
                    f"{owner} must name each group once. Received: {found[name]!r} and "
                    f"{entry!r}, which both stand for {name!r}. Remove one of the two."
                )
            found[name] = str(entry)
    return found


def _full_matches(pattern: Any, names: Sequence[str]) -> list[str]:
    try:
        return [name for name in names if re.fullmatch(pattern, name)]
    except (re.error, TypeError):
        return []


def as_call(instance: Any) -> str:
    """Return the call that makes an object which keeps its arguments, without the defaults."""
    given = [
        f"{p.name}={getattr(instance, p.name)!r}"
        for p in inspect.signature(type(instance)).parameters.values()
        if p.default is p.empty or getattr(instance, p.name) != p.default
    ]
    return f"{type(instance).__name__}({', '.join(given)})"


def is_int(value: Any) -> TypeGuard[int]:
    """Tell whether a value is a whole number, of Python or numpy; True and False are none.

    Example:
        >>> is_int(3), is_int(True), is_int(3.0)
        (True, False, False)
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
