"""What Keras keeps private about a layer: its sublayers, its own variables, its flag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_freeze.keras_internals.required import require

require("read a model's layers", "keras", keras.Layer, "_flatten_layers")
require(
    "read a layer's weights",
    "keras",
    keras.layers.Identity(name="probe"),
    "_trainable",
    "_trainable_variables",
    "_non_trainable_variables",
)


def sublayers(layer: keras.Layer) -> tuple[keras.Layer, ...]:
    """Return the direct sublayers, in the order in which a model lists them."""
    if isinstance(layer, keras.Model):
        return tuple(layer.layers)
    return tuple(layer._flatten_layers(include_self=False, recursive=False))


def own_variables(
    layer: keras.Layer, *, lora_base_trains: bool = False
) -> tuple[tuple[keras.Variable, bool], ...]:
    """Return the weights that a layer itself holds, each with whether it can be trained.

    What LoRA has frozen can't, unless somebody has unfrozen it, or `lora_base_trains` says so.
    """
    base = None if lora_base_trains else lora_base(layer)
    trained = [(v, v.trainable or v is not base) for v in layer._trainable_variables]
    return (*trained, *((v, False) for v in layer._non_trainable_variables))


def lora_base(layer: keras.Layer) -> keras.Variable | None:
    """Return the weight that `enable_lora` has frozen in favour of its adapters."""
    if not is_adapted(layer):
        return None
    return getattr(layer, "_kernel", getattr(layer, "_embeddings", None))


def is_adapted(layer: keras.Layer) -> bool:
    """Tell whether a layer has LoRA weights."""
    return bool(getattr(layer, "lora_enabled", False))


def call_methods(layer: keras.Layer) -> dict[str, Callable[..., Any]]:
    """Return by name the methods by which a layer may compute its output."""
    return {name: getattr(layer, name) for name in ("call", "quantized_call")}


def is_builtin(op: Any) -> bool:
    """Tell whether Keras itself defines a layer or operation."""
    return str(type(op).__module__).partition(".")[0] == "keras"


def set_own_flag(layer: keras.Layer, trainable: bool) -> None:
    """Set a layer's own `trainable` flag, and nothing else.

    The assignment `layer.trainable = x` sets everything below the layer too and, on TensorFlow,
    does nothing at all where the layer's own flag has that value already.
    """
    layer._trainable = trainable
