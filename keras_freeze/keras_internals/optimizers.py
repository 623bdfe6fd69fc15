"""What optimizers hold: their learning rate."""

from __future__ import annotations

from typing import Any

import keras


def learning_rate(optimizer: Any) -> float | None:
    """Return the rate an optimizer trains at now, None if it has no single one."""
    try:
        rate = keras.ops.cast(optimizer.learning_rate, "float32")
    except AttributeError:  # MultiOptimizer
        return None
    return float(keras.ops.convert_to_numpy(rate))
