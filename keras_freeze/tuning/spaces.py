"""Dimensions of a search: how deep to freeze, when to unfreeze, how much slower to train below.

These functions need nothing of a tuner but `hp`, an object with the methods `Int` and `Choice`
of KerasTuner's `HyperParameters`; `OptunaParameters` adapts a trial of Optuna.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import keras

from keras_freeze.callbacks import GradualUnfreeze
from keras_freeze.checks import ArgumentError
from keras_freeze.engine import state_of, transition
from keras_freeze.groups import Backbone, names_of, picture_of
from keras_freeze.keras_internals.hyperparameters import scoped_name
from keras_freeze.model_picture import check_model, with_initial_values
from keras_freeze.policies import (
    BatchNormMode,
    Flags,
    FreezeFirst,
    FreezeGroups,
    FreezePolicy,
    KeepFrozen,
    Selection,
    check_batch_norm,
    phase_flags,
    with_kept_frozen,
)
from keras_freeze.tuning import depth_in_force
from keras_freeze.tuning.above_depth import unfreeze_above_depth
from keras_freeze.tuning.depth_in_force import Depth
from keras_freeze.tuning.depth_range import (
    Unit,
    check_unit,
    check_within,
    count_of,
    depths_within,
)

SCHEDULES = ("even", 1, 2)
FACTORS = (1.0, 1.6, 2.6, 4.0)

# The kinds of hyperparameter, with their values, that each name has stood for in this process. It
# distinguishes ours from those that users have registered: KerasTuner copies and stores
# hyperparameters without a mark of their origin, and there need not be a tuner of this package to
# keep this.
_asked: dict[str, set[tuple[Any, ...]]] = {}
# Where a build function's depths are collected: it may take no `hp` that could carry the list.
_asking: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("asking", default=None)


@contextlib.contextmanager
def asking() -> Iterator[list[str]]:
    """Collect the names under which freeze depths are requested."""
    names: list[str] = []
    token = _asking.set(names)
    try:
        yield names
    finally:
        _asking.reset(token)


class HyperParametersLike(Protocol):
    """What is asked of KerasTuner's `HyperParameters`, or of an adapter for another tuner."""

    def Int(self, name: str, min_value: int, max_value: int) -> int:
        """Return an int from a range, both ends included."""

    def Choice(self, name: str, values: Sequence[Any]) -> Any:
        """Return one of several strings, ints or floats."""


def freeze_depth(
    hp: HyperParametersLike,
    model: keras.Model,
    name: str = "freeze_depth",
    *,
    min: int | float | None = None,
    max: int | float | None = None,
    unit: Unit = "group",
    batch_norm: BatchNormMode = "frozen",
    backbone: Backbone | None = None,
    keep_frozen: KeepFrozen | None = None,
) -> int | float:
    """Let a tuner choose how deep to freeze a model, and freeze it so.

    In `fit` the model then trains to the bit as with `FreezeScheduler({0: depth})`: the
    `BatchNormalization` layers of the pretrained part are in the same mode above the depth too. But
    what you have frozen beside the depth stays frozen here, and would unfreeze there.

    Call it in a build function, before or after `compile`. Models of one search that have
    different ranges may each have a name of their own. Otherwise KerasTuner searches the second
    under the name with its range appended, since it would give it the first one's values. A
    hyperparameter of this name that you have registered yourself is used as it is.

    The flags of layers that an earlier trial had too are restored to what they were when this
    function first saw them; set flags of your own after the call.

    Args:
        hp: KerasTuner's `HyperParameters`, or an adapter with the same methods.
        model: `keras.Model`, built.
        name: String, of the hyperparameter.
        min: The smallest depth. Defaults to 0, nothing frozen.
        max: The largest. Defaults to all but the head (the last layer group).
        unit: What depth counts from the input: `"group"` (default) layer groups, `"layer"`
            layers as `model.layers[:depth]` with nested models opened, `"fraction"` the part of
            the layers before the head, from 0 to 1, in tenths. Of depths that freeze the same
            weights, one is searched.
        batch_norm: Mode of the `BatchNormalization` layers of the pretrained part, as for
            `FreezeScheduler`. Defaults to `"frozen"`.
        backbone: What is pretrained, as for `layer_groups`; all else trains at any depth. Defaults
            to None, to be found.
        keep_frozen: What stays frozen at any depth, as for `GradualUnfreeze`. Defaults to None.

    Returns:
        Int, the depth; a float where `unit="fraction"`. 0 in a conditional scope of KerasTuner
        that is not active.

    Raises:
        TypeError: if `min` or `max` is of another type.
        ValueError: if the range is empty or beyond the model, or an argument is invalid.

    Example:
        >>> import keras_tuner
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(1)]
        ... )
        >>> hp = keras_tuner.HyperParameters()
        >>> hp.Fixed("freeze_depth", 1)
        1
        >>> freeze_depth(hp, model), len(model.trainable_variables)
        (1, 2)
    """
    check_model("freeze_depth", model)
    check_batch_norm("freeze_depth", batch_norm)
    check_unit(unit)
    pretrained = names_of("freeze_depth", backbone)
    picture = picture_of(model, None, pretrained)
    picture = with_initial_values(with_kept_frozen(picture, "freeze_depth", keep_frozen))
    values = depths_within(picture, min, max, unit)
    is_range = unit == "group" and len(values) == values[-1] - values[0] + 1
    name = _free_name(hp, name, "Int" if is_range else "Choice", values)
    depth = hp.Int(name, values[0], values[-1]) if is_range else hp.Choice(name, values)
    depth = 0 if depth is None else depth
    check_within(picture, unit, name, depth)
    depth_in_force.restore_first_flags(model)
    count = count_of(picture, depth, unit)
    policy: FreezePolicy = FreezeGroups(count) if unit == "group" else FreezeFirst(count)
    frozen = policy.select_in(picture) if count else Selection()
    transition(model, _with_what_is_frozen(phase_flags(picture, frozen, batch_norm)))
    state_of(model).kept_frozen = picture.never_trains
    depth_in_force.record_depth(model, Depth(depth, policy, pretrained))
    return depth


