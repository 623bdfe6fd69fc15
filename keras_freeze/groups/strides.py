"""By how much a layer makes its input coarser."""

from __future__ import annotations

from typing import Any

import keras

from keras_freeze.keras_internals.layers import is_builtin


def stride(op: Any, node: Any | None = None) -> float:
    """Return by how much one call makes its input coarser; below 1 where it makes it finer.

    It is read from the arguments of convolutions, poolings and their inverses, so that it is
    known for inputs of any size; for a custom layer from the shapes, where they are known.
    """
    size = getattr(op, "size", None)
    if size is not None and type(op).__name__.startswith("UpSampling"):
        return 1 / _largest(size)
    strides = getattr(op, "strides", None)
    if strides is not None:
        return 1 / _largest(strides) if "Transpose" in type(op).__name__ else _largest(strides)
    if node is None or not node.input_tensors or is_builtin(op):
        return 1.0
    return _shape_ratio(node.input_tensors[0].shape, node.output_tensors[0].shape)


def _largest(strides: Any) -> float:
    sizes = [strides] if isinstance(strides, int) else list(strides)
    return float(max((s for s in sizes if isinstance(s, int)), default=1))


def _shape_ratio(before: tuple[int | None, ...], after: tuple[int | None, ...]) -> float:
    first = 2 if keras.config.image_data_format() == "channels_first" else 1
    spatial = slice(first, len(before) - 2 + first)
    if len(before) != len(after) or len(before) < 3 or None in before[spatial] + after[spatial]:
        return 1.0
    pairs = zip(before[spatial], after[spatial], strict=True)
    return max(1.0, *(float(round((a or 1) / (b or 1))) for a, b in pairs))
