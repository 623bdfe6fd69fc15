"""Copy values of any backend to the host, as they are stored there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np


def to_host(variable: keras.Variable) -> np.ndarray:
    """Copy a variable to the host. A copy, since JAX reuses its buffers."""
    value = variable.value
    if hasattr(value, "values") and hasattr(value, "read_value"):
        value = value.values[0]  # of a tf.distribute strategy: the copies are alike
    return np.array(keras.ops.convert_to_numpy(value))


def parts_on_host(value: Any) -> Iterator[np.ndarray]:
    """Yield the arrays that a backend's value consists of, without a copy where possible.

    Of a value that is spread over several hosts, this host's part is taken.
    """
    if keras.backend.backend() == "torch":
        import torch

        # As bytes, since NumPy lacks some of torch's dtypes.
        yield value.cpu().flatten().view(torch.uint8).numpy()
    elif getattr(value, "is_fully_addressable", True):
        yield np.asarray(keras.ops.convert_to_tensor(value))
    else:
        yield from (np.asarray(shard.data) for shard in value.addressable_shards)