def _with_what_is_frozen(flags: Flags) -> Flags:
    """Leave frozen what the user has frozen beside the depth."""
    return Flags(
        tuple((variable, trains and variable.trainable) for variable, trains in flags.variables),
        tuple((layer, trains and layer.trainable) for layer, trains in flags.layers),
    )


def schedule(
    hp: HyperParametersLike,
    name: str = "schedule",
    *,
    choices: Sequence[Any] | Mapping[str, Any] = SCHEDULES,
    **options: Any,
) -> GradualUnfreeze:
    """Let a tuner choose when layer groups unfreeze.

    Args:
        hp: As for `freeze_depth`.
        name: String, of the hyperparameter.
        choices: Schedules as `GradualUnfreeze` takes them; a mapping gives them names in the
            search. Defaults to `"even"`, one more group per epoch, and one every two epochs.
        **options: Further arguments of `GradualUnfreeze`.

    Returns:
        `GradualUnfreeze`, ready for the callbacks of `fit`. What `freeze_depth` has frozen in the
        model stays frozen: what is above unfreezes.

    Raises:
        ValueError: if there are no choices, two of the same name, or other ones than those that
            this name has in the search already.

    Example:
        >>> import keras_tuner
        >>> schedule(keras_tuner.HyperParameters(), choices=[2, "even"], rates=None)
        GradualUnfreeze(schedule=2, rates=None)
    """
    named = _named("schedule", choices)
    chosen = hp.Choice(name, list(named))
    _check_chosen("schedule", name, chosen, list(named))
    return unfreeze_above_depth(named[chosen], **options)


def rates(
    hp: HyperParametersLike,
    name: str = "rate_factor",
    *,
    choices: Sequence[float] = FACTORS,
    schedule: Any = "even",
    **options: Any,
) -> GradualUnfreeze:
    """Let a tuner choose by what factor each layer group trains slower than the one above it.

    Args:
        hp: As for `freeze_depth`.
        name: String, of the hyperparameter.
        choices: Sequence of float, factors of at least 1, which is the same rate everywhere.
        schedule: As for `GradualUnfreeze`; or a `GradualUnfreeze`, such as `schedule(hp)`, whose
            settings other than the rates are kept.
        **options: Further arguments of `GradualUnfreeze`.

    Returns:
        `GradualUnfreeze`, ready for the callbacks of `fit`, as `schedule` returns it.

    Raises:
        ValueError: if there are no choices, other ones than those that this name has in the
            search already, or options beside a `GradualUnfreeze`.

    Example:
        >>> import keras_tuner
        >>> hp = keras_tuner.HyperParameters()
        >>> rates(hp, choices=[2.6, 4.0], schedule=3)
        GradualUnfreeze(schedule=3, rates=2.6)

    Reference:
        - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146): discriminative rates.
    """
    named = _named("rates", [float(factor) for factor in choices])
    factor = hp.Choice(name, list(named.values()))
    _check_chosen("rates", name, factor, list(named.values()))
    if not isinstance(schedule, GradualUnfreeze):
        return unfreeze_above_depth(schedule, rates=factor, **options)
    if options:
        raise ArgumentError(
            "rates",
            "",
            "get no options of GradualUnfreeze beside a GradualUnfreeze",
            received=", ".join(options),
            advice="Pass them to that one.",
        )
    chosen = copy.copy(schedule)
    chosen.rates = factor
    return chosen


def _free_name(hp: Any, name: str, kind: str, values: Sequence[Any]) -> str:
    """Return the name, or one with the range in it if it stands for another range already."""
    own = (kind, *values)
    with_range = f"{name}_{values[0]:g}_{values[-1]:g}"
    known = {parameter.name: parameter for parameter in getattr(hp, "space", ())}
    if scoped_name(hp, with_range) in known:
        name = with_range
    elif scoped_name(hp, name) in known:
        parameter = known[scoped_name(hp, name)]
        present = (type(parameter).__name__, *parameter.values)
        # What was never requested here has been registered by the user.
        is_ours = present in _asked.get(scoped_name(hp, name), set())
        if is_ours and present != own:
            name = with_range
    full_name = scoped_name(hp, name)
    _asked.setdefault(full_name, set()).add(own)
    names = _asking.get()
    if names is not None and full_name not in names:
        names.append(full_name)
    return name


def _check_chosen(owner: str, name: str, chosen: Any, choices: Sequence[Any]) -> None:
    if chosen not in choices:
        raise ArgumentError(
            owner,
            "name",
            "be a name of its own for other choices",
            received=(
                f"name={name!r}, choices={choices!r}, but the search has {chosen!r} under it"
            ),
        )


def _named(owner: str, choices: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    pairs = choices.items() if isinstance(choices, Mapping) else [(str(c), c) for c in choices]
    named = dict(pairs)
    if not named or len(named) < len(choices):
        raise ArgumentError(
            owner, "choices", "contain at least one choice, and each once", value=choices
        )
    return named
