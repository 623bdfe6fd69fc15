"""The inputs that something is explained of: arrays, their batches, and what has positions."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Literal

import keras
import numpy as np

from keras_freeze.checks import ArgumentError, ArgumentTypeError
from keras_freeze.hub_tasks import are_pixels, preprocesses
from keras_freeze.measures import fixed_batch
from keras_freeze.reading import are_of_numbers

#: Images of rank 4, time steps with features (rank 3), or tokens, which are ints of rank 2.
Kind = Literal["image", "series", "tokens"]
_RANKS: dict[int, Kind] = {4: "image", 3: "series"}


def checked_inputs(owner: str, model: keras.Model, x: Any) -> Any:
    """Return inputs of a model as numpy arrays, in the nest that they came in.

    Raises:
        TypeError: if they are no arrays.
        ValueError: if they are texts or pixels that a task preprocesses, if there are no samples,
            not as many in each array, or arrays of a rank that the model doesn't take.
    """
    leaves = keras.tree.flatten(x)
    is_text = preprocesses(model) and not are_of_numbers(x)
    if is_text or are_pixels(model, x):
        data = "list(x)" if is_text and isinstance(x, np.ndarray) else "x"
        made = f"model.preprocess_samples({data})"
        raise ArgumentError(
            owner,
            "x",
            f"be what {model.name} makes of its data before its layers",
            received="text" if is_text else "images of 0 to 255",
            advice=f"Pass keras.utils.unpack_x_y_sample_weight({made})[0].",
        )
    advice = "Pass some inputs, such as x_test[:16]."
    if not leaves or not all(hasattr(leaf, "shape") and len(leaf.shape) for leaf in leaves):
        rule = "be an array of inputs, or a nest of arrays"
        received = f"{type(x).__module__}.{type(x).__qualname__}"
        raise ArgumentTypeError(owner, "x", rule, received=received, advice=advice)
    counts = [len(leaf) for leaf in leaves]
    if len(set(counts)) > 1 or not counts[0]:
        received = f"arrays of {', '.join(map(str, counts))}"
        rule = "have samples, as many in each array"
        raise ArgumentError(owner, "x", rule, received=received, advice=advice)
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    ranks = [len(tensor.shape) for tensor in inputs]
    given = [len(leaf.shape) for leaf in leaves]
    if len(leaves) == 1 == len(inputs) and given[0] == ranks[0] - 1:
        received = f"an array of shape {tuple(leaves[0].shape)}"
        rule = f"have {ranks[0]} axes, the first for samples"
        raise ArgumentError(owner, "x", rule, received=received, advice="Pass x[None] for one.")
    return keras.tree.map_structure(_on_host, x)


def _on_host(leaf: Any) -> np.ndarray:
    is_array = isinstance(leaf, np.ndarray)
    return leaf if is_array else np.asarray(keras.ops.convert_to_numpy(leaf))


def count_of(x: Any) -> int:
    """Return how many samples inputs have."""
    return len(keras.tree.flatten(x)[0])


def batches_of(model: keras.Model, x: Any, batch_size: int) -> Iterator[tuple[Any, int]]:
    """Yield inputs in batches, as tensors, each with the number of samples that are to be kept.

    A model that is built for batches of a certain size gets those: the last sample fills them up.

    Args:
        model: `keras.Model`.
        x: Inputs as `checked_inputs` returns them.
        batch_size: Int, the most samples in a batch of any other model.
    """
    count, fixed = count_of(x), fixed_batch(model)
    size = fixed or min(batch_size, count)
    for start in range(0, count, size):
        rows = np.arange(start, start + size if fixed else min(start + size, count))
        kept = min(size, count - start)
        yield keras.tree.map_structure(functools.partial(_taken, rows), x), kept


def _taken(rows: np.ndarray, leaf: np.ndarray) -> Any:
    return keras.ops.convert_to_tensor(leaf[np.minimum(rows, len(leaf) - 1)])


def positions_in(owner: str, x: Any) -> tuple[Kind, int]:
    """Return what the positions of inputs are, and which of their arrays has them, flattened.

    Raises:
        ValueError: if none has any, or if it is not known which.
    """
    leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(x)]
    received = ", ".join(f"{leaf.dtype} of shape {leaf.shape}" for leaf in leaves)
    for rank, kind in _RANKS.items():
        found = [n for n, leaf in enumerate(leaves) if leaf.ndim == rank and _is_number(leaf)]
        if len(found) == 1:
            return kind, found[0]
        if found:
            rule = f"have one array of rank {rank}, or it is not known whose map is meant"
            raise ArgumentError(owner, "x", rule, received=received)
    tokens = [n for n, leaf in enumerate(leaves) if leaf.ndim == 2 and leaf.dtype.kind in "iu"]
    if isinstance(x, dict) and "token_ids" in x:  # beside their segments and padding
        ids = np.asarray(x["token_ids"])
        tokens = [n for n in tokens if np.array_equal(leaves[n], ids)][:1]
    if len(tokens) != 1:
        rule = "have positions: images, time steps with features, or one array of tokens as ints"
        raise ArgumentError(owner, "x", rule, received=received)
    return "tokens", tokens[0]


def padding_of(x: Any) -> np.ndarray | None:
    """Return which tokens count, where inputs say it as KerasHub's models take it; else None."""
    mask = x.get("padding_mask") if isinstance(x, dict) else None
    return None if mask is None else np.asarray(mask).astype(bool)


def _is_number(leaf: np.ndarray) -> bool:
    # bfloat16 is no kind of NumPy's own.
    return leaf.dtype.kind in "fiu" or "float" in leaf.dtype.name
