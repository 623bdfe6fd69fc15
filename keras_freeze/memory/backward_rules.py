"""What each layer and operation of Keras keeps for its backward pass.

The rules, which count what a gradient can't be computed without:

- An operation keeps something only if its output depends on a weight that trains, or if it has one
  itself. All others are computed and forgotten.
- `Dense`, `EinsumDense`, convolutions: their input if the kernel trains. The gradient of the input
  and that of a bias need no activation. With LoRA also the kernel with the adapters added to it,
  where a gradient passes through.
- Activations: ReLU, sigmoid, tanh, softmax, ELU, SELU and exponentials their output; all others,
  such as GELU and SiLU, their input, which within a layer is one more tensor. Linear: nothing.
- `Add`, `Subtract`, `Average`, `Concatenate`, padding, cropping, upsampling, means, sums and
  average pooling: nothing. `Reshape` and `Flatten` are the same memory as their input.
- Products (`Multiply`, `Dot`, `Matmul`): each factor of which another one has a gradient.
- Maximum pooling, maxima and minima: their input. `Dropout`: one byte an element, for the mask.
- `BatchNormalization` that learns its statistics: its input. With fixed statistics it multiplies
  and adds, and keeps its input only if gamma trains. Other norms: their input.
- Recurrent layers, for each time step: what comes out of each gate and state (7 times the units for
  an LSTM, 6 for a GRU, 1 for a SimpleRNN), and the input if its kernel trains.
- Attention: projected queries, keys and values, the weights of each head, the context if the output
  projection trains, and the inputs of the projections that train.
- `Embedding`: its ids.

A layer that contains others, such as a `TransformerEncoder`, is counted by these, each with an
input of the shape that it was built for. Of any other layer or operation that is not known the
inputs and outputs are counted, and the report says so. Fused attention (torch; `flash_attention`)
keeps less.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import keras

from keras_freeze.keras_internals.graph import shapes_when_built
from keras_freeze.keras_internals.layers import lora_base, sublayers
from keras_freeze.keras_internals.own_code import STEP_METHODS, is_activation, replaced_methods


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of a tensor.

    Attributes:
        shape: Tuple of int, the batch included.
        item_bytes: Int, bytes of an element.
    """

    shape: tuple[int, ...]
    item_bytes: int

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.elements * self.item_bytes


@dataclasses.dataclass(frozen=True)
class Setting:
    """What trains, and the flags of layers.

    Attributes:
        trained: Ids of the variables that the optimizer changes.
        flags: The layers' own `trainable` flags by id, where they are not the present ones.
    """

    trained: frozenset[int]
    flags: dict[int, bool]

    def flag(self, layer: keras.Layer) -> bool:
        """Return a layer's own flag, which decides whether a BatchNorm learns its statistics."""
        return self.flags.get(id(layer), bool(layer.trainable))

    def trains(self, variables: Iterable[Any]) -> bool:
        """Tell whether any of some variables trains."""
        return any(id(variable) in self.trained for variable in variables)


