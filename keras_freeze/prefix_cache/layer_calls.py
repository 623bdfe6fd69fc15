"""Cut a subclassed model, which has no graph of layers, at the calls of its own layers.

Its `call` is run as it is. A frozen, deterministic layer that gets the batch itself, or the
output of such a layer, is called once for each sample; afterwards its stored output is returned
instead. What `call` does between two layers is computed in every step.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras

from keras_freeze.keras_internals.attributes import own_attribute
from keras_freeze.keras_internals.graph import mask_of, with_mask
from keras_freeze.prefix_cache.determinism import reason_against
from keras_freeze.prefix_cache.determinism_rules import Setting

# A layer that was called, the arguments of the call that are not tensors, and the structure of
# its output.
Call: TypeAlias = tuple[keras.Layer, tuple[Any, ...], Any]
Outputs: TypeAlias = list[tuple[Any, Any]]


@dataclasses.dataclass
class Recorder:
    """Calls the frozen layers of a model and records their outputs, up to the first other layer.

    Args:
        setting: What trains.
        split: By id of a layer that is a model and cut itself, what prepares the cut.
        reached: Raised where a layer is called whose output can't be cached.
    """

    setting: Setting
    split: Mapping[int, Callable[[], None]]
    reached: type[BaseException]
    calls: list[Call] = dataclasses.field(default_factory=list)
    outputs: list[Outputs] = dataclasses.field(default_factory=list)

    def __call__(self, layer: Any, own: Callable[..., Any], known: _Known, *args: Any) -> Any:
        """Make a call of a layer, or end the recording."""
        positional, named = args
        inference = self.setting.inference or named.get("training") is False
        setting = dataclasses.replace(self.setting, inference=inference)
        if not known.all_in(args):
            raise self.reached
        if id(layer) in self.split:
            self.split[id(layer)]()
            return own(*positional, **named)
        if reason_against(layer, setting):
            raise self.reached
        outputs = own(*positional, **named)
        flat = keras.tree.flatten(outputs)
        nest = keras.tree.map_structure(lambda tensor: 0, outputs)
        self.calls.append((layer, _others(args), nest))
        self.outputs.append([(value, mask_of(value)) for value in flat])
        known.add(flat)
        return outputs


@dataclasses.dataclass
class Player:
    """Returns the outputs of recorded calls in place of the layers.

    Args:
        calls: As recorded.
        outputs: What they returned for the current batch.
        split: By id of a layer that is a model and cut itself, what prepares the cut.
    """

    calls: Sequence[Call]
    outputs: Sequence[Outputs]
    split: dict[int, Callable[[], None]]
    played: int = 0

    def __call__(self, layer: Any, own: Callable[..., Any], known: _Known, *args: Any) -> Any:
        """Return the output of a call if it is the next that was recorded, else make it."""
        positional, named = args
        is_known, is_next = known.all_in(args), self.played < len(self.calls)
        if is_known and is_next:
            recorded, others, nest = self.calls[self.played]
            if recorded is layer and others == _others(args):
                kept = self.outputs[self.played]
                self.played += 1
                values = [with_mask(value, mask) for value, mask in kept]
                known.add(values)
                return keras.tree.pack_sequence_as(nest, values)
        if is_known and not is_next and id(layer) in self.split:
            self.split.pop(id(layer))()  # once
        return own(*positional, **named)


class _Known:
    """Tensors that are the batch, or come from it by frozen layers alone."""

    def __init__(self, inputs: Any) -> None:
        self._tensors = {id(t): t for t in keras.tree.flatten(inputs)}

    def add(self, tensors: Sequence[Any]) -> None:
        self._tensors.update((id(t), t) for t in tensors)

    def all_in(self, arguments: Any) -> bool:
        tensors = [leaf for leaf in keras.tree.flatten(arguments) if keras.ops.is_tensor(leaf)]
        return bool(tensors) and all(id(tensor) in self._tensors for tensor in tensors)


@contextlib.contextmanager
def intercepted(layers: Sequence[keras.Layer], handle: Any, inputs: Any) -> Iterator[None]:
    """Let `handle` make the calls of these layers while a model computes.

    Args:
        layers: The model's own layers.
        handle: A `Recorder` or a `Player`.
        inputs: What the model's `call` got.
    """
    known = _Known(inputs)

    def replacement(layer: keras.Layer) -> Callable[..., Any]:
        own = layer.call
        return lambda *args, **kwargs: handle(layer, own, known, args, kwargs)

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(own_attribute(layer, "call", replacement(layer)))
        yield


def _others(arguments: tuple[Sequence[Any], Mapping[str, Any]]) -> tuple[Any, ...]:
    positional, named = arguments
    named = {name: value for name, value in named.items() if name != "training"}
    leaves = keras.tree.flatten((positional, named))
    return tuple(leaf for leaf in leaves if not keras.ops.is_tensor(leaf))
