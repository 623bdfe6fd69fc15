"""Layer groups: a model as an ordered tuple of parts, from input to head.

Everything that freezes, thaws, sets rates or reports speaks of these groups. They are found
by themselves (`grouping`) or given by the user, and are the same for a nested backbone and
the same backbone inlined. Nothing here changes a model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import keras

from keras_freeze.groups import automatic, user_defined
from keras_freeze.groups.call_graph import Call, call_graph
from keras_freeze.groups.user_defined import Groups as Groups  # part of this module's interface
from keras_freeze.model_picture import check_model, opened_layers, weights_of


@dataclasses.dataclass(frozen=True, eq=False)
class LayerGroup:
    """A named part of a model.

    Attributes:
        name: Str, unique in its model.
        layers: Tuple of `keras.Layer`: nested models opened, composite layers whole, layers
            without weights included.
        variables: Tuple of `keras.Variable`: every weight of the model is in one group.
    """

    name: str
    layers: tuple[keras.Layer, ...]
    variables: tuple[keras.Variable, ...]

    @property
    def total_params(self) -> int:
        """The number of parameters, trainable or not."""
        return sum(math.prod(variable.shape) for variable in self.variables)

    def __repr__(self) -> str:
        return (
            f"LayerGroup(name={self.name!r}, layers={len(self.layers)}, "
            f"total_params={self.total_params:,})"
        )


def layer_groups(model: keras.Model, groups: Groups | None = None) -> tuple[LayerGroup, ...]:
    """Divide a model into ordered layer groups, from input to head.

    Without `groups` the division follows the model: VGG16 with a new head gives `block1` to
    `block5` and `head`, an LSTM stack one group a recurrent layer, a transformer its
    embeddings and blocks. A residual block is never cut in half, and a nested backbone gives
    the same groups as the same backbone inlined.

    Args:
        model: `keras.Model`, built.
        groups: How to divide instead; default None, automatically. A mapping from group name
            to specification, a sequence of specifications (names are derived from them), or
            a callable `(layer) -> group name`. A specification is a regular expression,
            searched in each layer's name (anchor it with `^` and `$`), or a list of names of
            layers or nested models. Layers without weights that nothing matches follow the
            layer before them. Groups are ordered by their first layer with weights.

    Returns:
        Tuple of `LayerGroup`. Every weight in `model.weights` is in exactly one: a shared
        layer in the earliest, a weight that a model holds without a layer in the first.

    Raises:
        TypeError: if it is not a `keras.Model`.
        ValueError: if the model is not built or has no weights, or if a specification matches
            nothing, two match one layer, or none matches a layer with weights.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((8, 4)), keras.layers.LSTM(3, name="lstm"), keras.layers.Dense(2)]
        ... )
        >>> [group.name for group in layer_groups(model)]
        ['lstm', 'head']
        >>> [group.total_params for group in layer_groups(model)]
        [96, 8]
    """
    _check(model)
    calls = call_graph(model)
    layers = _in_order(model, (call.layer for call in calls if call.layer is not None))
    if groups is not None:
        return _assemble(model, user_defined.assign(model, layers, groups))
    return _assemble(model, _planned(calls, layers))


def _check(model: keras.Model) -> None:
    check_model("layer_groups", model)
    if not model.weights:
        raise ValueError(
            f"layer_groups(model=...) must have weights. Received: model={model.name!r}, which "
            "has none. There is nothing to freeze in it."
        )


def _planned(calls: Sequence[Call], layers: Sequence[keras.Layer]) -> dict[str, list[keras.Layer]]:
    """Put each layer where it is called first, which is where its weights count."""
    planned = automatic.plan(calls)
    name_of = {id(call): name for name, part in planned for call in part}
    home: dict[int, str] = {}
    for call in calls:
        home.setdefault(id(call.layer), name_of[id(call)])
    named: dict[str, list[keras.Layer]] = {name: [] for name, _ in planned}
    current = next(iter(named))
    for layer in layers:
        current = home.get(id(layer), current)
        named[current].append(layer)
    return named


def _in_order(model: keras.Model, called: Iterable[keras.Layer]) -> list[keras.Layer]:
    """Return the opened layers in the order of the graph; uncalled ones after their neighbour."""
    opened = {id(layer): layer for layer in opened_layers(model)}
    order = {i: n for n, i in enumerate(dict.fromkeys(id(layer) for layer in called))}
    position, last = {}, -1
    for i in opened:
        last = order.get(i, last)
        position[i] = last
    return sorted(opened.values(), key=lambda layer: position[id(layer)])


def _assemble(
    model: keras.Model, named: Mapping[str, Sequence[keras.Layer]]
) -> tuple[LayerGroup, ...]:
    """Give each group its weights, each weight once; those of no layer go to the first."""
    left = {id(variable): variable for variable in model.weights}
    variables = {
        name: [
            left.pop(id(weight.variable))
            for layer in layers
            for weight in weights_of(layer)
            if id(weight.variable) in left
        ]
        for name, layers in named.items()
    }
    first = next(iter(named))
    variables[first] = [*left.values(), *variables[first]]
    return tuple(
        LayerGroup(name, tuple(layers), tuple(variables[name])) for name, layers in named.items()
    )
