"""Inputs that a backbone was not trained on: another range, token numbers that it doesn't have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_freeze.checks import counted, first_few
from keras_freeze.findings.backbone_input import as_array, images_before
from keras_freeze.findings.finding import Finding, in_order
from keras_freeze.findings.preprocessing import (
    RAW,
    Extremes,
    Family,
    Range,
    family_of,
    in_pixels,
    mismatch,
    steps_before,
)
from keras_freeze.hub_tasks import preprocesses, takes_pixels
from keras_freeze.keras_internals.graph import (
    graph_nodes,
    input_keys,
    origin_of,
    walked_graph,
)
from keras_freeze.keras_internals.own_code import replaced_methods
from keras_freeze.model_picture import ModelPicture, every_layer
from keras_freeze.reading import is_of_numbers

# Rows that are looked at together.
_ROWS = 4096
# Fewer samples may be the same by chance.
_FEW = 20


def of_inputs(
    picture: ModelPicture, x: Any, given: Any = None, every: Any = None
) -> tuple[Finding, ...]:
    """Return what is found of some inputs of a model.

    Args:
        picture: The picture of a model, with its groups.
        x: The inputs of a batch as `fit` has them, tensors.
        given: The same before the preprocessor of a task.
        every: All inputs as they were given, where they are NumPy arrays: a single value may be
            wrong.
    """
    unfit = _unfit(picture, x)
    if unfit is not None:
        return (unfit,)
    is_task = preprocesses(picture.model)
    numbers = x if every is None else every
    spoiled = _not_finite(numbers) or (_not_finite(x) if is_task else None)
    if spoiled is not None:
        return (spoiled,)
    constant = None if every is None else _constant(every)
    if takes_pixels(picture.model):
        scale = _given_to_task(picture.model, given)
    else:
        scale = _preprocessing(picture, x)
    tokens = _tokens(picture, x if is_task else numbers)
    return in_order([constant, scale, tokens])


def of_text(model: keras.Model, x: Any) -> tuple[Finding, ...]:
    """Return that inputs are text or objects, which no model takes that takes numbers.

    Args:
        model: `keras.Model`.
        x: Inputs as `fit` has them.
    """
    texts = [leaf for leaf in keras.tree.flatten(x) if not is_of_numbers(leaf)]
    if not texts or any(tensor.dtype == "string" for tensor in _inputs_of(model)):
        return ()
    first = texts[0].ravel()[:1].tolist()
    what = f"text, such as {str(first[0])!r}" if first and isinstance(first[0], str) else "objects"
    cure = "x = np.array(x.tolist(), dtype=float)"
    return (Finding("inputs", f"Inputs are {what}, and the model takes numbers", cure),)


def _inputs_of(model: keras.Model) -> Sequence[Any]:
    return keras.tree.flatten(getattr(model, "inputs", None) or [])


def _unfit(picture: ModelPicture, x: Any) -> Finding | None:
    """Return inputs that a model can't take: others than it has, or of other shapes."""
    graph = walked_graph(picture.model) if is_called_plainly(picture) else None
    if graph is None or any(getattr(origin_of(t), "optional", False) for t in graph.inputs):
        return None
    keys = input_keys(graph)
    names = [keys.get(id(tensor), tensor.name) for tensor in graph.inputs]
    if isinstance(x, Mapping):
        missing = [name for name in names if name not in x]
        # Where a model's inputs are a dict, Keras goes by the order of names if there are more.
        if missing or (keys and len(x) > len(names)):
            own = {name: "..." if name in missing else f"x[{name!r}]" for name in names}
            return Finding(
                "inputs",
                f"The data are {first_few([*map(str, x)])}, and the model takes {first_few(names)}",
                f"x = {{{', '.join(f'{name!r}: {code}' for name, code in own.items())}}}",
            )
        given = [x[name] for name in names]
    else:
        given = keras.tree.flatten(x)
    if len(given) != len(names):
        return Finding(
            "inputs",
            f"The data are {counted(len(given), 'array')}, and the model takes {len(names)}",
            f"x = [{', '.join(names)}], in this order",
        )
    for name, leaf, tensor in zip(names, given, graph.inputs, strict=True):
        shape = getattr(leaf, "shape", None)
        if shape is not None and not _takes(tensor.shape, tuple(shape)):
            return _of_another_shape(name, tuple(shape), tuple(tensor.shape))
    return None


