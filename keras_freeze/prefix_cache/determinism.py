"""Judge whether a layer gives the same output for the same sample each time it is called.

Only layers and operations that Keras itself defines are known well enough to be judged, and a
few composite ones of KerasHub by what they consist of. Everything else is not cached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeAlias

import keras

from keras_freeze.keras_internals.graph import graph_nodes, walked_graph
from keras_freeze.keras_internals.layers import sublayers

Rule: TypeAlias = Callable[[Any, "Setting"], str | None]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a layer's behaviour depends on.

    Attributes:
        trained: Ids of the variables that the optimizer changes.
        inference: Bool, whether the layer is called as at inference, so that it drops nothing.
        arguments: Positional arguments of the call that is judged.
    """

    trained: Collection[int]
    inference: bool = False
    arguments: tuple[Any, ...] = ()


def reason_against(operation: Any, setting: Setting) -> str | None:
    """Say why the output of a layer or operation can't be kept; None if it can.

    Args:
        operation: `keras.Layer` or `keras.Operation`.
        setting: `Setting`.

    Returns:
        Str, the reason, as in "Dropout 'drop' drops at random"; None for a pure function of each
        sample and of weights that stay as they are.

    Example:
        >>> frozen = Setting(trained=())
        >>> reason_against(keras.layers.ReLU(), frozen)
        >>> reason_against(keras.layers.Dropout(0.5, name="drop"), frozen)
        "Dropout 'drop' drops at random"
    """
    reason = _reason(operation, setting)
    if reason is None:
        return None
    return f"{type(operation).__name__} {getattr(operation, 'name', '')!r} {reason}"


def _reason(operation: Any, setting: Setting) -> str | None:
    rules = LAYERS if isinstance(operation, keras.Layer) else OPERATIONS
    rule = rules.get(type(operation).__name__) if _is_known(operation) else None
    if rule is None:
        return "can't be judged"
    if isinstance(operation, keras.Layer):
        if any(id(v) in setting.trained for v in operation.weights):
            return "trains"
        if operation.activity_regularizer is not None:
            return "adds a loss for what it returns"
        if getattr(operation, "quantization_mode", None) is not None:
            return "is quantized"
    return rule(operation, setting) or _across_samples(operation) or _foreign_function(operation)


def _is_known(operation: Any) -> bool:
    package = str(type(operation).__module__).partition(".")[0]
    return package == "keras" or (package == "keras_hub" and type(operation).__name__ in _HUB)


def _across_samples(operation: Any) -> str | None:
    axis = getattr(operation, "axis", None)
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    return "works across samples" if 0 in [a for a in axes if a is not None] else None


def _foreign_function(layer: Any) -> str | None:
    for name in ("activation", "recurrent_activation"):
        function = getattr(layer, name, None)
        module = str(getattr(function, "__module__", None) or type(function).__module__)
        if function is not None and module.partition(".")[0] != "keras":
            return f"has an {name} that can't be judged"
    return None


def _each(names: str, rule: Rule) -> dict[str, Rule]:
    """Return one rule for several names."""
    return dict.fromkeys(names.split(), rule)


def _pure(operation: Any, setting: Setting) -> str | None:
    return None


def _never(reason: str) -> Rule:
    return lambda operation, setting: reason


def _with_rate(attribute: str, what: str = "drops at random") -> Rule:
    def rule(layer: Any, setting: Setting) -> str | None:
        return what if getattr(layer, attribute, 0) and not setting.inference else None

    return rule


def _batch_norm(layer: Any, setting: Setting) -> str | None:
    return "updates its statistics" if layer.trainable and not setting.inference else None


def _recurrent(layer: Any, setting: Setting) -> str | None:
    if getattr(layer, "stateful", False):
        return "keeps a state from batch to batch"
    return _cell(layer, setting) or _parts("cell")(layer, setting)


def _cell(layer: Any, setting: Setting) -> str | None:
    drops = getattr(layer, "dropout", 0) or getattr(layer, "recurrent_dropout", 0)
    return "drops at random" if drops and not setting.inference else None


def _parts(*names: str) -> Rule:
    """Judge a layer by the layers that it holds under these names."""

    def rule(layer: Any, setting: Setting) -> str | None:
        parts: list[Any] = []
        for name in names:
            part = getattr(layer, name, None)
            parts += part if isinstance(part, (list, tuple)) else [part]
        return _first_reason((part for part in parts if part is not None), setting)

    return rule


