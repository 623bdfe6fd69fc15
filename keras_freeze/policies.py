"""Freeze policies: which variables of a model to freeze.

A policy is a small value that names variables and does nothing to them. Policies combine with
`|` (either), `&` (both) and `~` (all others); wherever one is accepted, a callable
`(variable, layer) -> bool` is too. To add a policy, write a frozen dataclass with `select`.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence

import keras

from keras_freeze import structure
from keras_freeze.groups import Groups, LayerGroup, layer_groups, resolve_group
from keras_freeze.messages import did_you_mean

__all__ = [
    "FreezeBefore",
    "FreezeFirst",
    "FreezeGroups",
    "FreezeLayers",
    "FreezeMatching",
    "FreezePolicy",
    "FreezeWhere",
    "Selection",
    "as_policy",
]

Predicate = Callable[[keras.Variable, keras.Layer], bool]


@dataclasses.dataclass(frozen=True)
class Selection:
    """What a policy selects in one model, by object id.

    Attributes:
        variables: Ids of variables that can be trained.
        layers: Ids of layers that have none, whose flag follows all the same.
    """

    variables: frozenset[int] = frozenset()
    layers: frozenset[int] = frozenset()


class FreezePolicy(abc.ABC):
    """Base class: a value that selects variables of a model."""

    @abc.abstractmethod
    def select(self, model: keras.Model) -> Selection:
        """Return what this policy selects in a built model; raise if a name matches nothing."""

    def __or__(self, other: FreezePolicy | Predicate) -> FreezePolicy:
        """Select what either selects."""
        return _Either(self, as_policy(other))

    def __and__(self, other: FreezePolicy | Predicate) -> FreezePolicy:
        """Select what both select."""
        return _Both(self, as_policy(other))

    def __invert__(self) -> FreezePolicy:
        """Select everything else."""
        return _Not(self)


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
        layers = structure.opened_layers(model)
        if abs(self.count) > len(layers):
            raise ValueError(
                f"FreezeFirst(count=...) must be within the {len(layers)} layers of model "
                f"{model.name!r} (nested models opened). Received: count={self.count}."
            )
        return _of_layers(layers[: self.count])


@dataclasses.dataclass(frozen=True)
class FreezeGroups(FreezePolicy):
    """Select layer groups, by name or by how many from the input.

    Args:
        groups: Int (that many groups from the input; negative leaves out groups at the head),
            a group's name, or a sequence of names.
        grouping: How `layer_groups` divides the model. Defaults to None, automatically.

    Raises:
        ValueError: when selecting, if there is no such group.

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

    def select(self, model: keras.Model) -> Selection:
        """Return the variables of the groups."""
        found = layer_groups(model, self.grouping)
        if isinstance(self.groups, int):
            if abs(self.groups) > len(found):
                raise ValueError(
                    f"FreezeGroups(groups=...) must be within the {len(found)} layer groups of "
                    f"model {model.name!r}. Received: groups={self.groups}. "
                    f"Available groups: {', '.join(group.name for group in found)}."
                )
            chosen = found[: self.groups]
        else:
            names = [self.groups] if isinstance(self.groups, str) else self.groups
            chosen = tuple(found[resolve_group(found, name)] for name in names)
        return _of_groups(model, chosen)


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
        if isinstance(self.cut, int):
            return FreezeGroups(self.cut).select(model)
        groups, layers = layer_groups(model), structure.opened_layers(model)
        group_names = [group.name for group in groups]
        layer_names = [layer.name for layer in layers]
        if self.cut in group_names or (self.cut == "head" and "head" not in layer_names):
            return _of_groups(model, groups[: resolve_group(groups, self.cut)])
        if self.cut not in layer_names:
            names = [*group_names, *layer_names]
            raise ValueError(
                f"FreezeBefore(cut=...) must name a layer or group of model {model.name!r}. "
                f"Received: cut={self.cut!r}. {did_you_mean(self.cut, names)}"
                f"Groups: {', '.join(group_names)}. Layers: {', '.join(layer_names)}."
            )
        return _of_layers(layers[: layer_names.index(self.cut)])


