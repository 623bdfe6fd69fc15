"""Unfreezing by epochs: which group unfreezes in which epoch. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_freeze.checks import (
    ArgumentError,
    ArgumentTypeError,
    check_count,
    is_int,
)
from keras_freeze.model_picture import known_groups

#: What a plan calls all groups that it does not name otherwise.
REST = "rest"


def even_starts(groups: int, epochs: int) -> tuple[int, ...]:
    """Return the epochs in which groups unfreeze, spread evenly, from the head down.

    Args:
        groups: Int, how many layer groups there are, the head included.
        epochs: Int, how many epochs there are. With fewer of them than groups, several groups
            share an epoch.

    Returns:
        Tuple of int, one for each group, beginning with the head at 0.

    Raises:
        ValueError: if either is not a positive integer.

    Example:
        >>> even_starts(groups=6, epochs=12)
        (0, 2, 4, 6, 8, 10)
        >>> even_starts(groups=6, epochs=4)
        (0, 1, 1, 2, 2, 3)
    """
    check_count("even_starts", "groups", groups)
    check_count("even_starts", "epochs", epochs)
    starts = [0]
    for n in range(1, groups):
        not_with_the_head = max(1, n * epochs // groups)
        starts.append(min(epochs - 1, not_with_the_head))
    return tuple(starts)


def unfreeze_plan(
    plan: Mapping[int, str | Sequence[str]],
    names: Sequence[str],
    *,
    owner: str = "GradualUnfreeze",
) -> dict[int, tuple[str, ...]]:
    """Turn a cumulative plan, epoch to groups that unfreeze, into epoch to groups still frozen.

    Args:
        plan: Mapping from epoch (0-based) to a group's name or names, or patterns of whole names;
            `"rest"` stands for all groups that no other entry of the plan names.
        names: All group names of the model, from input to head.
        owner: Str, in whose name errors are raised. Defaults to `"GradualUnfreeze"`.

    Returns:
        Dict from epoch to the names of the groups that are frozen from then on, in order.

    Raises:
        TypeError: if an entry is not a name or names.
        ValueError: if an epoch is negative, a name unknown, or a group named twice.

    Example:
        >>> unfreeze_plan({0: "head", 4: "block[23]"}, ["block1", "block2", "block3", "head"])
        {0: ('block1', 'block2', 'block3'), 4: ('block1',)}
        >>> unfreeze_plan({0: "head", 4: "block2", 8: "rest"}, ["block1", "block2", "head"])
        {0: ('block1', 'block2'), 4: ('block1',), 8: ()}
    """
    check_plan(owner, plan)
    entries = {e: [plan[e]] if isinstance(plan[e], str) else list(plan[e]) for e in sorted(plan)}
    named = [name for given in entries.values() for name in given]
    has_rest = REST in named and REST not in names
    known = known_groups(owner, "schedule", (n for n in named if not has_rest or n != REST), names)
    rest = [name for name in names if name not in known]
    if has_rest and (not rest or named.count(REST) > 1):
        raise ArgumentError(
            owner,
            "schedule",
            f"have {REST!r} once, where groups are left",
            received=repr(plan),
            advice="Remove it.",
        )
    unfrozen: set[str] = set()
    frozen = {}
    for epoch, given in entries.items():
        unfrozen.update(group for group, entry in known.items() if entry in given)
        unfrozen.update(rest if has_rest and REST in given else ())
        frozen[epoch] = tuple(name for name in names if name not in unfrozen)
    return frozen


def check_plan(owner: str, plan: Mapping[Any, Any]) -> None:
    """Raise unless a plan maps epochs to names, as far as that can be checked without a model."""
    for epoch, entry in plan.items():
        check_epoch(owner, "schedule", epoch)
        names = [entry] if isinstance(entry, str) else entry
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise ArgumentTypeError(
                owner,
                "schedule",
                "map each epoch to a group's name or a sequence of names",
                received=f"{entry!r} at epoch {epoch}",
                advice="Name the groups that unfreeze then.",
            )


def check_epoch(owner: str, argument: str, epoch: Any) -> None:
    """Raise in the name of `owner` unless a key is an epoch, a non-negative integer."""
    if not is_int(epoch) or epoch < 0:
        raise ArgumentError(
            owner,
            argument,
            "have epochs as keys, non-negative integers",
            received=repr(epoch),
            advice="Epochs are counted from 0, as by `initial_epoch`.",
        )
