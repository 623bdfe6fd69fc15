"""Read how a Keras model is put together: its layers, opened, and who owns which weight.

Everything else in the package asks this module instead of Keras, so that the attributes
Keras keeps private are read in one place. Nothing here changes a model.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import sys
from collections.abc import Iterator
from typing import Any

import keras


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """One weight of a model, with the layer that owns it.

    Attributes:
        variable: `keras.Variable`. The weight itself.
        layer: `keras.Layer`. The innermost layer that owns the weight.
        enclosing: Tuple of `keras.Layer`. The layers around `layer`, outermost first,
            without the model that was asked.
        potentially_trainable: Bool. Whether its layer made it to be trained. Moving
            statistics, counters and the like never are, whatever flags a layer has.
    """

    variable: keras.Variable
    layer: keras.Layer
    enclosing: tuple[keras.Layer, ...]
    potentially_trainable: bool


def children(layer: keras.Layer) -> tuple[keras.Layer, ...]:
    """Return the direct sublayers, in the order in which a model lists them."""
    if isinstance(layer, keras.Model):
        return tuple(layer.layers)
    return tuple(layer._flatten_layers(include_self=False, recursive=False))


def opened_layers(model: keras.Model) -> tuple[keras.Layer, ...]:
    """Return the layers of a model with nested models replaced by their own layers.

    A backbone nested as one layer and the same backbone inlined give the same list: the
    input layer of a nested model is listed only where the outer model has none before it.
    Layers that are not models (a `Bidirectional`, a custom block) stay whole.

    Args:
        model: `keras.Model`. A built model.

    Returns:
        Tuple of `keras.Layer`, each once, in the order of `model.layers`.
    """
    opened: dict[int, keras.Layer] = {}
    for layer, depth in _open(model, 0):
        is_inner_input = depth > 0 and isinstance(layer, keras.layers.InputLayer)
        if not (is_inner_input and opened):
            opened.setdefault(id(layer), layer)
    return tuple(opened.values())


def _open(model: keras.Model, depth: int) -> Iterator[tuple[keras.Layer, int]]:
    for layer in model.layers:
        inner = nested_model(layer)
        if inner is None:
            yield layer, depth
        else:
            yield from _open(inner, depth + 1)


def nested_model(layer: keras.Layer) -> keras.Model | None:
    """Return the model that a layer is, or wraps as `TimeDistributed` does, else None."""
    if isinstance(layer, keras.layers.TimeDistributed):
        return nested_model(layer.layer)
    return layer if isinstance(layer, keras.Model) else None


def every_layer(model: keras.Layer) -> tuple[keras.Layer, ...]:
    """Return the model and all layers below it at any depth, containers before contents."""
    found: dict[int, keras.Layer] = {}

    def visit(layer: keras.Layer) -> None:
        if id(layer) not in found:
            found[id(layer)] = layer
            for child in children(layer):
                visit(child)

    visit(model)
    return tuple(found.values())


def own_variables(layer: keras.Layer) -> tuple[tuple[keras.Variable, bool], ...]:
    """Return the weights that a layer itself holds, each with whether it can be trained."""
    base = _lora_base(layer)
    trained = [(v, v is not base) for v in layer._trainable_variables]
    return (*trained, *((v, False) for v in layer._non_trainable_variables))


def _lora_base(layer: keras.Layer) -> keras.Variable | None:
    """Return the weight that `enable_lora` has frozen for good in favour of its adapters."""
    if not getattr(layer, "lora_enabled", False):
        return None
    return getattr(layer, "_kernel", getattr(layer, "_embeddings", None))


def weights_of(model: keras.Layer) -> tuple[Weight, ...]:
    """Return every weight of a model or layer once, with its owner, from input to head.

    Args:
        model: `keras.Layer` or `keras.Model`, built.

    Returns:
        Tuple of `Weight`: the same variables as `model.weights`. A weight that several
        layers share belongs to the first.
    """
    found: dict[int, Weight] = {}

    def visit(layer: keras.Layer, enclosing: tuple[keras.Layer, ...]) -> None:
        for variable, trained in own_variables(layer):
            found.setdefault(id(variable), Weight(variable, layer, enclosing, trained))
        inside = enclosing if layer is model else (*enclosing, layer)
        for child in children(layer):
            visit(child, inside)

    visit(model, ())
    return tuple(found.values())


def frozen_weights(model: keras.Layer) -> tuple[Weight, ...]:
    """Return the weights that training should leave as they are.

    Those are the weights made to be trained that don't, and what else their layer holds
    (moving statistics, counters) if all of that layer is frozen, or its flag is off. A
    `BatchNormalization` updates its statistics by its flag alone. Seeds, metrics and the states
    of recurrent layers are no weights.

    Args:
        model: `keras.Layer` or `keras.Model`, built.

    Returns:
        Tuple of `Weight`, in the order of `weights_of`.
    """
    training = {id(v) for v in model.trainable_variables}
    return tuple(weight for weight in weights_of(model) if _is_frozen(weight, training))


def _is_frozen(weight: Weight, training: set[int]) -> bool:
    layer, variable = weight.layer, weight.variable
    if weight.potentially_trainable or variable is _lora_base(layer):
        return id(variable) not in training
    if is_batch_norm(layer) or not layer.trainable:
        return not layer.trainable
    trained = [id(w.variable) for w in weights_of(layer) if w.potentially_trainable]
    return bool(trained) and training.isdisjoint(trained)


def is_batch_norm(layer: keras.Layer) -> bool:
    """Tell whether a layer is a `BatchNormalization` or derives from it."""
    return isinstance(layer, keras.layers.BatchNormalization)


def functional_graph(model: keras.Model) -> Any | None:
    """Return the object that holds a model's graph of calls, or None if it has none.

    That is the model itself if it is Functional, and a built Sequential's inner Functional.
    """
    model = getattr(model, "_functional", None) or model
    return model if hasattr(model, "_nodes_by_depth") else None


def walked_graph(model: Any) -> Any | None:
    """Return a model's graph of calls if a call of the model is a walk through it, and no more.

    A class that derives from Functional or Sequential and has a `call` of its own may do
    something before, after or instead.
    """
    if isinstance(model, keras.Model):
        owner = next(cls for cls in type(model).__mro__ if "call" in vars(cls))
        if owner.__module__.partition(".")[0] == "keras":
            return functional_graph(model)
    return None


def nodes(functional: Any) -> tuple[Any, ...]:
    """Return the calls of a Functional model (`operation`, tensors), from input to output."""
    by_depth = functional._nodes_by_depth
    return tuple(node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth])


def output_rank(op: Any, node: Any | None = None) -> int | None:
    """Return the dimensions of what a layer returns, batch included; None where unknown.

    Outside a graph (`node=None`) it is the rank of the input the layer was built on, which
    is the same for the layers that are asked: normalisations and dense layers.
    """
    if node is not None:
        return len(node.output_tensors[0].shape)
    shapes = getattr(op, "_build_shapes_dict", None) or {}
    shape = next(iter(shapes.values()), None)
    is_shape = isinstance(shape, tuple) and all(d is None or isinstance(d, int) for d in shape)
    return len(shape) if shape is not None and is_shape else None


def stride(op: Any, node: Any | None = None) -> float:
    """Return by how much one call makes its input coarser; below 1 where it makes it finer.

    It is read from the arguments of convolutions, poolings and their inverses, so that it is
    known for inputs of any size; for a custom layer from the shapes, where they are known.
    """
    size = getattr(op, "size", None)
    if size is not None and type(op).__name__.startswith("UpSampling"):
        return 1 / _largest(size)
    strides = getattr(op, "strides", None)
    if strides is not None:
        return 1 / _largest(strides) if "Transpose" in type(op).__name__ else _largest(strides)
    if node is None or not node.input_tensors or is_builtin(op):
        return 1.0
    return _shape_ratio(node.input_tensors[0].shape, node.output_tensors[0].shape)


def _largest(strides: Any) -> float:
    sizes = [strides] if isinstance(strides, int) else list(strides)
    return float(max((s for s in sizes if isinstance(s, int)), default=1))


def _shape_ratio(before: tuple[int | None, ...], after: tuple[int | None, ...]) -> float:
    first = 2 if keras.config.image_data_format() == "channels_first" else 1
    spatial = slice(first, len(before) - 2 + first)
    if len(before) != len(after) or len(before) < 3 or None in before[spatial] + after[spatial]:
        return 1.0
    pairs = zip(before[spatial], after[spatial], strict=True)
    return max(1.0, *(float(round((a or 1) / (b or 1))) for a, b in pairs))


def is_builtin(op: Any) -> bool:
    """Tell whether Keras itself defines a layer or operation."""
    return str(type(op).__module__).partition(".")[0] == "keras"


def check_model(owner: str, model: Any) -> None:
    """Raise in the name of `owner` unless `model` is a built `keras.Model`."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"{owner}(model=...) must be a keras.Model. Received: model={model!r}.")
    if not is_built(model):
        raise ValueError(
            f"{owner}(model=...) must be built. Received: model={model.name!r}, which is not. "
            "Call model.build(input_shape), or call it on one batch, first."
        )


