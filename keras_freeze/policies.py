"""Freeze policies: which variables of a model to freeze.

A policy is a small value that names variables and does nothing to them. Policies combine with
`|` (either), `&` (both) and `~` (all others); wherever one is accepted, a callable
`(variable, layer) -> bool` is too. To add a policy, write a frozen dataclass with `select`.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import inspect
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze import selections, structure
from keras_freeze.grouping.given import Groups
from keras_freeze.groups import LayerGroup, layer_groups
from keras_freeze.messages import did_you_mean, known_groups
from keras_freeze.selections import Selection

__all__ = [
    "FreezeBefore",
    "FreezeFirst",
    "FreezeGroups",
    "FreezeLayers",
    "FreezeMatching",
    "FreezePolicy",
    "FreezeWeights",
    "FreezeWhere",
    "Selection",
    "as_policy",
]

Predicate = Callable[[keras.Variable, keras.Layer], bool]


class FreezePolicy(abc.ABC):
    """Base class: a value that selects variables of a model."""

    @abc.abstractmethod
    def select(self, model: keras.Model) -> Selection:
        """Return what this policy selects in a built model; raise if a name matches nothing."""

    def __or__(self, other: FreezePolicy | Predicate) -> FreezePolicy:
        """Select what either selects."""
        return _Either(self, as_policy(other))

    def __ror__(self, other: Predicate) -> FreezePolicy:
        """Select what either selects, a bare callable on the left."""
        return _Either(as_policy(other), self)

    def __and__(self, other: FreezePolicy | Predicate) -> FreezePolicy:
        """Select what both select."""
        return _Both(self, as_policy(other))

    def __rand__(self, other: Predicate) -> FreezePolicy:
        """Select what both select, a bare callable on the left."""
        return _Both(as_policy(other), self)

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
        return selections.before(model, self.count)


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
            return selections.of_groups(model, found[: self.groups])
        all_names = [group.name for group in found]
        names = [self.groups] if isinstance(self.groups, str) else self.groups
        known = known_groups(owner, names, all_names)
        return selections.of_groups(model, [found[all_names.index(name)] for name in known])


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
        groups, layers = layer_groups(model), structure.opened_layers(model)
        if isinstance(self.cut, int):
            _check_count("FreezeBefore(cut=...)", "cut", self.cut, groups, model)
            return selections.of_groups(model, groups[: self.cut])
        group_names = [group.name for group in groups]
        layer_names = [layer.name for layer in layers]
        if self.cut in group_names:
            return selections.of_groups(model, groups[: group_names.index(self.cut)])
        if self.cut in layer_names:
            return selections.before(model, layer_names.index(self.cut))
        if self.cut == "head":
            return selections.of_groups(model, groups[:-1])
        names = [*group_names, *layer_names]
        raise ValueError(
            f"FreezeBefore(cut=...) must name a layer or group of model {model.name!r}. "
            f"Received: cut={self.cut!r}. {did_you_mean(self.cut, names)}"
            f"Groups: {', '.join(group_names)}. Layers: {', '.join(layer_names)}."
        )


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
        if not self.layers:
            raise ValueError(
                "FreezeLayers(layers=...) must hold at least one index or name. "
                f"Received: layers={self.layers!r}. For none, write first=0."
            )
        object.__setattr__(self, "layers", tuple(self.layers))  # a value that can be hashed

    def select(self, model: keras.Model) -> Selection:
        """Return the variables of the layers."""
        found = [layer for item in self.layers for layer in _find(model, item)]
        return selections.of_layers(found)


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
                "FreezeMatching(pattern=...) must be a str, the text of a regular expression. "
                f"Received: pattern={self.pattern!r}."
            )
        if not self.pattern:
            raise ValueError(
                "FreezeMatching(pattern=...) must not be empty. Received: pattern=''. "
                'To match everything, write ".".'
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
        names = {id(w.variable): _names(w, model) for w in weights}
        variables = {i for i, own in names.items() if any(map(search, own))}
        named = [x for x in structure.every_layer(model) if x is not model and search(x.name)]
        layers = selections.of_layers(named).layers
        if not variables and not layers:
            raise ValueError(
                f"FreezeMatching(pattern=...) must match a layer or variable of model "
                f"{model.name!r}. Received: pattern={self.pattern!r}. "
                f"{did_you_mean(self.pattern, sorted(set().union(*names.values())))}"
                f"Layers: {', '.join(layer.name for layer in structure.opened_layers(model))}."
            )
        return Selection(frozenset(variables), layers)


@dataclasses.dataclass(frozen=True)
class FreezeWeights(FreezePolicy):
    """Select variables by their own names, such as all kernels.

    Args:
        names: Str or sequence of str, names of variables: `"kernel"`, `"recurrent_kernel"`,
            `"bias"`, `"gamma"`, ...
        of: The policy or callable that selects where to look. Defaults to None, the whole model.

    Raises:
        TypeError: if it is neither a name nor names.
        ValueError: when selecting, if no variable that `of` selects has such a name.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(2)]
        ... )
        >>> len(FreezeWeights("bias").select(model).variables)
        2
        >>> len(FreezeWeights("bias", FreezeGroups(["low"])).select(model).variables)
        1
    """

    names: str | Sequence[str]
    of: FreezePolicy | Predicate | None = None

    def __post_init__(self) -> None:
        check_weights("FreezeWeights", self.names, "names", "")
        if not isinstance(self.names, str):
            object.__setattr__(self, "names", tuple(self.names))  # a value that can be hashed
        if self.of is not None:
            object.__setattr__(self, "of", as_policy(self.of))

    def select(self, model: keras.Model) -> Selection:
        """Return the variables with these names; layers without any keep their flags."""
        chosen = selections.everything_in(model)
        if self.of is not None:
            chosen = as_policy(self.of).select(model)
        weights = structure.weights_of(model)
        variables = [w.variable for w in weights if id(w.variable) in chosen.variables]
        available = sorted({variable.name for variable in variables})
        wanted = [self.names] if isinstance(self.names, str) else self.names
        for name in wanted:
            if name not in available:
                raise ValueError(
                    "FreezeWeights(names=...) must name variables of the layers chosen. "
                    f"Received: names={name!r}. {did_you_mean(name, available)}"
                    f"Available: {', '.join(available) or 'none'}."
                )
        return Selection(frozenset(id(v) for v in variables if v.name in wanted))


@dataclasses.dataclass(frozen=True)
class FreezeWhere(FreezePolicy):
    """Select the variables for which a function says yes.

    A layer that has only weights that can't be trained, as a `BatchNormalization` without
    gamma and beta, is selected if the function says yes for all of them.

    Args:
        predicate: Callable `(variable, layer) -> bool`, with the layer that owns the variable.

    Raises:
        TypeError: if it can't be called so; when selecting, if it returns anything but a bool.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> biases = FreezeWhere(lambda variable, layer: variable.name == "bias")
        >>> len(biases.select(model).variables)
        1
    """

    predicate: Predicate

    def __post_init__(self) -> None:
        # A layer can be called too, but surely was not meant to be.
        is_function = callable(self.predicate) and not isinstance(self.predicate, keras.Layer)
        if not is_function or not _takes_two(self.predicate):
            raise TypeError(
                "FreezeWhere(predicate=...) must be a callable (variable, layer) -> bool. "
                f"Received: predicate={self.predicate!r}."
            )

    def select(self, model: keras.Model) -> Selection:
        """Return the variables for which the predicate holds."""
        weights = [w for w in structure.weights_of(model) if w.potentially_trainable]
        chosen = (id(w.variable) for w in weights if self._holds(w.variable, w.layer))
        layers = (id(x) for x in selections.without_trainable(model) if self._holds_for_all(x))
        return Selection(frozenset(chosen), frozenset(layers))

    def _holds_for_all(self, layer: keras.Layer) -> bool:
        own = structure.own_variables(layer)
        return bool(own) and all(self._holds(variable, layer) for variable, _ in own)

    def _holds(self, variable: keras.Variable, layer: keras.Layer) -> bool:
        answer = self.predicate(variable, layer)
        if not isinstance(answer, (bool, np.bool_)):
            raise TypeError(
                "FreezeWhere(predicate=...) must return True or False. "
                f"Received: {answer!r} for variable {variable.path!r}."
            )
        return bool(answer)


def _takes_two(function: Predicate) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # some builtins have no signature
        return True
    return True


def as_policy(policy: FreezePolicy | Predicate) -> FreezePolicy:
    """Return a policy as it is and a callable as a policy.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(policy, FreezePolicy):
        return policy
    if callable(policy) and not isinstance(policy, (type, keras.Layer)):
        return FreezeWhere(policy)
    raise TypeError(
        "A freeze policy must be a keras_freeze.policies.FreezePolicy or a callable "
        f"(variable, layer) -> bool. Received: {policy!r}. To name layers, write "
        "FreezeLayers([...]) or freeze(model, layers=[...])."
    )


