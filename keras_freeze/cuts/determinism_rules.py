"""What is known of each layer and operation of Keras: when its output can't be cached.

A new layer of Keras goes into `LAYERS`; a test fails until it is there.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_freeze.cuts.reasons import NoCut, Reason
from keras_freeze.keras_internals.graph import output_rank, walked_graph


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a layer's behaviour depends on.

    Attributes:
        trained: Ids of the variables that the optimizer changes.
        inference: Bool, whether the layer is called in inference mode, without dropout.
        training_writes: Bool, whether it is called in training mode elsewhere, and writes then.
        views: Bool, whether several random views of each sample are kept. Defaults to False.
        node: The call that is judged, in the graph of a model; None if it is not in one.
    """

    trained: Collection[int]
    inference: bool = False
    training_writes: bool = True
    views: bool = False
    node: Any = None


# Why a layer itself can't be cached, apart from those that it contains. The text follows its name.
Rule: TypeAlias = Callable[[Any, Setting], NoCut | None]

NOT_KNOWN = NoCut(Reason.NOT_KNOWN, "is not known to be deterministic")
ADDS_LOSS = NoCut(Reason.ADDS_LOSS, "adds a loss that depends on its output")
MIXES = NoCut(Reason.ACROSS_SAMPLES, "mixes the samples of a batch")
SELECTS = NoCut(Reason.ACROSS_SAMPLES, "selects samples of a batch")
STOCHASTIC = NoCut(Reason.RANDOM, "is stochastic in training mode")


def _each(names: str, rule: Rule) -> dict[str, Rule]:
    """Return one rule for several names."""
    return dict.fromkeys(names.split(), rule)


def pure(operation: Any, setting: Setting) -> NoCut | None:
    """Accept any operation."""
    return None


def _never(reason: NoCut) -> Rule:
    return lambda operation, setting: reason


def _dropout(*attributes: str) -> Rule:
    """Return the rule of what is stochastic in training mode if one of its rates is not 0."""

    def rule(layer: Any, setting: Setting) -> NoCut | None:
        drops = any(getattr(layer, name, 0) for name in attributes)
        return STOCHASTIC if drops and not setting.inference else None

    return rule


_CELL = _dropout("dropout", "recurrent_dropout")


def _of_layers(layer: Any, setting: Setting) -> NoCut | None:
    """Accept cells that are layers, which are judged as such."""
    cells = getattr(layer, "cells", None) or [getattr(layer, "cell", layer)]
    return None if all(isinstance(cell, keras.Layer) for cell in cells) else NOT_KNOWN


def _recurrent(layer: Any, setting: Setting) -> NoCut | None:
    if getattr(layer, "stateful", False):
        return NoCut(Reason.STATE, "keeps its state from batch to batch")
    # In validation too its masks are drawn, which moves the generator on.
    drawn = dataclasses.replace(setting, inference=not setting.training_writes)
    return _of_layers(layer, setting) or _CELL(layer, drawn)


def _batch_norm(layer: Any, setting: Setting) -> NoCut | None:
    if layer.trainable and setting.training_writes:
        return NoCut(Reason.STATE, "updates its statistics in training mode")
    return None


def _spectral_norm(layer: Any, setting: Setting) -> NoCut | None:
    is_fixed = not setting.training_writes
    return None if is_fixed else NoCut(Reason.STATE, "updates a vector in training mode")


def _model(model: Any, setting: Setting) -> NoCut | None:
    return None if walked_graph(model) is not None else _OWN_CODE


def across_samples(operation: Any, setting: Setting) -> NoCut | None:
    """Return why the axes that an operation works along include that of the samples."""
    # A new axis is counted in the output.
    is_new = type(operation).__name__ in ("ExpandDims", "Stack")
    rank = _rank(operation, setting, of_output=is_new)
    if type(operation).__name__ == "Transpose":  # whose axes are all of them
        return None
    for name in ("axis", "axes", "_attention_axes"):
        axes = getattr(operation, name, None)
        for axis in axes if isinstance(axes, (list, tuple)) else [axes]:
            if isinstance(axis, numbers.Integral) and _is_of_samples(int(axis), rank):
                return MIXES
    return None


def _is_of_samples(axis: int, rank: int | None) -> bool:
    if axis >= 0:
        return axis == 0
    # Inside other layers tensors have at least two dimensions.
    return axis != -1 if rank is None else axis + rank <= 0


def _rank(operation: Any, setting: Setting, *, of_output: bool = False) -> int | None:
    if setting.node is None:
        return output_rank(operation)
    tensors = setting.node.output_tensors if of_output else setting.node.input_tensors
    return min((len(tensor.shape) for tensor in tensors), default=None)


def _at_least(rank: int) -> Rule:
    """Return the rule of a layer that takes a tensor of fewer dimensions for a single sample."""

    def rule(layer: Any, setting: Setting) -> NoCut | None:
        found = _rank(layer, setting)
        return MIXES if found is None or found < rank else None

    return rule


