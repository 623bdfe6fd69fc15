"""Hold a user's own train or test step to what `PrefixCache(custom_step=True)` promises of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_freeze.checks import ArgumentError
from keras_freeze.keras_internals.attributes import own_attribute
from keras_freeze.keras_internals.tensors import substituted_value, write_mark
from keras_freeze.prefix_cache.batches import Kind


def broken_promise(kind: Kind, what: str) -> ArgumentError:
    """Return the error for a step that does what a cut can't serve."""
    return ArgumentError(
        "PrefixCache",
        "custom_step",
        "be True only for steps that call the model on the batch as it came, with the model's own "
        "weights, and need no gradient of the input or of frozen weights",
        received=f"a {kind}_step that {what}",
        advice="Leave custom_step=True out.",
    )


class StepCheck:
    """Raises where one step breaks the promise.

    Args:
        kind: "train" or "test".
        x: The batch's inputs.
        variables: The weights before the cut.
        values: Their values in a step of JAX; None elsewhere, where they hold them.
    """

    def __init__(
        self,
        kind: Kind,
        x: Any,
        variables: Sequence[keras.Variable],
        values: Sequence[Any] | None,
    ) -> None:
        self._kind = kind
        self._inputs = [leaf for leaf in keras.tree.flatten(x) if leaf is not None]
        self._marks = list(map(write_mark, self._inputs))
        self._weights = list(zip(variables, values or [None] * len(variables), strict=True))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Refuse writes to the weights before the cut, also those that are undone later."""

        def refuse(value: Any) -> None:
            raise broken_promise(self._kind, "writes to weights before the cut")

        with contextlib.ExitStack() as stack:
            for variable, _ in self._weights:
                stack.enter_context(own_attribute(variable, "assign", refuse))
            yield

    def called(self, *, on_batch: bool) -> None:
        """Check a call of the model, as it begins."""
        if not on_batch:
            other = "calls the model on something else than the batch alone"
            raise broken_promise(self._kind, other)
        if list(map(write_mark, self._inputs)) != self._marks:
            raise broken_promise(self._kind, "changes the batch in place")
        if any(getattr(leaf, "requires_grad", False) for leaf in self._inputs):
            raise broken_promise(self._kind, "asks for the gradient of the input")
        if any(_needs_gradient(variable) for variable, _ in self._weights):
            raise broken_promise(self._kind, "asks for the gradient of frozen weights")
        for variable, value in self._weights:
            if substituted_value(variable) is not value:
                other = f"calls the model with other weights ({variable.path})"
                raise broken_promise(self._kind, other)

    def without_gradient(self, feature: Any) -> Any:
        """Return a feature that refuses to pass a gradient on to the input.

        Only a tape of TensorFlow can watch the batch itself; elsewhere a gradient is taken with
        respect to another tensor, or to one that says so.
        """
        inputs = [t for t in self._inputs if _is_float(t)]
        if keras.backend.backend() != "tensorflow" or not inputs or not _is_float(feature):
            return feature
        import tensorflow as tf

        def refuse(*upstream: Any) -> Any:
            raise broken_promise(self._kind, "asks for the gradient of the input")

        @tf.custom_gradient
        def connected(value: Any, *inputs: Any) -> Any:
            return tf.identity(value), refuse

        return connected(feature, *inputs)


def _needs_gradient(variable: keras.Variable) -> bool:
    return bool(keras.backend.backend() == "torch" and variable.value.requires_grad)


def _is_float(tensor: Any) -> bool:
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))
