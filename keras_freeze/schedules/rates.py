"""Learning rates of layer groups, as multiples of the compiled one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_freeze.checks import ArgumentError, ArgumentTypeError, is_number
from keras_freeze.model_picture import known_groups

#: Default factor between the learning rates of neighbouring groups, from the head down. ULMFiT's
#: (Howard and Ruder, 2018, https://arxiv.org/abs/1801.06146); measured in docs/defaults.md.
DEFAULT_RATES = 2.6
#: By how much the default rates differ at most, from the head to the lowest group: with many groups
#: the lower ones would hardly move.
_MAX_SPAN = 100.0

#: Rates that follow the gradients from the second epoch on.
AUTO = "auto"

Rates = Mapping[str, float] | float | str | None


def multipliers(
    rates: Rates, names: Sequence[str], *, owner: str = "multipliers"
) -> dict[str, float]:
    """Return the learning-rate multiplier of each group.

    Args:
        rates: A mapping from group, or pattern of groups, to multiplier, a factor between
            neighbouring groups, `"default"` for `default_factor`, `"auto"` for the same to begin
            with, or None for 1 everywhere. A group that a mapping does not name has the multiplier
            of the nearest named group above it; 1 where there is none.
        names: Group names, from input to head.
        owner: Str, in whose name errors are raised.

    Returns:
        Dict from name to float.

    Raises:
        ValueError: if `rates` is invalid or names an unknown group.

    Example:
        >>> multipliers(2.0, ["block1", "block2", "head"])
        {'block1': 0.25, 'block2': 0.5, 'head': 1.0}
        >>> multipliers({"block2": 0.1}, ["block1", "block2", "head"])
        {'block1': 0.1, 'block2': 0.1, 'head': 1.0}
    """
    check_rates(owner, rates)
    if rates is None:
        return dict.fromkeys(names, 1.0)
    if isinstance(rates, Mapping):
        entries = known_groups(owner, "rates", rates, names)
        rate, found = 1.0, {}
        for name in reversed(names):
            rate = float(rates[entries[name]]) if name in entries else rate
            found[name] = rate
        return {name: found[name] for name in names}
    factor = default_factor(len(names)) if isinstance(rates, str) else rates
    return {name: float(factor) ** (n + 1 - len(names)) for n, name in enumerate(names)}


def default_factor(groups: int) -> float:
    """Return the default factor between neighbouring groups, for a number of groups.

    Example:
        >>> default_factor(5), round(default_factor(14), 3)
        (2.6, 1.425)
    """
    return min(DEFAULT_RATES, _MAX_SPAN ** (1 / max(1, groups - 1)))


def check_rates(owner: str, rates: Any) -> None:
    """Raise in the name of `owner` unless `rates` is a valid specification of group rates."""
    if rates is None or rates in ("default", AUTO):
        return
    if isinstance(rates, Mapping) and not all(isinstance(name, str) for name in rates):
        raise ArgumentTypeError(
            owner,
            "rates",
            "have names of layer groups as keys",
            value=rates,
            advice="Quote a name that looks like a number.",
        )
    values = list(rates.values()) if isinstance(rates, Mapping) else [rates]
    for value in values:
        if not is_number(value) or value <= 0:
            raise ArgumentError(
                owner,
                "rates",
                'be "default", "auto", None, a positive factor between neighbouring groups, or a '
                "mapping from group to positive multiplier",
                value=rates,
                advice="To keep a group from training, freeze it.",
            )
    if not isinstance(rates, Mapping) and rates < 1:
        raise ArgumentError(
            owner,
            "rates",
            "be a factor of at least 1: a group trains at the rate of the group above divided by "
            "it",
            value=rates,
            advice=f"Did you mean {1 / rates:g}?",
        )
