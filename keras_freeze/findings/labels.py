"""Labels, loss and last layer that don't fit: what trains without an error, but wrongly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_freeze.checks import first_few
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
    if isinstance(y, list):
        return in_order([_of_list(y)])
    labels = None if y is None or not hasattr(y, "shape") else np.asarray(y)
    task = task_of(model)
    if task is None:
        is_known = bool(_loss_name(_only_loss(model)))
        unfit = _spoiled(labels) if is_known and labels is not None else None
        return in_order([_softmax_of_one(model) if is_known else None, unfit])
    last = _last_layer(task)
    if labels is None or not labels.size:
        return in_order([last])
    unfit = _spoiled(labels)
    if unfit is None and labels.dtype.kind in "biuf":
        unfit = _labels(task, labels) or (_constant(labels) if are_all else None)
    return in_order([last, unfit])


def _of_list(y: list[Any]) -> Finding | None:
    """Return that targets are a list of numbers or text; one of arrays is for several outputs."""
    if not y or hasattr(y[0], "shape"):
        return None
    if isinstance(y[0], (str, bytes)):
        return _no_numbers(np.asarray(y))
    return Finding("labels", "Labels are a list, which fit doesn't take", "y = np.array(y)")


def _softmax_of_one(model: keras.Model) -> Finding | None:
    graph = functional_graph(model)
    if graph is None or len(graph.outputs) != 1 or graph.outputs[0].shape[-1] != 1:
        return None
    if _activation(origin_of(graph.outputs[0])) != "softmax":
        return None
    return Finding(
        "loss and last layer",
        "A softmax over a single output is 1 whatever the model computes",
        "Dense(1), without an activation",
    )


def _last_layer(task: Task) -> Finding | None:
    """Return what is wrong with the last layer."""
    has_probabilities = task.activation in ("softmax", "sigmoid")
    if task.units == 1 and (task.activation == "softmax" or task.loss != _BINARY):
        what = "A softmax over a single output is 1"
        if task.activation != "softmax":
            what = f"{task.loss} of a single output is 0"
        return Finding(
            "loss and last layer",
            f"{what} whatever the model computes",
            'Dense(1, activation="sigmoid") with loss="binary_crossentropy"',
        )
    if task.from_logits and has_probabilities:
        return Finding(
            "loss and last layer",
            "The loss expects logits (from_logits=True), and the last layer's activation is "
            f"{task.activation}",
            "the loss without from_logits=True, or the last layer with activation=None",
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


def _spoiled(labels: np.ndarray[Any, Any]) -> Finding | None:
    """Return labels that no loss can take: text, objects, NaN."""
    if not labels.size:
        return None
    if labels.dtype.kind in "USO":
        return _no_numbers(labels)
    if labels.dtype.kind != "f" or np.isfinite(labels).all():
        return None
    keep = "np.isfinite(y)" if labels.ndim == 1 else "np.isfinite(y).reshape(len(y), -1).all(1)"
    return Finding(
        "labels", "Labels contain NaN or infinity", f"keep = {keep}; x, y = x[keep], y[keep]"
    )


def _no_numbers(labels: np.ndarray[Any, Any]) -> Finding:
    first = labels.ravel()[:1].tolist()[0]
    text = first.decode(errors="replace") if isinstance(first, bytes) else first
    if isinstance(text, str):
        what, cure = f"text, such as {text!r}", "names, y = np.unique(y, return_inverse=True)"
    else:
        kinds = sorted({type(one).__name__ for one in labels.ravel().tolist()})
        what, cure = f"objects of Python ({first_few(kinds)})", "y = np.array(y.tolist())"
        if "NoneType" in kinds:
            known = "keep = np.array([one is not None for one in y])"
            cure = f"{known}; x, y = x[keep], np.array(y[keep].tolist())"
        elif "list" in kinds:
            cure = "an array of numbers, in rows of one length: keras.utils.pad_sequences(y)"
    return Finding("labels", f"Labels are {what}, and training takes arrays of numbers", cure)


def _constant(labels: np.ndarray[Any, Any]) -> Finding | None:
    if len(labels) < _FEW or (labels != labels[:1]).any():
        return None
    return Finding(
        "labels",
        f"All {len(labels):,} labels are the same, so that there is nothing to learn",
        "np.unique(y, return_counts=True), and look where the other classes were lost",
    )


def _labels(task: Task, labels: np.ndarray[Any, Any]) -> Finding | None:
    """Return what is wrong with labels for a loss."""
    has_columns = labels.ndim == task.rank and labels.shape[-1] == task.units and task.units > 1
    if task.ignored is not None and not has_columns:
        labels = labels[labels != task.ignored]
    if not labels.size:
        return None
    if task.loss == _SPARSE:
        return _class_numbers(task, labels, has_columns)
    if task.loss == _CATEGORICAL:
        return _columns(task, labels) if has_columns else _no_columns(task, labels)
    if task.activation == "softmax" and has_columns and _is_far_from_one(labels.sum(axis=-1)):
        return Finding(
            "labels",
            "A sample may have several classes here, and the outputs of a softmax add up to 1",
            'a last layer with activation="sigmoid"',
        )
    return _probabilities(task, labels)


def _is_far_from_one(sums: np.ndarray[Any, Any]) -> bool:
    return bool(np.abs(sums - 1).max(initial=0) > 0.01)


def _no_columns(task: Task, labels: np.ndarray[Any, Any]) -> Finding | None:
    if task.units == 1:
        return None  # what is wrong is the last layer
    return Finding(
        "labels",
        f"Labels of shape {labels.shape} are not one column for each of {task.units} classes, "
        f"which {_CATEGORICAL} expects",
        _as_code(_SPARSE, task),
    )


def _as_code(name: str, task: Task) -> str:
    """Return another loss for the outputs of a task."""
    kind = next(cls.__name__ for cls, known in _NAMES.items() if known == name)
    return f"loss=keras.losses.{kind}(from_logits=True)" if task.from_logits else f'loss="{name}"'


def _columns(task: Task, labels: np.ndarray[Any, Any]) -> Finding | None:
    sums = labels.sum(axis=-1)
    if labels.min() < 0:
        return Finding(
            "labels",
            f"Labels from {labels.min():g} to {labels.max():g} are no probabilities, which "
            f"{_CATEGORICAL} expects",
            "y = (y > 0).astype(int)",
        )
    sums = sums[sums != 0]  # rows of zeros are padding
    if not _is_far_from_one(sums):
        return None
    return Finding(
        "labels",
        f"Rows of labels add up to {sums.min():g} to {sums.max():g}, and {_CATEGORICAL} expects "
        "1: one class a sample",
        f'loss="{_BINARY}" with a sigmoid, where a sample may have several classes',
    )


def _probabilities(task: Task, labels: np.ndarray[Any, Any]) -> Finding | None:
    """Return labels of two classes that are not from 0 to 1."""
    values = np.unique(labels)
    if values[0] >= 0 and values[-1] <= 1:
        return None
    if task.units > 1 and labels.ndim < task.rank:
        cure = _as_code(_SPARSE, task)
    elif len(values) <= 2:
        cure = f"y = (y > {values[0]:g}).astype(int)"
    elif task.units == 1 and (values == np.floor(values)).all():
        cure = _more_classes(values)
    else:
        cure = 'loss="mse" with a last layer without an activation, where labels are numbers'
    return Finding(
        "labels",
        f"Labels from {values[0]:g} to {values[-1]:g} are no probabilities, which {_BINARY} "
        "expects",
        cure,
    )


def _more_classes(values: np.ndarray[Any, Any]) -> str:
    """Return the code for as many classes as there are labels."""
    count = len(values)
    last = f'a last layer of {count} units with activation="softmax" and loss="{_SPARSE}"'
    if (values == np.arange(count)).all():
        return last
    return f"y = np.unique(y, return_inverse=True)[1], {last}"


def _class_numbers(task: Task, labels: np.ndarray[Any, Any], has_columns: bool) -> Finding | None:
    if has_columns:
        return Finding(
            "labels",
            f"Labels of shape {labels.shape} have a column for each class, and {_SPARSE} expects "
            "class numbers",
            _as_code(_CATEGORICAL, task),
        )
    values = np.unique(labels)
    lowest, highest, count = float(values[0]), float(values[-1]), len(values)
    are_whole = bool((values == np.floor(values)).all())
    if lowest >= 0 and highest < task.units and are_whole:
        return None
    numbered = "y = np.unique(y, return_inverse=True)[1]"
    void = _void(values, task.units) if are_whole else None
    if are_whole and lowest == 1 and highest == task.units:
        cure = "y = y - 1, since classes are counted from 0"
    elif void is not None:
        logits = ", from_logits=True" if task.from_logits else ""
        cure = f"loss=keras.losses.SparseCategoricalCrossentropy(ignore_class={void}{logits})"
    elif count <= task.units:
        cure = numbered
    elif not are_whole:
        cure = 'loss="mse" with a last layer of one unit, where labels are numbers'
    elif lowest >= 0:
        cure = f"a last layer of {int(highest) + 1} units"
    else:
        cure = f"{numbered}, with a last layer of {count} units"
    return Finding(
        "labels",
        f"Labels go from {lowest:g} to {highest:g}, and the model has {task.units} classes "
        f"(0 to {task.units - 1})",
        cure,
    )


def _void(values: np.ndarray[Any, Any], units: int) -> int | None:
    """Return the number by which labels say "no class", -1 or 255; None where they have none."""
    for void in (-1, 255):
        others = values[values != void]
        if len(others) == len(values) or len(others) < 2:
            continue
        # -1, 0 and 1 for three classes are classes.
        if (others >= 0).all() and (others < units).all() and (void > 0 or len(values) > units):
            return void
    return None