def _not_flat(layer: Any, setting: Setting) -> NoCut | None:
    """Accept a function along the last axis, where that is not the samples'."""
    return MIXES if _rank(layer, setting) == 1 else None


def _softmax(layer: Any, setting: Setting) -> NoCut | None:
    return MIXES if layer.axis is None else None


def _rescaling(layer: Any, setting: Setting) -> NoCut | None:
    """Accept numbers that are the same for all samples."""
    rank = _rank(layer, setting) or 0
    shapes = [np.shape(value) for value in (layer.scale, layer.offset)]
    is_same = all(len(s) < rank or (len(s) == rank and s[0] == 1) for s in shapes if s)
    return None if is_same else MIXES


def _einsum(layer: Any, setting: Setting) -> NoCut | None:
    """Accept an equation whose first index is that of the samples, and of nothing else."""
    given, _, output = layer.equation.replace(" ", "").partition("->")
    tensor, _, kernel = given.partition(",")
    first = "..." if tensor.startswith("...") else tensor[:1]
    return None if output.startswith(first) and first not in kernel else MIXES


def _of_tensors(operation: Any, setting: Setting) -> NoCut | None:
    """Accept tensors of the model alone."""
    given = setting.node and setting.node.arguments
    parts = keras.tree.flatten((given.args, given.kwargs)) if given else []
    arrays = [part for part in parts if _is_array(part) and np.ndim(part)]
    return MIXES if arrays or not given else None


def _elementwise(operation: Any, setting: Setting) -> NoCut | None:
    """Accept tensors that meet sample by sample, and constants that are the same for all."""
    if setting.node is None:
        return NOT_KNOWN
    ranks = {len(tensor.shape) for tensor in setting.node.input_tensors}
    given = setting.node.arguments
    own = (value for name, value in vars(operation).items() if name != "pad_width")
    parts = (*given.args, *given.kwargs.values(), *own)
    shapes = [np.shape(part) for part in parts if _is_array(part)]
    is_same = all(len(s) < min(ranks) or (len(s) == min(ranks) and s[0] == 1) for s in shapes)
    return None if len(ranks) == 1 and is_same else MIXES


def _is_array(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(leaf, (int, float)) for leaf in keras.tree.flatten(value))
    return hasattr(value, "shape") and not isinstance(value, keras.KerasTensor)


def _padding(operation: Any, setting: Setting) -> NoCut | None:
    width = operation.pad_width
    first = width[0] if isinstance(width, (list, tuple)) and width else width
    is_none = isinstance(first, (list, tuple)) and not any(first)
    return _elementwise(operation, setting) if is_none else MIXES


def _reduction(operation: Any, setting: Setting) -> NoCut | None:
    return MIXES if getattr(operation, "axis", None) is None else None


def _get_item(operation: Any, setting: Setting) -> NoCut | None:
    node = setting.node
    key = node.arguments.args[1] if node and len(node.arguments.args) > 1 else None
    parts = key if isinstance(key, tuple) else (key,)
    if node is None or len(node.input_tensors) > 1:
        return SELECTS
    if not parts:
        return None
    if parts[0] is Ellipsis:  # which stands for the samples too if the others leave it an axis
        others = [part for part in parts if part is not Ellipsis and part is not None]
        return None if len(others) < len(node.input_tensors[0].shape) else SELECTS
    is_whole = isinstance(parts[0], slice) and parts[0] == slice(None)
    return None if is_whole else SELECTS


def _permutation(operation: Any, setting: Setting) -> NoCut | None:
    axes = getattr(operation, "axes", None)
    return None if axes is not None and axes[0] == 0 else MIXES


_OWN_CODE = NoCut(Reason.NOT_KNOWN, "runs code that is not known to be deterministic")
_AUGMENTS = NoCut(
    Reason.RANDOM, "augments at random; PrefixCache(views=8) keeps several views of each sample"
)
_DRAWS = NoCut(Reason.RANDOM, "draws random numbers")
_TABLE = NoCut(Reason.STATE, "uses a table that is not a weight")


def _augmentation(*, draws_in_validation: bool) -> Rule:
    """Return the rule of layers that change images at random, of which views may be kept."""

    def rule(layer: Any, setting: Setting) -> NoCut | None:
        is_quiet = setting.inference and setting.training_writes and not draws_in_validation
        return None if is_quiet or setting.views else _AUGMENTS

    return rule


# Layers that change images at random in training: those that are at rest in validation, and those
# that draw random numbers there too.
_QUIET_IN_VALIDATION = """
    RandomBrightness RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip
    RandomGaussianBlur RandomInvert RandomPerspective RandomRotation RandomShear RandomTranslation
    RandomZoom Solarization
"""
_DRAWING_IN_VALIDATION = """
    AugMix RandAugment RandomColorDegeneration RandomColorJitter RandomGrayscale RandomHue
    RandomPosterization RandomSaturation RandomSharpness
"""
AUGMENTATIONS = frozenset(f"{_QUIET_IN_VALIDATION} {_DRAWING_IN_VALIDATION}".split())

