"""Labels, loss and last layer that don't fit: what trains without an error, but wrongly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_freeze.findings.finding import Finding, in_order
from keras_freeze.keras_internals.graph import functional_graph, origin_of

_SPARSE = "sparse_categorical_crossentropy"
_CATEGORICAL = "categorical_crossentropy"
_BINARY = "binary_crossentropy"
_LOSSES = (_SPARSE, _CATEGORICAL, _BINARY)
_NAMES = {
    keras.losses.SparseCategoricalCrossentropy: _SPARSE,
    keras.losses.CategoricalCrossentropy: _CATEGORICAL,
    keras.losses.BinaryCrossentropy: _BINARY,
    keras.losses.MeanSquaredError: "mean_squared_error",
    keras.losses.MeanAbsoluteError: "mean_absolute_error",
    keras.losses.MeanAbsolutePercentageError: "mean_absolute_percentage_error",
    keras.losses.MeanSquaredLogarithmicError: "mean_squared_logarithmic_error",
    keras.losses.Huber: "huber",
    keras.losses.LogCosh: "log_cosh",
    keras.losses.Poisson: "poisson",
}
_NUMBERS = set(_NAMES.values()) - set(_LOSSES)
# Fewer labels may be the same by chance.
_FEW = 20


@dataclasses.dataclass(frozen=True)
class Task:
    """What a model with one output computes, and how it is judged.

    Attributes:
        loss: Str, the loss by its name in Keras.
        from_logits: Bool, what the loss takes the outputs for.
        units: Int, the size of the last axis of the outputs.
        rank: Int, the dimensions of the outputs, batch included.
        activation: Str, of the last layer, None if not known.
        ignored: Int, a label that the loss leaves out; None for none.
    """

    loss: str
    from_logits: bool
    units: int
    rank: int
    activation: str | None
    ignored: int | None = None


def has_loss_of_numbers(model: keras.Model) -> bool:
    """Tell whether the one loss of a model is one of Keras's for numbers."""
    return _loss_name(_only_loss(model)) in _NUMBERS


def task_of(model: keras.Model) -> Task | None:
    """Return what a model computes; None where it isn't one of the known cases."""
    graph = functional_graph(model)
    loss = _only_loss(model)
    if graph is None or loss is None or len(graph.outputs) != 1:
        return None
    name, from_logits = _loss_name(loss), bool(getattr(loss, "from_logits", False))
    output = graph.outputs[0]
    if name not in _LOSSES or output.shape[-1] is None:
        return None
    activation = _activation(origin_of(output))
    ignored = getattr(loss, "ignore_class", None)
    return Task(name, from_logits, int(output.shape[-1]), len(output.shape), activation, ignored)


def _only_loss(model: keras.Model) -> Any:
    loss: Any = getattr(model, "loss", None)
    if isinstance(loss, Mapping):
        loss = [*loss.values()]
    return loss[0] if isinstance(loss, (list, tuple)) and len(loss) == 1 else loss


def _loss_name(loss: Any) -> str:
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        return _NAMES.get(type(loss), "")
    is_own = not str(getattr(loss, "__module__", "")).startswith("keras.")
    return "" if is_own else str(getattr(loss, "__name__", ""))


def _activation(layer: Any) -> str | None:
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    if isinstance(layer, keras.Model):
        graph = functional_graph(layer)
        return None if graph is None else _activation(origin_of(graph.outputs[0]))
    known = (keras.layers.Dense, keras.layers.Activation, keras.layers.Conv2D, keras.layers.Conv1D)
    if type(layer) not in known:
        return None
    name = str(getattr(layer.activation, "__name__", ""))
    # One that passes on what it gets, as for a change of dtype, says nothing.
    return None if isinstance(layer, keras.layers.Activation) and name == "linear" else name or None


def of_task(model: keras.Model, y: Any = None, *, are_all: bool = True) -> tuple[Finding, ...]:
    """Return what is found of a model's loss, its last layer and, if given, its labels.

    Args:
        model: `keras.Model`, compiled.
        y: Labels, an array; None for none.
        are_all: Bool, whether these are all labels, not those of a batch. Defaults to True.
    """
    task = task_of(model)
    if task is None:
        return ()
    labels = None if y is None or not hasattr(y, "shape") else np.asarray(y)
    if labels is not None and labels.dtype.kind in "USO":
        return in_order([_last_layer(task), _no_numbers(labels)])
    if labels is None or labels.dtype.kind not in "biuf":
        return in_order([_last_layer(task)])
    unfit = _not_finite(labels) or _labels(task, labels) or (_constant(labels) if are_all else None)
    return in_order([_last_layer(task), unfit])


