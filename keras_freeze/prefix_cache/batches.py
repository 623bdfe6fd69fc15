"""Batches, and the keys of their samples: hashes of their bytes, so that data need no index."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import xxhash

from keras_freeze.keras_internals.tensors import is_on_device, wait_for
from keras_freeze.prefix_cache.device_keys import digests
from keras_freeze.prefix_cache.replicas import OfDifferentShapes

Kind: TypeAlias = Literal["train", "test"]
KINDS: tuple[Kind, ...] = ("train", "test")


class UnreadableBatchError(TypeError):
    """The inputs of a batch are not arrays with a row for each sample."""


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """The inputs of a batch, and what a step gets with them.

    Attributes:
        x: The inputs, an array or a nest of arrays.
        kind: "train" or "test", the step that it is for.
        state: What JAX's trainer passes into a step; its first two elements are the values of the
            variables that train and that don't. Empty on other backends.
        drawn: Values that a prefix begins with instead of the inputs: an augmentation of them.
        promised: TensorFlow's shapes and dtypes of the inputs of all batches, if they are known; of
            one replica's part, where there are several.
        is_kept_long: Bool, whether its features are for batches of other sizes too.
        replica_rows: How many of its samples each replica of the model has; empty if there is one.

    Raises:
        UnreadableBatchError: by `rows` and `keys`, if the inputs are not arrays with a row for each
            sample.
    """

    x: Any
    kind: Kind = "train"
    state: tuple[Any, ...] = ()
    promised: Any = None
    drawn: tuple[Any, ...] = ()
    is_kept_long: bool = False
    replica_rows: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Int, the number of samples."""
        first: Any = next((leaf for leaf in keras.tree.flatten(self.x) if leaf is not None), None)
        try:
            return len(first)
        except TypeError as error:
            if isinstance(first, OfDifferentShapes):
                text = "the rows of one replica have another shape than those of another"
                raise UnreadableBatchError(text) from error
            kind = type(first).__name__
            raise UnreadableBatchError(f"the inputs are {kind}, not arrays of samples") from error

    @property
    def shapes(self) -> list[Any]:
        """List of the shape of a sample and the dtype of each input, None for one that is None."""
        leaves = keras.tree.flatten(self.x)
        return [None if leaf is None else (tuple(leaf.shape[1:]), leaf.dtype) for leaf in leaves]

    @property
    def promised_rows(self) -> int | None:
        """Int, the number of samples that all batches, or replicas, have; None if it may differ."""
        leaves = [leaf for leaf in keras.tree.flatten(self.promised) if leaf is not None]
        rows: int | None = leaves[0].shape[0] if leaves else None
        return rows

    @functools.cached_property
    def keys(self) -> list[bytes]:
        """List of bytes, a key for each sample: see `keys_of`."""
        return keys_of(self.x, None if self.is_kept_long else self.promised_rows)

    def wait(self) -> None:
        """Wait for what a device that holds the inputs was told to compute before."""
        held = filter(is_on_device, keras.tree.flatten(self.x))
        for leaf in itertools.islice(held, 1):
            wait_for(leaf)

    def picked(self, rows: Sequence[int]) -> Batch:
        """Return a batch of some of its samples."""

        def pick(leaf: Any) -> Any:
            return None if leaf is None else keras.ops.take(leaf, rows, axis=0)

        drawn = tuple(map(pick, self.drawn))
        x = keras.tree.map_structure(pick, self.x)
        return dataclasses.replace(self, x=x, drawn=drawn, replica_rows=())


def placed(values: Any) -> Any:
    """Return an array or a tensor of rows where the trainer puts a batch before a step."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return keras.ops.convert_to_tensor(values)
    import jax

    return jax.device_put(values, distribution.get_data_layout(values.shape).backend_layout)


def of_any_size(shapes: Any) -> Any:
    """Return TensorFlow's shapes and dtypes of inputs, for any number of samples."""
    import tensorflow as tf

    def any_rows(leaf: Any) -> Any:
        return None if leaf is None else tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype)

    return keras.tree.map_structure(any_rows, shapes)


def keys_of(x: Any, promised_rows: int | None = None) -> list[bytes]:
    """Return 128 bits for each sample of a batch, a hash of its bytes in all inputs.

    With 10^9 samples, two of them share a key with a probability of about 10^-21. On a GPU the key
    is a hash of `digests`, so that a sample has different keys on a GPU and on the host.

    Args:
        x: An array, or a nest of arrays, of the same first dimension.
        promised_rows: Int, the size of all batches. It is part of the key, since TensorFlow may
            compute the same sample to another last bit where it knows that size.

    Raises:
        UnreadableBatchError: if it is something else.

    Example:
        >>> first, second, third = keys_of(np.array([[1, 2], [1, 3], [1, 2]]))
        >>> first == third, first == second
        (True, False)
    """
    leaves = keras.tree.flatten(x)
    arrays = [_readable(leaf) for leaf in leaves if leaf is not None]
    if not arrays or any(a.ndim == 0 or a.dtype == object for a in arrays):
        raise UnreadableBatchError("the inputs are not arrays with a row for each sample")
    if len({len(a) for a in arrays}) > 1:
        raise UnreadableBatchError("the inputs have different numbers of rows")
    # With the shape, so that rows that are padded to different lengths have different keys.
    heads = [f"{a.shape[1:]}{a.dtype}".encode() for a in arrays]
    heads.append(bytes(leaf is None for leaf in leaves) + str(promised_rows).encode())
    rows = list(map(_bytes_of, arrays))
    head = b"".join(heads)
    if len(rows) == 1:
        seed = xxhash.xxh3_64_intdigest(head)
        return [xxhash.xxh3_128_digest(row.data, seed) for row in rows[0]]
    return [_digest(head, parts) for parts in zip(*rows, strict=True)]


def _digest(head: bytes, parts: tuple[np.ndarray, ...]) -> bytes:
    digest = xxhash.xxh3_128(head)
    for part in parts:
        digest.update(part.data)
    return digest.digest()


def _bytes_of(array: Any) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        return digests(array)
    return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)


def _readable(leaf: Any) -> Any:
    """Return a tensor of a device as it is, all else as an array."""
    if is_on_device(leaf) and 0 not in leaf.shape:
        return leaf
    try:
        if keras.backend.backend() == "torch":
            return np.asarray(keras.ops.convert_to_numpy(leaf))
        return np.asarray(leaf)
    except (TypeError, ValueError, NotImplementedError) as error:
        kind = type(leaf).__name__
        raise UnreadableBatchError(f"the inputs are {kind}, not arrays") from error
