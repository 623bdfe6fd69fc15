"""What JAX's compiler says that a training step takes."""

from __future__ import annotations

import dataclasses

import keras

from keras_freeze.checks import ArgumentError
from keras_freeze.keras_internals.compiled_step import compiled_memory


@dataclasses.dataclass(frozen=True)
class MeasuredMemory:
    """The memory of a compiled training step, from XLA's own analysis of it, in bytes.

    Attributes:
        argument_bytes: Int, what goes in: weights, optimizer state, metrics, the batch.
        output_bytes: Int, what comes out.
        shared_bytes: Int, of that what takes the place of what went in.
        temporary_bytes: Int, everything else: activations, gradients, what is being computed.
    """

    argument_bytes: int
    output_bytes: int
    shared_bytes: int
    temporary_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.argument_bytes + self.output_bytes - self.shared_bytes + self.temporary_bytes


def measured_memory(owner: str, model: keras.Model, batch_size: int) -> MeasuredMemory:
    """Compile a training step and return what the compiler says of it; nothing is run.

    Only JAX tells. It takes as long as the compilation, and makes an optimizer's state if there is
    none yet. The model is left as it was.

    Args:
        owner: Str, in whose name errors are raised.
        model: `keras.Model`, compiled, Functional or Sequential.
        batch_size: Int, samples in a batch.

    Raises:
        ArgumentError: if the backend is not JAX, the model isn't compiled, or what its inputs and
            targets look like is not known.

    Reference:
        https://docs.jax.dev/en/latest/aot.html
    """
    backend = keras.backend.backend()

    def refused(rule: str, received: str, advice: str) -> ArgumentError:
        return ArgumentError(owner, "measured", rule, received=received, advice=advice)

    if backend != "jax":
        raise refused(
            "be False unless Keras runs on JAX",
            f"measured=True on the {backend} backend, which does not say what a step will take",
            "Set KERAS_BACKEND=jax before Python starts, or leave it out for the estimate.",
        )
    if not getattr(model, "compiled", False) or getattr(model, "optimizer", None) is None:
        raise refused("be False for a model that is not compiled", model.name, "Compile it first.")
    try:
        found = compiled_memory(model, batch_size)
    except (NotImplementedError, TypeError, ValueError) as error:
        text = str(error).strip().partition("\n")[0]
        raise refused(
            "be False for a model whose training step can't be compiled for unseen data",
            f"model {model.name!r} ({text})",
            "Leave it out for the estimate.",
        ) from error
    return MeasuredMemory(*found)