@dataclasses.dataclass(frozen=True)
class Site:
    """One call of a layer or operation.

    Attributes:
        operation: `keras.Layer` or `keras.Operation`.
        inputs: Tuple of `Size`.
        output: `Size`, of the first output.
        live: Tuple of bool, whether the backward pass goes on to each input.
        setting: `Setting`.
    """

    operation: Any
    inputs: tuple[Size, ...]
    output: Size
    live: tuple[bool, ...]
    setting: Setting

    @property
    def item_bytes(self) -> int:
        """Bytes of an element of what is computed in the call."""
        return compute_bytes(self.operation, self.output.item_bytes)


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a call keeps for its backward pass.

    Attributes:
        inputs: Positions of the inputs that it keeps.
        output: Bool, whether it keeps its output.
        extra: Int, bytes of what is neither.
        doubt: Str, how it is counted where that is not known, as it follows "is counted".
    """

    inputs: tuple[int, ...] = ()
    output: bool = False
    extra: int = 0
    doubt: str = ""


Rule: TypeAlias = Callable[[Site], Kept]

NOTHING = Kept()

# How something that is not known is counted.
ROUGHLY = "by inputs and output alone"
BY_PARTS = "by the layers inside"


def kept_by(site: Site) -> Kept:
    """Return what a call keeps whose output has a gradient.

    Example:
        >>> dense = keras.layers.Dense(2)
        >>> dense.build((None, 3))
        >>> x, y = Size((8, 3), 4), Size((8, 2), 4)
        >>> trains = Setting(frozenset(map(id, dense.weights)), {})
        >>> kept_by(Site(dense, (x,), y, (False,), trains))
        Kept(inputs=(0,), output=False, extra=0, doubt='')
        >>> kept_by(Site(dense, (x,), y, (True,), Setting(frozenset(), {})))
        Kept(inputs=(), output=False, extra=0, doubt='')
    """
    rule = _rule_of(site.operation)
    if rule is not None:
        return rule(site)
    every = tuple(range(len(site.inputs)))
    if isinstance(site.operation, keras.Layer) and sublayers(site.operation):
        return _by_parts(site)
    return Kept(every, True, doubt=ROUGHLY)


def is_view(operation: Any) -> bool:
    """Tell whether the output of an operation is the memory of its input."""
    name = type(operation).__name__
    if isinstance(operation, keras.layers.Activation):
        return _kept_of(operation.activation) == "nothing"
    if name in ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"):
        return not operation.rate
    return name in _VIEWS and not replaced_methods(operation)


def stops_gradients(operation: Any) -> bool:
    """Tell whether the backward pass ends at an operation: whole numbers, comparisons."""
    return type(operation).__name__ in _WITHOUT_GRADIENT


def item_bytes(dtype: Any) -> int:
    """Return the bytes that an element of a tensor takes."""
    digits = re.search(r"\d+", keras.backend.standardize_dtype(dtype))
    return max(1, int(digits.group()) // 8) if digits else 1


def compute_bytes(operation: Any, otherwise: int) -> int:
    """Return the bytes of an element in the dtype that a layer computes in."""
    dtype = getattr(operation, "compute_dtype", None)
    return item_bytes(dtype) if dtype is not None else otherwise


def _rule_of(operation: Any) -> Rule | None:
    """Return the rule of the class that defines what an operation computes."""
    if replaced_methods(operation) - STEP_METHODS:
        return None
    table = LAYERS if isinstance(operation, keras.Layer) else OPERATIONS
    for cls in type(operation).__mro__:
        if cls.__module__.partition(".")[0] == "keras" and cls.__name__ in table:
            return table[cls.__name__]
    return None


# Layers with a kernel.


def _matrix(site: Site) -> Kept:
    layer, setting = site.operation, site.setting
    matrices = [variable for variable in layer.weights if len(variable.shape) > 1]
    inputs = (0,) if setting.trains(matrices) else ()
    extra = 0
    base = lora_base(layer)
    if base is not None and any(site.live):
        extra = math.prod(base.shape) * site.item_bytes
    return _and_activation(site, Kept(inputs, extra=extra), getattr(layer, "activation", None))


def _separable(site: Site) -> Kept:
    layer, setting = site.operation, site.setting
    inputs = (0,) if setting.trains([layer.depthwise_kernel]) else ()
    extra = 0
    if setting.trains([layer.pointwise_kernel]):
        places = site.output.elements // layer.filters
        channels = layer.pointwise_kernel.shape[-2]
        extra = places * channels * site.item_bytes
    return _and_activation(site, Kept(inputs, extra=extra), layer.activation)


def _scale(site: Site) -> Kept:
    """Return what a product with a weight keeps."""
    return Kept(inputs=(0,)) if site.setting.trains(site.operation.weights) else NOTHING


def _embedding(site: Site) -> Kept:
    return Kept(inputs=(0,))


def _and_activation(site: Site, kept: Kept, activation: Any) -> Kept:
    """Add what the activation at the end of a layer keeps."""
    what = _kept_of(activation)
    extra = site.output.elements * site.item_bytes if what in ("input", "both") else 0
    return dataclasses.replace(
        kept, extra=kept.extra + extra, output=kept.output or what in ("output", "both")
    )


def _kept_of(activation: Any) -> str:
    """Return what an activation keeps: "nothing", "input", "output", or "both" if not known."""
    if isinstance(activation, keras.Operation):
        one, nothing_trains = Size((1,), 1), Setting(frozenset(), {})
        kept = kept_by(Site(activation, (one,), one, (True,), nothing_trains))
        names = {(True, True): "both", (True, False): "input", (False, True): "output"}
        return names.get((bool(kept.inputs), kept.output), "nothing")
    name = getattr(activation, "__name__", "linear" if activation is None else "")
    if name == "linear":
        return "nothing"
    if not is_activation(activation):
        return "both"
    return "output" if name in _BY_OUTPUT else "input"


def _activation(site: Site) -> Kept:
    what = _kept_of(site.operation.activation)
    return Kept((0,) if what in ("input", "both") else (), what in ("output", "both"))


# Norms and noise.


def _batch_norm(site: Site) -> Kept:
    layer, setting = site.operation, site.setting
    learns_gamma = layer.scale and setting.trains([layer.gamma])
    return Kept(inputs=(0,)) if setting.flag(layer) or learns_gamma else NOTHING


def _norm(site: Site) -> Kept:
    matters = any(site.live) or site.setting.trains(
        variable for variable in site.operation.weights if variable.name != "beta"
    )
    return Kept(inputs=(0,)) if matters else NOTHING


def _dropout(site: Site) -> Kept:
    return Kept(extra=site.inputs[0].elements) if site.operation.rate else NOTHING


def _gaussian_dropout(site: Site) -> Kept:
    drops = site.operation.rate
    return Kept(extra=site.inputs[0].elements * site.item_bytes) if drops else NOTHING


# Recurrent layers.

#: What a cell keeps of a time step, in times its units, beside its state h.
_OF_CELL = {"LSTMCell": 6, "GRUCell": 5, "SimpleRNNCell": 0}


def _recurrent(site: Site) -> Kept:
    layer = site.operation
    cells = getattr(layer.cell, "cells", [layer.cell])
    steps = math.prod(site.inputs[0].shape[:2])
    extra = 0
    inputs: tuple[int, ...] = ()
    for n, cell in enumerate(cells):
        kind = type(cell).__name__
        if kind not in _OF_CELL:
            return Kept((0,), True, doubt=ROUGHLY)
        is_output = layer.return_sequences and cell is cells[-1]
        extra += (_OF_CELL[kind] + (not is_output)) * cell.units * steps * site.item_bytes
        if n == 0 and site.setting.trains([cell.kernel]):
            inputs = (0,)
    return Kept(inputs, bool(layer.return_sequences), extra)


def _bidirectional(site: Site) -> Kept:
    layer = site.operation
    kept = [
        _part(site, one, site.inputs[0].shape)
        for one in (layer.forward_layer, layer.backward_layer)
    ]
    inputs = tuple(dict.fromkeys(i for one in kept for i in one.inputs))
    halves = site.output.elements * site.item_bytes  # what both return, before it is merged
    is_kept = any(one.output for one in kept)
    extra = sum(one.extra for one in kept) + (halves if is_kept else 0)
    return Kept(inputs, extra=extra, doubt=kept[0].doubt)


def _part(site: Site, layer: keras.Layer, shape: tuple[int, ...]) -> Kept:
    """Return what a layer within that of a call keeps, for an input of this shape."""
    size = Size(shape, site.item_bytes)
    live = (any(site.live),)
    return kept_by(Site(layer, (size,), site.output, live, site.setting))


# Attention.


def _multi_head(site: Site) -> Kept:
    layer, trains = site.operation, site.setting.trains
    place = {"query": 0, "value": min(1, len(site.inputs) - 1)}
    has_key = len(site.inputs) > 2 and len(site.inputs[2].shape) == len(site.inputs[1].shape)
    place["key"] = 2 if has_key and site.inputs[2].item_bytes > 1 else place["value"]
    dense = {"query": layer.query_dense, "key": layer.key_dense, "value": layer.value_dense}
    learns = {name: trains(_matrices(dense[name])) for name in dense}
    live = {name: site.live[place[name]] or trains(dense[name].weights) for name in dense}
    query, source = (_positions(site.inputs[place[name]]) for name in ("query", "value"))
    batch, heads = site.inputs[0].shape[0], layer.num_heads
    scores = batch * heads * query * source
    has_scores = live["query"] or live["key"]
    elements = 0
    if live["key"]:
        elements += batch * query * heads * layer.key_dim
    if live["query"]:
        elements += batch * source * heads * layer.key_dim
    if has_scores:
        elements += batch * source * heads * layer.value_dim
    if has_scores or live["value"]:
        elements += scores
    if trains(_matrices(layer.output_dense)):
        elements += batch * query * heads * layer.value_dim
    extra = elements * site.item_bytes
    if layer.dropout and (has_scores or live["value"]):
        extra += scores * (1 + site.item_bytes)  # the mask, and what is left of the weights
    inputs = tuple(dict.fromkeys(place[name] for name in dense if learns[name]))
    return Kept(inputs, extra=extra)


def _grouped_query(site: Site) -> Kept:
    layer = site.operation
    batch, heads = site.inputs[0].shape[0], layer.num_query_heads
    query = _positions(site.inputs[0])
    source = _positions(site.inputs[min(1, len(site.inputs) - 1)])
    scores = batch * heads * query * source
    elements = 2 * batch * heads * layer.head_dim * (query + source) + scores
    extra = elements * site.item_bytes
    extra += scores * (1 + site.item_bytes) if layer.dropout else 0
    learns = site.setting.trains(_matrices(layer))
    return Kept(tuple(range(min(3, len(site.inputs)))) if learns else (), extra=extra)


def _scored(site: Site) -> Kept:
    """Return what attention without projections keeps."""
    query, source = site.inputs[0], site.inputs[min(1, len(site.inputs) - 1)]
    scores = query.shape[0] * _positions(query) * _positions(source)
    extra = scores * site.item_bytes
    extra += scores * (1 + site.item_bytes) if site.operation.dropout else 0
    return Kept(tuple(range(min(3, len(site.inputs)))), extra=extra)


def _positions(size: Size) -> int:
    return math.prod(size.shape[1:-1])


def _matrices(layer: keras.Layer) -> list[Any]:
    return [variable for variable in layer.weights if len(variable.shape) > 1]


# What has no weights.


def _nothing(site: Site) -> Kept:
    return NOTHING


def _inputs(site: Site) -> Kept:
    return Kept(tuple(range(len(site.inputs))))


def _output(site: Site) -> Kept:
    return Kept(output=True)


def _factors(site: Site) -> Kept:
    """Return the factors of which another one has a gradient."""
    count = range(len(site.inputs))
    return Kept(tuple(n for n in count if any(site.live[m] for m in count if m != n)))


def _dot_product(site: Site) -> Kept:
    """Return what attention on projected heads, (batch, positions, heads, width), keeps."""
    query, key = site.inputs[:2]
    scores = query.shape[0] * query.shape[2] * query.shape[1] * key.shape[1]
    return Kept((0, 1, 2), extra=scores * query.item_bytes)


# Layers that contain others.


def _by_parts(site: Site) -> Kept:
    """Count a layer by those that it contains, each with an input of the shape it was built for.

    In which order they are called is not known: all are counted if any output has a gradient.
    """
    extra = 0
    for part in sublayers(site.operation):
        kept = _kept_inside(site, part)
        if kept is None:
            return Kept(tuple(range(len(site.inputs))), True, doubt=ROUGHLY)
        extra += kept
    return Kept(extra=extra, doubt=BY_PARTS)


def _kept_inside(site: Site, part: keras.Layer) -> int | None:
    """Return the bytes that a part keeps; None where its shapes are not known."""
    if isinstance(part, keras.layers.Dropout):
        return site.output.elements if part.rate else 0
    shapes = shapes_when_built(part)
    if not part.weights and not shapes:
        return 0
    sizes = [_with_batch(shape, site) for shape in shapes]
    if not sizes or None in sizes:
        return None
    inputs = tuple(size for size in sizes if size is not None)
    given = tuple(size.shape for size in inputs)
    try:
        output = part.compute_output_shape(*given)
    except (NotImplementedError, TypeError, ValueError):
        output = given[0]
    live = tuple(True for _ in inputs)
    inner = Site(part, inputs, Size(tuple(output), site.item_bytes), live, site.setting)
    kept = kept_by(inner)
    whole = sum(inputs[n].nbytes for n in kept.inputs)
    return whole + kept.extra + (inner.output.nbytes if kept.output else 0)


def _with_batch(shape: tuple[int | None, ...], site: Site) -> Size | None:
    """Return the size of an input that was built for any batch, and perhaps for any length."""
    given = site.inputs[0].shape
    sizes = [given[0]]
    for n, known in enumerate(shape[1:], 1):
        if known is None and len(given) != len(shape):
            return None
        sizes.append(given[n] if known is None else known)
    return Size(tuple(sizes), site.item_bytes)


def _time_distributed(site: Site) -> Kept:
    """Count the layer inside, with one sample for each time step."""
    merged = []
    for size in (*site.inputs, site.output):
        shape = (math.prod(size.shape[:2]), *size.shape[2:])
        merged.append(dataclasses.replace(size, shape=shape))
    inner = site.operation.layer
    return kept_by(Site(inner, tuple(merged[:-1]), merged[-1], site.live, site.setting))


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _each(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


# Activations whose gradient is a function of what they return.
_BY_OUTPUT = _names(
    "elu exponential hard_tanh log_softmax relu relu6 selu sigmoid softmax sparsemax tanh"
)

_VIEWS = _names("ExpandDims Flatten Identity Ravel Reshape Squeeze View")

_WITHOUT_GRADIENT = _names(
    """
    All Any Argmax Argmin Argsort Ceil Equal Floor FloorDivide Greater GreaterEqual Isfinite Isinf
    Isnan Less LessEqual LogicalAnd LogicalNot LogicalOr LogicalXor NotEqual OneHot OnesLike Round
    Sign StopGradient ZerosLike
    """
)

# Every layer that is known, by the name of its class.
LAYERS: dict[str, Rule] = {
    **_each(
        """
        Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose Dense DepthwiseConv1D
        DepthwiseConv2D EinsumDense
        """,
        _matrix,
    ),
    **_each("SeparableConv1D SeparableConv2D", _separable),
    **_each("Embedding ReversibleEmbedding", _embedding),
    **_each(
        """
        Add Average AveragePooling1D AveragePooling2D AveragePooling3D AdaptiveAveragePooling1D
        AdaptiveAveragePooling2D AdaptiveAveragePooling3D Concatenate Cropping1D Cropping2D
        Cropping3D Flatten GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
        GlobalAveragePooling3D Identity InputLayer Masking Normalization Permute RepeatVector
        Rescaling Reshape Subtract UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D
        ZeroPadding2D ZeroPadding3D
        """,
        _nothing,
    ),
    # Their masks are as small as their channels.
    **_each("SpatialDropout1D SpatialDropout2D SpatialDropout3D", _nothing),
    **_each("Dot Multiply", _factors),
    **_each(
        """
        AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D GlobalMaxPooling1D
        GlobalMaxPooling2D GlobalMaxPooling3D LeakyReLU MaxPooling1D MaxPooling2D MaxPooling3D
        Maximum Minimum PReLU
        """,
        _inputs,
    ),
    **_each("ELU ReLU Softmax", _output),
    "Activation": _activation,
    "BatchNormalization": _batch_norm,
    "LayerScale": _scale,  # of ConvNeXt
    **_each("GroupNormalization LayerNormalization RMSNormalization UnitNormalization", _norm),
    **_each("AlphaDropout Dropout", _dropout),
    "GaussianDropout": _gaussian_dropout,
    **_each("GRU LSTM RNN SimpleRNN", _recurrent),
    "Bidirectional": _bidirectional,
    "TimeDistributed": _time_distributed,
    "MultiHeadAttention": _multi_head,
    "GroupedQueryAttention": _grouped_query,
    **_each("AdditiveAttention Attention", _scored),
}

# The operations on tensors that are known.
OPERATIONS: dict[str, Rule] = {
    **_each(
        """
        Add Average BroadcastTo Cast Clip Concatenate Copy ConvertToTensor Cumsum ExpandDims Flip
        GetItem Hstack Mean Moveaxis Negative Pad Ravel Repeat Reshape Roll Split Squeeze Stack
        Subtract Sum Swapaxes Tile Transpose Unstack Vstack
        """,
        _nothing,
    ),
    **_each("Divide Dot Einsum Matmul Multiply TrueDivide", _factors),
    **_each(
        """
        Cbrt Elu Exp Exp2 Expm1 HardTanh LogSoftmax Reciprocal Relu Relu6 Rsqrt Selu Sigmoid Softmax
        Sparsemax Sqrt Tanh
        """,
        _output,
    ),
    **_each(
        """
        Absolute Amax Amin Arctan Celu Cos Cosh Erf Gelu Glu HardShrink HardSigmoid HardSilu
        LeakyRelu Log Log10 Log1p Log2 LogSigmoid Logsumexp Max Maximum Min Minimum Mod Normalize
        Power Prod Silu Sin Sinh SoftShrink Softplus Softsign Square Squareplus Std Take Tan
        TanhShrink Threshold Var Where
        """,
        _inputs,
    ),
    "DotProductAttention": _dot_product,
}
