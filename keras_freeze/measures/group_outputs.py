"""What the layer groups of a model put out for some data."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_freeze.keras_internals.tensors import mask_of
from keras_freeze.measures.layer_outputs import Values, fixed_batch, infer, watched
from keras_freeze.measures.similarity import NotMeasurableError
from keras_freeze.model_picture import ModelPicture

# Rows that are kept of all batches together.
MAX_ROWS = 4096


def group_outputs(
    picture: ModelPicture,
    x: Any,
    *,
    batch_size: int = 32,
    max_rows: int = MAX_ROWS,
    values: Values = (),
) -> dict[str, tuple[np.ndarray, ...]]:
    """Return what each layer group puts out, as in inference: the output of its last layer.

    Where positions are pooled away or flattened at the end, it is the output before that.

    Each sample, position, time step or token is a row, but for those that are masked. Of many, some
    are drawn, the same ones each time. Batches are of about the same size. Nothing in the model
    changes.

    Args:
        picture: The picture of a model.
        x: Inputs, an array or a nest of arrays.
        batch_size: Int, at most so many samples; a model that is built for batches of a certain
            size gets those, and what doesn't fill one is left out. Defaults to 32.
        max_rows: Int, how many samples are computed and how many rows are kept, of all batches
            together. Defaults to 4096.
        values: Variables with values to use in the place of their own. Defaults to none.

    Returns:
        Dict from group to an array of shape `(rows, features)` for each batch. Groups without an
        output of floats are missing.
    """
    count = len(keras.tree.flatten(x)[0])
    if count > max_rows:
        drawn = _drawn(count, max_rows)
        x = keras.tree.map_structure(lambda leaf: np.asarray(leaf)[drawn], x)
    batches = _batches(picture.model, x, batch_size)
    rows = max(1, max_rows // len(batches))
    found: dict[str, list[np.ndarray]] = {group.name: [] for group in picture.groups}
    for batch in batches:
        for name, (layer, output) in _last_outputs(picture, batch(), values).items():
            array, mask = _channels_last(layer, output)
            kept = array.reshape(-1, array.shape[-1])
            if mask is not None:
                kept = kept[mask.ravel()]
            found[name].append(kept[_drawn(len(kept), rows)])
    return {name: tuple(own) for name, own in found.items() if own}


def group_features(
    picture: ModelPicture, x: Any, *, batch_size: int = 32, values: Values = ()
) -> dict[str, np.ndarray]:
    """Return features of each sample by layer group: means of what `group_outputs` sees.

    The mean is over positions, time steps or tokens, but for those that are masked; of a sequence
    the last step is there as well, in which a recurrent layer keeps what it has read.

    Args:
        picture: As for `group_outputs`.
        x: As for `group_outputs`; all samples are computed, but for those that don't fill a batch
            of a model that is built for some size.
        batch_size: As for `group_outputs`.
        values: As for `group_outputs`.

    Returns:
        Dict from group to an array of shape `(samples, features)`.
    """
    found: dict[str, list[np.ndarray]] = {group.name: [] for group in picture.groups}
    for batch in _batches(picture.model, x, batch_size):
        for name, (layer, output) in _last_outputs(picture, batch(), values).items():
            found[name].append(_pooled(*_channels_last(layer, output)))
    return {name: np.concatenate(own) for name, own in found.items() if own}


def _pooled(array: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the mean over positions, and of a sequence also its last step."""
    if array.ndim == 2:
        return array
    positions = array.reshape(len(array), -1, array.shape[-1])
    if mask is None:
        mask = np.ones(array.shape[:-1], bool)
    weights = mask.reshape(len(array), -1, 1).astype("float32")
    means = (positions * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
    if array.ndim > 3:
        return means
    steps = np.arange(positions.shape[1])
    last = np.where(mask, steps, 0).max(axis=1)
    return np.concatenate([means, positions[np.arange(len(array)), last]], axis=1)


def _batches(model: keras.Model, x: Any, batch_size: int) -> list[Callable[[], Any]]:
    """Return functions that make batches of about the same size, as tensors."""
    count, fixed = len(keras.tree.flatten(x)[0]), fixed_batch(model)
    if fixed is not None:
        count -= count % fixed
        batch_size = fixed
    if not count:
        raise NotMeasurableError(f"the samples don't fill a batch of {fixed}. Give more.")
    batches = math.ceil(count / batch_size)
    ends = [count * n // batches for n in range(batches + 1)]
    takes = [functools.partial(_rows_of, *pair) for pair in itertools.pairwise(ends)]
    return [functools.partial(keras.tree.map_structure, take, x) for take in takes]


def _rows_of(start: int, end: int, array: Any) -> Any:
    return keras.ops.convert_to_tensor(array[start:end])


def _last_outputs(
    picture: ModelPicture, x: Any, values: Values
) -> dict[str, tuple[keras.Layer, Any]]:
    """Call the model, and return by group the layer that was called last, with its output."""
    found: dict[str, tuple[keras.Layer, Any]] = {}
    names = {id(layer): group.name for group in picture.groups for layer in group.layers}

    def see(layer: keras.Layer, output: Any) -> Any:
        tensors = [t for t in keras.tree.flatten(output) if _has_features(t)]
        before = found.get(names[id(layer)])
        is_pooled = before and tensors and not layer.weights and tensors[0].ndim < before[1].ndim
        if tensors and not is_pooled:
            found[names[id(layer)]] = layer, tensors[0]
        return output

    with watched((layer for group in picture.groups for layer in group.layers), see):
        infer(picture.model, x, values)
    return found


def _has_features(tensor: Any) -> bool:
    is_array = hasattr(tensor, "dtype") and len(getattr(tensor, "shape", ())) > 1
    return is_array and keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))


def _channels_last(layer: keras.Layer, output: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Return an output with its features last, and the mask of its positions if it has one."""
    mask = mask_of(output)
    array = np.asarray(keras.ops.convert_to_numpy(output), "float32")
    if getattr(layer, "data_format", None) == "channels_first" and array.ndim > 2:
        array = np.moveaxis(array, 1, -1)
    if mask is None or tuple(mask.shape) != array.shape[:-1]:
        return array, None
    return array, np.asarray(keras.ops.convert_to_numpy(mask), bool)


def _drawn(total: int, count: int) -> np.ndarray | slice:
    """Return which rows are kept, the same ones for the same numbers."""
    if total <= count:
        return slice(None)
    return np.sort(np.random.default_rng(0).choice(total, count, replace=False))
