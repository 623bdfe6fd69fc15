"""Read a few batches of training data as `fit` has them, for functions that only look at them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_freeze.checks import ArgumentError
from keras_freeze.model_picture import is_of_keras_hub


def is_whole(x: Any) -> bool:
    """Tell whether data hold their targets and batches: a Dataset, `PyDataset` or DataLoader."""
    has_batches = isinstance(x, keras.utils.PyDataset) or hasattr(x, "element_spec")
    loader = "torch.utils.data"
    return has_batches or any(kind.__module__.startswith(loader) for kind in type(x).__mro__)


def preprocesses(model: keras.Model) -> bool:
    """Tell whether the `fit` of a model preprocesses its data first, as a KerasHub task does."""
    return is_of_keras_hub(model, "Task") and model.preprocessor is not None


def as_given(model: keras.Model, data: Any) -> Any:
    """Return data as `fit` takes them, which for a KerasHub task are arrays in place of lists."""
    if not preprocesses(model):
        return data
    if isinstance(data, tuple):
        return tuple(as_given(model, part) for part in data)
    if isinstance(data, Mapping):
        return {name: as_given(model, part) for name, part in data.items()}
    return np.asarray(data) if isinstance(data, list) else data


def all_labels(model: keras.Model, x: Any, y: Any, seen: Any) -> tuple[Any, bool]:
    """Return labels of some data, and whether they are those of all samples.

    Args:
        model: `keras.Model`.
        x: Inputs as they were given.
        y: Targets as they were given, or None.
        seen: The labels of the samples that were read, as arrays.
    """
    if is_whole(x) or (preprocesses(model) and np.shape(seen)[1:] != np.shape(y)[1:]):
        return seen, False
    return as_given(model, y), True


def needs_labels(model: keras.Model, x: Any, y: Any) -> bool:
    """Tell whether a compiled model can't train without the targets that are missing."""
    return y is None and model.loss is not None and not is_whole(x) and not preprocesses(model)


def as_labels(y: Any) -> Any:
    """Return targets of arrays, those in a list of numbers as one array."""
    is_numbers = isinstance(y, list) and y and not getattr(y[0], "shape", ())
    return np.asarray(y) if is_numbers else y


def is_of_numbers(labels: Any) -> bool:
    """Tell whether labels may be numbers: those in an array of text or objects are not."""
    return getattr(getattr(labels, "dtype", None), "kind", None) not in ("U", "S", "O")


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
    owner: str, model: keras.Model, x: Any, y: Any, weight: Any, size: int, count: int
) -> Iterator[Any]:
    """Yield batches of data as tensors, as many as there are, up to a number.

    Args:
        owner: Str, the function in whose name errors are raised.
        model: `keras.Model` that would train on them; what its `fit` does with them first is done.
        x: Arrays, a `tf.data.Dataset`, a `PyDataset` or a torch `DataLoader`. Rows of arrays are
            drawn at random, the same in each call.
        y: Targets for arrays, or None.
        weight: Weights of samples for arrays, or None.
        size: Int, the samples in a batch of arrays.
        count: Int, how many batches.

    Raises:
        TypeError: if `x` is a generator, which could not be read again.
        ValueError: if targets are given beside data that hold them.
    """
    found: Iterator[Any]
    if is_whole(x) and not (y is None and weight is None):
        advice = "Leave out y and sample_weight."
        raise ArgumentError(owner, "x", "have the targets in it", value=x, advice=advice)
    if isinstance(x, keras.utils.PyDataset):
        found = (x[n] for n in range(min(count, x.num_batches or count)))
    elif is_whole(x):
        found = (data for data, _ in zip(x, range(count), strict=False))
    else:
        check_read_again(owner, x)
        x, y, weight = (as_given(model, part) for part in (x, y, weight))
        found = _of_arrays(owner, x, as_labels(y), weight, size, count)
    for data in found:
        yield keras.tree.map_structure(_as_tensor, _as_fit_has_them(model, data))


def _as_fit_has_them(model: keras.Model, data: Any) -> Any:
    if not preprocesses(model):
        return data
    return model.preprocess_samples(*keras.utils.unpack_x_y_sample_weight(data))


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
    order = np.random.default_rng(0).permutation(len(first))
    for begin in range(0, min(len(order), size * count), size):
        rows = order[begin : begin + size]

        def pick(leaf: Any, rows: np.ndarray = rows) -> Any:
            return None if leaf is None else np.asarray(leaf)[rows]

        yield keras.tree.map_structure(pick, parts)


def _as_tensor(leaf: Any) -> Any:
    """Return a leaf of a batch as a tensor; text, which not every backend has, as an array."""
    if isinstance(leaf, str) or getattr(getattr(leaf, "dtype", None), "name", "") == "string":
        return np.asarray(leaf)
    if leaf is None or not is_of_numbers(leaf):
        return leaf
    return keras.ops.convert_to_tensor(leaf)
