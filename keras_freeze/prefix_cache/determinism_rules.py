"""What is known of each layer and operation of Keras: when its output can't be cached.

A new layer of Keras goes into `LAYERS`; a test fails until it is there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

from keras_freeze.keras_internals.graph import walked_graph
from keras_freeze.prefix_cache.reasons import NoCut, Reason


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a layer's behaviour depends on.

    Attributes:
        trained: Ids of the variables that the optimizer changes.
        inference: Bool, whether the layer is called in inference mode, without dropout.
        arguments: Positional arguments of the call that is judged.
    """

    trained: Collection[int]
    inference: bool = False
    arguments: tuple[Any, ...] = ()


# Why a layer itself can't be cached, apart from those that it contains. The text follows its name.
Rule: TypeAlias = Callable[[Any, Setting], NoCut | None]

NOT_KNOWN = NoCut(Reason.NOT_KNOWN, "is not known to be deterministic")
ADDS_LOSS = NoCut(Reason.ADDS_LOSS, "adds a loss that depends on its output")
MIXES = NoCut(Reason.ACROSS_SAMPLES, "mixes the samples of a batch")
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


def _recurrent(layer: Any, setting: Setting) -> NoCut | None:
    if getattr(layer, "stateful", False):
        return NoCut(Reason.STATE, "keeps its state from batch to batch")
    return _CELL(layer, setting)


def _batch_norm(layer: Any, setting: Setting) -> NoCut | None:
    if layer.trainable and not setting.inference:
        return NoCut(Reason.STATE, "updates its statistics in training mode")
    return None


def _spectral_norm(layer: Any, setting: Setting) -> NoCut | None:
    return None if setting.inference else NoCut(Reason.STATE, "updates a vector in training mode")


def _model(model: Any, setting: Setting) -> NoCut | None:
    return None if walked_graph(model) is not None else _OWN_CODE


def _reduction(operation: Any, setting: Setting) -> NoCut | None:
    return MIXES if getattr(operation, "axis", None) is None else None


def _get_item(operation: Any, setting: Setting) -> NoCut | None:
    key = setting.arguments[1] if len(setting.arguments) > 1 else None
    first = key[0] if isinstance(key, tuple) and key else key
    if first is Ellipsis or (isinstance(first, slice) and first == slice(None)):
        return None
    return NoCut(Reason.ACROSS_SAMPLES, "selects samples of a batch")


def _permutation(operation: Any, setting: Setting) -> NoCut | None:
    axes = getattr(operation, "axes", None)
    return None if axes is not None and axes[0] == 0 else MIXES


_OWN_CODE = NoCut(Reason.NOT_KNOWN, "runs code that is not known to be deterministic")
_DRAWS = NoCut(Reason.RANDOM, "draws random numbers")
_TABLE = NoCut(Reason.STATE, "uses a table that is not a weight")

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
        Activation AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
        AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add Average
        AveragePooling1D AveragePooling2D AveragePooling3D CategoryEncoding CenterCrop Concatenate
        Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose Cropping1D Cropping2D
        Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot ELU EinsumDense
        Embedding Flatten GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
        GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization Identity
        InputLayer LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D
        Maximum MelSpectrogram Minimum Multiply Normalization PReLU Permute RMSNormalization ReLU
        RepeatVector Rescaling Reshape Resizing ReversibleEmbedding STFTSpectrogram
        SeparableConv1D SeparableConv2D Softmax Subtract UnitNormalization UpSampling1D
        UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
        """,
        pure,
    ),
    **_each("AlphaDropout Dropout GaussianDropout", _dropout("rate")),
    **_each("SpatialDropout1D SpatialDropout2D SpatialDropout3D", _dropout("rate")),
    "GaussianNoise": _dropout("stddev"),
    **_each("AdditiveAttention Attention", _dropout("dropout")),
    **_each("GroupedQueryAttention MultiHeadAttention StackedRNNCells", pure),
    "BatchNormalization": _batch_norm,
    **_each("ConvLSTM1D ConvLSTM2D ConvLSTM3D GRU LSTM RNN SimpleRNN", _recurrent),
    **_each("ConvLSTMCell GRUCell LSTMCell SimpleRNNCell", _CELL),
    **_each("Bidirectional TimeDistributed", pure),
    **_each("Functional Model Sequential", _model),
    **HUB_LAYERS,
    "ActivityRegularization": _never(ADDS_LOSS),
    "SpectralNormalization": _spectral_norm,
    **_each(
        """
        AugMix AutoContrast ContrastLimitedAdaptiveHistogramEqualization CutMix Equalization
        MaxNumBoundingBoxes MixUp RandAugment RandomBrightness RandomColorDegeneration
        RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing
        RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective
        RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear
        RandomTranslation RandomZoom Solarization
        """,
        _never(_DRAWS),
    ),
    **_each("FlaxLayer JaxLayer Lambda Layer Pipeline TFSMLayer", _never(_OWN_CODE)),
    **_each("TorchModuleWrapper Wrapper", _never(_OWN_CODE)),
    **_each("HashedCrossing Hashing IntegerLookup StringLookup TextVectorization", _never(_TABLE)),
}

# The operations on tensors whose output row i depends on row i of the inputs alone.
OPERATIONS: dict[str, Rule] = {
    **_each(
        """
        Abs Absolute Add Arctan Arctan2 Cast Ceil Clip Concatenate Cos Cosh Divide DivideNoNan Elu
        Equal Erf Exp Expm1 Floor FloorDivide Gelu Greater GreaterEqual HardSigmoid HardSilu
        HardTanh LeakyRelu Less LessEqual Log Log10 Log1p Log2 LogSigmoid LogicalAnd LogicalNot
        LogicalOr Maximum Minimum Mod Multiply Negative NotEqual Pad Power Reciprocal Relu Relu6
        Round Rsqrt Selu Sigmoid Sign Silu Sin Sinh Softplus Softsign Sqrt Square StopGradient
        Subtract Tan Tanh TrueDivide Where
        """,
        pure,
    ),
    **_each(
        """
        Amax Amin ExpandDims Logsumexp LogSoftmax Max Mean Min Normalize Prod Squeeze Stack Std
        Sum Var
        """,
        _reduction,
    ),
    "GetItem": _get_item,
    "Transpose": _permutation,
}
