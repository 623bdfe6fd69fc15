"""Dimensions of a search: how deep to freeze, when to thaw, how much slower to train below.

These functions know nothing of a tuner but `hp`, an object with the methods `Int` and `Choice`
of KerasTuner's `HyperParameters`; an adapter of ten lines serves any other.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import keras

from keras_freeze.callbacks.gradual_unfreeze import GradualUnfreeze
from keras_freeze.checks import is_int
from keras_freeze.freezing import freeze
from keras_freeze.groups import layer_groups
from keras_freeze.model_picture import check_model, opened_layers
from keras_freeze.policies import FreezeFirst, FreezeGroups, FreezePolicy
from keras_freeze.policies.flags import BatchNormMode, check_batch_norm
from keras_freeze.tuning import frozen_depth
from keras_freeze.tuning.above_depth import unfreeze_above_depth
from keras_freeze.tuning.frozen_depth import Depth

Unit = Literal["group", "layer", "fraction"]
SCHEDULES = ("even", 1, 2)
FACTORS = (1.0, 1.6, 2.6, 4.0)

# The kinds of hyperparameter, with their values, that each name has stood for in this process.
_asked: dict[str, set[tuple[Any, ...]]] = {}
_asking: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("asking", default=None)


@contextlib.contextmanager
def asking() -> Iterator[list[str]]:
    """Collect the names under which freeze depths are asked for."""
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
) -> int | float:
    """Let a tuner choose how deep to freeze a model, and freeze it so.

    Call it in a build function, before or after `compile`. Where another model of the same search
    has another range, give each a name of its own, or let it be: the second is searched under
    the name with its range appended, since KerasTuner would give it the first one's values. A
    hyperparameter of this name that you have registered yourself is taken as it is.

    The flags of layers that an earlier trial had too are put back to what they were when this
    function first saw them; set flags of your own after the call.

    Args:
        hp: KerasTuner's `HyperParameters`, or an adapter with the same methods.
        model: `keras.Model`, built.
        name: String, of the hyperparameter.
        min: The least depth. Defaults to 0, nothing frozen.
        max: The greatest. Defaults to all but the head (the last layer group).
        unit: What depth counts from the input: `"group"` (default) layer groups, `"layer"`
            layers as `model.layers[:depth]` with nested models opened, `"fraction"` the part of
            the layers before the head, from 0 to 1, in tenths. Of depths that freeze the same
            weights, one is searched.
        batch_norm: As for `freeze`.

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
    if unit not in get_args(Unit):
        raise ValueError(
            f"freeze_depth(unit=...) must be one of {', '.join(get_args(Unit))}. "
            f"Received: unit={unit!r}."
        )
    least, most = _range(model, min, max, unit)
    values = _values(model, least, most, unit)
    name = _free(hp, name, "Int" if unit == "group" else "Choice", values)
    depth = hp.Choice(name, values) if unit != "group" else hp.Int(name, values[0], values[-1])
    depth = 0 if depth is None else depth
    if not 0 <= depth <= _highest(model, unit):
        raise ValueError(
            f"freeze_depth(name=...) must name a hyperparameter within 0 and "
            f"{_highest(model, unit)}, what is before the head of model {model.name!r}. "
            f"Received: name={name!r}, which is {depth}."
        )
    frozen_depth.thaw_what_was_frozen(model)
    count = round(depth * _layers_before_head(model)) if unit == "fraction" else int(depth)
    policy: FreezePolicy = FreezeGroups(count) if unit == "group" else FreezeFirst(count)
    if count:
        freeze(model, policy, batch_norm=batch_norm)
    frozen_depth.note(model, Depth(depth, policy))
    return depth