def _children(layer: Any, setting: Setting) -> str | None:
    return _first_reason(sublayers(layer), setting)


def _first_reason(layers: Iterable[Any], setting: Setting) -> str | None:
    return next((r for r in (reason_against(layer, setting) for layer in layers) if r), None)


def _model(model: Any, setting: Setting) -> str | None:
    graph = walked_graph(model)
    if graph is None:
        return "runs code that can't be judged"
    found = (reason_in_graph(node, setting) for node in graph_nodes(graph))
    return next((reason for reason in found if reason), None)


def reason_in_graph(node: Any, setting: Setting) -> str | None:
    """Do as `reason_against` for a call in the graph of a Functional model."""
    arguments = node.arguments
    if any(isinstance(x, keras.Variable) for x in keras.tree.flatten(arguments.args)):
        return f"{node.operation.name!r} reads a variable that is no layer's"
    return reason_against(node.operation, dataclasses.replace(setting, arguments=arguments.args))


def _reduction(operation: Any, setting: Setting) -> str | None:
    if getattr(operation, "axis", None) is None:
        return "works across samples"
    return None


def _get_item(operation: Any, setting: Setting) -> str | None:
    key = setting.arguments[1] if len(setting.arguments) > 1 else None
    first = key[0] if isinstance(key, tuple) and key else key
    if first is Ellipsis or (isinstance(first, slice) and first == slice(None)):
        return None
    return "picks samples"


def _permutation(operation: Any, setting: Setting) -> str | None:
    axes = getattr(operation, "axes", None)
    return None if axes is not None and axes[0] == 0 else "works across samples"


_RANDOM = _never("draws random numbers")
_OWN_CODE = _never("runs code that can't be judged")
_TABLE = _never("keeps a table that is not a weight")
_DROPS = _with_rate("rate")

# Composite layers of KerasHub, which only call the layers that they hold.
_HUB = {
    "CachedMultiHeadAttention": _children,
    "PositionEmbedding": _pure,
    "ReversibleEmbedding": _pure,
    "SinePositionEncoding": _pure,
    "TokenAndPositionEmbedding": _children,
    "TransformerDecoder": _children,
    "TransformerEncoder": _children,
}

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
        _pure,
    ),
    **_each("AlphaDropout Dropout GaussianDropout", _DROPS),
    **_each("SpatialDropout1D SpatialDropout2D SpatialDropout3D", _DROPS),
    "GaussianNoise": _with_rate("stddev", "adds noise"),
    **_each("AdditiveAttention Attention", _with_rate("dropout")),
    **_each("GroupedQueryAttention MultiHeadAttention", _children),
    "BatchNormalization": _batch_norm,
    **_each("ConvLSTM1D ConvLSTM2D ConvLSTM3D GRU LSTM RNN SimpleRNN", _recurrent),
    **_each("ConvLSTMCell GRUCell LSTMCell SimpleRNNCell", _cell),
    "StackedRNNCells": _parts("cells"),
    "Bidirectional": _parts("forward_layer", "backward_layer"),
    "TimeDistributed": _parts("layer"),
    **_each("Functional Model Sequential", _model),
    **_HUB,
    "ActivityRegularization": _never("adds a loss for what it returns"),
    "SpectralNormalization": lambda layer, setting: (
        _parts("layer")(layer, setting) if setting.inference else "updates a vector as it trains"
    ),
    **_each(
        """
        AugMix AutoContrast ContrastLimitedAdaptiveHistogramEqualization CutMix Equalization
        MaxNumBoundingBoxes MixUp RandAugment RandomBrightness RandomColorDegeneration
        RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing
        RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective
        RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear
        RandomTranslation RandomZoom Solarization
        """,
        _RANDOM,
    ),
    **_each("FlaxLayer JaxLayer Lambda Layer Pipeline TFSMLayer", _OWN_CODE),
    **_each("TorchModuleWrapper Wrapper", _OWN_CODE),
    **_each("HashedCrossing Hashing IntegerLookup StringLookup TextVectorization", _TABLE),
}

# The operations on tensors of which row i of the output depends on row i of the inputs alone.
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
        _pure,
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
