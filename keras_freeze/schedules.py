"""Freeze schedules: which part of a model is frozen in which epoch. Pure values.

A schedule is a sequence of phases. Each phase says what is frozen in it, at which multiples of
the compiled learning rate the layer groups train, and how `BatchNormalization` is treated.
`FreezeScheduler` runs any of them; `GradualUnfreeze` makes its own from the model's groups.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_freeze.flags import BatchNormMode, check_batch_norm
from keras_freeze.groups import Groups
from keras_freeze.messages import did_you_mean
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
        self.policy()

    def policy(self, grouping: Groups | None = None) -> FreezePolicy:
        """Return what is frozen as a policy, for a division of the model into groups."""
        frozen = () if self.frozen is None else self.frozen
        if isinstance(frozen, (FreezePolicy, type)) or callable(frozen):
            return as_policy(frozen)
        return FreezeGroups(frozen, grouping)


@dataclasses.dataclass(frozen=True)
class FreezeSchedule:
    """Phases by the epoch in which they begin.

    Args:
        phases: Mapping from epoch (int, 0-based) to `Phase`, or to what a `Phase` freezes.
            Before the first of them the model trains as its flags say.

    Raises:
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
        if not isinstance(self.phases, Mapping) or not self.phases:
            raise TypeError(
                "FreezeSchedule(phases=...) must be a mapping from epoch to what is frozen, with "
                f"at least one entry. Received: phases={self.phases!r}."
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

    Example:
        >>> even_starts(groups=6, epochs=12)
        (0, 2, 4, 6, 8, 10)
        >>> even_starts(groups=6, epochs=4)
        (0, 1, 1, 2, 2, 3)
    """
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
        ValueError: if an epoch is negative, a name unknown, or a group named twice.

    Example:
        >>> thaw_plan({0: "head", 4: ["block2"]}, ["block1", "block2", "head"])
        {0: ('block1', 'block2'), 4: ('block1',)}
    """
    thawed: list[str] = []
    frozen = {}
    for epoch in sorted(plan, key=lambda epoch: (not isinstance(epoch, int), str(epoch))):
        check_epoch("GradualUnfreeze(schedule=...)", epoch)
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


def multipliers(rates: Rates, names: Sequence[str]) -> dict[str, float]:
    """Return the learning-rate multiplier of each group.

    Args:
        rates: A mapping from group to multiplier (1 where missing), a factor between
            neighbouring groups, `"default"` for `DEFAULT_RATES`, or None for 1 everywhere.
        names: Group names, from input to head.

    Returns:
        Dict from name to float.

    Raises:
        ValueError: if a name is unknown.

    Example:
        >>> multipliers(2.0, ["block1", "block2", "head"])
        {'block1': 0.25, 'block2': 0.5, 'head': 1.0}
    """
    if rates is None:
        return dict.fromkeys(names, 1.0)
    if isinstance(rates, Mapping):
        given = {known_group("rates=...", name, names): float(rates[name]) for name in rates}
        return {name: given.get(name, 1.0) for name in names}
    factor = DEFAULT_RATES if isinstance(rates, str) else rates
    return {name: float(factor) ** -depth for depth, name in _from_head(names)}


def check_rates(owner: str, rates: Any) -> None:
    """Raise in the name of `owner` unless `rates` is a valid specification of group rates."""
    if rates is None or rates == "default":
        return
    values = list(rates.values()) if isinstance(rates, Mapping) else [rates]
    for value in values:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise ValueError(
                f'{owner}(rates=...) must be "default", None, a positive factor between '
                "neighbouring groups, or a mapping from group to positive multiplier. "
                f"Received: rates={rates!r}. To keep a group from training, freeze it."
            )


def check_epoch(owner: str, epoch: Any) -> None:
    """Raise in the name of `owner` unless `epoch` is an int from 0."""
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        raise ValueError(
            f"{owner} must have epochs as keys, ints from 0. Received: {epoch!r}. "
            "Epochs are counted from 0, as by `initial_epoch`."
        )


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


def _from_head(names: Sequence[str]) -> list[tuple[int, str]]:
    return [(len(names) - 1 - n, name) for n, name in enumerate(names)]
