"""Read the layers of a model, nested models opened, and who owns which weight."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_freeze.keras_internals.layers import is_builtin, lora_base, own_variables, sublayers


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """One weight of a model, with the layer that owns it.

    Attributes:
        variable: `keras.Variable`. The weight itself.
        layer: `keras.Layer`. The innermost layer that owns the weight.
        enclosing: Tuple of `keras.Layer`. The layers around `layer`, outermost first,
            without the model that was asked.
        potentially_trainable: Bool. Whether its layer created it as trainable. Moving statistics,
            counters and the like never are, whatever flags a layer has.
    """

    variable: keras.Variable
    layer: keras.Layer
    enclosing: tuple[keras.Layer, ...]
    potentially_trainable: bool


def opened_layers(model: keras.Layer) -> tuple[keras.Layer, ...]:
    """Return the layers of a model with nested models and stacks of blocks replaced by theirs.

    A backbone nested as one layer and the same backbone inlined give the same list: the
    input layer of a nested model is listed only where the outer model has none before it.
    Other layers (a `Bidirectional`, a custom block) stay whole.

    Args:
        model: `keras.Model`, built, or a layer.

    Returns:
        Tuple of `keras.Layer`, each once, in the order of `model.layers`; a layer that is neither
        a model nor a stack itself.
    """
    opened: dict[int, keras.Layer] = {}
    for layer, depth in _open([model], -1):
        is_inner_input = depth > 0 and isinstance(layer, keras.layers.InputLayer)
        if not (is_inner_input and opened):
            opened.setdefault(id(layer), layer)
    return tuple(opened.values())


def _open(layers: Iterable[keras.Layer], depth: int) -> Iterator[tuple[keras.Layer, int]]:
    for layer in layers:
        inner = nested_model(layer)
        parts = parts_of(layer) if inner is None else tuple(inner.layers)
        if parts or inner is not None:
            yield from _open(parts, depth + 1)
        else:
            yield layer, depth


def nested_model(layer: keras.Layer) -> keras.Model | None:
    """Return the model that a layer is, or wraps as `TimeDistributed` does, else None."""
    if isinstance(layer, keras.layers.TimeDistributed):
        return nested_model(layer.layer)
    return layer if isinstance(layer, keras.Model) else None


def parts_of(layer: keras.Layer) -> tuple[keras.Layer, ...]:
    """Return the layers of a custom layer that stacks transformer blocks, else none.

    KerasHub's `ViTEncoder` is one. It holds several blocks of one class, each with attention and
    more than norms around it, and no variable itself: that would be in none of its parts. They are
    listed in the order in which it made them, which is that of the calls in a chain. An embedding
    made after a block shows that it is none.
    """
    if is_builtin(layer) or isinstance(layer, keras.Model) or own_variables(layer):
        return ()
    parts = sublayers(layer)
    kinds = [type(part) for part in parts if is_transformer_block(part) and _does_more(part)]
    if max(collections.Counter(kinds).values(), default=0) < 2:
        return ()
    first = next(n for n, part in enumerate(parts) if is_transformer_block(part))
    return () if any(map(is_embedding, parts[first:])) else parts


def _does_more(block: keras.Layer) -> bool:
    """Tell whether a block has weights outside its attention and its norms."""
    others = (part for part in sublayers(block) if part.weights and not is_attention(part))
    return any("norm" not in type(part).__name__.lower() for part in others)


def is_transformer_block(layer: keras.Layer) -> bool:
    """Tell whether a layer is a custom block around an attention, and not the attention itself."""
    is_core = type(layer).__name__.endswith("Attention")
    return is_composite(layer) and is_attention(layer) and not is_core


def is_embedding(layer: keras.Layer) -> bool:
    """Tell whether a layer embeds tokens, positions or both."""
    is_named_so = "embedding" in type(layer).__name__.lower()
    return isinstance(layer, keras.layers.Embedding) or is_named_so


def is_composite(layer: keras.Layer) -> bool:
    """Tell whether a layer is a custom block of several layers with weights."""
    if is_builtin(layer) or isinstance(layer, keras.Model):
        return False
    return sum(bool(child.weights) for child in sublayers(layer)) >= 2


def is_attention(layer: keras.Layer) -> bool:
    """Tell whether a layer is an attention layer, or a custom layer that contains one."""
    if isinstance(layer, keras.layers.Wrapper):
        return is_attention(layer.layer)
    return any("Attention" in type(inner).__name__ for inner in every_layer(layer))


def teacher_of(model: keras.Layer) -> keras.Model | None:
    """Return the teacher of a `keras.distillation.Distiller`, which never trains, else None."""
    is_distiller = hasattr(keras, "distillation") and isinstance(
        model, keras.distillation.Distiller
    )
    return model.teacher if is_distiller else None


def is_of_keras_hub(layer: keras.Layer, kind: str) -> bool:
    """Tell whether a layer is one of KerasHub's, such as a `"Task"`, or of a subclass of it."""
    return any(
        cls.__name__ == kind and cls.__module__.partition(".")[0] == "keras_hub"
        for cls in type(layer).__mro__
    )


