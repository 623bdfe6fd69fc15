"""Well-known schedules, made for a model's layer groups. Pure: a schedule comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import keras

from keras_freeze.groups import Groups, layer_groups
from keras_freeze.policies.flags import BatchNormMode
from keras_freeze.schedules.curves import Curve
from keras_freeze.schedules.phases import FreezeSchedule, Phase
from keras_freeze.schedules.rates import Rates
from keras_freeze.schedules.triggers import OnPlateau, TriggerLike

Division: TypeAlias = keras.Model | Sequence[str]


def gradual(
    model: Division,
    until: TriggerLike = 1,
    *,
    last: TriggerLike | None = None,
    groups: Groups | None = None,
    rates: Rates = "default",
    batch_norm: BatchNormMode = "frozen",
    weights: str | Sequence[str] = "all",
    restore_best: bool | str = False,
    curve: Curve | None = None,
) -> FreezeSchedule:
    """Thaw one group at a time, from the head down.

    Args:
        model: `keras.Model`, or the names of its layer groups from input to head.
        until: What ends each phase but the last: a trigger, an int (epochs), or a callable on
            the logs. Defaults to 1 epoch.
        last: What ends the last phase, and with it the fit. Defaults to None, nothing.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        rates: Learning rates of the groups, as for `Phase`. `"default"` is a factor of 2.6.
        batch_norm: As for `Phase`.
        weights: As for `Phase`.
        restore_best: As for `Phase`, for each phase.
        curve: As for `Phase`, for each phase.

    Returns:
        `FreezeSchedule`.

    Raises:
        ValueError: if the model has a single group.

    Reference:
        - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146).

    Example:
        >>> [phase.frozen for phase in gradual(["block1", "block2", "head"]).phases]
        [('block1', 'block2'), ('block1',), ()]
    """
    names, counts = _division("gradual", model, groups)
    frozen = [names[:n] for n in range(len(names) - 1, -1, -1)]
    phase = Phase((), rates, batch_norm, weights, until, restore_best, curve)
    return _schedule(frozen, phase, last, counts)


def linear_probe_then_fine_tune(
    model: Division,
    until: TriggerLike | None = None,
    *,
    last: TriggerLike | None = None,
    groups: Groups | None = None,
    rates: Rates = "default",
    batch_norm: BatchNormMode = "frozen",
    weights: str | Sequence[str] = "all",
    restore_best: bool | str = False,
    curve: Curve | None = None,
) -> FreezeSchedule:
    """Train the head alone until it has converged, then everything.

    Args:
        model: As for `gradual`.
        until: What ends the training of the head, as for `gradual`. Defaults to
            `OnPlateau("val_loss")`, which needs validation data.
        last: As for `gradual`.
        groups: As for `gradual`.
        rates: As for `gradual`.
        batch_norm: As for `gradual`.
        weights: As for `gradual`.
        restore_best: As for `gradual`.
        curve: As for `gradual`.

    Returns:
        `FreezeSchedule` of two phases.

    Raises:
        ValueError: as for `gradual`.

    Reference:
        - [Kumar et al., 2022](https://arxiv.org/abs/2202.10054): fine-tuning can distort
          pretrained features and underperform out of distribution.

    Example:
        >>> schedule = linear_probe_then_fine_tune(["block1", "block2", "head"], until=5)
        >>> [phase.frozen for phase in schedule.phases]
        [('block1', 'block2'), ()]
    """
    names, counts = _division("linear_probe_then_fine_tune", model, groups)
    frozen = [names[:-1], ()]
    until = OnPlateau() if until is None else until
    phase = Phase((), rates, batch_norm, weights, until, restore_best, curve)
    return _schedule(frozen, phase, last, counts)


def chain_thaw(
    model: Division,
    until: TriggerLike | None = None,
    *,
    last: TriggerLike | None = None,
    groups: Groups | None = None,
    rates: Rates = None,
    batch_norm: BatchNormMode = "frozen",
    weights: str | Sequence[str] = "all",
    restore_best: bool | str = False,
    curve: Curve | None = None,
) -> FreezeSchedule:
    """Train the head, then each group alone from the input up, then everything.

    Args:
        model: As for `gradual`.
        until: What ends each phase but the last, as for `gradual`. Defaults to
            `OnPlateau("val_loss")`, which needs validation data.
        last: As for `gradual`.
        groups: As for `gradual`.
        rates: As for `gradual`; defaults to None, the same rate for all, as in the paper.
        batch_norm: As for `gradual`.
        weights: As for `gradual`.
        restore_best: As for `gradual`.
        curve: As for `gradual`.

    Returns:
        `FreezeSchedule` with one phase a group, and one for all together.

    Raises:
        ValueError: as for `gradual`.

    Reference:
        - [Felbo et al., 2017](https://arxiv.org/abs/1708.00524), section 3.3.

    Example:
        >>> [phase.frozen for phase in chain_thaw(["block1", "block2", "head"], 2).phases]
        [('block1', 'block2'), ('block2', 'head'), ('block1', 'head'), ()]
    """
    names, counts = _division("chain_thaw", model, groups)
    alone = [names[-1], *names[:-1]]
    frozen = [tuple(name for name in names if name != trained) for trained in alone]
    until = OnPlateau() if until is None else until
    phase = Phase((), rates, batch_norm, weights, until, restore_best, curve)
    return _schedule([*frozen, ()], phase, last, counts)


def progressive_freeze(
    model: Division,
    until: TriggerLike = 1,
    *,
    last: TriggerLike | None = None,
    groups: Groups | None = None,
    rates: Rates = "default",
    batch_norm: BatchNormMode = "frozen",
    weights: str | Sequence[str] = "all",
    restore_best: bool | str = False,
    curve: Curve | None = None,
) -> FreezeSchedule:
    """Train everything, then freeze one group after the other from the input up.

    It saves time as training goes on, rather than at its beginning.

    Args:
        model: As for `gradual`.
        until: What ends each phase but the last, as for `gradual`. Defaults to 1 epoch.
        last: As for `gradual`.
        groups: As for `gradual`.
        rates: As for `gradual`.
        batch_norm: As for `gradual`.
        weights: As for `gradual`.
        restore_best: As for `gradual`.
        curve: As for `gradual`.

    Returns:
        `FreezeSchedule`, at the end of which the head trains alone.

    Raises:
        ValueError: as for `gradual`.

    Reference:
        - [Brock et al., 2017](https://arxiv.org/abs/1706.04983): FreezeOut.

    Example:
        >>> [phase.frozen for phase in progressive_freeze(["block1", "block2", "head"]).phases]
        [(), ('block1',), ('block1', 'block2')]
    """
    names, counts = _division("progressive_freeze", model, groups)
    frozen = [names[:n] for n in range(len(names))]
    phase = Phase((), rates, batch_norm, weights, until, restore_best, curve)
    return _schedule(frozen, phase, last, counts)


def _division(
    owner: str, model: Division, groups: Groups | None
) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    if isinstance(model, keras.Model):
        found = layer_groups(model, groups)
        names = tuple(group.name for group in found)
        counts = tuple((group.name, group.total_params) for group in found)
    elif isinstance(model, Sequence) and all(isinstance(name, str) for name in model):
        names, counts = tuple(model), ()
    else:
        raise TypeError(
            f"{owner}(model=...) must be a keras.Model or the names of its layer groups from "
            f"input to head. Received: model={model!r}."
        )
    if len(names) < 2 or isinstance(model, str):
        raise ValueError(
            f"{owner}(model=...) must have at least two layer groups. Received: {names!r}. "
            "Pass groups= to divide the model."
        )
    if len(set(names)) < len(names):
        raise ValueError(
            f"{owner}(model=...) must name each group once. Received: {names!r}. Name each layer "
            "group from input to head."
        )
    return names, counts


def _schedule(
    frozen: Iterable[Sequence[str]],
    phase: Phase,
    last: TriggerLike | None,
    counts: tuple[tuple[str, int], ...],
) -> FreezeSchedule:
    """Repeat a phase with one frozen set after the other; the last has an end of its own."""
    phases = [dataclasses.replace(phase, frozen=tuple(names)) for names in frozen]
    phases[-1] = dataclasses.replace(phases[-1], until=last)
    return FreezeSchedule(phases, groups=counts)
