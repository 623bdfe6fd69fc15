"""Judge whether a layer returns the same output for the same sample each time it is called.

Only layers and operations that Keras itself defines are known well enough to be judged, and a
few composite ones of KerasHub by the layers that they contain. Nothing else is cached.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from keras_freeze.keras_internals.graph import graph_nodes, walked_graph
from keras_freeze.keras_internals.layers import is_builtin, sublayers
from keras_freeze.prefix_cache.determinism_rules import (
    ADDS_LOSS,
    HUB_LAYERS,
    LAYERS,
    MIXES,
    NOT_KNOWN,
    OPERATIONS,
    Rule,
    Setting,
)
from keras_freeze.prefix_cache.reasons import NoCut, Reason


def reason_against(operation: Any, setting: Setting) -> NoCut | None:
    """Return why the output of a layer or operation can't be cached; None if it can.

    Args:
        operation: `keras.Layer` or `keras.Operation`.
        setting: `Setting`.

    Returns:
        `NoCut`; None for a pure function of each sample and of weights that do not change.

    Example:
        >>> frozen = Setting(trained=())
        >>> reason_against(keras.layers.ReLU(), frozen)
        >>> reason_against(keras.layers.Dropout(0.5, name="drop"), frozen).detail
        "Dropout 'drop' is stochastic in training mode"
    """
    found = _judged(operation, setting)
    return found and NoCut(found.reason, f"{_shown(operation)} {found.detail}")


def reason_in_graph(node: Any, setting: Setting) -> NoCut | None:
    """Return the same as `reason_against` for a call in the graph of a Functional model."""
    found = _judged_call(node, setting)
    return found and NoCut(found.reason, f"{_shown(node.operation)} {found.detail}")


def _judged(operation: Any, setting: Setting) -> NoCut | None:
    """Return why an operation can't be cached; the text follows the operation's name."""
    rule = _rule_of(operation)
    if rule is None:
        return NOT_KNOWN
    if isinstance(operation, keras.Layer):
        if any(id(v) in setting.trained for v in operation.weights):
            return NoCut(Reason.TRAINS, "is trainable")
        if operation.activity_regularizer is not None:
            return ADDS_LOSS
        if getattr(operation, "quantization_mode", None) is not None:
            return NoCut(Reason.QUANTIZED, "is quantized")
    return (
        rule(operation, setting)
        or _across_samples(operation)
        or _foreign_function(operation)
        or _inside(operation, setting)
    )


def _judged_call(node: Any, setting: Setting) -> NoCut | None:
    arguments = node.arguments.args
    if any(isinstance(x, keras.Variable) for x in keras.tree.flatten(arguments)):
        return NoCut(Reason.NOT_KNOWN, "reads a variable that belongs to no layer")
    return _judged(node.operation, dataclasses.replace(setting, arguments=arguments))


def _rule_of(operation: Any) -> Rule | None:
    name = type(operation).__name__
    if not is_builtin(operation):
        return HUB_LAYERS.get(name) if _package(type(operation)) == "keras_hub" else None
    return (LAYERS if isinstance(operation, keras.Layer) else OPERATIONS).get(name)


def _across_samples(operation: Any) -> NoCut | None:
    axis = getattr(operation, "axis", None)
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    return MIXES if 0 in [a for a in axes if a is not None] else None


def _foreign_function(layer: Any) -> NoCut | None:
    for name in ("activation", "recurrent_activation"):
        function = getattr(layer, name, None)
        if function is not None and _package(function) != "keras":
            return NoCut(Reason.NOT_KNOWN, f"has an {name} that is not known to be deterministic")
    return None


def _inside(operation: Any, setting: Setting) -> NoCut | None:
    """Return why a layer that an operation contains, or a call in its graph, can't be cached."""
    graph = walked_graph(operation)
    if graph is not None:
        parts = [(node.operation, _judged_call(node, setting)) for node in graph_nodes(graph)]
    elif isinstance(operation, keras.Layer):
        parts = [(layer, _judged(layer, setting)) for layer in sublayers(operation)]
    else:
        return None
    for part, found in parts:
        if found is not None:
            return NoCut(found.reason, f"contains {_shown(part)}, which {found.detail}")
    return None


def _shown(operation: Any) -> str:
    return f"{type(operation).__name__} {getattr(operation, 'name', '')!r}"


def _package(defined: Any) -> str:
    module = getattr(defined, "__module__", None) or type(defined).__module__
    return str(module).partition(".")[0]
