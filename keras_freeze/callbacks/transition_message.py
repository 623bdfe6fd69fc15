"""The lines that a schedule prints in a fit. Pure: names and numbers go in, text comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from keras_freeze.checks import counted, first_few
from keras_freeze.model_picture import Pretrained
from keras_freeze.schedules import Evidence

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
        parts: Of a group that trains in part, the names of the variables that do.
    """

    groups: Sequence[str]
    before: Sequence[str] | None
    after: Sequence[str]
    changed_variables: int
    parts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def moment(epoch: int, epochs: int, step: int) -> str:
    """Say when: an epoch (0-based) and how many of its batches are done.

    Example:
        >>> moment(2, 10, 0), moment(2, 10, 120)
        ('Epoch 3/10', 'Epoch 3/10, step 120')
    """
    return f"Epoch {epoch + 1}/{epochs}" + (f", step {step}" if step else "")


def decided(found: Evidence, metric: str) -> str:
    """Say what was decided, by which value of a metric and against which.

    Example:
        >>> decided(Evidence("depth 0 is dropped", 2.05, 1.98), "val_loss")
        'depth 0 is dropped (val_loss 2.05, against 1.98).'
    """
    against = "" if found.threshold is None else f", against {found.threshold:.4g}"
    return f"{found.what} ({metric} {found.value:.4g}{against})."


def reason(found: Sequence[Evidence], metric: str) -> str:
    """Say by which values of a metric several things were decided, against which.

    Example:
        >>> reason([Evidence("a freezes", 0.05, 0.2), Evidence("b freezes", 0.1, 0.2)], "change")
        'change 0.05 and 0.1, against 0.2'
    """
    against = "" if found[0].threshold is None else f", against {found[0].threshold:.4g}"
    values = dict.fromkeys(f"{one.value:.4g}" for one in found)
    return f"{found[0].metric or metric} {first_few(list(values))}{against}"


def what_is_pretrained(part: Pretrained) -> str:
    """Say what is taken for pretrained, and how much is new.

    Example:
        >>> what_is_pretrained(Pretrained(("vgg16",), (None,) * 18, (None,) * 3))
        'Backbone: vgg16 (18 layers); new: 3 layers.'
    """
    size, new = counted(len(part.layers), "layer"), counted(len(part.new), "layer")
    is_assumed = "assumed to be " if part.is_assumed else ""
    text = f"Backbone: {is_assumed}{first_few(part.names)} ({size}); new: {new}."
    if part.is_assumed:
        text += " Pass backbone= if it is another."
    if part.has_new_below:
        text += " New layers feed the backbone, so nothing can be cached."
    return text


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
        >>> biases = dataclasses.replace(then, parts={"block2": ("bias",)})
        >>> sentence(biases, (14, 28), rates, 0.01)
        'biases of block2 unfreeze at 3.9e-03; 14 of 42 parameters train.'
    """
    trainable, total = counts[0], sum(counts)
    return f"{_change(change, multipliers, rate)}; {trainable:,} of {total:,} parameters train."


def _change(change: Change, multipliers: Mapping[str, float], rate: float | None) -> str:
    if change.before is None:
        training = [name for name in reversed(change.groups) if name not in change.after]
        text = f"{_what(training, change, 'train')}{_at(training, multipliers, rate)}"
        if change.after:
            verb = "is" if len(change.after) == 1 else "are"
            text += f", {_names(change.after)} {verb} frozen"
        return text
    unfrozen = [name for name in reversed(change.before) if name not in change.after]
    frozen = [name for name in change.after if name not in change.before]
    parts = []
    if unfrozen:
        at = _at(unfrozen, multipliers, rate)
        parts.append(f"{_what(unfrozen, change, 'unfreeze')}{at}")
    if frozen:
        parts.append(f"{_names(frozen)} {_verb(frozen, 'freeze')}")
    if parts:
        return ", ".join(parts)
    if change.changed_variables:
        count = change.changed_variables
        variables = f"{count} variable{'s' * (count > 1)}"
        return f"a new phase begins: {variables} change{'s' * (count == 1)} within groups"
    return "a new phase begins: the same variables train"


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


def _what(names: Sequence[str], change: Change, verb: str) -> str:
    """Say which groups do something, or which variables of them."""
    kinds = {change.parts.get(name, ()) for name in names}
    if not any(kinds):
        return f"{_names(names)} {_verb(names, verb)}"
    if len(kinds) == 1:
        return f"{_plural(*kinds)} of {_names(names)} {verb}"
    parts = {name: f"{_plural(kind)} of {name}" for name, kind in change.parts.items()}
    return f"{_names([parts.get(name, name) for name in names])} {verb}"


def _plural(names: Sequence[str]) -> str:
    return first_few([f"{name}es" if name.endswith("s") else f"{name}s" for name in names])


def _verb(names: Sequence[str], verb: str) -> str:
    return verb if len(names) > 1 else f"{verb}s"


def summary(phases: tuple[int, int], frozen: Sequence[str], next_epoch: int | None) -> list[str]:
    """Say at the end of a fit which phases ran, and what is still frozen and why.

    Args:
        phases: How many phases ran, and of how many.
        frozen: The groups that are frozen at the end, from input to head.
        next_epoch: Int, 0-based, in which the next phase would begin; None if that depends on
            the metrics, or if there is none.

    Returns:
        List of a line; none where all went as it was planned.

    Example:
        >>> summary((2, 3), ["block1"], 8)[0]
        'After training: 2 of 3 phases ran, and block1 is frozen; the next phase begins at epoch 9.'
    """
    parts = []
    if phases[0] < phases[1]:
        parts.append(f"{phases[0]} of {phases[1]} phases ran")
    if frozen:
        parts.append(f"{_names(frozen)} {'is' if len(frozen) == 1 else 'are'} frozen")
    reason = "; the next phase waits for its trigger"
    if phases[0] == phases[1]:
        reason = ", as no phase of the schedule unfreezes more"
    elif next_epoch is not None:
        reason = f"; the next phase begins at epoch {next_epoch + 1}"
    return [f"After training: {', and '.join(parts)}{reason}."] if parts else []


def rates_follow(epoch: int, multipliers: Mapping[str, float], rate: float | None) -> str:
    """Say at which learning rates groups train after an epoch, from head to input.

    Example:
        >>> rates_follow(0, {"low": 0.25, "head": 1.0}, 0.01)
        'After epoch 1, by their gradients: head trains at 1.0e-02, low at 2.5e-03.'
    """
    unit = "" if rate is not None else " times the compiled rate"
    values = {name: m * (1.0 if rate is None else rate) for name, m in multipliers.items()}
    names = [*reversed(values)]
    if len(names) > _FEW:
        names = sorted(names, key=lambda name: -values[name])
        names = [names[0], names[-1]]
    first, *rest = [f"{name} trains at {values[name]:.1e}{unit}" for name in names[:1]] + [
        f"{name} at {values[name]:.1e}{unit}" for name in names[1:]
    ]
    joined = "".join(f", {text}" for text in rest)
    others = f", {len(values) - 2} groups between" if len(values) > len(names) else ""
    return f"After epoch {epoch + 1}, by their gradients: {first}{joined}{others}."


def rates_end(rate: float | None) -> str:
    """Say at the end of a fit that the groups' learning rates end with it; rate as for `sentence`.

    Example:
        >>> rates_end(0.01)[:51]
        'After training: group learning rates are reset; a f'
    """
    base = "the compiled rate" if rate is None else f"{rate:.1e}"
    return (
        f"After training: group learning rates are reset; a further fit trains at {base} "
        "everywhere."
    )
