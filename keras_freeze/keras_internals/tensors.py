"""Read variables; detect whether a tensor has been written to, or one has another's value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras.src.backend.common.masking import get_keras_mask
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope


def mask_of(tensor: Any) -> Any | None:
    """Return the mask that a layer has put on its output; None for none."""
    return get_keras_mask(tensor)


def write_mark(value: Any) -> Any:
    """Return a value that differs after a write to a tensor; None on TensorFlow, where none does.

    Writes through torch's `.data` are not counted.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return value.data_ptr(), value._version
    return id(value) if backend == "jax" else None


def reader_of(variables: Sequence[keras.Variable]) -> Callable[[], list[Any]]:
    """Return a function that returns the values of variables.

    On TensorFlow it is one operation for those of a device: one for each variable, in a traced
    function or not, takes more than twice the time.
    """
    if keras.backend.backend() != "tensorflow":
        return lambda: [variable.value for variable in variables]
    from tensorflow.python.eager import context, execute

    held = [variable.value for variable in variables]
    held = [value.values[0] if hasattr(value, "values") else value for value in held]  # replicas
    places: dict[str, list[int]] = {}
    for n, value in enumerate(held):
        places.setdefault(value.device, []).append(n)
    calls = []
    for positions in places.values():
        own = [held[n] for n in positions]
        dtypes = tuple(value.dtype.as_datatype_enum for value in own)
        attributes = ("N", len(own), "dtypes", dtypes)
        calls.append((positions, [value.handle for value in own], attributes))

    def read() -> list[Any]:
        found: list[Any] = [None] * len(variables)
        for positions, handles, attributes in calls:
            tensors = execute.execute(
                b"_ReadVariablesOp",
                len(positions),
                inputs=handles,
                attrs=attributes,
                ctx=context.context(),
            )
            for n, tensor in zip(positions, tensors, strict=True):
                found[n] = tensor
        return found

    return read


def is_on_host(value: Any) -> bool:
    """Tell whether the host's processor holds a tensor, and so has computed it."""
    backend = keras.backend.backend()
    if backend == "torch":
        return value.device.type == "cpu"
    if backend == "jax":
        return all(device.platform == "cpu" for device in value.devices())
    return "CPU" in value.device.upper()  # an array of NumPy says "cpu"


def is_on_device(value: Any) -> bool:
    """Tell whether something is a tensor that a GPU or another device holds as an array is held.

    On TensorFlow nothing is: the batches of `tf.data` are the host's.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        is_dense = isinstance(value, torch.Tensor) and value.layout is torch.strided
        return is_dense and value.is_contiguous() and not is_on_host(value)
    if backend == "jax":
        import jax

        return isinstance(value, jax.Array) and not is_on_host(value)
    return False


def wait_for(value: Any) -> None:
    """Wait until a device has computed a tensor, and what it was told to compute before."""
    keras.ops.convert_to_numpy(value[(slice(0, 1),) * value.ndim])


def substituted_value(variable: keras.Variable) -> Any | None:
    """Return what a stateless scope has put in the place of a variable's own value, if anything."""
    return get_stateless_scope().get_current_value(variable) if in_stateless_scope() else None