@dataclasses.dataclass(frozen=True)
class FreezeLayers(FreezePolicy):
    """Select layers by index or name.

    Args:
        layers: Sequence of int (index into the layers with nested models opened) and str
            (name of a layer at any depth; of a nested model: all its layers).

    Raises:
        ValueError: when selecting, if there is no such layer.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)]
        ... )
        >>> FreezeLayers([0]).select(model) == FreezeLayers(["low"]).select(model)
        True
    """

    layers: Sequence[int | str]

    def __post_init__(self) -> None:
        if isinstance(self.layers, str) or not isinstance(self.layers, Sequence):
            raise TypeError(
                "FreezeLayers(layers=...) must be a sequence of indices and names. "
                f"Received: layers={self.layers!r}. Write layers=[...] even for one."
            )
        for item in self.layers:
            if isinstance(item, bool) or not isinstance(item, (int, str)):
                raise TypeError(
                    "FreezeLayers(layers=...) must hold indices and names only. "
                    f"Received: {item!r}. A layer object would not survive a deep copy: "
                    "give its name."
                )

    def select(self, model: keras.Model) -> Selection:
        """Return the variables of the layers."""
        return _of_layers([layer for item in self.layers for layer in _find(model, item)])


@dataclasses.dataclass(frozen=True)
class FreezeMatching(FreezePolicy):
    """Select by regular expression, searched in names of layers and paths of variables.

    A variable is selected if the pattern is found in the name of the layer that owns it, of
    a layer or nested model around that, or in its path. Anchor with `^` and `$` to match a
    whole name; write `~FreezeMatching("layer4")` for all that don't contain `layer4`.

    Args:
        pattern: Str, a regular expression.

    Raises:
        ValueError: if the pattern is invalid; when selecting, if nothing matches.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)]
        ... )
        >>> FreezeMatching("^low$").select(model) == FreezeLayers(["low"]).select(model)
        True
    """

    pattern: str

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str):
            raise TypeError(
                "FreezeMatching(pattern=...) must be a regular expression. "
                f"Received: pattern={self.pattern!r}."
            )
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                "FreezeMatching(pattern=...) must be a valid regular expression. "
                f"Received: pattern={self.pattern!r}, {error}. Escape it with `re.escape`."
            ) from error

    def select(self, model: keras.Model) -> Selection:
        """Return the variables that match."""
        search = re.compile(self.pattern).search
        weights = [w for w in structure.weights_of(model) if w.potentially_trainable]
        variables = {id(w.variable) for w in weights if any(search(name) for name in w.names)}
        layers = {id(layer) for layer in _without_trainable(model) if search(layer.name)}
        if not variables and not layers:
            names = sorted({name for w in weights for name in w.names})
            raise ValueError(
                f"FreezeMatching(pattern=...) must match a layer or variable of model "
                f"{model.name!r}. Received: pattern={self.pattern!r}. "
                f"{did_you_mean(self.pattern, names)}"
                f"Layers: {', '.join(layer.name for layer in structure.opened_layers(model))}."
            )
        return Selection(frozenset(variables), frozenset(layers))


@dataclasses.dataclass(frozen=True)
class FreezeWhere(FreezePolicy):
    """Select the variables for which a function says yes.

    Args:
        predicate: Callable `(variable, layer) -> bool`, with the layer that owns the variable.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> biases = FreezeWhere(lambda variable, layer: variable.name == "bias")
        >>> len(biases.select(model).variables)
        1
    """

    predicate: Predicate

    def __post_init__(self) -> None:
        if not callable(self.predicate):
            raise TypeError(
                "FreezeWhere(predicate=...) must be a callable (variable, layer) -> bool. "
                f"Received: predicate={self.predicate!r}."
            )

    def select(self, model: keras.Model) -> Selection:
        """Return the variables for which the predicate holds."""
        weights = [w for w in structure.weights_of(model) if w.potentially_trainable]
        chosen = (id(w.variable) for w in weights if self.predicate(w.variable, w.layer))
        return Selection(frozenset(chosen))


