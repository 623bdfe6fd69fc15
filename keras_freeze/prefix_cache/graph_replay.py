"""Run the two halves of a model that is cut: what comes before the frontier, and the rest.

Both halves are calls of the model itself, so that everything around its layers (training mode,
masks, dtypes, name scopes) is Keras's own. Only the walk through its graph is replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import keras

from keras_freeze.cuts import Frontier, GraphCut
from keras_freeze.keras_internals.attributes import own_attribute
from keras_freeze.keras_internals.graph import mask_of, replaced_walk, with_mask
from keras_freeze.prefix_cache.custom_step import StepCheck

# For each cut of a frontier, for each tensor that it keeps: the value, and its mask or None.
Features: TypeAlias = list[list[tuple[Any, Any]]]
Walk: TypeAlias = Callable[[GraphCut, Any, Callable[[Any], Any]], Any]


class NotReachedError(RuntimeError):
    """A call of the model did not go through its graph, so that it can't be cut there."""


class _Reached(BaseException):  # a jump, not an error: Keras's handlers of errors must ignore it
    """The frontier is reached; the rest of the call is not needed."""


@dataclasses.dataclass
class Use:
    """Whether a step has called the model on its own batch.

    Attributes:
        calls: Int, how many such calls there were.
        is_batch: Bool, whether such a call is running.
        armed: Ids of the cuts whose next walk is that of the batch. Other walks through the same
            graph, of a layer that is used elsewhere too, are Keras's own.
    """

    calls: int = 0
    is_batch: bool = False
    armed: set[int] = dataclasses.field(default_factory=set)

    def is_due(self, cut: GraphCut) -> bool:
        """Tell whether a cut is armed, and disarm it."""
        is_due = id(cut) in self.armed
        self.armed.discard(id(cut))
        return is_due


def features_of(
    model: keras.Model,
    frontier: Frontier,
    x: Any,
    training: bool,
    known: Mapping[int, tuple[Any, Any]] = MappingProxyType({}),
) -> Features:
    """Compute what crosses the frontier for a batch.

    Args:
        model: The model.
        frontier: Where it is cut.
        x: Its inputs, a batch.
        training: Bool, how the model is called.
        known: Values and masks, by the ids of their symbolic tensors, to start from. Defaults to
            none: from the inputs.

    Returns:
        The features.

    Raises:
        NotReachedError: if a call of the model does not go through its graph.
    """
    found: dict[int, list[tuple[Any, Any]]] = {}
    use = Use()
    thread = threading.get_ident()  # others may call the model meanwhile

    def walk(cut: GraphCut, inputs: Any, operation_of: Callable[[Any], Any]) -> Any:
        if threading.get_ident() != thread or not use.is_due(cut):
            return None
        values = _Values(cut, inputs, operation_of, use)
        if known:
            values.batch = keras.ops.shape(next(iter(known.values()))[0])[0]
        for tensor, (value, mask) in known.items():
            values.by_tensor[tensor] = with_mask(value, mask)
        for node in cut.remaining(known):
            with contextlib.suppress(_Reached):
                values.run(node)
        kept = [values.by_tensor[id(tensor)] for tensor in cut.kept]
        found[id(cut)] = [(value, mask_of(value)) for value in kept]
        raise _Reached

    step = _Step(x, use, frontier.cuts[0])
    with (
        _walking(frontier.cuts, walk),
        _recognizing(model, lambda: step if threading.get_ident() == thread else None),
        contextlib.suppress(_Reached),
    ):
        model(x, training=training)
    if len(found) < len(frontier.cuts):
        raise NotReachedError
    return [found[id(cut)] for cut in frontier.cuts]


class Replay:
    """Lets the calls that a step makes of the model on its very batch start from its features.

    Any other call, on other samples or on samples that the step has changed, computes all, or is
    refused by a check. Where the model has replicas, each makes the step on a thread of its own,
    and they take turns in the middle of it.

    Args:
        model: `keras.Model`.
        frontier: Where it is cut.
    """

    def __init__(self, model: keras.Model, frontier: Frontier) -> None:
        self._model = model
        self._cuts = frontier.cuts
        self._of_thread = threading.local()
        self._patches = contextlib.ExitStack()
        self._users = 0

    @contextlib.contextmanager
    def of(self, x: Any, features: Features, check: StepCheck | None = None) -> Iterator[Use]:
        """Replay while a step is made.

        Args:
            x: The batch's inputs, the objects that the step passes on.
            features: What crosses the frontier for them.
            check: What the step has to keep to, if it is the user's own. Defaults to nothing.

        Yields:
            `Use`, which counts these calls.
        """
        step = _Step(x, Use(), self._cuts[0], check, features)
        self._of_thread.step = step
        if not self._users:
            self._patches.enter_context(_walking(self._cuts, self._walk))
            self._patches.enter_context(_recognizing(self._model, self._step))
        self._users += 1
        try:
            yield step.use
        finally:
            self._of_thread.step = None
            self._users -= 1
            if not self._users:
                self._patches.close()

    def _step(self) -> _Step | None:
        return getattr(self._of_thread, "step", None)

    def _walk(self, cut: GraphCut, inputs: Any, operation_of: Callable[[Any], Any]) -> Any:
        step = self._step()
        if step is None or not step.use.is_due(cut):
            return None
        kept = {id(cut): own for cut, own in zip(self._cuts, step.features, strict=True) if own}
        if not any(id(inner) in kept for inner in cut.every_cut()):
            return None
        values = _Values(cut, inputs, operation_of, step.use)
        one = next(value for own in step.features for value, _ in own)
        values.batch = keras.ops.shape(one)[0]
        for tensor, (value, mask) in zip(cut.kept, kept.get(id(cut), []), strict=True):
            given = value if step.check is None else step.check.without_gradient(value)
            values.by_tensor[id(tensor)] = with_mask(given, mask)
        for node in cut.after:
            values.run(node)
        return [values.by_tensor[id(tensor)] for tensor in cut.graph.outputs]


