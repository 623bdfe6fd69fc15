"""Well-known schedules, made for a model's layer groups. Pure: a schedule comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, TypedDict, Unpack

import keras

from keras_freeze.checks import ArgumentError, ArgumentTypeError, did_you_mean
from keras_freeze.groups import Groups, LayerGroup, layer_groups
from keras_freeze.policies import BatchNormMode
from keras_freeze.schedules.curves import Curve
from keras_freeze.schedules.phase import Phase
from keras_freeze.schedules.rates import Rates
from keras_freeze.schedules.schedule import FreezeSchedule
from keras_freeze.schedules.triggers import OnPlateau, TriggerLike

Division: TypeAlias = keras.Model | Sequence[LayerGroup] | Sequence[str]


class PhaseSettings(TypedDict, total=False):
    """The arguments of `Phase` that a builder gives to each of its phases."""

    rates: Rates
    batch_norm: BatchNormMode
    weights: str | Sequence[str]
    restore_best: bool | str
    curve: Curve | None


def gradual(
    model: Division,
    until: TriggerLike = 1,
    *,
    last: TriggerLike | None = None,
    groups: Groups | None = None,
    **settings: Unpack[PhaseSettings],
) -> FreezeSchedule:
    """Unfreeze one group at a time, from the head down.

    Args:
        model: `keras.Model`, its layer groups as `layer_groups` returns them, or their names from
            input to head.
        until: What ends each phase but the last: a trigger, an int (epochs), or a callable on
            the logs. Defaults to 1 epoch.
        last: What ends the last phase, and with it the fit. Defaults to None, nothing.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically.
        **settings: `rates`, `batch_norm`, `weights`, `restore_best` and `curve` of each phase,
            as for `Phase`. `rates` defaults to `"default"`, as for `GradualUnfreeze`.

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
    division = _divide("gradual", model, groups)
    names = division.names
    frozen = [names[:n] for n in range(len(names) - 1, -1, -1)]
    phase = _template("gradual", until, "default", settings)
    return division.schedule(frozen, phase, last)


