"""The freeze depths that a model has, in each unit: pure functions of its layers and groups."""

from __future__ import annotations

from typing import Any, Literal, get_args

from keras_freeze.checks import ArgumentError, ArgumentTypeError, is_int
from keras_freeze.model_picture import ModelPicture

Unit = Literal["group", "layer", "fraction"]


def check_unit(unit: Any) -> None:
    """Raise in the name of `freeze_depth` unless this is a unit of depth."""
    if unit not in get_args(Unit):
        raise ArgumentError(
            "freeze_depth", "unit", f"be one of {', '.join(get_args(Unit))}", value=unit
        )


def check_within(picture: ModelPicture, unit: Unit, name: str, depth: float) -> None:
    """Raise unless a depth leaves the head of the model; `name` is its hyperparameter."""
    highest = max_depth(picture, unit)
    if not 0 <= depth <= highest:
        raise ArgumentError(
            "freeze_depth",
            "name",
            f"name a hyperparameter within 0 and {highest}, what is before the head of model "
            f"{picture.model.name!r}",
            received=f"name={name!r}, which is {depth}",
        )


def depths_within(
    picture: ModelPicture, lower: int | float | None, upper: int | float | None, unit: Unit
) -> list[Any]:
    """Return the depths in a range, both ends included; of those that freeze the same weights, one.

    Args:
        picture: The picture of the model, with its groups.
        lower: The `min` of `freeze_depth`.
        upper: Its `max`.
        unit: Its `unit`.

    Raises:
        TypeError: if `lower` or `upper` is of another type.
        ValueError: if the range is empty or beyond the model.
    """
    part = picture.pretrained
    if unit != "group" and part is not None and part.has_new_below:
        raise ArgumentError(
            "freeze_depth",
            "unit",
            'be "group" where new layers feed the backbone, since they come before its layers',
            value=unit,
        )
    low, high = _bounds(picture, lower, upper, unit)
    if unit == "group":
        may_train = picture.groups_that_may_train
        above = range(int(low) + 1, int(high) + 1)
        return [int(low), *(n for n in above if picture.groups[n - 1] in may_train)]
    layers = picture.opened[: _layers_before_head(picture)]
    if unit == "layer":
        above = range(int(low) + 1, int(high) + 1)
        return [int(low), *(n for n in above if layers[n - 1].weights)]
    tenths = [n / 10 for n in range(11) if low < n / 10 < high]
    by_weights: dict[int, float] = {}
    for fraction in (float(high), float(low), *reversed(tenths)):
        frozen = layers[: round(fraction * len(layers))]
        by_weights.setdefault(sum(len(layer.weights) for layer in frozen), fraction)
    return sorted(by_weights.values())


def max_depth(picture: ModelPicture, unit: Unit) -> float:
    """Return the depth at which only the head trains."""
    if unit == "fraction":
        return 1.0
    return len(picture.groups) - 1 if unit == "group" else _layers_before_head(picture)


def count_of(picture: ModelPicture, depth: float, unit: Unit) -> int:
    """Return how many groups (layers, in the other units) a depth freezes."""
    return round(depth * _layers_before_head(picture)) if unit == "fraction" else int(depth)


def _bounds(
    picture: ModelPicture, lower: int | float | None, upper: int | float | None, unit: Unit
) -> tuple[float, float]:
    for name, value in (("min", lower), ("max", upper)):
        is_number = is_int(value) or (unit == "fraction" and isinstance(value, float))
        if value is not None and not is_number:
            raise ArgumentTypeError("freeze_depth", name, f"be a number of {unit}s", value=value)
    highest = max_depth(picture, unit)
    low, high = 0 if lower is None else lower, highest if upper is None else upper
    if not 0 <= low <= high <= highest:
        raise ValueError(
            f"freeze_depth(min=..., max=...) must be a range within 0 and {highest}, what is "
            f"before the head of model {picture.model.name!r} in the unit {unit!r}. "
            f"Received: min={lower!r}, max={upper!r}."
        )
    return low, high


def _layers_before_head(picture: ModelPicture) -> int:
    head = {id(layer) for layer in picture.groups[-1].layers}
    for n, layer in enumerate(picture.opened):
        if any(id(part) in head for part in picture.layers_in[id(layer)]):
            return n
    return len(picture.opened)
