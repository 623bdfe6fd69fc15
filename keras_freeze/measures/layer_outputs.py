"""Look at what layers return while a model computes its output, or change it on the way."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras

from keras_freeze.keras_internals.attributes import own_attribute
from keras_freeze.keras_internals.layers import call_methods

#: `(layer, output) -> output`; what it returns goes on in the place of the layer's output.
See = Callable[[Any, Any], Any]
#: Variables, each with the value that it has for the moment.
Values = Sequence[tuple[keras.Variable, Any]]


@contextlib.contextmanager
def watched(layers: Iterable[Any], see: See) -> Iterator[None]:
    """Let a function see what some layers return, each time they are called.

    A layer that contains others is seen after them. A mask is not yet on an output that is seen.

    Args:
        layers: Layers, or operations of a model's graph.
        see: Gets a layer and what it returns, and returns what goes on.
    """
    with contextlib.ExitStack() as stack:
        for layer in layers:
            for name, call in call_methods(layer).items():
                stack.enter_context(own_attribute(layer, name, _seeing(layer, call, see)))
        yield


def infer(model: keras.Model, x: Any, values: Values = ()) -> Any:
    """Call a model in inference, without gradients; nothing in it changes.

    Args:
        model: `keras.Model`, built.
        x: Its inputs, as tensors.
        values: Variables with values to use in the place of their own. Defaults to none.
    """
    # So that random generators and states of layers stay as they are.
    with _without_gradients(), keras.StatelessScope(state_mapping=values):
        return model(x, training=False)


def fixed_batch(model: keras.Model) -> int | None:
    """Return the size of the batches that a model is built for; None for any."""
    inputs = keras.tree.flatten(getattr(model, "inputs", None))
    sizes = {tensor.shape[0] for tensor in inputs if tensor is not None} - {None}
    return sizes.pop() if sizes else None


def _seeing(layer: Any, call: Callable[..., Any], see: See) -> Callable[..., Any]:
    @functools.wraps(call)
    def seeing(*args: Any, **kwargs: Any) -> Any:
        return see(layer, call(*args, **kwargs))

    return seeing


@contextlib.contextmanager
def _without_gradients() -> Iterator[None]:
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            yield
    else:
        yield
