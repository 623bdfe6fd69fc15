"""`check`: find what will probably spoil a training, before it is paid for."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_freeze.callbacks import FreezeScheduler
from keras_freeze.checks import ArgumentError, ArgumentTypeError, check_count
from keras_freeze.findings import (
    Findings,
    Setup,
    by_flags,
    constant_rate,
    has_known_range,
    is_called_plainly,
    of_inputs,
    of_structure,
    of_task,
    of_text,
    task_of,
)
from keras_freeze.groups import Backbone, Groups, picture_of
from keras_freeze.hub_tasks import lists_as_arrays
from keras_freeze.keras_internals import random_state
from keras_freeze.keras_internals.graph import functional_graph
from keras_freeze.measures import fixed_batch
from keras_freeze.model_picture import check_model, with_initial_values
from keras_freeze.reading import (
    all_labels,
    are_of_numbers,
    as_array,
    as_fit_has,
    given_batches,
    is_whole,
)

_OWNER = "check"
# Samples that are looked at, unless the model is built for batches of another size.
_ROWS = 32


def check(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    *,
    schedule: FreezeScheduler | None = None,
    batch_size: int | None = None,
    groups: Groups | None = None,
    backbone: Backbone | None = None,
) -> Findings:
    """Find what will probably spoil a training: inputs, flags, rates, loss, labels.

    What is looked for:

    - images that are scaled otherwise than expected: for `keras.applications` measured at the
      backbone's own input, for KerasHub's tasks by the `ImageConverter` of the task; values that
      are not finite; token numbers that an `Embedding` does not have;
    - a backbone that looks untrained, nothing or everything frozen, new layers frozen at initial
      values, Dropout in the frozen part, flags changed after `compile`;
    - pretrained groups at a rate for new layers, new layers at a rate for pretrained ones;
    - pretrained `BatchNormalization` layers that train on batches under 8;
    - labels, loss and last layer that do not fit each other; float16 without loss scaling.

    What can't be told is left alone. The model is not changed. Of data, some samples are read: a
    `tf.data.Dataset` that reshuffles moves on by a pass; of arrays, all labels are looked at,
    unless a task's preprocessor changes them.
    The callbacks of this package check the same when a `fit` begins, with the first samples where
    the data are arrays, and print a line for what they find.

    Args:
        model: `keras.Model`, built.
        x: The inputs as `fit` takes them: arrays, or `tf.data.Dataset`, `PyDataset` or torch
            `DataLoader`; for a KerasHub task, images or texts before its preprocessor. Defaults to
            None: what needs data is left out.
        y: The targets, for arrays. Defaults to None.
        schedule: The callback that will train the model, such as `GradualUnfreeze()`: what it
            plans then counts, not the present flags. Defaults to None.
        batch_size: Int, of the training. Defaults to None: that of the data if they have batches.
        groups: How to divide the model, as for `layer_groups`. Defaults to automatically, or as
            the schedule does.
        backbone: What is pretrained, as for `layer_groups`. Defaults to None, to be found, or as
            the schedule has it.

    Returns:
        `Findings`, a table of what was found with the cure for each; it is false if there is none.

    Raises:
        TypeError: if `x` is a generator, which could not be read again, or `schedule` no callback
            of this package.
        ValueError: if the model isn't built, or the schedule doesn't fit it.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3, activation="softmax", name="head")]
        ... )
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> found = check(model, np.ones((6, 4)), np.array([1, 2, 3, 1, 2, 3]))
        >>> found.names
        ('labels',)
    """
    check_model(_OWNER, model)
    if batch_size is not None:
        check_count(_OWNER, "batch_size", batch_size)
    if schedule is not None and not isinstance(schedule, FreezeScheduler):
        rule = "be a callback such as GradualUnfreeze()"
        raise ArgumentTypeError(_OWNER, "schedule", rule, value=schedule)
    for name, value in (("groups", groups), ("backbone", backbone)):
        if schedule is not None and value is not None:
            advice = f"Pass {name}= to the callback."
            rule = "be left out where there is a schedule"
            raise ArgumentError(_OWNER, name, rule, value=value, advice=advice)
    with random_state.preserved():
        given, inputs, labels, are_all, rows = _sample(model, x, y)
    size = batch_size or rows
    setup: Setup
    if schedule is not None:
        setup = schedule.setup(model, batch_size=size)
    else:
        picture = with_initial_values(picture_of(model, groups, backbone))
        setup = by_flags(picture, size)
    found = list(of_structure(setup))
    if inputs is not None and not are_of_numbers(inputs):
        found += of_text(model, inputs)
    elif inputs is not None:
        every = lists_as_arrays(model, x)
        are_arrays = all(isinstance(leaf, np.ndarray) for leaf in keras.tree.flatten(every))
        found += of_inputs(setup.picture, inputs, given, every if are_arrays else None)
    if getattr(model, "compiled", False):
        found += of_task(model, labels, are_all=are_all)
    skipped = _skipped(setup, inputs, labels)
    if schedule is None:
        skipped += ("what a schedule trains: pass schedule=, such as GradualUnfreeze()",)
    return Findings(model.name, tuple(found), skipped)


def _sample(model: keras.Model, x: Any, y: Any) -> tuple[Any, Any, Any, bool, int | None]:
    """Return what is looked at of some data.

    Returns:
        Some inputs as they were given, the same as tensors as `fit` has them, labels, whether
        these are those of all samples, and the size of batches of data that have batches.
    """
    if x is None:
        return None, None, None, False, None
    size = fixed_batch(model) or _ROWS
    batch = next(given_batches(_OWNER, model, x, y, None, size=size, count=1), None)
    if batch is None:
        raise ArgumentError(_OWNER, "x", "have samples", value=x)
    given = keras.utils.unpack_x_y_sample_weight(batch)[0]
    inputs, labels, _ = keras.utils.unpack_x_y_sample_weight(as_fit_has(_OWNER, model, batch))
    if labels is not None:
        labels = keras.tree.map_structure(as_array, labels)
    labels, are_all = all_labels(model, x, y, labels)
    is_of_one = isinstance(labels, list) and len(labels) == 1 and hasattr(labels[0], "shape")
    rows = len(keras.tree.flatten(inputs)[0]) if is_whole(x) else None
    return given, inputs, labels[0] if is_of_one else labels, are_all, rows


def _has_images(x: Any) -> bool:
    return any(len(getattr(leaf, "shape", ())) == 4 for leaf in keras.tree.flatten(x))


def _skipped(setup: Setup, x: Any, labels: Any) -> tuple[str, ...]:
    """Return what could not be checked."""
    reasons, model, part = [], setup.model, setup.picture.pretrained
    if part is None or part.is_assumed:
        reasons.append(
            "rates and flags of pretrained layers: pass backbone=, to say which they are"
        )
    if x is not None and not are_of_numbers(x):
        reasons.append("preprocessing and token numbers: the inputs are no numbers")
    elif x is not None and not is_called_plainly(setup.picture):
        reasons.append("inputs where they reach the backbone: the model has code of its own")
    elif _has_images(x) and not has_known_range(setup.picture):
        reasons.append("preprocessing: the range of images that the model expects is not known")
    if x is None:
        reasons.append("inputs and labels: pass x and y")
    elif labels is None:
        reasons.append("labels: pass y")
    if not getattr(model, "compiled", False):
        reasons.append("loss, rates and flags at compile: the model is not compiled")
    elif constant_rate(model) is None:
        reasons.append("learning rates: the model is not compiled with one number as its rate")
    if getattr(model, "compiled", False) and functional_graph(model) is None:
        reasons.append(
            "loss and labels: the model has code of its own, so its outputs aren't known"
        )
    elif getattr(model, "compiled", False) and task_of(model) is None:
        reasons.append("loss and labels: it is not one output with a crossentropy of Keras")
    elif labels is not None and not isinstance(labels, list) and not hasattr(labels, "shape"):
        reasons.append(f"labels: they are a {type(labels).__name__}, not an array")
    return tuple(reasons)
