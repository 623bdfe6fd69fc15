"""`heatmap`: which positions of an input a model's output depends on."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_freeze.checks import ArgumentError, ArgumentTypeError, call_of, check_count, is_int
from keras_freeze.explain import maps
from keras_freeze.explain.inputs import (
    Kind,
    batches_of,
    checked_inputs,
    count_of,
    padding_of,
    positions_in,
)
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
from keras_freeze.keras_internals.tensors import mask_of
from keras_freeze.measures import watched
from keras_freeze.model_picture import check_model, opened_layers

_OWNER = "explain.heatmap"
# Scores are multiplied by this and gradients divided, so that those of float16 don't vanish.
_SCALE = 128.0
_PREDICTED = -1

Target = int | Sequence[int] | Callable[[Any], Any]
Method = Literal["Grad-CAM", "gradient x activation"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HeatMap:
    """Which positions of inputs a score of a model depends on.

    Attributes:
        values: Array of floats from 0, at the size of the inputs: `(samples, height, width)` for
            images, `(samples, steps)` for series and tokens. They compare within a sample, and not
            between samples or models.
        scores: Array of shape `(samples,)`, what was explained: the outputs before their softmax or
            sigmoid, or what the target returned.
        targets: Tuple of ints, the output unit of each sample; None where the target was a
            function.
        layer: Str, the name of the layer at whose output it was computed; "input" for the input.
        method: Str, `"Grad-CAM"` or `"gradient x activation"`.
        model: Str, the model's name.
    """

    values: np.ndarray
    scores: np.ndarray
    targets: tuple[int, ...] | None
    layer: str
    method: Method
    model: str

    def scaled(self) -> np.ndarray:
        """Return the values of each sample divided by their maximum, 0 where all are 0.

        Example:
            >>> values = np.array([[0.0, 2.0, 4.0]])
            >>> HeatMap(values, np.ones(1), (0,), "input", "gradient x activation", "net").scaled()
            array([[0. , 0.5, 1. ]])
        """
        highest = self.values.max(axis=tuple(range(1, self.values.ndim)), keepdims=True)
        return np.asarray(self.values / np.where(highest > 0, highest, 1.0))

    def __repr__(self) -> str:
        return call_of(self)


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """Where the gradient is taken.

    Attributes:
        layer: `keras.Layer` or an operation; None for the input.
        leaf: Int, the array of the inputs that has the positions.
        positions: Tuple of ints, how many there are, along each axis of the input.
        axis: Int, that of the channels or features in the layer's output, 1 or -1.
        shape: Tuple of ints, of the layer's output in a call.
    """

    layer: Any
    leaf: int
    positions: tuple[int, ...]
    axis: int
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """What it is called."""
        return "input" if self.layer is None else str(self.layer.name)


def heatmap(
    model: keras.Model,
    x: Any,
    layer: str | keras.Layer | None = None,
    target: Target | None = None,
    *,
    batch_size: int = 32,
) -> HeatMap:
    """Compute which positions of each input a score of the model depends on.

    For images it is Grad-CAM at a layer whose output has positions, enlarged to the size of the
    image: what speaks for the target is positive, and what speaks against it is 0. For time series
    and for tokens it is the norm, over the features of each position, of gradient times activation:
    how much the score depends on the position, for or against. Masked positions are 0.

    The score is an output before the softmax or sigmoid that the model ends in, where a layer or
    operation of Keras's own does that; elsewhere it is the output as it is. Nothing in the
    model changes.

    Args:
        model: `keras.Model`, built.
        x: Inputs, an array or a nest of arrays. One of them has the positions: images of rank 4,
            time series of shape `(samples, steps, features)`, or tokens, ints of shape
            `(samples, steps)`; of a dict it is `token_ids`, and what `padding_mask` leaves out is
            masked.
        layer: Str or `keras.Layer`, called once in a forward pass, at whose output it is computed.
            Defaults to None: for images the last layer with positions before they are pooled or
            flattened, for series the input, for tokens their embedding, of several the largest.
        target: The output unit to explain: an int, or an int for each sample. Or a function that
            takes the model's outputs as tensors, softmax included, and returns a score for each
            sample, of shape `(samples,)`. Defaults to None, the unit with the highest output: the
            predicted class, or the only unit.
        batch_size: Int, samples that are computed together. Defaults to 32.

    Returns:
        `HeatMap`; `plots.heatmap` draws it.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if the inputs have no positions, if the layer is unknown, is called several
            times or has no positions of its own, if there is no such unit, or if a gradient is not
            finite.

    Example:
        >>> keras.utils.set_random_seed(0)
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((8, 8, 3)),
        ...         keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
        ...         keras.layers.GlobalAveragePooling2D(),
        ...         keras.layers.Dense(2, activation="softmax"),
        ...     ]
        ... )
        >>> found = heatmap(model, np.ones((5, 8, 8, 3), "float32"), target=1)
        >>> found.layer, found.method, found.values.shape
        ('conv', 'Grad-CAM', (5, 8, 8))

    References:
        - [Selvaraju et al., 2017](https://arxiv.org/abs/1610.02391): Grad-CAM.
        - [Shrikumar et al., 2016](https://arxiv.org/abs/1605.01713): gradient times input.
        - [Atanasova et al., 2020](https://arxiv.org/abs/2009.13295): the same at the embedding, and
          its norm for each token.
    """
    check_model(_OWNER, model)
    check_count(_OWNER, "batch_size", batch_size)
    data = checked_inputs(_OWNER, model, x)
    kind, leaf = positions_in(_OWNER, data)
    seen = observe(model, data)
    place = _place(seen, data, kind, leaf, layer)
    wanted = _wanted(seen, target, count_of(data))
    found: list[list[np.ndarray]] = []
    with contextlib.ExitStack() as stack:
        if not callable(target):
            stack.enter_context(before_squashing(seen.last_operation))
        gradients = gradient_of(_score_of(model, place, target), traced=False)
        for (batch, units), kept in batches_of(model, (data, wanted), batch_size):
            delta = keras.ops.zeros((len(units), *place.shape[1:]), "float32")
            (gradient,), others = gradients([delta], batch, units)
            gradient = keras.ops.zeros_like(delta) if gradient is None else gradient
            found.append([as_array(part)[:kept] for part in (gradient, *others)])
    gradient, outputs, mask, scores, units = map(np.concatenate, zip(*found, strict=True))
    return HeatMap(
        values=_values(kind, place, data, outputs, gradient / _SCALE, mask),
        scores=scores,
        targets=None if callable(target) else tuple(map(int, units)),
        layer=place.name,
        method="Grad-CAM" if kind == "image" else "gradient x activation",
        model=model.name,
    )


def _values(
    kind: Kind,
    place: _Place,
    data: Any,
    outputs: np.ndarray,
    gradient: np.ndarray,
    mask: np.ndarray,
) -> np.ndarray:
    if not np.isfinite(gradient).all() or not np.isfinite(outputs).all():
        raise ArgumentError(
            _OWNER,
            "x",
            "give finite outputs and gradients",
            received=f"NaN or infinity at {place.name!r}",
            advice="Look for NaN in the data, or inputs that are not scaled as the model expects.",
        )
    outputs, gradient = (np.moveaxis(part, place.axis, -1) for part in (outputs, gradient))
    if kind == "image":
        values = maps.grad_cam(outputs, gradient)
    else:
        values = maps.saliency(outputs, gradient) * mask
    padding = padding_of(data) if kind == "tokens" else None
    if padding is not None and padding.shape == values.shape:
        values = values * padding
    return maps.resized(values, place.positions).astype("float32")


def _positions(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    """Return how many positions there are along each axis but those of samples and channels."""
    return tuple(shape[2:] if axis == 1 else shape[1:-1])


def _score_of(
    model: keras.Model, place: _Place, target: Any
) -> Callable[..., tuple[Any, tuple[Any, ...]]]:
    """Return the function whose gradient is taken with respect to what is added to an output."""

    def score_of(values: Sequence[Any], x: Any, units: Any) -> tuple[Any, tuple[Any, ...]]:
        (delta,) = values
        at: list[Any] = []

        def add(layer: Any, output: Any) -> Any:
            tensor = only_tensor(output)
            at.append(tensor + keras.ops.cast(delta, tensor.dtype))
            return keras.tree.map_structure(lambda _: at[-1], output)

        if place.layer is None:
            leaves = keras.tree.flatten(x)
            leaves[place.leaf] = keras.ops.cast(leaves[place.leaf], "float32") + delta
            at.append(leaves[place.leaf])
            x = keras.tree.pack_sequence_as(x, leaves)
        watching = [] if place.layer is None else [place.layer]
        with watched(watching, add), keras.StatelessScope():
            outputs = model(x, training=False)
            if callable(target):
                scores, picked = _checked_scores(target(outputs), len(units)), units
            else:
                scores, picked = _picked(only_tensor(outputs), units)
        scores = keras.ops.cast(scores, "float32")
        return keras.ops.sum(scores) * _SCALE, (at[0], _counts(at[0], place), scores, picked)

    return score_of


def _picked(outputs: Any, units: Any) -> tuple[Any, Any]:
    """Return the outputs of some units, the highest where that is wanted, and which they are."""
    highest = keras.ops.cast(keras.ops.argmax(outputs, axis=-1), units.dtype)
    picked = keras.ops.where(keras.ops.equal(units, _PREDICTED), highest, units)
    chosen = keras.ops.one_hot(picked, outputs.shape[-1], dtype="float32")
    # Infinity elsewhere would become NaN, times 0.
    wanted = keras.ops.where(chosen > 0, keras.ops.cast(outputs, "float32"), 0.0)
    return keras.ops.sum(wanted, axis=-1), picked


def _counts(output: Any, place: _Place) -> Any:
    """Return 1.0 for each position of an output that is not masked, 0.0 for the others."""
    rank = len(output.shape)
    positions = tuple(n for axis, n in enumerate(output.shape) if axis != place.axis % rank)
    mask = mask_of(output)
    if mask is None or tuple(mask.shape) != positions:
        return keras.ops.ones(positions, "float32")
    return keras.ops.cast(mask, "float32")


def _checked_scores(scores: Any, count: int) -> Any:
    if not keras.ops.is_tensor(scores) or tuple(scores.shape) != (count,):
        shape = f" of shape {tuple(scores.shape)}" if hasattr(scores, "shape") else ""
        raise ArgumentError(
            _OWNER,
            "target",
            "return a tensor of shape (samples,), a score for each sample",
            received=f"a {type(scores).__name__}{shape} for {count} samples",
        )
    return scores


def _wanted(seen: Observation, target: Any, count: int) -> np.ndarray:
    """Return the wanted unit of each sample, `_PREDICTED` for the highest."""
    if callable(target):
        return np.full(count, _PREDICTED, "int32")
    output = only_tensor(seen.output)
    if output is None or len(output.shape) != 2:
        shapes = [tuple(one.shape) for one in keras.tree.flatten(seen.output)]
        raise ArgumentError(
            _OWNER,
            "target",
            f"be a function from the outputs to a score for each sample, since model "
            f"{seen.model.name!r} does not return one row of units",
            received=f"target={target!r}, and outputs of shapes {', '.join(map(str, shapes))}",
            advice="Pass such as target=lambda outputs: outputs[0][:, 1].",
        )
    units = int(output.shape[-1])
    if target is None:
        return np.full(count, _PREDICTED, "int32")
    if not is_int(target):
        given = np.asarray(target)
        if given.dtype.kind not in "iu" or given.ndim != 1:
            rule = "be an int, an int for each sample, a function or None"
            raise ArgumentTypeError(_OWNER, "target", rule, value=target)
        if len(given) != count:
            rule = "have an int for each sample"
            received = f"{len(given)} for {count} samples"
            raise ArgumentError(_OWNER, "target", rule, received=received)
    wanted = np.full(count, target, "int64") if is_int(target) else np.asarray(target)
    if (wanted < 0).any() or (wanted >= units).any():
        rule = f"be from 0 to {units - 1}, a unit of the output"
        raise ArgumentError(_OWNER, "target", rule, value=target)
    return wanted.astype("int32")


def _place(seen: Observation, data: Any, kind: Kind, leaf: int, layer: Any) -> _Place:
    shape = tuple(keras.tree.flatten(data)[leaf].shape)
    own = -1 if kind == "tokens" else channel_axis(_OWNER, seen, None, len(shape))
    positions = shape[1:] if kind == "tokens" else _positions(shape, own)
    if layer is None and kind == "series":
        return _Place(None, leaf, positions, own, shape)
    if layer is None:
        chosen = _last_map(seen) if kind == "image" else _embedding(seen, shape[1])
    else:
        chosen = find_layer(_OWNER, seen.model, layer)
    tensor = output_in(_OWNER, seen, chosen)
    axis = channel_axis(_OWNER, seen, chosen, len(tensor.shape))
    place = _Place(chosen, leaf, positions, axis, tuple(tensor.shape))
    _check_positions(place, kind, shape, is_float(tensor))
    return place


def _check_positions(place: _Place, kind: Kind, shape: Sequence[int], holds_floats: bool) -> None:
    """Raise unless a layer's output has positions that can be found in the input."""
    rank = len(place.shape)
    rule = {
        "image": "return a map of several positions, with channels",
        "series": "return features for each time step",
        "tokens": "return features for each token",
    }[kind]
    fits = holds_floats and rank == (4 if kind == "image" else 3)
    if kind == "image" and fits:
        fits = math.prod(_positions(place.shape, place.axis)) > 1
    if kind == "tokens" and fits:
        fits = place.shape[1] == shape[1]
    if not fits:
        raise ArgumentError(
            _OWNER,
            "layer",
            rule,
            received=f"layer {place.name!r}, which returns the shape "
            f"{(None, *place.shape[1:])} for inputs of shape {(None, *shape[1:])}",
            advice="Pass an earlier layer.",
        )


def _last_map(seen: Observation) -> Any:
    """Return what made the last map that depends on weights, before it is pooled.

    That is a layer, or the sum of a residual connection where it is an operation.
    """
    opened = {id(layer) for layer in opened_layers(seen.model)}
    chosen: Any = None
    shape, is_made = None, False
    for called, output in seen.calls:
        is_made = is_made or bool(getattr(called, "weights", ()))
        tensor = only_tensor(output)
        if tensor is None or not is_made or not _is_map(seen, called, tensor):
            continue
        is_sum = type(called).__name__ == "Add" and tuple(tensor.shape) == shape
        if id(called) in opened or is_sum:
            chosen, shape = called, tuple(tensor.shape)
    if chosen is None:
        raise ArgumentError(
            _OWNER,
            "layer",
            f"be given, since no layer of model {seen.model.name!r} returns a map of positions",
            received="layer=None",
        )
    return chosen


def _is_map(seen: Observation, called: Any, tensor: Any) -> bool:
    """Tell whether a layer, called once, returns several positions that are not the end."""
    pooling = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
    if len(tensor.shape) != 4 or not is_float(tensor) or isinstance(called, pooling):
        return False
    if tensor is only_tensor(seen.output) or seen.times(called) > 1:
        return False
    axis = channel_axis(_OWNER, seen, called, 4)
    return math.prod(_positions(tensor.shape, axis)) > 1


def _embedding(seen: Observation, tokens: int) -> keras.Layer:
    """Return what embeds tokens: the largest embedding, or the first with features for each."""
    found = []
    for called, output in seen.calls:
        tensor = only_tensor(output)
        is_one = isinstance(called, keras.Layer) and seen.times(called) == 1
        if is_one and tensor is not None and len(tensor.shape) == 3 and is_float(tensor):
            found += [called] if tensor.shape[1] == tokens else []
    if not found:
        raise ArgumentError(
            _OWNER,
            "layer",
            f"be given, since no layer of model {seen.model.name!r} embeds each token",
            received="layer=None",
        )
    # Positions and segments have embeddings too, with fewer entries.
    embeddings = [layer for layer in found if isinstance(layer, keras.layers.Embedding)]
    return max(embeddings, key=lambda layer: layer.input_dim, default=found[0])
