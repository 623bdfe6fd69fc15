"""Judge whether a layer returns the same output for the same sample each time it is called.

Layers that augment at random count as such where views of their output are kept.

Only layers and operations that Keras itself defines are known well enough to be judged, and a
few composite ones of KerasHub by the layers that they contain. Nothing else is cached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from keras_freeze.cuts.determinism_rules import (
    ADDS_LOSS,
    AUGMENTATIONS,
    HUB_LAYERS,
    LAYERS,
    NOT_KNOWN,
    OPERATIONS,
    Rule,
    Setting,
    across_samples,
)
from keras_freeze.cuts.reasons import NoCut, Reason
from keras_freeze.keras_internals.graph import graph_nodes, walked_graph
from keras_freeze.keras_internals.layers import is_builtin, sublayers
from keras_freeze.keras_internals.own_code import STEP_METHODS, is_activation, replaced_methods
from keras_freeze.model_picture import every_layer


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


def draws(operation: Any, setting: Setting) -> bool:
    """Tell whether an operation changes images at random, and views of them are kept."""
    if not setting.views or not isinstance(operation, keras.Layer):
        return False
    return any(type(layer).__name__ in AUGMENTATIONS for layer in every_layer(operation))


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
        or across_samples(operation, setting)
        or _foreign_function(operation)
        or _inside(operation, setting)
    )


def _judged_call(node: Any, setting: Setting) -> NoCut | None:
    arguments = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    if any(isinstance(x, keras.Variable) for x in arguments):
        return NoCut(Reason.NOT_KNOWN, "reads a variable that belongs to no layer")
    if isinstance(node.operation, keras.Layer) and any(map(_is_array, arguments)):
        return NoCut(Reason.NOT_KNOWN, "is given an array that is no tensor of the model")
    return _judged(node.operation, dataclasses.replace(setting, node=node))


def _is_array(value: Any) -> bool:
    return bool(getattr(value, "shape", ())) and not isinstance(value, keras.KerasTensor)


def _rule_of(operation: Any) -> Rule | None:
    name = type(operation).__name__
    if replaced_methods(operation) - STEP_METHODS:
        return None
    if not is_builtin(operation):
        return HUB_LAYERS.get(name) if _package(type(operation)) == "keras_hub" else None
    return (LAYERS if isinstance(operation, keras.Layer) else OPERATIONS).get(name)


# What a layer computes initial weights with, or applies to weights that train.
_OF_WEIGHTS = ("_initializer", "_regularizer", "_constraint")


def _foreign_function(operation: Any) -> NoCut | None:
    """Return why a function that was given to a layer is not known to be deterministic."""
    for name, part in _parts(operation):
        if not isinstance(part, keras.Operation) and not _is_known(name, part):
            return NoCut(Reason.NOT_KNOWN, f"has a {name.strip('_')} that is not known")
    return None


def _parts(operation: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an operation holds and may call, by the name of the attribute."""
    for name, value in vars(operation).items():
        if name.endswith(_OF_WEIGHTS):
            continue
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if callable(part) and not isinstance(part, (keras.Variable, type)):
                yield name, part


def _is_known(name: str, function: Any) -> bool:
    if "activation" not in name:
        return _package(function) in ("keras", "keras_hub")
    return is_activation(function)


def _inside(operation: Any, setting: Setting) -> NoCut | None:
    """Return why a layer that an operation contains, or a call in its graph, can't be cached."""
    graph = walked_graph(operation)
    within = dataclasses.replace(setting, node=None)
    if graph is not None:
        parts = [(node.operation, _judged_call(node, setting)) for node in graph_nodes(graph)]
    elif isinstance(operation, keras.Layer):
        held = [part for _, part in _parts(operation) if isinstance(part, keras.Operation)]
        inner = tuple(dict.fromkeys((*sublayers(operation), *held)))
        late = [(x, _LATE) for x in inner if operation.built and _makes_weights_later(x)]
        parts = [*late, *((part, _judged(part, within)) for part in inner)]
    else:
        return None
    for part, found in parts:
        if found is not None:
            return NoCut(found.reason, f"contains {_shown(part)}, which {found.detail}")
    return None


_LATE = NoCut(Reason.STATE, "makes its weights when it is first called")


def _makes_weights_later(part: Any) -> bool:
    is_unbuilt = isinstance(part, keras.Layer) and not part.built
    return is_unbuilt and type(part).build is not keras.Layer.build


def _shown(operation: Any) -> str:
    return f"{type(operation).__name__} {getattr(operation, 'name', '')!r}"


def _package(defined: Any) -> str:
    module = getattr(defined, "__module__", None) or type(defined).__module__
    return str(module).partition(".")[0]