def every_layer(model: keras.Layer) -> tuple[keras.Layer, ...]:
    """Return the model and all layers below it at any depth, containers before contents."""
    found: dict[int, keras.Layer] = {}

    def visit(layer: keras.Layer) -> None:
        if id(layer) not in found:
            found[id(layer)] = layer
            for child in sublayers(layer):
                visit(child)

    visit(model)
    return tuple(found.values())


def weights_of(model: keras.Layer, *, lora_base_trains: bool = False) -> tuple[Weight, ...]:
    """Return every weight of a model or layer once, with its owner, from input to head.

    Args:
        model: `keras.Layer` or `keras.Model`, built.
        lora_base_trains: Bool. Whether what LoRA has frozen can be trained. Defaults to False.

    Returns:
        Tuple of `Weight`: the same variables as `model.weights`. A weight that several
        layers share belongs to the first.
    """
    found: dict[int, Weight] = {}

    def visit(layer: keras.Layer, enclosing: tuple[keras.Layer, ...]) -> None:
        for variable, trained in own_variables(layer, lora_base_trains=lora_base_trains):
            found.setdefault(id(variable), Weight(variable, layer, enclosing, trained))
        inside = enclosing if layer is model else (*enclosing, layer)
        for child in sublayers(layer):
            visit(child, inside)

    visit(model, ())
    return tuple(found.values())


def frozen_weights(model: keras.Layer) -> tuple[Weight, ...]:
    """Return the weights that training should leave as they are.

    Those are the potentially trainable weights that don't train, and what else their layer holds
    (moving statistics, counters) if all of that layer is frozen, or its flag is off. A
    `BatchNormalization` updates its statistics by its flag alone. Seeds, metrics and the states of
    recurrent layers are no weights.

    Args:
        model: `keras.Layer` or `keras.Model`, built.

    Returns:
        Tuple of `Weight`, in the order of `weights_of`.
    """
    training = {id(v) for v in model.trainable_variables}
    return tuple(weight for weight in weights_of(model) if _is_frozen(weight, training))


def _is_frozen(weight: Weight, training: set[int]) -> bool:
    layer, variable = weight.layer, weight.variable
    if weight.potentially_trainable or variable is lora_base(layer):
        return id(variable) not in training
    if is_batch_norm(layer) or not layer.trainable:
        return not layer.trainable
    trained = [id(w.variable) for w in weights_of(layer) if w.potentially_trainable]
    return bool(trained) and training.isdisjoint(trained)


def is_batch_norm(layer: keras.Layer) -> bool:
    """Tell whether a layer is a `BatchNormalization` or derives from it."""
    return isinstance(layer, keras.layers.BatchNormalization)


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


def count_params(variables: Iterable[keras.Variable]) -> int:
    """Return how many parameters variables hold."""
    return sum(math.prod(variable.shape) for variable in variables)


def weights_of_operation(operation: Any) -> tuple[keras.Variable, ...]:
    """Return the weights of a layer; none for an operation on tensors."""
    return tuple(operation.weights) if isinstance(operation, keras.Layer) else ()