def linear_probe_then_fine_tune(
    model: Division,
    until: TriggerLike | None = None,
    *,
    last: TriggerLike | None = None,
    groups: Groups | None = None,
    **settings: Unpack[PhaseSettings],
) -> FreezeSchedule:
    """Train the head alone until it has converged, then everything.

    Args:
        model: As for `gradual`.
        until: What ends the training of the head, as for `gradual`. Defaults to
            `OnPlateau("val_loss")`, which needs validation data.
        last: As for `gradual`.
        groups: As for `gradual`.
        **settings: As for `gradual`.

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
    owner = "linear_probe_then_fine_tune"
    division = _divide(owner, model, groups)
    phase = _template(owner, OnPlateau() if until is None else until, "default", settings)
    return division.schedule([division.names[:-1], ()], phase, last)


def chain_thaw(
    model: Division,
    until: TriggerLike | None = None,
    *,
    last: TriggerLike | None = None,
    groups: Groups | None = None,
    **settings: Unpack[PhaseSettings],
) -> FreezeSchedule:
    """Train the head, then each group alone from the input up, then everything.

    Args:
        model: As for `gradual`.
        until: What ends each phase but the last, as for `gradual`. Defaults to
            `OnPlateau("val_loss")`, which needs validation data.
        last: As for `gradual`.
        groups: As for `gradual`.
        **settings: As for `gradual`, but that `rates` defaults to None, the same rate for all,
            as in the paper.

    Returns:
        `FreezeSchedule` with one phase per group, and one for all together.

    Raises:
        ValueError: as for `gradual`.

    Reference:
        - [Felbo et al., 2017](https://arxiv.org/abs/1708.00524), section 3.3.

    Example:
        >>> [phase.frozen for phase in chain_thaw(["block1", "block2", "head"], 2).phases]
        [('block1', 'block2'), ('block2', 'head'), ('block1', 'head'), ()]
    """
    division = _divide("chain_thaw", model, groups)
    names = division.names
    frozen: list[tuple[str, ...]] = []
    for trained in (names[-1], *names[:-1]):
        frozen.append(tuple(name for name in names if name != trained))
    phase = _template("chain_thaw", OnPlateau() if until is None else until, None, settings)
    return division.schedule([*frozen, ()], phase, last)


def progressive_freeze(
    model: Division,
    until: TriggerLike = 1,
    *,
    last: TriggerLike | None = None,
    groups: Groups | None = None,
    **settings: Unpack[PhaseSettings],
) -> FreezeSchedule:
    """Train everything, then freeze one group after the other from the input up.

    It saves time late in training, where gradual unfreezing saves it early.

    Args:
        model: As for `gradual`.
        until: What ends each phase but the last, as for `gradual`. Defaults to 1 epoch.
        last: As for `gradual`.
        groups: As for `gradual`.
        **settings: As for `gradual`.

    Returns:
        `FreezeSchedule`, whose last phase trains the head alone.

    Raises:
        ValueError: as for `gradual`.

    Reference:
        - [Brock et al., 2017](https://arxiv.org/abs/1706.04983): FreezeOut.

    Example:
        >>> [phase.frozen for phase in progressive_freeze(["block1", "block2", "head"]).phases]
        [(), ('block1',), ('block1', 'block2')]
    """
    division = _divide("progressive_freeze", model, groups)
    frozen = [division.names[:n] for n in range(len(division.names))]
    phase = _template("progressive_freeze", until, "default", settings)
    return division.schedule(frozen, phase, last)


@dataclasses.dataclass(frozen=True)
class _Division:
    """The layer groups that a schedule is made for, with parameter counts where known."""

    names: tuple[str, ...]
    counts: tuple[tuple[str, int], ...] = ()

    def schedule(
        self, frozen: Iterable[Sequence[str]], phase: Phase, last: TriggerLike | None
    ) -> FreezeSchedule:
        """Repeat a phase with one frozen set after the other; the last has an end of its own."""
        phases = [dataclasses.replace(phase, frozen=tuple(names)) for names in frozen]
        phases[-1] = dataclasses.replace(phases[-1], until=last)
        return FreezeSchedule(phases, groups=self.counts)


def _divide(owner: str, model: Division, groups: Groups | None) -> _Division:
    found: Sequence[Any] = model if isinstance(model, Sequence) else ()
    if isinstance(model, keras.Model):
        found = layer_groups(model, groups)
    if found and all(isinstance(group, LayerGroup) for group in found):
        counts = tuple((group.name, group.total_params) for group in found)
        division = _Division(tuple(group.name for group in found), counts)
    elif isinstance(model, Sequence) and all(isinstance(name, str) for name in found):
        division = _Division(tuple(found))
    else:
        raise ArgumentTypeError(
            owner,
            "model",
            "be a keras.Model, its layer groups, or their names from input to head",
            value=model,
        )
    names = division.names
    if len(names) < 2 or isinstance(model, str):
        raise ArgumentError(
            owner,
            "model",
            "have at least two layer groups",
            received=repr(names),
            advice="Pass groups= to divide the model.",
        )
    if len(set(names)) < len(names):
        raise ArgumentError(
            owner,
            "model",
            "name each group once",
            received=repr(names),
            advice="Name each layer group from input to head.",
        )
    return division


def _template(owner: str, until: TriggerLike, rates: Rates, settings: PhaseSettings) -> Phase:
    """Return the template that a builder's phases copy."""
    known = list(PhaseSettings.__annotations__)
    for name in settings:
        if name not in known:
            raise TypeError(
                f"{owner}() got an unexpected keyword argument {name!r}. "
                f"{did_you_mean(name, known)}Settings of its phases: {', '.join(known)}."
            )
    given: PhaseSettings = {"rates": rates, **settings}
    return Phase(until=until, **given)
