"""Which part of a model is pretrained: what `backbone=` names, or what the model's build shows.

Every default rests on it. What is pretrained starts frozen. Everything else is new: it is the last
layer group, trains from the first step, and its `BatchNormalization` layers learn.
"""

from __future__ import annotations

import dataclasses
import re
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras

from keras_freeze.checks import ArgumentError, ArgumentTypeError, did_you_mean, first_few
from keras_freeze.groups.call_graph import Call
from keras_freeze.keras_internals.graph import functional_graph, graph_nodes
from keras_freeze.model_picture import (
    ModelPicture,
    Pretrained,
    is_of_keras_hub,
    nested_model,
    opened_layers,
    teacher_of,
    weights_of,
)

Entry: TypeAlias = keras.Layer | str | Mapping[str, Sequence[str]]
Backbone: TypeAlias = Entry | Sequence[Entry]


@dataclasses.dataclass(frozen=True)
class LayersOf:
    """The layers of a backbone by name, as a callback keeps them: it holds no layer.

    The layers that it was made of are recognized themselves for as long as they exist; copied to
    another process, it knows them by name alone.

    Attributes:
        name: Str, the backbone's name.
        layers: Tuple of str, the names of its layers, nested models opened.
    """

    name: str
    layers: tuple[str, ...]
    itself: tuple[weakref.ref[keras.Layer], ...] = dataclasses.field(default=(), compare=False)

    @classmethod
    def read(cls, owner: str, backbone: keras.Layer) -> LayersOf:
        """Return the layers of a model or layer; raise in the name of `owner` if it has none."""
        opened = opened_layers(backbone)
        layers = [layer for layer in opened if not isinstance(layer, keras.layers.InputLayer)]
        if not layers:
            raise ArgumentError(
                owner,
                "backbone",
                "have layers",
                received=f"model {backbone.name!r} without any",
                advice="Build it first, or give its name.",
            )
        names = tuple(layer.name for layer in layers)
        return cls(backbone.name, names, tuple(weakref.ref(layer) for layer in layers))

    def __repr__(self) -> str:
        return repr({self.name: list(self.layers)})

    def __reduce__(self) -> tuple[Any, ...]:
        return LayersOf, (self.name, self.layers)

    def __deepcopy__(self, memo: dict[int, Any]) -> LayersOf:
        return self


Names: TypeAlias = str | LayersOf | tuple[str | LayersOf, ...]


def names_of(owner: str, backbone: Backbone | Names | None) -> Names | None:
    """Return a backbone with names for its layers and models; raise if it can't be one.

    Args:
        owner: Str, in whose name errors are raised.
        backbone: As for `layer_groups`, or what this function returned.

    Example:
        >>> names_of("freeze", ["vgg16", {"encoder": ["conv1", "conv2"]}])
        ('vgg16', {'encoder': ['conv1', 'conv2']})
    """
    if backbone is None or (isinstance(backbone, str) and backbone):
        return backbone
    entries = list(_entries(owner, backbone))
    if not entries:
        raise ArgumentError(owner, "backbone", "name at least one layer", value=backbone)
    return entries[0] if len(entries) == 1 else tuple(entries)


def _entries(owner: str, backbone: Any) -> Iterator[str | LayersOf]:
    if isinstance(backbone, LayersOf) or (isinstance(backbone, str) and backbone):
        yield backbone
    elif isinstance(backbone, keras.Layer):
        yield LayersOf.read(owner, backbone)
    elif isinstance(backbone, Mapping) and all(map(_are_names, backbone.values())):
        for name, layers in backbone.items():
            yield LayersOf(str(name), tuple(layers))
    elif isinstance(backbone, Sequence) and not isinstance(backbone, str):
        for entry in backbone:
            yield from _entries(owner, entry)
    else:
        raise ArgumentTypeError(
            owner,
            "backbone",
            "be a model or layer that the model was built from, a name, a pattern of names, or "
            "several of these",
            value=backbone,
        )


def _are_names(layers: Any) -> bool:
    is_sequence = isinstance(layers, Sequence) and not isinstance(layers, str)
    return is_sequence and bool(layers) and all(isinstance(name, str) for name in layers)


