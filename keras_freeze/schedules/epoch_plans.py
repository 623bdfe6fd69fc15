"""Thawing by the calendar: in which epoch which group thaws. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_freeze.checks import is_int
from keras_freeze.model_picture import known_group


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
            group = known_group("GradualUnfreeze", "schedule", name, names)
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


def check_epoch(owner: str, epoch: Any) -> None:
    """Raise in the name of `owner` unless `epoch` is an int from 0."""
    if not is_int(epoch) or epoch < 0:
        raise ValueError(
            f"{owner} must have epochs as keys, ints from 0. Received: {epoch!r}. "
            "Epochs are counted from 0, as by `initial_epoch`."
        )