def _of_another_shape(name: str, given: tuple[int, ...], own: tuple[int | None, ...]) -> Finding:
    if _takes(own, (None, *given)):
        return Finding(
            "inputs",
            f"Input {name} has the shape {given}, which is that of a single sample",
            "batches: dataset.batch(32), or x[None] for an array",
        )
    return Finding(
        "inputs",
        f"Input {name} has the shape {(None, *given[1:])}, and the model takes {own}",
        "data of that shape, or a model that is built for these",
    )


def _takes(own: tuple[int | None, ...], given: tuple[int | None, ...]) -> bool:
    """Tell whether Keras fits a shape to that of an input: a last axis of 1 may be left out.

    Example:
        >>> _takes((None, 8, 8, 1), (32, 8, 8)), _takes((None, 8, 8, 3), (32, 8, 8))
        (True, False)
    """
    if len(given) == len(own) + 1 and given[-1] == 1:
        given = given[:-1]
    elif len(given) == len(own) - 1 and own[-1] == 1:
        own = own[:-1]
    if len(given) != len(own):
        return False
    pairs = zip(own[1:], given[1:], strict=True)
    return all(a is None or b is None or a == b for a, b in pairs)


def _not_finite(x: Any) -> Finding | None:
    for leaf in keras.tree.flatten(x):
        parts = (leaf[n : n + _ROWS] for n in range(0, len(leaf), _ROWS)) if _is_float(leaf) else ()
        if not all(np.isfinite(_numbers(part)).all() for part in parts):
            return Finding(
                "inputs",
                "Inputs contain NaN or infinity, which turns all weights into NaN",
                "x = np.nan_to_num(x)",
            )
    return None


def _constant(x: Any) -> Finding | None:
    """Return that all samples are the same, of so many that it is no chance."""
    leaves = keras.tree.flatten(x)
    count = min(map(len, leaves), default=0)
    starts = range(0, count, _ROWS)
    if count < _FEW or any((a[n : n + _ROWS] != a[:1]).any() for a in leaves for n in starts):
        return None
    return Finding(
        "inputs",
        f"All {count:,} samples are the same, so that no model can tell them apart",
        "x[0], x[1], and look where the data were lost",
    )