def given(picture: ModelPicture, calls: Sequence[Call]) -> Pretrained:
    """Return the part that `picture.backbone` names; raise if it names nothing, or everything."""
    entries = picture.backbone if isinstance(picture.backbone, tuple) else (picture.backbone,)
    found: dict[int, keras.Layer] = {}
    for entry in entries:
        is_name = isinstance(entry, str)
        layers = _by_name(picture, entry) if is_name else _by_layers(picture, entry)
        found.update((id(layer), layer) for layer in layers)
    names = tuple(entry if isinstance(entry, str) else entry.name for entry in entries)
    called = _trainable(picture, calls)
    if not called & found.keys():
        raise _wrong(
            "name layers that can be trained and take part in the model's outputs",
            f"{names!r}, which names {first_few([x.name for x in found.values()])} of model "
            f"{picture.model.name!r}",
            "",
        )
    if called <= found.keys():
        raise _wrong(
            "leave new layers to train beside it",
            f"{names!r}, which is all of model {picture.model.name!r}",
            "Leave backbone= out: the last layer group then counts as new.",
        )
    return _part(picture, calls, names, found.keys())


def _by_name(picture: ModelPicture, name: str) -> list[keras.Layer]:
    """Return the layers of what has a name, or else of all in whose names a pattern is found."""
    matching = [entry for entry in _named(picture) if entry[0] == name]
    if not matching:
        try:
            pattern = re.compile(name)
        except re.error as error:
            raise _wrong(
                "be a name or a valid regular expression",
                f"{name!r} ({error})",
                "Give the name of a layer or nested model.",
            ) from error
        matching = [entry for entry in _named(picture) if pattern.search(entry[0])]
    found = [layer for _, layers in matching for layer in layers]
    if not any(layer.weights for layer in found):
        names = [known for known, layers in _named(picture) if any(x.weights for x in layers)]
        raise _wrong(
            "name layers with weights",
            f"{name!r}, which matches none of model {picture.model.name!r}",
            f"{did_you_mean(name, names)}Layers and nested models with weights: "
            f"{', '.join(names)}.",
        )
    return found


def _named(picture: ModelPicture) -> Iterator[tuple[str, tuple[keras.Layer, ...]]]:
    """Yield names and what they stand for: layers, and nested models or stacks of blocks."""
    opened = {id(layer) for layer in picture.opened}
    for layer in picture.opened:
        yield layer.name, (layer,)
    for layer in picture.layers:
        parts = opened_layers(layer)
        is_opened = all(id(part) in opened for part in parts if part.weights)
        if layer is not picture.model and parts != (layer,) and is_opened:
            yield layer.name, parts
    for holder in picture.opened:
        for layer in picture.layers_in[id(holder)]:
            if id(layer) not in opened and _is_made_of(picture, holder, {id(layer)}):
                yield layer.name, (holder,)


def _by_layers(picture: ModelPicture, entry: LayersOf) -> list[keras.Layer]:
    """Return the layers of a backbone: themselves if the model has them, else by name."""
    alive = {id(reference()) for reference in entry.itself}
    themselves = [layer for layer in picture.opened if _is_made_of(picture, layer, alive)]
    if any(layer.weights for layer in themselves):
        return themselves
    for name, layers in _named(picture):
        if name == entry.name and set(entry.layers) <= {layer.name for layer in layers}:
            return [layer for layer in layers if layer.name in entry.layers]
        inside = {part.name for layer in layers for part in picture.layers_in[id(layer)]}
        if name == entry.name and set(entry.layers) <= inside:
            return list(layers)  # a wrapper of it, which stays whole
    opened = [layer.name for layer in picture.opened]
    unclear = [name for name in entry.layers if opened.count(name) != 1]
    if unclear:
        raise _wrong(
            "be in the model",
            f"{entry.name!r}, of whose layers model {picture.model.name!r} does not have "
            f"{first_few(unclear)}, or not once",
            "Give the model that it was built from, or a name or pattern of its layers.",
        )
    return [layer for layer in picture.opened if layer.name in entry.layers]


def _is_made_of(picture: ModelPicture, layer: keras.Layer, ids: Collection[int]) -> bool:
    """Tell whether it is one of some layers, or a wrapper that has no weights but theirs."""
    owners = {id(weight.layer) for weight in picture.weights_in[id(layer)]}
    inside: set[int] = set()
    for own in picture.layers_in[id(layer)]:
        if id(own) in ids:
            inside.update(map(id, picture.layers_in[id(own)]))
    return id(layer) in ids or (bool(owners) and owners <= inside)


