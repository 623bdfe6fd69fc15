"""Policies that freeze by position: the first layers, the first groups, all before a place."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from keras_freeze.checks import ArgumentError, ArgumentTypeError, as_value, did_you_mean, is_int
from keras_freeze.groups import Groups, with_groups
from keras_freeze.model_picture import ModelPicture, known_groups
from keras_freeze.policies.base import FreezePolicy
from keras_freeze.policies.selection import Selection, before, of_groups


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
        if not is_int(self.count):
            raise ArgumentTypeError(
                "FreezeFirst",
                "count",
                "be an int",
                value=self.count,
                advice="It counts layers; use groups= or before= to name a place.",
            )
        object.__setattr__(self, "count", as_value(self.count))

    def select_in(self, picture: ModelPicture) -> Selection:
        """Return the variables of the first layers."""
        count = len(picture.opened)
        if abs(self.count) > count:
            raise ArgumentError(
                "FreezeFirst",
                "count",
                f"be within the {count} layers of model {picture.model.name!r} (nested models "
                "opened)",
                value=self.count,
            )
        return before(picture, self.count)


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
        is_names = isinstance(names, Sequence) and all(isinstance(n, str) for n in names)
        if not (is_int(names) or is_names):
            raise ArgumentTypeError(
                "FreezeGroups",
                "groups",
                "be an int, a group's name or a sequence of names",
                value=self.groups,
            )
        if is_names and not names:
            raise ArgumentError(
                "FreezeGroups",
                "groups",
                "name at least one group",
                value=self.groups,
                advice="For none, write groups=0.",
            )
        object.__setattr__(self, "groups", as_value(self.groups))
        object.__setattr__(self, "grouping", as_value(self.grouping))

    def select_in(self, picture: ModelPicture) -> Selection:
        """Return the variables of the groups."""
        picture = with_groups(picture, self.grouping)
        if isinstance(self.groups, int):
            _check_count("FreezeGroups", "groups", self.groups, picture)
            return of_groups(picture, picture.groups[: self.groups])
        names = [self.groups] if isinstance(self.groups, str) else self.groups
        known = known_groups("FreezeGroups", "groups", names, picture.group_names)
        return of_groups(picture, [group for group in picture.groups if group.name in known])


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
        if not (is_int(self.cut) or isinstance(self.cut, str)):
            raise ArgumentTypeError(
                "FreezeBefore", "cut", "be the name of a layer or group, or an int", value=self.cut
            )
        object.__setattr__(self, "cut", as_value(self.cut))

    def select_in(self, picture: ModelPicture) -> Selection:
        """Return the variables before the cut."""
        picture = with_groups(picture)
        groups, layer_names = picture.group_names, [layer.name for layer in picture.opened]
        if isinstance(self.cut, int):
            _check_count("FreezeBefore", "cut", self.cut, picture)
            return of_groups(picture, picture.groups[: self.cut])
        if self.cut in groups:
            return of_groups(picture, picture.groups[: groups.index(self.cut)])
        # A group that is named by position had the name of its first layer in 0.1.
        named = [n for n, group in enumerate(picture.groups) if group.first_layer == self.cut]
        if len(named) == 1:
            return of_groups(picture, picture.groups[: named[0]])
        if self.cut in layer_names:
            return before(picture, layer_names.index(self.cut))
        if self.cut == "head":
            return of_groups(picture, picture.groups[:-1])
        raise ArgumentError(
            "FreezeBefore",
            "cut",
            f"name a layer or group of model {picture.model.name!r}",
            value=self.cut,
            advice=f"{did_you_mean(self.cut, [*groups, *layer_names])}"
            f"Groups: {', '.join(groups)}. Layers: {', '.join(layer_names)}.",
        )


def _check_count(owner: str, argument: str, count: int, picture: ModelPicture) -> None:
    if abs(count) > len(picture.groups):
        raise ArgumentError(
            owner,
            argument,
            f"be within the {len(picture.groups)} layer groups of model {picture.model.name!r}",
            value=count,
            advice=f"Available groups: {', '.join(picture.group_names)}.",
        )