def _is_float(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return (
        dtype is not None
        and is_of_numbers(leaf)
        and keras.backend.is_float_dtype(keras.backend.standardize_dtype(dtype))
    )


def _numbers(leaf: Any) -> np.ndarray[Any, Any]:
    return np.asarray(keras.ops.convert_to_numpy(leaf), "float32")


def _given_to_task(model: keras.Model, x: Any) -> Finding | None:
    """Return images that a task's preprocessor scales, and that were scaled before."""
    images = [leaf for leaf in keras.tree.flatten(x) if len(getattr(leaf, "shape", ())) == 4]
    if len(images) != 1:
        return None
    extremes = Extremes.of(_numbers(images[0]))
    found = mismatch(extremes, RAW)
    if found is None:
        return None
    pixels = in_pixels(found, "np.asarray(x)")
    return Finding(
        "preprocessing",
        f"The preprocessor of {model.name} scales images of 0 to 255; these are {found} (from "
        f"{extremes.words})",
        f"x = {pixels}, as fit scales them itself" if pixels else "images of 0 to 255 as they are",
    )


def _preprocessing(picture: ModelPicture, x: Any) -> Finding | None:
    if picture.pretrained is None:
        return None
    family = _family(picture)
    seen = None if family is None or not is_called_plainly(picture) else images_before(picture, x)
    if family is None or seen is None:
        return None
    if any(mismatch(Extremes.of(seen.stages[0]), known) is None for known in family.at_convolution):
        return None
    steps, expected = steps_before(seen.letters, family)
    if expected is None and family.at_convolution:
        expected = family.at_convolution[0]
    if expected is None:
        return None
    extremes = Extremes.of(seen.stages[steps])
    found = mismatch(extremes, expected)
    if found is None:
        return None
    is_as_given = any(_looks_like(found, leaf, expected) for leaf in keras.tree.flatten(x))
    pixels = in_pixels(found) if is_as_given else None
    prepare = f"x = keras.applications.{family.module}.preprocess_input"
    cure = f"{prepare}({pixels})" if pixels else f"{prepare}(x), with x of 0 to 255"
    if expected.name == "raw":
        own = "the backbone scales images of 0 to 255 itself"
        cure = f"x = {pixels}, since {own}" if pixels else f"images of 0 to 255 as they are: {own}"
    if not is_as_given:
        cure = f"leave out what scales images before the backbone, and give {cure}"
    return Finding(
        "preprocessing",
        f"Backbones of keras.applications.{family.module} expect {expected.words}; this one gets "
        f"{found} (from {extremes.words})",
        cure,
    )


def _looks_like(words: str, images: Any, expected: Range) -> bool:
    """Tell whether images as they are given look like those that reach the backbone."""
    if len(getattr(images, "shape", ())) != 4:
        return False
    return mismatch(Extremes.of(as_array(images)), expected) == words


def is_called_plainly(picture: ModelPicture) -> bool:
    """Tell whether a fit calls a model with the inputs as they are, and with nothing else."""
    model = picture.model
    return walked_graph(model) is not None and "train_step" not in replaced_methods(model)


def has_known_range(picture: ModelPicture) -> bool:
    """Tell whether it is known how a model expects images to be scaled."""
    return takes_pixels(picture.model) or _family(picture) is not None


def _family(picture: ModelPicture) -> Family | None:
    # KerasHub's have names of keras.applications', and presets that are scaled otherwise.
    if any(type(one).__module__.startswith("keras_hub.") for one in every_layer(picture.model)):
        return None
    layers = () if picture.pretrained is None else picture.pretrained.layers
    parts = {part.name: part for layer in layers for part in picture.layers_in[id(layer)]}
    family = family_of(parts)
    if family is not None and family.module == "vgg16":
        # Many nets of one's own have names like these.
        return family if getattr(parts["block1_conv1"], "filters", None) == 64 else None
    return family


def _tokens(picture: ModelPicture, x: Any) -> Finding | None:
    """Return token numbers that an `Embedding` at the inputs doesn't have."""
    graph = walked_graph(picture.model)
    if graph is None or not is_called_plainly(picture):
        return None
    keys = input_keys(graph)
    if isinstance(x, Mapping) != bool(keys):
        return None
    leaves = [x.get(keys[id(t)]) for t in graph.inputs] if keys else keras.tree.flatten(x)
    if len(leaves) != len(graph.inputs):
        return None
    return _tokens_in(graph, dict(zip(map(id, graph.inputs), leaves, strict=True)))


def _tokens_in(graph: Any, known: Mapping[int, Any]) -> Finding | None:
    for node in graph_nodes(graph):
        given = [known.get(id(tensor)) for tensor in node.input_tensors]
        layer, inner = node.operation, walked_graph(node.operation)
        if inner is not None and len(inner.inputs) == len(given):
            found = _tokens_in(inner, dict(zip(map(id, inner.inputs), given, strict=True)))
            if found is not None:
                return found
        if not isinstance(layer, keras.layers.Embedding) or given[0] is None:
            continue
        numbers = _numbers(given[0])
        highest, lowest = int(numbers.max()), int(numbers.min())
        if highest >= layer.input_dim or lowest < 0:
            return Finding(
                "token numbers",
                f"Inputs go from {lowest} to {highest}, and {layer.name} has rows 0 to "
                f"{layer.input_dim - 1}: other numbers give undefined values on some backends",
                "the tokenizer that the backbone was trained with",
            )
    return None