def as_policy(policy: FreezePolicy | Predicate) -> FreezePolicy:
    """Return a policy as it is and a callable as a policy.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(policy, FreezePolicy):
        return policy
    if callable(policy) and not isinstance(policy, type):
        return FreezeWhere(policy)
    raise TypeError(
        "A freeze policy must be a keras_freeze.policies.FreezePolicy or a callable "
        f"(variable, layer) -> bool. Received: {policy!r}."
    )


@dataclasses.dataclass(frozen=True)
class _Either(FreezePolicy):
    left: FreezePolicy
    right: FreezePolicy

    def select(self, model: keras.Model) -> Selection:
        a, b = self.left.select(model), self.right.select(model)
        return Selection(a.variables | b.variables, a.layers | b.layers)


@dataclasses.dataclass(frozen=True)
class _Both(FreezePolicy):
    left: FreezePolicy
    right: FreezePolicy

    def select(self, model: keras.Model) -> Selection:
        a, b = self.left.select(model), self.right.select(model)
        return Selection(a.variables & b.variables, a.layers & b.layers)


@dataclasses.dataclass(frozen=True)
class _Not(FreezePolicy):
    policy: FreezePolicy

    def select(self, model: keras.Model) -> Selection:
        inner = self.policy.select(model)
        everything = everything_in(model)
        return Selection(
            everything.variables - inner.variables, everything.layers - inner.layers
        )


def everything_in(model: keras.Layer) -> Selection:
    """Return the selection of all that a model or layer has."""
    weights = structure.weights_of(model)
    return Selection(
        frozenset(id(w.variable) for w in weights if w.potentially_trainable),
        frozenset(id(layer) for layer in _without_trainable(model)),
    )


def _of_layers(layers: Iterable[keras.Layer]) -> Selection:
    parts = [everything_in(layer) for layer in layers]
    return Selection(
        frozenset().union(*(part.variables for part in parts)),
        frozenset().union(*(part.layers for part in parts)),
    )


def _of_groups(model: keras.Model, groups: Iterable[LayerGroup]) -> Selection:
    """Select groups by the variables they count, since a shared layer stands in several."""
    groups = tuple(groups)
    counted = frozenset(id(variable) for group in groups for variable in group.variables)
    layers = _of_layers(layer for group in groups for layer in group.layers).layers
    return Selection(counted & everything_in(model).variables, layers)


def _find(model: keras.Model, item: int | str) -> list[keras.Layer]:
    layers = structure.opened_layers(model)
    if isinstance(item, int):
        if not -len(layers) <= item < len(layers):
            raise ValueError(
                f"FreezeLayers(layers=...) must hold indices within the {len(layers)} layers of "
                f"model {model.name!r} (nested models opened). Received: {item}."
            )
        return [layers[item]]
    below = [layer for layer in structure.every_layer(model) if layer is not model]
    named = [layer for layer in below if layer.name == item]
    if not named:
        raise ValueError(
            f"FreezeLayers(layers=...) must name layers of model {model.name!r}. "
            f"Received: {item!r}. {did_you_mean(item, [layer.name for layer in below])}"
            f"Layers: {', '.join(layer.name for layer in layers)}."
        )
    return named


def _without_trainable(model: keras.Layer) -> list[keras.Layer]:
    """Return the layers in which no weight can be trained: pooling, input, dropout."""
    return [
        layer
        for layer in structure.every_layer(model)
        if not any(weight.potentially_trainable for weight in structure.weights_of(layer))
    ]