# Layers of KerasHub that do nothing but call the layers that they contain.
HUB_LAYERS: dict[str, Rule] = _each(
    """
    CachedMultiHeadAttention PositionEmbedding ReversibleEmbedding SinePositionEncoding
    TokenAndPositionEmbedding TransformerDecoder TransformerEncoder
    """,
    pure,
)

# Every layer in keras.layers, by the name of its class.
LAYERS: dict[str, Rule] = {
    **_each(
        """
        AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
        AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add Average
        AveragePooling1D AveragePooling2D AveragePooling3D Concatenate Conv1D Conv1DTranspose
        Conv2D Conv2DTranspose Conv3D Conv3DTranspose Cropping1D Cropping2D Cropping3D Dense
        DepthwiseConv1D DepthwiseConv2D Dot ELU Embedding Flatten GlobalAveragePooling1D
        GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D
        GlobalMaxPooling3D GroupNormalization Identity InputLayer LayerNormalization LeakyReLU
        Masking MaxPooling1D MaxPooling2D MaxPooling3D Maximum Minimum Multiply Normalization
        PReLU Permute RMSNormalization ReLU RepeatVector Reshape ReversibleEmbedding
        SeparableConv1D SeparableConv2D Subtract UnitNormalization UpSampling1D UpSampling2D
        UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
        """,
        pure,
    ),
    "Activation": _not_flat,
    "EinsumDense": _einsum,
    "Rescaling": _rescaling,
    "Softmax": _softmax,
    **_each("CategoryEncoding Discretization MelSpectrogram STFTSpectrogram", _at_least(2)),
    **_each("AutoContrast CenterCrop Resizing", _at_least(4)),
    "ContrastLimitedAdaptiveHistogramEqualization": _at_least(4),
    **_each("AlphaDropout Dropout GaussianDropout", _dropout("rate")),
    **_each("SpatialDropout1D SpatialDropout2D SpatialDropout3D", _dropout("rate")),
    "GaussianNoise": _dropout("stddev"),
    **_each("AdditiveAttention Attention", _dropout("dropout")),
    **_each("GroupedQueryAttention MultiHeadAttention", pure),
    "StackedRNNCells": _of_layers,
    "BatchNormalization": _batch_norm,
    **_each("ConvLSTM1D ConvLSTM2D ConvLSTM3D GRU LSTM RNN SimpleRNN", _recurrent),
    **_each("ConvLSTMCell GRUCell LSTMCell SimpleRNNCell", _recurrent),
    **_each("Bidirectional TimeDistributed", pure),
    **_each("Functional Model Sequential", _model),
    **HUB_LAYERS,
    "ActivityRegularization": _never(ADDS_LOSS),
    "SpectralNormalization": _spectral_norm,
    **_each("CutMix MaxNumBoundingBoxes MixUp", _never(_DRAWS)),
    "Equalization": _never(NOT_KNOWN),
    **_each(_QUIET_IN_VALIDATION, _augmentation(draws_in_validation=False)),
    **_each(_DRAWING_IN_VALIDATION, _augmentation(draws_in_validation=True)),
    **_each("FlaxLayer JaxLayer Lambda Layer Pipeline TFSMLayer", _never(_OWN_CODE)),
    **_each("TorchModuleWrapper Wrapper", _never(_OWN_CODE)),
    **_each("HashedCrossing Hashing IntegerLookup StringLookup TextVectorization", _never(_TABLE)),
}

# The operations on tensors whose output row i depends on row i of the inputs alone.
OPERATIONS: dict[str, Rule] = {
    **_each(
        """
        Absolute Add Arctan Arctan2 Cast Ceil Clip Cos Cosh Divide DivideNoNan Elu
        Equal Erf Exp Expm1 Floor FloorDivide Gelu Greater GreaterEqual HardSigmoid HardSilu
        HardTanh LeakyRelu Less LessEqual Log Log10 Log1p Log2 LogSigmoid LogicalAnd LogicalNot
        LogicalOr Maximum Minimum Mod Multiply Negative NotEqual Power Reciprocal Relu Relu6
        Round Rsqrt Selu Sigmoid Sign Silu Sin Sinh Softplus Softsign Sqrt Square StopGradient
        Subtract Tan Tanh TrueDivide Where
        """,
        _elementwise,
    ),
    **_each(
        """
        All Amax Amin Any ExpandDims Logsumexp LogSoftmax Max Mean Min Normalize Prod Squeeze Std
        Sum Var
        """,
        _reduction,
    ),
    **_each("Concatenate Stack", _of_tensors),
    "GetItem": _get_item,
    "Pad": _padding,
    "Transpose": _permutation,
}
