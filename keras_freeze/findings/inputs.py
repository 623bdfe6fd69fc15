"""Inputs that a backbone was not trained on: another range, token numbers that it doesn't have."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_freeze.findings.backbone_input import images_before
from keras_freeze.findings.finding import Finding, in_order
from keras_freeze.findings.preprocessing import (
    Extremes,
    Family,
    Range,
    family_of,
    mismatch,
    steps_before,
)
from keras_freeze.keras_internals.graph import functional_graph, graph_nodes
from keras_freeze.model_picture import ModelPicture


def of_inputs(picture: ModelPicture, x: Any) -> tuple[Finding, ...]:
    """Return what is found of some inputs of a model.

    Args:
        picture: The picture of a model, with its groups.
        x: The inputs of a batch, tensors.
    """
    return in_order([_not_finite(x), _preprocessing(picture, x), _tokens(picture, x)])


def _not_finite(x: Any) -> Finding | None:
    for leaf in keras.tree.flatten(x):
        if _is_float(leaf) and not np.isfinite(_numbers(leaf)).all():
            return Finding(
                "inputs",
                "Inputs contain NaN or infinity, which turns all weights into NaN",
                "x = np.nan_to_num(x)",
            )
    return None


def _is_float(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(dtype)
    )


def _numbers(leaf: Any) -> np.ndarray[Any, Any]:
    return np.asarray(keras.ops.convert_to_numpy(leaf), "float32")


def _preprocessing(picture: ModelPicture, x: Any) -> Finding | None:
    if picture.pretrained is None:
        return None
    layers = picture.pretrained.layers
    family = family_of([part.name for layer in layers for part in picture.layers_in[id(layer)]])
    seen = None if family is None else images_before(picture, x)
    if family is None or seen is None:
        return None
    steps, expected = steps_before(seen.letters, family)
    if expected is None:
        return None
    extremes = Extremes.of(seen.stages[steps])
    found = mismatch(extremes, expected)
    if found is None:
        return None
    return Finding(
        "preprocessing",
        f"Backbones of keras.applications.{family.module} expect {expected.words}; this one gets "
        f"{found} (from {extremes.words})",
        _cure(family, expected),
    )


def _cure(family: Family, expected: Range) -> str:
    if expected.name == "raw":
        return "images of 0 to 255 as they are: the backbone scales them itself"
    return f"x = keras.applications.{family.module}.preprocess_input(x), with x of 0 to 255"


def _tokens(picture: ModelPicture, x: Any) -> Finding | None:
    """Return token numbers that an `Embedding` at the inputs doesn't have."""
    graph = functional_graph(picture.model)
    if graph is None:
        return None
    leaves = keras.tree.flatten(x)
    if len(leaves) != len(graph.inputs) or isinstance(x, dict):
        return None
    by_input = dict(zip(map(id, graph.inputs), leaves, strict=True))
    for node in graph_nodes(graph):
        layer = node.operation
        if not isinstance(layer, keras.layers.Embedding):
            continue
        (tensor,) = node.input_tensors
        leaf = by_input.get(id(tensor))
        if leaf is None:
            continue
        highest, lowest = int(_numbers(leaf).max()), int(_numbers(leaf).min())
        if highest >= layer.input_dim or lowest < 0:
            return Finding(
                "token numbers",
                f"Inputs go from {lowest} to {highest}, and {layer.name} has rows 0 to "
                f"{layer.input_dim - 1}: other numbers give undefined values on some backends",
                "the tokenizer that the backbone was trained with",
            )
    return None
