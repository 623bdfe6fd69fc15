"""Policies that freeze by name: of layers, of variables, or a pattern for both."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import keras

from keras_freeze.checks import ArgumentError, ArgumentTypeError, as_value, did_you_mean, is_int
from keras_freeze.keras_internals.layers import lora_base
from keras_freeze.model_picture import ModelPicture, Weight
from keras_freeze.policies.base import FreezePolicy, Predicate, as_policy
from keras_freeze.policies.selection import Selection, everything, of_layers


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
            raise ArgumentTypeError(
                "FreezeLayers",
                "layers",
                "be a sequence of indices and names",
                value=self.layers,
                advice="Write layers=[...] even for one.",
            )
        for item in self.layers:
            if not (is_int(item) or isinstance(item, str)):
                raise ArgumentTypeError(
                    "FreezeLayers",
                    "layers",
                    "hold indices and names only",
                    received=repr(item),
                    advice="A layer object would not survive a deep copy: give its name.",
                )
        if not self.layers:
            raise ArgumentError(
                "FreezeLayers",
                "layers",
                "hold at least one index or name",
                value=self.layers,
                advice="For none, write first=0.",
            )
        # A value that can be hashed.
        object.__setattr__(self, "layers", as_value(tuple(self.layers)))

    def select_in(self, picture: ModelPicture) -> Selection:
        """Return the variables of the layers."""
        return of_layers(picture, [x for item in self.layers for x in _find(picture, item)])


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
            raise ArgumentTypeError(
                "FreezeMatching",
                "pattern",
                "be a str, the text of a regular expression",
                value=self.pattern,
            )
        if not self.pattern:
            raise ArgumentError(
                "FreezeMatching",
                "pattern",
                "not be empty",
                value=self.pattern,
                advice='To match everything, write ".".',
            )
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ArgumentError(
                "FreezeMatching",
                "pattern",
                "be a valid regular expression",
                value=self.pattern,
                received=f", {error}",
                advice="Escape it with `re.escape`.",
            ) from error

    def select_in(self, picture: ModelPicture) -> Selection:
        """Return the variables that match."""
        search = re.compile(self.pattern).search
        variables: set[int] = set()
        names: set[str] = set()
        for weight in picture.weights:
            if weight.potentially_trainable:
                own = _names(weight, picture.model)
                names.update(own)
                if any(map(search, own)):
                    variables.add(id(weight.variable))
        named = [x for x in picture.layers if x is not picture.model and search(x.name)]
        layers = of_layers(picture, named).layers
        if not variables and not layers:
            raise ArgumentError(
                "FreezeMatching",
                "pattern",
                f"match a layer or variable of model {picture.model.name!r}",
                value=self.pattern,
                advice=f"{did_you_mean(self.pattern, sorted(names))}"
                f"Layers: {', '.join(layer.name for layer in picture.opened)}.",
            )
        return Selection(frozenset(variables), layers)


@dataclasses.dataclass(frozen=True)
class FreezeWeights(FreezePolicy):
    """Select variables by their own names, such as all kernels.

    Args:
        names: Str or sequence of str, names of variables: `"kernel"`, `"recurrent_kernel"`,
            `"bias"`, `"gamma"`, ...; `"lora"` for those that `enable_lora` has added, and no other.
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
        >>> len(FreezeWeights("bias", FreezeLayers(["low"])).select(model).variables)
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

    def select_in(self, picture: ModelPicture) -> Selection:
        """Return the variables with these names; layers without any keep their flags."""
        of = self.parts
        return self._named_in(picture, of[0].select_in(picture) if of else everything(picture))

    def sketch_in(self, picture: ModelPicture) -> Selection:
        """Return them where what it selects of is not known yet."""
        of = self.parts
        return self._named_in(picture, of[0].sketch_in(picture) if of else everything(picture))

    @property
    def parts(self) -> tuple[FreezePolicy, ...]:
        """What selects where to look."""
        return (self.of,) if isinstance(self.of, FreezePolicy) else ()

    def _named_in(self, picture: ModelPicture, chosen: Selection) -> Selection:
        variables = [w.variable for w in picture.weights if id(w.variable) in chosen.variables]
        layers = {id(w.layer) for w in picture.weights if id(w.variable) in chosen.variables}
        bases = (lora_base(w.layer) for w in picture.weights if id(w.layer) in layers)
        named = [*variables, *(base for base in bases if base is not None)]  # frozen, not unknown
        available = sorted({_kind(variable) for variable in named} | {v.name for v in named})
        wanted = [self.names] if isinstance(self.names, str) else self.names
        for name in wanted:
            if name not in available:
                raise ArgumentError(
                    "FreezeWeights",
                    "names",
                    "name variables of the layers chosen",
                    value=name,
                    advice=f"{did_you_mean(name, available)}"
                    f"Available: {', '.join(available) or 'none'}.",
                )
        chosen_by_name = (v for v in variables if v.name in wanted or _kind(v) in wanted)
        return Selection(frozenset(id(v) for v in chosen_by_name))


def _kind(variable: keras.Variable) -> str:
    """Return the name of a variable, `"lora"` for one that `enable_lora` has added."""
    return "lora" if variable.name.startswith("lora_") else variable.name


def _names(weight: Weight, model: keras.Model) -> tuple[str, ...]:
    """Return the texts that a pattern searches for a weight, without the model's own name."""
    layers = [*weight.enclosing, weight.layer]
    path = weight.variable.path.removeprefix(f"{model.name}/")
    return (*(layer.name for layer in layers if layer is not model), path)


def _find(picture: ModelPicture, item: int | str) -> list[keras.Layer]:
    layers, model = picture.opened, picture.model
    if isinstance(item, int):
        if not -len(layers) <= item < len(layers):
            raise ArgumentError(
                "FreezeLayers",
                "layers",
                f"hold indices within the {len(layers)} layers of model {model.name!r} (nested "
                "models opened)",
                received=str(item),
            )
        return [layers[item]]
    below = [layer for layer in picture.layers if layer is not model]
    named = [layer for layer in below if layer.name == item]
    if not named:
        raise ArgumentError(
            "FreezeLayers",
            "layers",
            f"name layers of model {model.name!r}",
            received=repr(item),
            advice=f"{did_you_mean(item, [layer.name for layer in below])}"
            f"Layers: {', '.join(layer.name for layer in layers)}.",
        )
    return named


def check_weights(
    owner: str, names: object, argument: str = "weights", all_of_them: str = '"all", or '
) -> None:
    """Raise in the name of `owner` unless these are a name or names of variables."""
    given = [names] if isinstance(names, str) else names
    is_names = isinstance(given, Sequence) and all(isinstance(name, str) for name in given)
    if not is_names or not given:
        raise ArgumentTypeError(
            owner,
            argument,
            f'be {all_of_them}a name or names of variables such as "kernel"',
            value=names,
        )
