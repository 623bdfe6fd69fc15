"""Read a few batches of training data as `fit` has them, for functions that only look at them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_freeze.checks import ArgumentError
from keras_freeze.hub_tasks import is_task, lists_as_arrays, preprocessed, preprocesses
from keras_freeze.keras_internals import random_state


def is_whole(x: Any) -> bool:
    """Tell whether data hold their targets and batches: a Dataset, `PyDataset` or DataLoader."""
    has_batches = isinstance(x, keras.utils.PyDataset) or hasattr(x, "element_spec")
    loader = "torch.utils.data"
    return has_batches or any(kind.__module__.startswith(loader) for kind in type(x).__mro__)


def all_labels(model: keras.Model, x: Any, y: Any, seen: Any) -> tuple[Any, bool]:
    """Return labels of some data, and whether they are those of all samples.

    Args:
        model: `keras.Model`.
        x: Inputs as they were given.
        y: Targets as they were given, or None.
        seen: The labels of the samples that were read, as arrays.
    """
    if is_whole(x) or (preprocesses(model) and not _are_rows_of(seen, lists_as_arrays(model, y))):
        return seen, False
    return lists_as_arrays(model, y), True


def _are_rows_of(seen: Any, y: Any) -> bool:
    """Tell whether labels that were read are such as were given, not changed on the way."""
    if not hasattr(seen, "shape") or not hasattr(y, "shape"):
        return False
    rows = np.asarray(y)[_order(len(y))[: len(seen)]]
    if is_of_numbers(seen) and is_of_numbers(rows):
        rows = rows.astype(seen.dtype)  # tensors may be of another precision
    return np.array_equal(seen, rows)


def check_labels(owner: str, model: keras.Model, x: Any, y: Any) -> None:
    """Refuse arrays without targets for a compiled model, unless its preprocessor makes them."""
    if y is not None or model.loss is None or is_whole(x) or hasattr(x, "__next__"):
        return
    if preprocesses(model):
        with random_state.preserved():
            batch = next(few_batches(owner, model, x, None, None, size=1, count=1), None)
        if keras.utils.unpack_x_y_sample_weight(batch)[1] is not None:
            return
    raise ArgumentError(owner, "y", "be given where x are arrays", value=y)


def check_loader(owner: str, model: keras.Model, x: Any) -> None:
    """Refuse data in batches that the `fit` of a task doesn't take."""
    if is_task(model) and is_whole(x) and not hasattr(x, "element_spec"):
        rule = "be arrays, lists or a tf.data.Dataset, as fit of a KerasHub task takes them"
        raise ArgumentError(owner, "x", rule, value=x)


def check_batched(owner: str, batch: Any) -> None:
    """Refuse single samples where batches are read."""
    if any(getattr(leaf, "shape", None) == () for leaf in keras.tree.flatten(batch)):
        advice = "Pass dataset.batch(32)."
        raise ArgumentError(owner, "x", "have batches", received="single samples", advice=advice)


def as_labels(y: Any) -> Any:
    """Return targets of arrays, those in a list of numbers as one array."""
    is_numbers = isinstance(y, list) and y and not getattr(y[0], "shape", ())
    return np.asarray(y) if is_numbers else y


def is_of_numbers(labels: Any) -> bool:
    """Tell whether labels may be numbers: texts, and those in an array of objects, are not."""
    dtype = getattr(labels, "dtype", None)
    is_text = isinstance(labels, str) or getattr(dtype, "name", "") == "string"  # of a tensor
    return not is_text and getattr(dtype, "kind", None) not in ("U", "S", "O")


def are_of_numbers(data: Any) -> bool:
    """Tell whether all arrays of some data may be numbers."""
    return all(map(is_of_numbers, keras.tree.flatten(data)))


def as_array(leaf: Any) -> Any:
    """Return a leaf of a batch as a NumPy array; text as it is."""
    return keras.ops.convert_to_numpy(leaf) if is_of_numbers(leaf) else leaf


def check_read_again(owner: str, x: Any) -> None:
    """Refuse data that can be read once only."""
    if inspect.isgenerator(x) or hasattr(x, "__next__"):
        raise TypeError(
            f"{owner}(x=...) must be data that can be read again: arrays, a tf.data.Dataset, a "
            f"PyDataset or a DataLoader. Received: {type(x).__name__}."
        )