def is_built(model: keras.Model) -> bool:
    """Tell whether a model has all its weights."""
    if not model.built:
        return False
    return bool(model.weights) or all(layer.built for layer in opened_layers(model))


def bytes_of(variable: keras.Variable) -> int:
    """Return the size of a variable in bytes, by the dtype that it is stored in."""
    digits = re.search(r"\d+", keras.backend.standardize_dtype(variable.dtype))
    bits = int(digits.group()) if digits else 1
    return math.ceil(math.prod(variable.shape) * bits / 8)


def sibling_callbacks(callback: Any) -> tuple[Any, ...]:
    """Return the callbacks beside one, when a hook of it asks; none outside of that."""
    owner = _callback_list()
    return () if owner is None else tuple(x for x in owner.callbacks if x is not callback)


def move_to_end(callback: Any) -> None:
    """Let Keras call a callback after the others, when its `set_model` asks.

    Where several want that, the class attribute `rank_at_end` (an int, 1 where missing) orders
    them, whichever asks first.
    """
    owner = _callback_list()
    if owner is not None:
        # A new list, since Keras is going through the old one.
        owner.callbacks = sorted(
            owner.callbacks, key=lambda other: getattr(other, "rank_at_end", int(other is callback))
        )


def is_called_by(name: str) -> bool:
    """Tell whether the function that asks was called by one of this name."""
    # No name for a frame: its own would keep it and its callers' values until a collection.
    return sys._getframe(2).f_code.co_name == name


def _callback_list() -> Any | None:
    """Return the list that is calling a hook: Keras tells a callback nothing of the others."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return owner
        frame = frame.f_back
    return None


def weights_of_operation(operation: Any) -> tuple[keras.Variable, ...]:
    """Return the weights of a layer; none for an operation on tensors."""
    return tuple(operation.weights) if isinstance(operation, keras.Layer) else ()


def origin_of(tensor: Any) -> Any:
    """Return the layer or operation that returned a symbolic tensor."""
    return tensor._keras_history[0]


def mask_of(value: Any) -> Any | None:
    """Return the mask that a layer has attached to a value, None if there is none."""
    return _backend().get_keras_mask(value)


def with_mask(value: Any, mask: Any | None) -> Any:
    """Return a value with a mask attached to it."""
    if mask is not None:
        _backend().set_keras_mask(value, mask)
    return value


def _backend() -> Any:
    from keras.src import backend  # which alone knows where a backend keeps masks

    return backend
