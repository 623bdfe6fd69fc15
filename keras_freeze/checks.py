"""What the checks of arguments have in common: the errors they raise, and words for their texts."""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeGuard

import numpy as np

_NOT_GIVEN = object()


class _ArgumentProblem(Exception):
    """An argument that breaks a rule. The text of every such error is made here."""

    def __init__(
        self,
        owner: str,
        argument: str,
        rule: str,
        *,
        value: Any = _NOT_GIVEN,
        received: str = "",
        advice: str = "",
    ):
        super().__init__(owner, argument, rule)
        self.owner = owner
        self.argument = argument
        self.rule = rule
        self.value = value
        self.received = received
        self.advice = advice

    def __str__(self) -> str:
        shown = f"{self.argument}={self.value!r}" if self.value is not _NOT_GIVEN else ""
        received = f"{shown}{self.received}"
        text = f"{self.owner}({self.argument + '=' if self.argument else ''}...) must {self.rule}."
        return " ".join(filter(None, (text, received and f"Received: {received}.", self.advice)))

    def of(self, owner: str, argument: str) -> Self:
        """Return the same error about the call and argument that the user wrote."""
        return type(self)(
            owner,
            argument,
            self.rule,
            value=self.value,
            received=self.received,
            advice=self.advice,
        )


class ArgumentError(_ArgumentProblem, ValueError):
    """An argument has a value that breaks a rule.

    Args:
        owner: Str, the class or function as the user wrote it.
        argument: Str, the argument's name; "" for the call as a whole.
        rule: Str, what must hold, as it follows "must".
        value: The argument as it was received, shown as `argument=value`. Left out where
            `received` says it all.
        received: Str, what was received, after the value or instead of it.
        advice: Str, one or more sentences that say what to do.

    Example:
        >>> print(ArgumentError("freeze", "first", "be an int", value="a", advice="Count layers."))
        freeze(first=...) must be an int. Received: first='a'. Count layers.
    """


class ArgumentTypeError(_ArgumentProblem, TypeError):
    """An argument is of another type than it must be; arguments as for `ArgumentError`."""


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Return "Did you mean ...? " with the names nearest to an unknown one, or "" if none is.

    Example:
        >>> did_you_mean("block44", ["block3", "block4", "head"])
        "Did you mean 'block4' or 'block3'? "
    """
    nearest = difflib.get_close_matches(name, dict.fromkeys(names), n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(map(repr, nearest))}? " if nearest else ""


def as_value(given: Any) -> Any:
    """Return a copy with tuples for lists and ints for numpy's: what means the same is equal.

    Example:
        >>> as_value({"low": ["a", "b"]})
        {'low': ('a', 'b')}
    """
    if is_int(given):
        return int(given)
    if isinstance(given, Mapping):
        return {key: as_value(value) for key, value in given.items()}
    return tuple(map(as_value, given)) if isinstance(given, (list, tuple)) else given


def is_int(value: Any) -> TypeGuard[int]:
    """Tell whether a value is a whole number, of Python or numpy; True and False are not.

    Example:
        >>> is_int(3), is_int(True), is_int(3.0)
        (True, False, False)
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a value is a finite real number, of Python or numpy; True and False are none.

    Example:
        >>> is_number(0.5), is_number(True), is_number(float("nan"))
        (True, False, False)
    """
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def check_count(owner: str, argument: str, value: Any, lowest: int = 1) -> None:
    """Raise in the name of `owner` unless a value is an int from `lowest`, which is 0 or 1."""
    if not is_int(value) or value < lowest:
        rule = "be a positive integer" if lowest else "be a non-negative integer"
        raise ArgumentError(owner, argument, rule, value=value)


def takes(function: Callable[..., Any], count: int) -> bool:
    """Tell whether a function can be called with so many arguments; True if that isn't known."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # some builtins have no signature
        pass
    return True


def true_or_false(owner: str, argument: str, answer: Any, case: str) -> bool:
    """Return what the function given as an argument has answered, if that is a bool."""
    if not isinstance(answer, (bool, np.bool_)):
        received = f"{answer!r} for {case}"
        raise ArgumentTypeError(owner, argument, "return True or False", received=received)
    return bool(answer)


def call_of(instance: Any) -> str:
    """Return the call that makes an object like this one, with the arguments that were given.

    They have to be attributes under the names of the parameters.

    Example:
        >>> import keras_freeze
        >>> call_of(keras_freeze.FreezeScheduler({0: 1}, verbose=0))
        'FreezeScheduler(schedule={0: 1}, verbose=0)'
    """
    given = []
    for p in inspect.signature(type(instance)).parameters.values():
        value = getattr(instance, p.name)
        is_default = value is p.default
        if not is_default and p.default is not p.empty and not _has_arrays(value):
            is_default = bool(value == p.default)
        if not is_default:
            given.append(f"{p.name}={_in_brief(value)}")
    return f"{type(instance).__name__}({', '.join(given)})"


def _has_arrays(value: Any) -> bool:
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, (Mapping, list, tuple)):
        return any(_has_arrays(part) for part in parts)
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _in_brief(value: Any) -> str:
    """Return a repr, with arrays by their shapes."""
    if not _has_arrays(value):
        return repr(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k!r}: {_in_brief(v)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_in_brief, value))}]"
    return f"<array of shape {tuple(value.shape)}, {value.dtype}>"


def counted(count: int, noun: str) -> str:
    """Return a number and what it counts, as in "1 epoch" and "2 epochs"."""
    return f"{count} {noun}{'s' if count > 1 else ''}"


def first_few(names: Sequence[str], limit: int = 3) -> str:
    """Return the first names of many, and how many more there are.

    Example:
        >>> first_few(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
        >>> first_few(["a", "b", "c", "d"])  # the last takes no more room than "1 more"
        'a, b, c and d'
    """
    limit += len(names) == limit + 1
    shown = [*names[:limit], *([f"{len(names) - limit} more"] if len(names) > limit else [])]
    return " and ".join([*([", ".join(shown[:-1])] if shown[:-1] else []), *shown[-1:]])
