"""Estimate the work of a forward pass: multiplications for one sample, of matrices alone."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_freeze.keras_internals.graph import functional_graph, graph_nodes
from keras_freeze.model_picture import weights_of_operation


def work_of_call(node: Any) -> float:
    """Estimate the multiplications of a call in a graph."""
    nested = functional_graph(node.operation)
    if nested is not None:
        return sum(map(work_of_call, graph_nodes(nested)))
    if node.is_input or isinstance(node.operation, keras.layers.Embedding):
        return 0.0
    # A recurrent layer applies its weights at each step of its input, other layers at each
    # place of their output.
    is_recurrent = isinstance(node.operation, (keras.layers.RNN, keras.layers.Bidirectional))
    tensor = node.input_tensors[0] if is_recurrent else node.output_tensors[0]
    places = math.prod(size for size in tensor.shape[1:-1] if size)
    return float(_matrix_size(node.operation) * places)


def _matrix_size(operation: Any) -> int:
    return sum(math.prod(v.shape) for v in weights_of_operation(operation) if len(v.shape) > 1)
