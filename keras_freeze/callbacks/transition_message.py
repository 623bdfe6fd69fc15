"""The line that a transition prints. Pure: names and numbers go in, text comes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def moment(epoch: int, epochs: int, step: int) -> str:
    """Say when: an epoch (0-based) and how many of its batches are done.

    Example:
        >>> moment(2, 10, 0), moment(2, 10, 120)
        ('Epoch 3/10', 'Epoch 3/10, step 120')
    """
    return f"Epoch {epoch + 1}/{epochs}" + (f", step {step}" if step else "")


def change(
    names: Iterable[str], before: Sequence[str] | None, frozen: Sequence[str], is_changed: bool
) -> str:
    """Say what trains from now on, or what thaws and freezes.

    Args:
        names: All layer groups, from input to head.
        before: The groups frozen before; None at the beginning of a training.
        frozen: The groups frozen now.
        is_changed: Bool. Whether any variable's flag has changed.

    Example:
        >>> change(["block1", "block2", "head"], None, ["block1", "block2"], True)
        'head trains, block1 and block2 are frozen'
        >>> change(["block1", "block2", "head"], ["block1", "block2"], ["block1"], True)
        'block2 thaws'
    """
    if before is None:
        training = [name for name in reversed(list(names)) if name not in frozen]
        rest = f", {_list(frozen)} {'is' if len(frozen) == 1 else 'are'} frozen" if frozen else ""
        return f"{_list(training)} {_verb(training, 'train')}{rest}"
    thawed = [name for name in reversed(before) if name not in frozen]
    froze = [name for name in frozen if name not in before]
    parts = [f"{_list(thawed)} {_verb(thawed, 'thaw')}"] if thawed else []
    parts += [f"{_list(froze)} {_verb(froze, 'freeze')}"] if froze else []
    return ", ".join(parts) or ("single weights change" if is_changed else "nothing changes")


def numbers(
    counts: tuple[int, int],
    multipliers: Mapping[str, float],
    frozen: Sequence[str],
    rate: float | None,
) -> str:
    """Say how many parameters train, and at which learning rates.

    Args:
        counts: Trainable and non-trainable parameters.
        multipliers: Learning-rate multiplier by group, from input to head.
        frozen: The groups that don't train, whose rates say nothing.
        rate: Float, the optimizer's learning rate; None if it has no single one.

    Example:
        >>> numbers((12, 30), {"low": 0.5, "middle": 0.5, "head": 1.0}, ["low"], 0.01)
        'Parameters: 12 trainable, 30 frozen. Learning rate: head x1, middle x0.5 of 0.01.'
    """
    text = f"Parameters: {counts[0]:,} trainable, {counts[1]:,} frozen."
    base = "the compiled" if rate is None else f"{rate:.3g}"
    if set(multipliers.values()) == {1.0}:
        return f"{text} Learning rate: {base}."
    training = [item for item in reversed([*multipliers.items()]) if item[0] not in frozen]
    rates = ", ".join(f"{name} x{value:.3g}" for name, value in training)
    return f"{text} Learning rate: {rates} of {base}."


def _list(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), *names[-1:]])


def _verb(names: Sequence[str], verb: str) -> str:
    return verb if len(names) > 1 else f"{verb}s"