def few_batches(
    owner: str, model: keras.Model, x: Any, y: Any, weight: Any, *, size: int, count: int
) -> Iterator[Any]:
    """Yield batches of data as the `fit` of a model has them; see `given_batches`."""
    for data in given_batches(owner, model, x, y, weight, size=size, count=count):
        yield as_fit_has(owner, model, data)


def as_fit_has(owner: str, model: keras.Model, batch: Any) -> Any:
    """Return a batch as the `fit` of a model has it, as tensors."""
    return keras.tree.map_structure(_as_tensor, preprocessed(owner, model, batch))


def given_batches(
    owner: str, model: keras.Model, x: Any, y: Any, weight: Any, *, size: int, count: int
) -> Iterator[Any]:
    """Return batches of data as they were given, as many as there are, up to a number.

    Args:
        owner: Str, the function in whose name errors are raised.
        model: `keras.Model` that would train on them.
        x: Arrays, a `tf.data.Dataset`, a `PyDataset` or a torch `DataLoader`. Rows of arrays are
            drawn at random, the same in each call.
        y: Targets for arrays, or None.
        weight: Weights of samples for arrays, or None.
        size: Int, the samples in a batch of arrays.
        count: Int, how many batches.

    Raises:
        TypeError: if `x` is a generator, which could not be read again.
        ValueError: if targets are given beside data that hold them, or if a task of KerasHub
            takes no such data.
    """
    if is_whole(x) and not (y is None and weight is None):
        rule = f"be left out where x is a {type(x).__name__}, which has the targets in it"
        left = "y" if y is not None else "sample_weight"
        raise ArgumentError(owner, left, rule, value=y if y is not None else weight)
    check_loader(owner, model, x)
    if isinstance(x, keras.utils.PyDataset):
        return (x[n] for n in range(min(count, x.num_batches or count)))
    if is_whole(x):
        return (data for data, _ in zip(x, range(count), strict=False))
    check_read_again(owner, x)
    x, y, weight = (lists_as_arrays(model, part) for part in (x, y, weight))
    return _of_arrays(owner, x, as_labels(y), weight, size, count)


def _of_arrays(owner: str, x: Any, y: Any, weight: Any, size: int, count: int) -> Iterator[Any]:
    parts = (x, y) if weight is None else (x, y, weight)
    leaves = [leaf for leaf in keras.tree.flatten(parts) if leaf is not None]
    if not all(getattr(leaf, "shape", ()) and hasattr(leaf, "__len__") for leaf in leaves):
        kinds = ", ".join(dict.fromkeys(type(leaf).__name__ for leaf in leaves))
        advice = "Pass dense arrays: a part of them is enough."
        raise ArgumentError(owner, "x", "be arrays", received=kinds, advice=advice)
    if hasattr(leaves[0], "toarray"):  # of SciPy
        raise ArgumentError(owner, "x", "be dense", value=x, advice="Pass x[:256].toarray().")
    counts = {len(leaf) for leaf in leaves}
    if len(counts) > 1:
        received = f"arrays of {', '.join(map(str, sorted(counts)))} samples"
        raise ArgumentError(owner, "y", "have a target for each sample", received=received)
    first = leaves[0]
    order = _order(len(first))
    for begin in range(0, min(len(order), size * count), size):
        rows = order[begin : begin + size]

        def pick(leaf: Any, rows: np.ndarray = rows) -> Any:
            return None if leaf is None else np.asarray(leaf)[rows]

        yield keras.tree.map_structure(pick, parts)


def _order(count: int) -> np.ndarray[Any, Any]:
    """Return the rows of arrays in the order in which they are drawn."""
    return np.random.default_rng(0).permutation(count)


def _as_tensor(leaf: Any) -> Any:
    """Return a leaf of a batch as a tensor; text, which not every backend has, as an array."""
    if isinstance(leaf, str) or getattr(getattr(leaf, "dtype", None), "name", "") == "string":
        return np.asarray(leaf)
    if leaf is None or not is_of_numbers(leaf):
        return leaf
    return keras.ops.convert_to_tensor(leaf)
