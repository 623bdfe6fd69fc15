"""`activation_maximisation`: images that filters of a layer respond to."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.checks import (
    ArgumentError,
    ArgumentTypeError,
    call_of,
    check_count,
    is_int,
    is_number,
)
from keras_freeze.explain import ascent
from keras_freeze.explain.layout import channel_axis
from keras_freeze.explain.observation import (
    Observation,
    as_array,
    before_squashing,
    find_layer,
    is_float,
    observe,
    only_tensor,
    output_in,
)
from keras_freeze.keras_internals.gradients import gradient_of
from keras_freeze.keras_internals.graph import functional_graph
from keras_freeze.measures import fixed_batch, watched
from keras_freeze.model_picture import check_model

_OWNER = "explain.activation_maximisation"
# Of a model that takes images of any size.
_SIZE = 128
# Filters where none are named, and images that are computed together.
_FILTERS = 16
# What a negative response counts, so that a filter that nothing activates yet has a gradient.
_LEAK = 0.01
# Responses are multiplied by this, so that gradients of float16 don't vanish.
_SCALE = 128.0
# The most pixels of jitter by default.
_MAX_JITTER = 4


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FilterImages:
    """Images that filters of a layer respond to.

    Attributes:
        images: Array of shape `(filters, height, width, channels)`, within `value_range`, channels
            last whatever the model's layout.
        filters: Tuple of ints, the filters.
        before: Array of shape `(filters,)`, the mean response to the noise at the start.
        after: Array of shape `(filters,)`, the mean response to the images.
        layer: Str, the layer's name.
        model: Str, the model's name.
        value_range: Tuple of floats, the least and the largest value of an image.
    """

    images: np.ndarray
    filters: tuple[int, ...]
    before: np.ndarray
    after: np.ndarray
    layer: str
    model: str
    value_range: tuple[float, float]

    def __repr__(self) -> str:
        return call_of(self)


def activation_maximisation(
    model: keras.Model,
    layer: str | keras.Layer,
    filters: int | Sequence[int] | None = None,
    *,
    steps: int = 128,
    size: int | tuple[int, int] | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    blur: float = 0.5,
    jitter: int | None = None,
    decay: float = 0.01,
    seed: int = 0,
) -> FilterImages:
    """Make images that filters of a layer respond to, by gradient ascent on the input.

    From noise, each step goes in the direction of the gradient of a filter's response: the mean,
    over all positions, of what it returns, where that is positive. So a layer without an activation
    is treated as if ReLU came next. A unit of a layer without positions responds with its value,
    before a softmax or sigmoid. Nothing in the model changes.

    Images of a model on torch, JAX and TensorFlow start from the same noise.

    Args:
        model: `keras.Model`, Functional or Sequential, with one input: images of floats.
        layer: Str or `keras.Layer`, of the model or of a model nested in it, called once in a
            forward pass.
        filters: Int or ints, which channels or units of the layer. Defaults to None: the first 16.
        steps: Int. Defaults to 128.
        size: Int or `(height, width)` in pixels. Defaults to None: what the model takes, 128 where
            it takes any size.
        value_range: The least and the largest value that the model takes, such as `(0, 255)` where
            it holds its own preprocessing. Defaults to (-1, 1).
        blur: Float from 0, the standard deviation in pixels of a blur after every fourth step.
            Defaults to 0.5.
        jitter: Int from 0, by how many pixels images are moved at random in each step. Defaults
            to None: a sixteenth of the shorter side, 4 at most. More wipes out small images.
        decay: Float from 0 to less than 1, the part of the values, counted from the middle of
            `value_range`, that each step takes away. Defaults to 0.01.
        seed: Int, of the noise and the jitter. Defaults to 0.

    Returns:
        `FilterImages`; `plots.filters` draws them.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if the model takes anything but images or has several inputs, if there is no
            such layer or filter, or if a number is out of its range.

    Example:
        >>> keras.utils.set_random_seed(0)
        >>> model = keras.Sequential(
        ...     [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation="relu", name="conv")]
        ... )
        >>> found = activation_maximisation(model, "conv", [0, 2], steps=8)
        >>> found.images.shape
        (2, 8, 8, 3)
        >>> bool((found.after > found.before).all())
        True

    References:
        - Erhan et al., 2009, "Visualizing Higher-Layer Features of a Deep Network": maximisation.
        - [Yosinski et al., 2015](https://arxiv.org/abs/1506.06579): decay and blur.
        - [Olah et al., 2017](https://distill.pub/2017/feature-visualization/): jitter.
    """
    check_model(_OWNER, model)
    _check_numbers(steps, blur, jitter or 0, decay, seed)
    lowest, highest = _checked_range(value_range)
    chosen = find_layer(_OWNER, model, layer)
    zeros = np.zeros((1, *_input_shape(model, size)), "float32")
    seen = observe(model, _as_input(model, zeros))
    tensor = output_in(_OWNER, seen, chosen)
    if not is_float(tensor) or len(tensor.shape) < 2:
        received = f"layer {chosen.name!r}, which returns {tensor.dtype} of shape {tensor.shape}"
        raise ArgumentError(_OWNER, "layer", "return floats", received=received)
    own = channel_axis(_OWNER, seen, None, 4)
    theirs = channel_axis(_OWNER, seen, chosen, len(tensor.shape))
    units = int(tensor.shape[theirs])
    numbers = _numbers(filters, units)
    ascended = _Ascent(seen, chosen, own, theirs, (lowest, highest))
    generator = np.random.default_rng(seed)
    shape = np.moveaxis(zeros, own, -1).shape[1:]
    if jitter is None:
        jitter = min(_MAX_JITTER, min(shape[:2]) // 16)
    together = fixed_batch(model) or min(_FILTERS, len(numbers))
    images, before, after = [], [], []
    for start in range(0, len(numbers), together):
        part = numbers[start : start + together]
        wanted = np.eye(units, dtype="float32")[[*part, *part[-1:] * (together - len(part))]]
        first = ascent.noise((together, *shape), generator)
        last = ascent.climb(
            first,
            functools.partial(ascended.gradients, wanted),
            steps=steps,
            blur=blur,
            jitter=jitter,
            decay=decay,
            generator=generator,
        )
        images.append(last[: len(part)])
        before.append(ascended.responses(wanted, first)[: len(part)])
        after.append(ascended.responses(wanted, last)[: len(part)])
    found = ascended.scaled(np.concatenate(images))
    return FilterImages(
        images=found,
        filters=numbers,
        before=np.concatenate(before),
        after=np.concatenate(after),
        layer=chosen.name,
        model=model.name,
        value_range=(lowest, highest),
    )


class _Ascent:
    """Computes the gradient of filters' responses to images whose values go from -1 to 1."""

    def __init__(
        self,
        seen: Observation,
        layer: keras.Layer,
        input_axis: int,
        axis: int,
        value_range: tuple[float, float],
    ) -> None:
        self._layer, self._model = layer, seen.model
        self._axis, self._input_axis = axis, input_axis
        self._range = value_range
        self._state = [keras.ops.convert_to_tensor(v.value) for v in self._model.variables]
        self._gradient = gradient_of(self._response, traced=not self._model.run_eagerly)

    def gradients(self, wanted: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Return the gradient of each filter with respect to its image.

        Raises:
            ValueError: if they are not finite.
        """
        gradient, _ = self._both(wanted, images)
        found = np.moveaxis(as_array(gradient), self._input_axis, -1).astype("float64")
        if not np.isfinite(found).all():
            raise ArgumentError(
                _OWNER,
                "layer",
                "have finite gradients",
                received=f"NaN or infinity at layer {self._layer.name!r}",
                advice="Look for weights that are not finite.",
            )
        return found

    def responses(self, wanted: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Return the mean response of each filter to its image."""
        return as_array(self._both(wanted, images)[1])

    def scaled(self, images: np.ndarray) -> np.ndarray:
        """Return images in the range of values that the model takes."""
        lowest, highest = self._range
        return (lowest + (highest - lowest) * (images + 1.0) / 2.0).astype("float32")

    def _both(self, wanted: np.ndarray, images: np.ndarray) -> tuple[Any, Any]:
        values = np.moveaxis(self.scaled(images), -1, self._input_axis)
        given, units = (keras.ops.convert_to_tensor(part) for part in (values, wanted))
        (gradient,), responses = self._gradient([given], units, self._state)
        return keras.ops.zeros_like(given) if gradient is None else gradient, responses

    def _response(self, values: Sequence[Any], wanted: Any, state: Any) -> tuple[Any, Any]:
        at: list[Any] = []

        def see(_: Any, output: Any) -> Any:
            at.append(only_tensor(output))
            return output

        mapping = [*zip(self._model.variables, state, strict=True)]
        with contextlib.ExitStack() as stack:
            stack.enter_context(watched([self._layer], see))
            stack.enter_context(before_squashing(self._layer))
            stack.enter_context(keras.StatelessScope(state_mapping=mapping))
            self._model(_as_input(self._model, values[0]), training=False)
        output = keras.ops.moveaxis(keras.ops.cast(at[0], "float32"), self._axis, -1)
        positions = math.prod(output.shape[1:-1])
        output = keras.ops.reshape(output, (-1, positions, output.shape[-1]))
        chosen = keras.ops.sum(output * wanted[:, None, :], axis=-1)
        if len(at[0].shape) == 2:
            responses = gains = chosen[:, 0]
        else:
            responses = keras.ops.mean(keras.ops.relu(chosen), axis=-1)
            gains = keras.ops.mean(keras.ops.leaky_relu(chosen, _LEAK), axis=-1)
        return keras.ops.sum(gains) * _SCALE, responses


def _as_input(model: keras.Model, images: Any) -> Any:
    """Return images in the nest that a model takes them in."""
    graph: Any = functional_graph(model)
    return keras.tree.map_structure(lambda _: images, graph.input)


def _input_shape(model: keras.Model, size: Any) -> tuple[int, int, int]:
    """Return the shape of an image, in the model's layout."""
    graph = functional_graph(model)
    inputs = graph.inputs if graph is not None else []
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or not is_float(inputs[0]):
        shapes = [f"{one.dtype} of shape {one.shape}" for one in inputs]
        raise ArgumentError(
            _OWNER,
            "model",
            "be Functional or Sequential with one input, images of floats",
            received=f"model {model.name!r} with inputs {', '.join(shapes) or 'not known'}",
        )
    given = (size, size) if is_int(size) else size
    is_pair = isinstance(given, (tuple, list)) and len(given) == 2
    if given is not None and not (is_pair and all(is_int(n) and n > 0 for n in given)):
        raise ArgumentError(_OWNER, "size", "be a positive int, two of them or None", value=size)
    shape = list(inputs[0].shape[1:])
    free = [n for n, length in enumerate(shape) if length is None]
    if not free:
        if given is not None and list(given) not in (shape[:2], shape[1:]):
            rule = f"be that of the model's images, {tuple(shape)}"
            raise ArgumentError(_OWNER, "size", rule, value=size, advice="Leave it out.")
        return shape[0], shape[1], shape[2]
    if free not in ([0, 1], [1, 2]):
        raise ArgumentError(
            _OWNER,
            "model",
            "take images of a known number of channels, and of one size or of any",
            received=f"model {model.name!r} with images of shape {tuple(shape)}",
        )
    for axis, length in zip(free, given or (_SIZE, _SIZE), strict=True):
        shape[axis] = int(length)
    return shape[0], shape[1], shape[2]


def _numbers(filters: Any, units: int) -> tuple[int, ...]:
    if filters is None:
        return tuple(range(min(_FILTERS, units)))
    given = [filters] if is_int(filters) else list(np.atleast_1d(filters))
    if not given or not all(is_int(n) for n in given):
        rule = "be an int, several ints or None"
        raise ArgumentTypeError(_OWNER, "filters", rule, value=filters)
    if not all(0 <= n < units for n in given):
        rule = f"be from 0 to {units - 1}, a filter of the layer"
        raise ArgumentError(_OWNER, "filters", rule, value=filters)
    return tuple(map(int, given))


def _check_numbers(steps: Any, blur: Any, jitter: Any, decay: Any, seed: Any) -> None:
    check_count(_OWNER, "steps", steps)
    check_count(_OWNER, "jitter", jitter, lowest=0)
    check_count(_OWNER, "seed", seed, lowest=0)
    if not is_number(blur) or blur < 0:
        raise ArgumentError(_OWNER, "blur", "be a number of pixels from 0", value=blur)
    if not is_number(decay) or not 0 <= decay < 1:
        raise ArgumentError(_OWNER, "decay", "be from 0 to less than 1", value=decay)


def _checked_range(value_range: Any) -> tuple[float, float]:
    is_pair = isinstance(value_range, (tuple, list)) and len(value_range) == 2
    if not is_pair or not all(map(is_number, value_range)) or value_range[0] >= value_range[1]:
        rule = "be two finite numbers, the smaller one first"
        raise ArgumentError(_OWNER, "value_range", rule, value=value_range)
    return float(value_range[0]), float(value_range[1])
