"""Several processes that train one model together, each of which runs the whole script.

JAX starts them by `jax.distributed.initialize`. What is decided depends on values alone that are
equal in all of them: logs, and weights as they are stored. The first prints, shows and writes.
"""

from __future__ import annotations

import keras
import numpy as np


def count() -> int:
    """Return how many processes train one model together."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return int(jax.process_count())


def is_first() -> bool:
    """Tell whether this process is the one that prints and writes for all."""
    if keras.backend.backend() != "jax":
        return True
    import jax

    return bool(jax.process_index() == 0)


def is_alike(number: int) -> bool:
    """Tell whether a small number is the same in all processes; each of them has to ask."""
    if count() == 1:
        return True
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.int32(number)) == number))
