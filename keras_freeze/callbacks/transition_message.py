"""The lines that a schedule prints in a fit. Pure: names and numbers go in, text comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from keras_freeze.checks import first_few

# With more groups than this, a line gives their number and the first and last.
_FEW = 3


@dataclasses.dataclass(frozen=True)
class Change:
    """What changes at a transition.

    Attributes:
        groups: All layer groups, from input to head.
        before: The groups frozen before; None at the beginning of a training.
        after: The groups frozen now.
        changed_variables: Int, variables of which the flag has changed.
    """

    groups: Sequence[str]
    before: Sequence[str] | None
    after: Sequence[str]
    changed_variables: int


@dataclasses.dataclass(frozen=True)
class Ended:
    """How far a schedule came.

    Attributes:
        phases: Int, the phases that ran.
        planned: Int, those of the schedule.
        frozen: The groups that are frozen at the end, from input to head.
        next_epoch: Int, 0-based, in which the next phase would begin; None if that depends on
            the metrics, or if there is none.
    """

    phases: int
    planned: int
    frozen: Sequence[str]
    next_epoch: int | None


def moment(epoch: int, epochs: int, step: int) -> str:
    """Say when: an epoch (0-based) and how many of its batches are done.

    Example:
        >>> moment(2, 10, 0), moment(2, 10, 120)
        ('Epoch 3/10', 'Epoch 3/10, step 120')
    """
    return f"Epoch {epoch + 1}/{epochs}" + (f", step {step}" if step else "")


def sentence(
    change: Change, counts: tuple[int, int], multipliers: Mapping[str, float], rate: float | None
) -> str:
    """Say what changes, at which learning rates, and how many parameters train from now on.

    Args:
        change: What changes.
        counts: Trainable and non-trainable parameters.
        multipliers: Learning-rate multiplier by group.
        rate: Float, the optimizer's learning rate; None if it has no single one.

    Example:
        >>> rates = {"block1": 0.148, "block2": 0.385, "head": 1.0}
        >>> begin = Change(tuple(rates), None, ["block1", "block2"], 4)
        >>> sentence(begin, (12, 30), rates, 0.01)
        'head trains at 1.0e-02, block1 and block2 are frozen; 12 of 42 parameters train.'
        >>> then = Change(tuple(rates), ["block1", "block2"], ["block1"], 2)
        >>> sentence(then, (32, 10), rates, 0.01)
        'block2 unfreezes at 3.9e-03; 32 of 42 parameters train.'
    """
    trainable, total = counts[0], sum(counts)
    return f"{_change(change, multipliers, rate)}; {trainable:,} of {total:,} parameters train."


def _change(change: Change, multipliers: Mapping[str, float], rate: float | None) -> str:
    if change.before is None:
        training = [name for name in reversed(change.groups) if name not in change.after]
        text = f"{_names(training)} {_verb(training, 'train')}{_at(training, multipliers, rate)}"
        if change.after:
            verb = "is" if len(change.after) == 1 else "are"
            text += f", {_names(change.after)} {verb} frozen"
        return text
    unfrozen = [name for name in reversed(change.before) if name not in change.after]
    frozen = [name for name in change.after if name not in change.before]
    parts = []
    if unfrozen:
        at = _at(unfrozen, multipliers, rate)
        parts.append(f"{_names(unfrozen)} {_verb(unfrozen, 'unfreeze')}{at}")
    if frozen:
        parts.append(f"{_names(frozen)} {_verb(frozen, 'freeze')}")
    if parts:
        return ", ".join(parts)
    if change.changed_variables:
        variables = f"{change.changed_variables} variable{'s' * (change.changed_variables > 1)}"
        return f"a phase begins that changes {variables} within groups"
    return "a phase begins in which the same variables train"


def _at(names: Sequence[str], multipliers: Mapping[str, float], rate: float | None) -> str:
    """Say at which learning rates groups train: their own, or from the highest to the lowest."""
    values = [multipliers.get(name, 1.0) * (1.0 if rate is None else rate) for name in names]
    unit = "" if rate is not None else " times the compiled rate"
    shown = [f"{value:.1e}" if rate is not None else f"{value:.3g}" for value in values]
    if len(set(shown)) == 1:
        return "" if rate is None and values[0] == 1.0 else f" at {shown[0]}{unit}"
    if len(names) <= _FEW:
        return f" at {first_few(shown)}{unit}"
    return f" at {shown[0]} to {shown[-1]}{unit}"


def _names(names: Sequence[str]) -> str:
    if len(names) <= _FEW:
        return first_few(names)
    return f"{len(names)} groups ({names[0]} to {names[-1]})"


def _verb(names: Sequence[str], verb: str) -> str:
    return verb if len(names) > 1 else f"{verb}s"


def summary(ended: Ended, multipliers: Mapping[str, float], rate: float | None) -> list[str]:
    """Say at the end of a fit which phases ran, what stays frozen and why, and what ends.

    Returns:
        List of at most two lines; none where all is as a reader expects it.

    Example:
        >>> for line in summary(Ended(2, 3, ["block1"], 8), {"block1": 0.5, "head": 1.0}, 0.01):
        ...     print(line)
        After training: 2 of 3 phases ran, and block1 is frozen; the next phase begins at epoch 9.
        After training: the learning rates of groups end here; a further fit trains all at 1.0e-02.
    """
    lines = []
    reason = ""
    if ended.phases < ended.planned:
        reason = "the next phase waits for its trigger"
        if ended.next_epoch is not None:
            reason = f"the next phase begins at epoch {ended.next_epoch + 1}"
    if ended.frozen:
        frozen = f"{_names(ended.frozen)} {'is' if len(ended.frozen) == 1 else 'are'} frozen"
        if reason:
            ran = f"{ended.phases} of {ended.planned} phases ran"
            lines.append(f"After training: {ran}, and {frozen}; {reason}.")
        else:
            lines.append(f"After training: {frozen}, as no phase of the schedule unfreezes more.")
    elif reason:
        lines.append(f"After training: {ended.phases} of {ended.planned} phases ran; {reason}.")
    if set(multipliers.values()) - {1.0}:
        base = "the compiled rate" if rate is None else f"{rate:.1e}"
        lines.append(
            f"After training: the learning rates of groups end here; a further fit trains all at "
            f"{base}."
        )
    return lines
