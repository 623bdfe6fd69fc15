"""Freeze schedules: which part of a model is frozen in which epoch. Pure values.

A schedule is a sequence of phases. Each phase says what is frozen in it, at which multiples of
the compiled learning rate the layer groups train, and how `BatchNormalization` is treated.
`FreezeScheduler` runs any of them; `GradualUnfreeze` makes its own from the model's groups.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_freeze.flags import BatchNormMode, check_batch_norm
from keras_freeze.groups import Groups
from keras_freeze.messages import is_int, known_group
from keras_freeze.policies import FreezeGroups, FreezePolicy, as_policy

__all__ = ["DEFAULT_RATES", "FreezeSchedule", "Phase", "even_starts", "multipliers", "thaw_plan"]

#: Factor between the learning rates of neighbouring groups, from the head down. ULMFiT's
#: (Howard and Ruder, 2018, https://arxiv.org/abs/1801.06146); measured in docs/defaults.md.
DEFAULT_RATES = 2.6

Rates = Mapping[str, float] | float | str | None
Frozen = FreezePolicy | Callable[..., bool] | int | str | Sequence[str] | None


@dataclasses.dataclass(frozen=True)
class Phase:
    """Epochs that share one trainable set.

    Args:
        frozen: What is frozen; everything else trains. An int (that many layer groups from the
            input), a group's name or names, a freeze policy or callable, or None or an empty
            sequence for nothing.
        rates: Multiples of the compiled learning rate by group: a mapping (1 where missing), a
            factor between neighbouring groups, or None for 1 everywhere. Defaults to None.
        batch_norm: Mode for `BatchNormalization` in the pretrained part. Defaults to
            `"frozen"`.

    Raises:
        TypeError: if `frozen` is none of these.
        ValueError: if `rates` or `batch_norm` is invalid.

    Example:
        >>> Phase(frozen=["block1"], rates=2.6).batch_norm
        'frozen'
    """

    frozen: Frozen = None
    rates: Rates = None
    batch_norm: BatchNormMode = "frozen"

    def __post_init__(self) -> None:
        check_batch_norm("Phase", self.batch_norm)
        check_rates("Phase", self.rates)
        try:
            self.policy()
        except TypeError as error:
            raise TypeError(
                "Phase(frozen=...) must be an int (layer groups from the input), a group's name "
                "or names, a freeze policy or callable (variable, layer) -> bool, or None. "
                f"Received: frozen={self.frozen!r}."
            ) from error

    def policy(self, grouping: Groups | None = None) -> FreezePolicy:
        """Return what is frozen as a policy, for a division of the model into groups."""
        if isinstance(self.frozen, FreezePolicy) or callable(self.frozen):
            return as_policy(self.frozen)
        if self.frozen is None or (isinstance(self.frozen, Sequence) and not self.frozen):
            return FreezeGroups(0, grouping)
        return FreezeGroups(self.frozen, grouping)


@dataclasses.dataclass(frozen=True)
class FreezeSchedule:
    """Phases by the epoch in which they begin.

    Args:
        phases: Mapping from epoch (int, 0-based) to `Phase`, or to what a `Phase` freezes.
            Before the first of them the model trains as its flags say.

    Raises:
        TypeError: if it is not a mapping.
        ValueError: if there is no phase or an epoch is negative.

    Example:
        >>> schedule = FreezeSchedule({0: ["block1", "block2"], 4: "block1", 8: None})
        >>> schedule.at(5).frozen
        'block1'
        >>> schedule.starts
        (0, 4, 8)
    """

    phases: Mapping[int, Phase]

    def __post_init__(self) -> None:
        if not isinstance(self.phases, Mapping):
            raise TypeError(
                "FreezeSchedule(phases=...) must be a mapping from epoch to what is frozen. "
                f"Received: phases={self.phases!r}."
            )
        if not self.phases:
            raise ValueError(
                "FreezeSchedule(phases=...) must have at least one phase. Received: phases={}. "
                "To train everything from the start, write {0: None}."
            )
        for epoch in self.phases:
            check_epoch("FreezeSchedule(phases=...)", epoch)
        phases = {
            epoch: phase if isinstance(phase, Phase) else Phase(phase)
            for epoch, phase in sorted(self.phases.items())
        }
        object.__setattr__(self, "phases", phases)

    @property
    def starts(self) -> tuple[int, ...]:
        """The epochs in which a phase begins, in order."""
        return tuple(self.phases)

    def index_at(self, epoch: int) -> int:
        """Return which phase an epoch (0-based) belongs to, -1 before the first."""
        return bisect.bisect_right(self.starts, epoch) - 1

    def at(self, epoch: int) -> Phase | None:
        """Return the phase that an epoch (0-based) belongs to, None before the first."""
        index = self.index_at(epoch)
        return None if index < 0 else self.phases[self.starts[index]]


def even_starts(groups: int, epochs: int) -> tuple[int, ...]:
    """Return the epochs in which groups thaw when they are spread evenly, from the head down.

    Args:
        groups: Int, how many layer groups there are, the head included.
        epochs: Int, how many epochs there are. With fewer of them than groups, several groups
            share an epoch.

    Returns:
        Tuple of int, one for each group, beginning with the head at 0.

    Raises:
        ValueError: if either is not an int from 1.

    Example:
        >>> even_starts(groups=6, epochs=12)
        (0, 2, 4, 6, 8, 10)
        >>> even_starts(groups=6, epochs=4)
        (0, 1, 1, 2, 2, 3)
    """
    for name, value in {"groups": groups, "epochs": epochs}.items():
        if not is_int(value) or value < 1:
            raise ValueError(
                f"even_starts({name}=...) must be an int from 1. Received: {name}={value!r}."
            )
    later = (min(epochs - 1, max(1, n * epochs // groups)) for n in range(1, groups))
    return (0, *later)


def thaw_plan(
    plan: Mapping[int, str | Sequence[str]], names: Sequence[str]
) -> dict[int, tuple[str, ...]]:
    """Turn a cumulative plan, epoch to groups that thaw, into epoch to groups still frozen.

    Args:
        plan: Mapping from epoch (0-based) to a group's name or names.
        names: All group names of the model, from input to head.

    Returns:
        Dict from epoch to the names of the groups that are frozen from then on, in order.

    Raises:
        TypeError: if what thaws is not a name or names.
        ValueError: if an epoch is negative, a name unknown, or a group named twice.

    Example:
        >>> thaw_plan({0: "head", 4: ["block2"]}, ["block1", "block2", "head"])
        {0: ('block1', 'block2'), 4: ('block1',)}
    """
    check_plan(plan)
    thawed: list[str] = []
    frozen = {}
    for epoch in sorted(plan):
        entry = plan[epoch]
        for name in [entry] if isinstance(entry, str) else entry:
            group = known_group("GradualUnfreeze(schedule=...)", name, names)
            if group in thawed:
                raise ValueError(
                    "GradualUnfreeze(schedule=...) must name each group once. "
                    f"Received: {name!r} again at epoch {epoch}. Remove one of the two."
                )
            thawed.append(group)
        frozen[epoch] = tuple(name for name in names if name not in thawed)
    return frozen


def check_plan(plan: Mapping[Any, Any]) -> None:
    """Raise unless a plan maps epochs to names, as far as can be told without a model."""
    owner = "GradualUnfreeze(schedule=...)"
    for epoch, entry in plan.items():
        check_epoch(owner, epoch)
        names = [entry] if isinstance(entry, str) else entry
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise TypeError(
                f"{owner} must map each epoch to a group's name or a sequence of names. "
                f"Received: {entry!r} at epoch {epoch}. Name the groups that thaw then."
            )


def multipliers(
    rates: Rates, names: Sequence[str], *, owner: str = "multipliers"
) -> dict[str, float]:
    """Return the learning-rate multiplier of each group.

    Args:
        rates: A mapping from group to multiplier (1 where missing), a factor between
            neighbouring groups, `"default"` for `DEFAULT_RATES`, or None for 1 everywhere.
        names: Group names, from input to head.
        owner: Str, in whose name errors are raised.

    Returns:
        Dict from name to float.

    Raises:
        ValueError: if `rates` is invalid or names an unknown group.

    Example:
        >>> multipliers(2.0, ["block1", "block2", "head"])
        {'block1': 0.25, 'block2': 0.5, 'head': 1.0}
    """
    check_rates(owner, rates)
    if rates is None:
        return dict.fromkeys(names, 1.0)
    if isinstance(rates, Mapping):
        known = f"{owner}(rates=...)"
        given = {known_group(known, name, names): float(rates[name]) for name in rates}
        return {name: given.get(name, 1.0) for name in names}
    factor = DEFAULT_RATES if isinstance(rates, str) else rates
    return {name: float(factor) ** (n + 1 - len(names)) for n, name in enumerate(names)}


def check_rates(owner: str, rates: Any) -> None:
    """Raise in the name of `owner` unless `rates` is a valid specification of group rates."""
    if rates is None or rates == "default":
        return
    values = list(rates.values()) if isinstance(rates, Mapping) else [rates]
    for value in values:
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise ValueError(
                f'{owner}(rates=...) must be "default", None, a positive factor between '
                "neighbouring groups, or a mapping from group to positive multiplier. "
                f"Received: rates={rates!r}. To keep a group from training, freeze it."
            )
    if not isinstance(rates, Mapping) and rates < 1:
        raise ValueError(
            f"{owner}(rates=...) must be a factor of at least 1: a group trains at the rate of the "
            f"group above divided by it. Received: rates={rates!r}. Did you mean {1 / rates:g}?"
        )


def check_epoch(owner: str, epoch: Any) -> None:
    """Raise in the name of `owner` unless `epoch` is an int from 0."""
    if not is_int(epoch) or epoch < 0:
        raise ValueError(
            f"{owner} must have epochs as keys, ints from 0. Received: {epoch!r}. "
            "Epochs are counted from 0, as by `initial_epoch`."
        )
