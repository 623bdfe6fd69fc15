"""What every freeze policy is, how policies combine, and a bare callable as one."""

from __future__ import annotations

import dataclasses
import functools
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import keras

from keras_freeze.checks import ArgumentTypeError, takes, true_or_false
from keras_freeze.model_picture import ModelPicture, read_model
from keras_freeze.policies.selection import Selection, everything

Predicate = Callable[[keras.Variable, keras.Layer], bool]


class FreezePolicy:
    """Base class: a value that selects variables of a model.

    A policy of your own is a small frozen dataclass with one method, `select_in`. It gets the
    picture of a model (`picture.model`, `picture.opened` for the layers with nested models opened,
    `picture.weights` with the layer of each) and returns a `Selection` of the ids of variables.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class FreezeSmall(FreezePolicy):
        ...     most: int
        ...
        ...     def select_in(self, picture):
        ...         small = [w for w in picture.weights if w.variable.shape[-1] <= self.most]
        ...         return Selection(frozenset(id(w.variable) for w in small))
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(9)]
        ... )
        >>> len(FreezeSmall(3).select(model).variables)
        2
    """

    #: Whether what is selected can't be told before the phase begins.
    decides_late: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take a policy of 0.1, which selects in the model, and warn where it is defined."""
        super().__init_subclass__(**kwargs)
        if "select" in vars(cls) and "select_in" not in vars(cls):
            warnings.warn(
                f"{cls.__name__}.select(model) is deprecated, and not called from keras_freeze 0.3 "
                "on. Write `select_in(picture)` instead; the model is `picture.model`.",
                DeprecationWarning,
                stacklevel=2,
            )
            cls.select_in = _select_in_model  # type: ignore[assignment,method-assign]

    def select(self, model: keras.Model) -> Selection:
        """Return what this policy selects in a built model; raise if a name matches nothing."""
        # From a `select` of 0.1, which `super().select(model)` calls, it is the next class's.
        defined = (vars(kind).get("select_in") for kind in type(self).__mro__)
        own = next(method for method in defined if method not in (None, _select_in_model))
        return own(self, read_model(model))

    def select_in(self, picture: ModelPicture) -> Selection:
        """Return what this policy selects in the picture of a model: what a policy implements."""
        raise NotImplementedError(f"{type(self).__name__} must have a method `select_in`.")

    def sketch_in(self, picture: ModelPicture) -> Selection:
        """Return a selection of the kind that `select_in` will return, for checks beforehand.

        A policy that takes long to select, or can't tell before its phase begins, has one of its
        own.
        """
        return self.select_in(picture)

    def check_in(self, picture: ModelPicture) -> None:
        """Raise before the training if this policy, which decides late, will not be able to."""

    @property
    def parts(self) -> tuple[FreezePolicy, ...]:
        """The policies that this one selects by; none for a simple one."""
        return ()

    def leaves(self) -> Iterator[FreezePolicy]:
        """Yield the simple policies in this one."""
        for part in self.parts:
            yield from part.leaves()
        if not self.parts:
            yield self

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


def _select_in_model(policy: FreezePolicy, picture: ModelPicture) -> Selection:
    return policy.select(picture.model)


@dataclasses.dataclass(frozen=True)
class FreezeWhere(FreezePolicy):
    """Select the variables for which a function returns True.

    A layer that has only weights that can't be trained, as a `BatchNormalization` without
    gamma and beta, is selected if the function returns True for all of them.

    Args:
        predicate: Callable `(variable, layer) -> bool`, with the layer that owns the variable.

    Raises:
        TypeError: if it can't be called with these arguments; when selecting, if it returns
            anything but a bool.

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
        if not is_function or not takes(self.predicate, 2):
            raise ArgumentTypeError(
                "FreezeWhere",
                "predicate",
                "be a callable (variable, layer) -> bool",
                value=self.predicate,
            )

    def select_in(self, picture: ModelPicture) -> Selection:
        """Return the variables for which the predicate holds."""
        variables, layers = set(), set()
        for weight in picture.weights:
            if weight.potentially_trainable and self._holds(weight.variable, weight.layer):
                variables.add(id(weight.variable))
        for layer in picture.layers:
            if not picture.trainable_in[id(layer)] and self._holds_for_all(picture, layer):
                layers.add(id(layer))
        return Selection(frozenset(variables), frozenset(layers))

    def _holds_for_all(self, picture: ModelPicture, layer: keras.Layer) -> bool:
        own = [w.variable for w in picture.weights_in[id(layer)] if w.layer is layer]
        return bool(own) and all(self._holds(variable, layer) for variable in own)

    def _holds(self, variable: keras.Variable, layer: keras.Layer) -> bool:
        answer = self.predicate(variable, layer)
        return true_or_false("FreezeWhere", "predicate", answer, f"variable {variable.path!r}")


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
        "FreezeLayers([...]) or freeze(model, layers=[...]); to count layers, "
        "freeze(model, first=...); for layer groups, freeze(model, groups=...)."
    )


@dataclasses.dataclass(frozen=True, repr=False)
class _Either(FreezePolicy):
    left: FreezePolicy
    right: FreezePolicy

    def select_in(self, picture: ModelPicture) -> Selection:
        return self.left.select_in(picture) | self.right.select_in(picture)

    def sketch_in(self, picture: ModelPicture) -> Selection:
        return self.left.sketch_in(picture) | self.right.sketch_in(picture)

    @property
    def parts(self) -> tuple[FreezePolicy, ...]:
        return self.left, self.right

    def __repr__(self) -> str:
        return f"({self.left!r} | {self.right!r})"


@dataclasses.dataclass(frozen=True, repr=False)
class _Both(FreezePolicy):
    left: FreezePolicy
    right: FreezePolicy

    def select_in(self, picture: ModelPicture) -> Selection:
        return self.left.select_in(picture) & self.right.select_in(picture)

    def sketch_in(self, picture: ModelPicture) -> Selection:
        return self.left.sketch_in(picture) & self.right.sketch_in(picture)

    @property
    def parts(self) -> tuple[FreezePolicy, ...]:
        return self.left, self.right

    def __repr__(self) -> str:
        return f"({self.left!r} & {self.right!r})"


@dataclasses.dataclass(frozen=True, repr=False)
class _Not(FreezePolicy):
    policy: FreezePolicy

    def select_in(self, picture: ModelPicture) -> Selection:
        return everything(picture) - self.policy.select_in(picture)

    def sketch_in(self, picture: ModelPicture) -> Selection:
        return everything(picture) - self.policy.sketch_in(picture)

    @property
    def parts(self) -> tuple[FreezePolicy, ...]:
        return (self.policy,)

    def __repr__(self) -> str:
        return f"~{self.policy!r}"


def parts_of(policy: FreezePolicy) -> tuple[str, tuple[FreezePolicy, ...]] | None:
    """Return "any", "all" or "not" and what it combines; None for a simple policy."""
    words: dict[type[FreezePolicy], str] = {_Either: "any", _Both: "all", _Not: "not"}
    word = words.get(type(policy))
    return None if word is None else (word, policy.parts)


def combined(word: str, parts: Sequence[FreezePolicy]) -> FreezePolicy:
    """Return policies combined by "any" or "all", from the left."""
    return functools.reduce(operator.or_ if word == "any" else operator.and_, parts)