def _last_layer(task: Task) -> Finding | None:
    """Return what is wrong with the last layer."""
    has_probabilities = task.activation in ("softmax", "sigmoid")
    if task.from_logits and has_probabilities:
        return Finding(
            "loss and last layer",
            "The loss expects logits (from_logits=True), and the last layer's activation is "
            f"{task.activation}",
            "the loss without from_logits=True, or the last layer with activation=None",
        )
    if task.activation == "softmax" and task.units == 1:
        return Finding(
            "loss and last layer",
            "A softmax over a single output is 1 whatever the model computes",
            'Dense(1, activation="sigmoid") with loss="binary_crossentropy"',
        )
    if not task.from_logits and task.activation in ("linear", "relu", "tanh"):
        kind = "sigmoid" if task.loss == _BINARY else "softmax"
        return Finding(
            "loss and last layer",
            f"{task.loss} takes the outputs for probabilities, and the last layer's activation is "
            f"{task.activation}",
            f'activation="{kind}", or the loss with from_logits=True',
        )
    return None


def _no_numbers(labels: np.ndarray[Any, Any]) -> Finding | None:
    if not labels.size:
        return None
    first = labels.ravel()[:1].tolist()[0]
    if isinstance(first, (str, bytes)):
        what, cure = f"text, such as {first!r}", "names, y = np.unique(y, return_inverse=True)"
    else:
        what, cure = f"objects of Python ({type(first).__name__})", "y = np.array(y.tolist())"
    return Finding("labels", f"Labels are {what}, and training takes arrays of numbers", cure)


def _constant(labels: np.ndarray[Any, Any]) -> Finding | None:
    if len(labels) < _FEW or (labels != labels[:1]).any():
        return None
    return Finding(
        "labels",
        f"All {len(labels):,} labels are the same, so that there is nothing to learn",
        "np.unique(y, return_counts=True), and look where the other classes were lost",
    )


def _not_finite(labels: np.ndarray[Any, Any]) -> Finding | None:
    if labels.dtype.kind != "f" or np.isfinite(labels).all():
        return None
    cure = "keep = np.isfinite(y); x, y = x[keep], y[keep]"
    return Finding("labels", "Labels contain NaN or infinity", cure)


def _labels(task: Task, labels: np.ndarray[Any, Any]) -> Finding | None:
    """Return what is wrong with labels for a loss."""
    has_classes = labels.ndim == task.rank and labels.shape[-1] == task.units and task.units > 1
    if task.ignored is not None:
        labels = labels[labels != task.ignored] if not has_classes else labels
    lowest, highest = (float(labels.min()), float(labels.max())) if labels.size else (0.0, 0.0)
    if task.loss == _SPARSE:
        if has_classes:
            return Finding(
                "labels",
                f"Labels of shape {labels.shape} have a column for each class, and {_SPARSE} "
                "expects class numbers",
                f'loss="{_CATEGORICAL}"',
            )
        return _class_numbers(task, labels, lowest, highest)
    if task.loss == _CATEGORICAL and not has_classes and task.units > 1:
        return Finding(
            "labels",
            f"Labels of shape {labels.shape} are not one column for each of {task.units} classes, "
            f"which {_CATEGORICAL} expects",
            f'loss="{_SPARSE}"',
        )
    if task.loss == _CATEGORICAL and has_classes:
        sums = labels.sum(axis=-1)
        sums = sums[sums != 0]  # rows of zeros are padding
        if np.abs(sums - 1).max(initial=0) > 0.01:
            return Finding(
                "labels",
                f"Rows of labels add up to {sums.min():g} to {sums.max():g}, and "
                f"{_CATEGORICAL} expects 1: one class a sample",
                f'loss="{_BINARY}" with a sigmoid, where a sample may have several classes',
            )
    if task.loss == _BINARY and (lowest < 0 or highest > 1):
        is_class = task.units > 1 and labels.ndim < task.rank
        return Finding(
            "labels",
            f"Labels from {lowest:g} to {highest:g} are no probabilities, which {_BINARY} expects",
            f'loss="{_SPARSE}"' if is_class else f"y = (y > {lowest:g}).astype(int)",
        )
    return None


def _class_numbers(
    task: Task, labels: np.ndarray[Any, Any], lowest: float, highest: float
) -> Finding | None:
    are_whole = labels.dtype.kind != "f" or bool((labels == np.floor(labels)).all())
    if lowest >= 0 and highest < task.units and are_whole:
        return None
    cure = f"a last layer of {int(highest) + 1} units"
    if lowest == 1 and highest == task.units:
        cure = "y = y - 1, since classes are counted from 0"
    elif lowest < 0 or not are_whole or len(np.unique(labels)) <= task.units:
        cure = "y = np.unique(y, return_inverse=True)[1]"
    return Finding(
        "labels",
        f"Labels go from {lowest:g} to {highest:g}, and the model has {task.units} classes "
        f"(0 to {task.units - 1})",
        cure,
    )