def schedule(
    hp: HyperParametersLike,
    name: str = "schedule",
    *,
    choices: Sequence[Any] | Mapping[str, Any] = SCHEDULES,
    **options: Any,
) -> GradualUnfreeze:
    """Let a tuner choose when layer groups thaw.

    Args:
        hp: As for `freeze_depth`.
        name: String, of the hyperparameter.
        choices: Schedules as `GradualUnfreeze` takes them; a mapping gives them names in the
            search. Defaults to `"even"`, one more group an epoch, and one every two epochs.
        **options: Further arguments of `GradualUnfreeze`.

    Returns:
        `GradualUnfreeze`, ready for the callbacks of `fit`. What `freeze_depth` has frozen in the
        model stays frozen: what is above thaws.

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
        schedule: As for `GradualUnfreeze`; or a `GradualUnfreeze`, such as `schedule(hp)`, of
            which everything but the rates is kept.
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
        raise ValueError(
            "rates(...) must get no options of GradualUnfreeze beside a GradualUnfreeze. "
            f"Received: {', '.join(options)}. Pass them to that one."
        )
    chosen = copy.copy(schedule)
    chosen.rates = factor
    return chosen


def _range(
    model: keras.Model, least: int | float | None, most: int | float | None, unit: Unit
) -> tuple[float, float]:
    highest = _highest(model, unit)
    for name, value in (("min", least), ("max", most)):
        is_number = is_int(value) or (unit == "fraction" and isinstance(value, float))
        if value is not None and not is_number:
            raise TypeError(
                f"freeze_depth({name}=...) must be a number of {unit}s. Received: {name}={value!r}."
            )
    low, high = 0 if least is None else least, highest if most is None else most
    if not 0 <= low <= high <= highest:
        raise ValueError(
            f"freeze_depth(min=..., max=...) must be a range within 0 and {highest}, what is "
            f"before the head of model {model.name!r} in the unit {unit!r}. "
            f"Received: min={least!r}, max={most!r}."
        )
    return low, high


def _highest(model: keras.Model, unit: Unit) -> float:
    if unit == "fraction":
        return 1.0
    return len(layer_groups(model)) - 1 if unit == "group" else _layers_before_head(model)


def _values(model: keras.Model, least: float, most: float, unit: Unit) -> list[Any]:
    """Return the depths in a range, one of those that freeze the same weights."""
    if unit == "group":
        return list(range(int(least), int(most) + 1))
    layers = opened_layers(model)[: _layers_before_head(model)]
    if unit == "layer":
        above = range(int(least) + 1, int(most) + 1)
        return [int(least), *(n for n in above if layers[n - 1].weights)]
    tenths = [n / 10 for n in range(11) if least < n / 10 < most]
    by_weights: dict[int, float] = {}
    for fraction in (float(most), float(least), *tenths[::-1]):
        frozen = layers[: round(fraction * len(layers))]
        by_weights.setdefault(sum(len(layer.weights) for layer in frozen), fraction)
    return sorted(by_weights.values())


def _layers_before_head(model: keras.Model) -> int:
    head = {id(layer) for layer in layer_groups(model)[-1].layers}
    layers = opened_layers(model)
    return next((n for n, layer in enumerate(layers) if id(layer) in head), len(layers))


def _free(hp: Any, name: str, kind: str, values: Sequence[Any]) -> str:
    """Return the name, or one with the range in it if it stands for another range already."""
    scoped = getattr(hp, "_get_name", str)
    own, other = (kind, *values), f"{name}_{values[0]:g}_{values[-1]:g}"
    known = {parameter.name: parameter for parameter in getattr(hp, "space", ())}
    if scoped(other) in known:
        name = other
    elif scoped(name) in known:
        parameter = known[scoped(name)]
        present = (type(parameter).__name__, *parameter.values)
        # What was never asked for here has been registered by the user.
        if present != own and present in _asked.get(scoped(name), set()):
            name = other
    _asked.setdefault(scoped(name), set()).add(own)
    names = _asking.get()
    if names is not None and scoped(name) not in names:
        names.append(scoped(name))
    return name


def _check_chosen(owner: str, name: str, chosen: Any, choices: Sequence[Any]) -> None:
    if chosen not in choices:
        raise ValueError(
            f"{owner}(name=...) must be a name of its own for other choices. Received: "
            f"name={name!r}, choices={choices!r}, but the search has {chosen!r} under it."
        )


def _named(owner: str, choices: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    pairs = choices.items() if isinstance(choices, Mapping) else [(str(c), c) for c in choices]
    named = dict(pairs)
    if not named or len(named) < len(choices):
        raise ValueError(
            f"{owner}(choices=...) must hold at least one choice, and each once. "
            f"Received: choices={choices!r}."
        )
    return named
