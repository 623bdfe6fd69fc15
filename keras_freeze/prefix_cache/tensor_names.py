"""Name what a symbolic tensor computes: under the same name it has the same values for a batch.

A name is a hash of the operation, its settings, the bytes of its weights, and the names of what
goes into it, down to the inputs. So newly built models are recognized as sharing a frozen part;
the names of layers do not matter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import xxhash

from keras_freeze.cuts import Frontier, GraphCut
from keras_freeze.engine import fingerprint, fingerprint_of
from keras_freeze.keras_internals.graph import (
    graph_nodes,
    input_keys,
    inputs_of_call,
    walked_graph,
)
from keras_freeze.model_picture import every_layer, weights_of_operation

# Settings that change no output of weights that are known. A seed is of what is random anyway.
_WITHOUT_EFFECT = ("_initializer", "_regularizer", "_constraint", "seed")


def names_of(
    frontier: Frontier, values: Mapping[int, Any] = MappingProxyType({}), *, by_name: bool = False
) -> dict[int, bytes]:
    """Return names by id for the tensors before a cut; without those that can't be named.

    Args:
        frontier: Where a model is cut.
        values: Values of weights by the ids of these, where they are not to be found in them
            (JAX, in a step). Defaults to none.
        by_name: Bool, whether the model takes its inputs from a batch by their names.

    Returns:
        Dict from the id of a symbolic tensor to 16 bytes.
    """
    names: dict[int, bytes] = {}
    config = keras.config
    settings = f"{config.epsilon()} {config.floatx()} {config.image_data_format()}"
    mode = ("inference " if frontier.setting.inference else "training ") + settings
    outer = frontier.cuts[0]
    keys, given = input_keys(outer.graph), []
    for n, tensor in enumerate(outer.graph.inputs):
        place = keys.get(id(tensor), tensor.name) if by_name else n
        text = f"{mode} input {place} {_form(tensor)}"
        given.append(xxhash.xxh3_128_digest(text.encode()))
    _name_graph(outer.graph, outer.before, outer, given, names, values)
    return names


def _name_graph(
    graph: Any,
    calls: Sequence[Any],
    cut: GraphCut | None,
    given: Sequence[bytes | None],
    names: dict[int, bytes],
    values: Mapping[int, Any],
) -> None:
    """Name the tensors that these calls of a graph compute."""
    for tensor, name in zip(graph.inputs, given, strict=True):
        if name is not None:
            names[id(tensor)] = name
    for node in calls:
        if node.is_input:
            continue
        nested = walked_graph(node.operation)
        if nested is None:
            _name_call(node, names, values)
            continue
        inner = cut.inner.get(id(node)) if cut else None
        inputs = inputs_of_call(node, nested)
        is_plain = inputs is not None and len(inputs) == len(node.input_tensors)  # without masks
        # Keras casts, and adds or removes a dimension, where an input is declared otherwise.
        within = [
            _as_input(names.get(id(tensor)), tensor, declared)
            for tensor, declared in zip(inputs or (), nested.inputs, strict=False)
        ]
        before = inner.before if inner else graph_nodes(nested)
        # A graph that is called as a whole may be called again, on something else.
        found = names if inner else {}
        sources = within if is_plain else [None] * len(nested.inputs)
        _name_graph(nested, before, inner, sources, found, values)
        if inner is None:
            for tensor, source in zip(node.output_tensors, nested.outputs, strict=True):
                if id(source) in found:
                    names[id(tensor)] = found[id(source)]


def _form(tensor: Any) -> str:
    return f"{tensor.shape[1:]} {keras.backend.standardize_dtype(tensor.dtype)}"


def _as_input(name: bytes | None, tensor: Any, declared: Any) -> bytes | None:
    """Return the name of a tensor as the input of a nested model, which may be declared otherwise.

    The same name where it is not, so that a nested model is known from the same one inlined.
    """
    ranks = len(tensor.shape), len(declared.shape)
    dtypes = {keras.backend.standardize_dtype(x.dtype) for x in (tensor, declared)}
    if name is None or (ranks[0] == ranks[1] and len(dtypes) == 1):
        return name
    return xxhash.xxh3_128_digest(name + f" as input {_form(declared)}".encode())


def _name_call(node: Any, names: dict[int, bytes], values: Mapping[int, Any]) -> None:
    parts = [_settings(node.operation), *_adapted(node.operation)]
    for argument in keras.tree.flatten((node.arguments.args, node.arguments.kwargs)):
        is_tensor = isinstance(argument, keras.KerasTensor)
        parts.append(names.get(id(argument)) if is_tensor else _constant(argument))
    for variable in weights_of_operation(node.operation):
        value = values.get(id(variable))
        parts.append(fingerprint(variable) if value is None else fingerprint_of(value))
    if any(part is None for part in parts):
        return
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(len(part or b"").to_bytes(8, "little"))
        digest.update(part or b"")
    keys = json.dumps(sorted(node.arguments.kwargs)).encode()
    digest.update(keys)
    for n, tensor in enumerate(node.output_tensors):
        output = digest.copy()
        output.update(str(n).encode())
        names[id(tensor)] = output.digest()


def _settings(operation: Any) -> bytes | None:
    """Return the class and configuration of an operation; None if they are not known."""
    kind, autocast = type(operation), []
    if isinstance(operation, keras.Layer):  # which no configuration holds
        autocast = [layer.autocast for layer in every_layer(operation)]
    try:
        own = {**operation.get_config(), "name": "", "trainable": True, "autocast": autocast}
        config = json.dumps(_nameless(own), sort_keys=True)
    except (NotImplementedError, TypeError, ValueError):
        return None
    return f"{kind.__module__}.{kind.__qualname__} {config}".encode()


def _adapted(operation: Any) -> list[bytes | None]:
    """Return what `adapt` has set besides weights; None for what is not known."""
    if type(operation) is keras.layers.Normalization:
        return [fingerprint_of(operation.mean), fingerprint_of(operation.variance)]
    return [None] if hasattr(operation, "adapt") else []


def _nameless(config: Any) -> Any:
    if isinstance(config, Mapping):
        # Of layers, which have a dtype policy; the name of a policy is what it is.
        left_out = ("name", "trainable") if "dtype" in config else ()
        return {
            str(key): _nameless(value)
            for key, value in config.items()
            if key not in left_out and not str(key).endswith(_WITHOUT_EFFECT)
        }
    return [_nameless(v) for v in config] if isinstance(config, (list, tuple)) else config


def _constant(value: Any) -> bytes | None:
    simple = value is None or isinstance(value, (bool, int, float, str))
    return f"{type(value).__name__} {value!r}".encode() if simple else None