@dataclasses.dataclass(frozen=True, repr=False)
class _Either(FreezePolicy):
    left: FreezePolicy
    right: FreezePolicy

    def select(self, model: keras.Model) -> Selection:
        return self.left.select(model) | self.right.select(model)

    def __repr__(self) -> str:
        return f"({self.left!r} | {self.right!r})"


@dataclasses.dataclass(frozen=True, repr=False)
class _Both(FreezePolicy):
    left: FreezePolicy
    right: FreezePolicy

    def select(self, model: keras.Model) -> Selection:
        return self.left.select(model) & self.right.select(model)

    def __repr__(self) -> str:
        return f"({self.left!r} & {self.right!r})"


@dataclasses.dataclass(frozen=True, repr=False)
class _Not(FreezePolicy):
    policy: FreezePolicy

    def select(self, model: keras.Model) -> Selection:
        return selections.everything_in(model) - self.policy.select(model)

    def __repr__(self) -> str:
        return f"~{self.policy!r}"


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


def _names(weight: structure.Weight, model: keras.Model) -> tuple[str, ...]:
    """Return what a pattern may find for a weight: the model's own name says nothing of it."""
    layers = [*weight.enclosing, weight.layer]
    path = weight.variable.path.removeprefix(f"{model.name}/")
    return (*(layer.name for layer in layers if layer is not model), path)


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


def check_weights(
    owner: str, names: object, argument: str = "weights", all_of_them: str = '"all", or '
) -> None:
    """Raise in the name of `owner` unless these are a name or names of variables."""
    given = [names] if isinstance(names, str) else names
    is_names = isinstance(given, Sequence) and all(isinstance(name, str) for name in given)
    if not is_names or not given:
        raise TypeError(
            f"{owner}({argument}=...) must be {all_of_them}a name or names of variables such as "
            f'"kernel". Received: {argument}={names!r}.'
        )


def parts_of(policy: FreezePolicy) -> tuple[str, tuple[FreezePolicy, ...]] | None:
    """Return "any", "all" or "not" and what it combines; None for a simple policy."""
    if isinstance(policy, _Either):
        return "any", (policy.left, policy.right)
    if isinstance(policy, _Both):
        return "all", (policy.left, policy.right)
    return ("not", (policy.policy,)) if isinstance(policy, _Not) else None


def combined(word: str, parts: Sequence[FreezePolicy]) -> FreezePolicy:
    """Return policies combined by "any" or "all", from the left."""
    return functools.reduce(operator.or_ if word == "any" else operator.and_, parts)