class _Values:
    """The values of the tensors of one graph while it is walked through."""

    def __init__(
        self, cut: GraphCut, inputs: Any, operation_of: Callable[[Any], Any], use: Use
    ) -> None:
        self.cut = cut
        self.operation_of = operation_of
        self.use = use
        flat = keras.tree.flatten(inputs)
        self.by_tensor = {id(t): v for t, v in zip(cut.graph.inputs, flat, strict=True)}
        self.batch: Any = None

    def run(self, node: Any) -> None:
        inner = self.cut.inner.get(id(node))
        if inner is not None:
            self._stand_in(node)
            self.use.armed.add(id(inner))
        args, kwargs = node.arguments.fill_in(self.by_tensor)
        outputs = self.operation_of(node.operation)(*args, **kwargs)
        for tensor, value in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
            self.by_tensor[id(tensor)] = value

    def _stand_in(self, node: Any) -> None:
        """Give a nested model inputs of the right shape that it won't read."""
        for tensor in node.input_tensors:
            if id(tensor) not in self.by_tensor:
                shape = (self.batch, *(size or 1 for size in tensor.shape[1:]))
                self.by_tensor[id(tensor)] = keras.ops.zeros(shape, tensor.dtype)


@contextlib.contextmanager
def _walking(cuts: Sequence[GraphCut], walk: Walk) -> Iterator[None]:
    """Replace the walks through these graphs; where `walk` returns None, Keras makes its own."""
    with contextlib.ExitStack() as stack:
        for cut in cuts:
            stack.enter_context(replaced_walk(cut.graph, functools.partial(walk, cut)))
        yield


@dataclasses.dataclass
class _Step:
    """A batch, and what a call of the model on it begins with."""

    x: Any
    use: Use
    outer: GraphCut
    check: StepCheck | None = None
    features: Features = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.leaves = keras.tree.flatten(self.x)  # as they came: a step may change a dict


@contextlib.contextmanager
def _recognizing(model: keras.Model, present: Callable[[], _Step | None]) -> Iterator[None]:
    """Recognize calls of the model on a step's own batch, and arm the cut for them."""
    own_class = model.__class__
    with own_attribute(model, "_keras_freeze_step", present):
        model.__class__ = _recognizing_class(own_class)
        try:
            yield
        finally:
            model.__class__ = own_class


@functools.lru_cache(maxsize=16)
def _recognizing_class(own_class: type) -> Any:
    # Python looks `__call__` up in the class. When Keras calls `call`, the inputs may have been
    # converted to other objects; but on JAX it calls `call` alone.
    def recognizing(name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            step: _Step | None = self._keras_freeze_step()
            if step is None:
                return getattr(own_class, name)(self, *args, **kwargs)
            use, before = step.use, step.use.is_batch
            if not (before and name == "call"):
                use.is_batch = _is_alone(args, kwargs, step)
                use.calls += use.is_batch
                if step.check is not None:
                    step.check.called(on_batch=use.is_batch)
            if name == "call" and use.is_batch:
                use.armed = {id(step.outer)}
            try:
                return getattr(own_class, name)(self, *args, **kwargs)
            finally:
                use.is_batch = before

        return method

    methods = {name: recognizing(name) for name in ("__call__", "call")}
    return type(own_class.__name__, (own_class,), methods)


def _is_alone(args: Sequence[Any], kwargs: Mapping[str, Any], step: _Step) -> bool:
    """Tell whether a call gets the batch as it came, and nothing else but its mode."""
    given = {**dict(zip(("inputs", "training", "mask"), args, strict=False)), **kwargs}
    inputs, training = given.pop("inputs", None), given.pop("training", None)
    is_plain = len(args) <= 3 and all(value is None for value in given.values())
    left = keras.tree.flatten(inputs)
    if not is_plain or not (training is None or isinstance(training, bool)):
        return False
    if isinstance(inputs, Mapping) != isinstance(step.x, Mapping) or len(left) != len(step.leaves):
        return False
    return all(a is b and mask_of(a) is None for a, b in zip(left, step.leaves, strict=True))