def _wrong(rule: str, received: str, advice: str) -> ArgumentError:
    return ArgumentError("layer_groups", "backbone", rule, received=received, advice=advice)


def found(picture: ModelPicture, calls: Sequence[Call]) -> Pretrained | None:
    """Return the part that a model's build shows to be pretrained; None if it shows nothing.

    That is the `backbone` of a KerasHub task, or else the nested models that are fed by the
    model's inputs alone, do not make its output, and have at least as many layers with weights as
    all that is left. (A stem may be nested too, and so may a new layer before the backbone.)
    """
    model = picture.model if teacher_of(picture.model) is None else picture.model.student
    backbones = _task_backbone(model) or _nested_backbones(model)
    inside = {id(layer) for backbone in backbones for layer in opened_layers(backbone)}
    called = _trainable(picture, calls)
    if called - inside and len(called & inside) >= len(called - inside):
        return _part(picture, calls, tuple(backbone.name for backbone in backbones), inside)
    return None


def _task_backbone(model: keras.Model) -> list[keras.Model]:
    """Return the backbone of a KerasHub task."""
    backbone = getattr(model, "backbone", None) if is_of_keras_hub(model, "Task") else None
    return [backbone] if isinstance(backbone, keras.Model) else []


def _nested_backbones(model: keras.Model) -> list[keras.Model]:
    """Return the nested models that only inputs feed; none if one of them makes an output."""
    graph = functional_graph(model)
    if graph is None:
        return []
    makers: dict[int, frozenset[Any]] = {}  # of each tensor, the last operations with weights
    nested: dict[keras.Layer, keras.Model] = {}
    fed: dict[keras.Layer, frozenset[Any]] = {}  # of each nested model, who makes what it reads
    for node in graph_nodes(graph):
        read = frozenset().union(*(makers.get(id(t), ()) for t in node.input_tensors))
        op = node.operation
        is_layer = isinstance(op, keras.Layer)
        is_trained = is_layer and any(weight.potentially_trainable for weight in weights_of(op))
        inner = nested_model(op) if is_trained else None
        if inner is not None:
            nested[op] = inner
            fed[op] = fed.get(op, frozenset()) | read
        for tensor in node.output_tensors:
            makers[id(tensor)] = frozenset([op]) if is_trained else read
    of_output = frozenset().union(*(makers.get(id(tensor), ()) for tensor in graph.outputs))
    backbones = [op for op in nested if not fed[op]]
    if list(nested) == backbones and of_output == frozenset(backbones) and len(nested) == 1:
        return _nested_backbones(nested[backbones[0]])  # a model around a whole model
    return [nested[op] for op in backbones] if of_output.isdisjoint(backbones) else []


def assumed(picture: ModelPicture, calls: Sequence[Call]) -> Pretrained:
    """Return all groups but the last, for a picture that has its groups."""
    *groups, head = picture.groups
    grouped = {id(layer) for group in groups for layer in group.layers}
    inside = {  # a layer may be in several groups, part by part
        id(layer)
        for layer in picture.opened
        if any(id(part) in grouped for part in picture.layers_in[id(layer)])
    }
    part = _part(picture, calls, (f"all groups but {head.label}",), inside)
    return dataclasses.replace(part, is_assumed=True)


def _part(
    picture: ModelPicture, calls: Sequence[Call], names: tuple[str, ...], inside: Collection[int]
) -> Pretrained:
    reaches = [call.owns_weights and id(call.layer) in inside for call in calls]
    for i in reversed(range(len(calls))):
        for source in calls[i].inputs:
            reaches[source] = reaches[source] or reaches[i]
    new = _trainable(picture, calls) - set(inside)
    below = any(reaches[i] and id(call.layer) in new for i, call in enumerate(calls))
    teacher = teacher_of(picture.model)
    apart = set() if teacher is None else {id(layer) for layer in opened_layers(teacher)}
    layers = [
        layer
        for layer in picture.opened
        if not isinstance(layer, keras.layers.InputLayer) and id(layer) not in apart
    ]
    return Pretrained(
        names,
        tuple(layer for layer in layers if id(layer) in inside),
        tuple(layer for layer in layers if id(layer) not in inside),
        has_new_below=below,
    )


def _trainable(picture: ModelPicture, calls: Sequence[Call]) -> set[int]:
    """Return the ids of the layers called that have weights made to be trained."""
    called = {id(call.layer) for call in calls if call.owns_weights}
    return {i for i in called if picture.trainable_in[i]}
