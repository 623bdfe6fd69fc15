"""Policies that freeze by position: the first layers, the first groups, all before a place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_freeze.checks import did_you_mean
from keras_freeze.groups import Groups, LayerGroup, layer_groups
from keras_freeze.model_picture import GroupNames, known_groups, opened_layers
from keras_freeze.policies import selection
from keras_freeze.policies.base import FreezePolicy
from keras_freeze.policies.selection import Selection


@dataclasses.dataclass(frozen=True)
class FreezeFirst(FreezePolicy):
    """Select the first layers, counted as `model.layers[:count]`, nested models opened.

    Args:
        count: Int, in layers, the input layer included. A negative number leaves out that
            many at the end.

    Raises:
        ValueError: when selecting, if the model has fewer layers than that.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)]
        ... )
        >>> len(FreezeFirst(1).select(model).variables)
        2
    """

    count: int

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int):
            raise TypeError(
                f"FreezeFirst(count=...) must be an int. Received: count={self.count!r}. "
                "It counts layers; use groups= or before= to name a place."
            )

    def select(self, model: keras.Model) -> Selection:
        """Return the variables of the first layers."""
        layers = opened_layers(model)
        if abs(self.count) > len(layers):
            raise ValueError(
                f"FreezeFirst(count=...) must be within the {len(layers)} layers of model "
                f"{model.name!r} (nested models opened). Received: count={self.count}."
            )
        return selection.before(model, self.count)


@dataclasses.dataclass(frozen=True)
class FreezeGroups(FreezePolicy):
    """Select layer groups, by name or by how many from the input.

    Args:
        groups: Int (that many groups from the input; negative leaves out groups at the head),
            a group's name, a regular expression for a whole name, or a sequence of these.
        grouping: How `layer_groups` divides the model. Defaults to None, automatically.

    Raises:
        ValueError: when selecting, if there is no such group, or if two entries name the same.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)]
        ... )
        >>> FreezeGroups(1).select(model) == FreezeGroups(["low"]).select(model)
        True
    """

    groups: int | str | Sequence[str]
    grouping: Groups | None = None

    def __post_init__(self) -> None:
        names = [self.groups] if isinstance(self.groups, str) else self.groups
        is_int = isinstance(names, int) and not isinstance(names, bool)
        is_names = isinstance(names, Sequence) and all(isinstance(n, str) for n in names)
        if not is_int and not is_names:
            raise TypeError(
                "FreezeGroups(groups=...) must be an int, a group's name or a sequence of names. "
                f"Received: groups={self.groups!r}."
            )
        if names == [] or names == ():
            raise ValueError(
                "FreezeGroups(groups=...) must name at least one group. "
                f"Received: groups={self.groups!r}. For none, write groups=0."
            )
        for name in ("groups", "grouping"):
            object.__setattr__(self, name, _as_value(getattr(self, name)))

    def select(self, model: keras.Model) -> Selection:
        """Return the variables of the groups."""
        found = layer_groups(model, self.grouping)
        owner = "FreezeGroups(groups=...)"
        if isinstance(self.groups, int):
            _check_count(owner, "groups", self.groups, found, model)
            return selection.of_groups(model, found[: self.groups])
        all_names = GroupNames.of(found)
        names = [self.groups] if isinstance(self.groups, str) else self.groups
        known = known_groups("FreezeGroups", "groups", names, all_names)
        return selection.of_groups(model, [found[all_names.index(name)] for name in known])


@dataclasses.dataclass(frozen=True)
class FreezeBefore(FreezePolicy):
    """Select everything from the input up to, but without, a layer or group.

    Args:
        cut: Str, the name of a layer group or of a layer; or an int, in groups.

    Raises:
        ValueError: when selecting, if there is no such layer or group.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2, name="top")]
        ... )
        >>> FreezeBefore("top").select(model) == FreezeFirst(1).select(model)
        True
    """

    cut: str | int

    def __post_init__(self) -> None:
        if isinstance(self.cut, bool) or not isinstance(self.cut, (str, int)):
            raise TypeError(
                "FreezeBefore(cut=...) must be the name of a layer or group, or an int. "
                f"Received: cut={self.cut!r}."
            )

    def select(self, model: keras.Model) -> Selection:
        """Return the variables before the cut."""
        groups, layers = layer_groups(model), opened_layers(model)
        if isinstance(self.cut, int):
            _check_count("FreezeBefore(cut=...)", "cut", self.cut, groups, model)
            return selection.of_groups(model, groups[: self.cut])
        group_names = [group.name for group in groups]
        layer_names = [layer.name for layer in layers]
        if self.cut in group_names:
            return selection.of_groups(model, groups[: group_names.index(self.cut)])
        if self.cut in layer_names:
            return selection.before(model, layer_names.index(self.cut))
        if self.cut == "head":
            return selection.of_groups(model, groups[:-1])
        names = [*group_names, *layer_names]
        raise ValueError(
            f"FreezeBefore(cut=...) must name a layer or group of model {model.name!r}. "
            f"Received: cut={self.cut!r}. {did_you_mean(self.cut, names)}"
            f"Groups: {', '.join(group_names)}. Layers: {', '.join(layer_names)}."
        )


def _as_value(given: Any) -> Any:
    """Return a copy in which lists are tuples, so that what means the same is equal."""
    if isinstance(given, Mapping):
        return {key: _as_value(value) for key, value in given.items()}
    return tuple(map(_as_value, given)) if isinstance(given, (list, tuple)) else given


def _check_count(
    owner: str, name: str, count: int, groups: Sequence[LayerGroup], model: keras.Model
) -> None:
    if abs(count) > len(groups):
        raise ValueError(
            f"{owner} must be within the {len(groups)} layer groups of model {model.name!r}. "
            f"Received: {name}={count}. "
            f"Available groups: {', '.join(group.name for group in groups)}."
        )
