"""Small examples of every layer and operation that the prefix cache knows."""

import keras
import numpy as np
from keras import layers, ops

ROWS = 6


def case(operation, *shapes, dtype="float32", low=-1.0, high=1.0):
    """An operation, and the shapes of a sample in each of its inputs."""
    return operation, shapes, dtype, low, high


def texts(operation, high=5):
    return case(operation, (4,), dtype="int32", low=0, high=high)


VECTOR, SERIES, IMAGE, FILM = (5,), (6, 4), (6, 6, 3), (4, 6, 6, 2)
POOLS = [f"{kind}Pooling" for kind in ("Average", "Max", "GlobalAverage", "GlobalMax")]


def by_dimension(prefixes, *args, **settings):
    """Return cases of the layers that there are for 1, 2 and 3 dimensions."""
    return {
        f"{prefix}{n}D": case(
            lambda p=prefix, n=n: getattr(layers, f"{p}{n}D")(*args, **settings), s
        )
        for prefix in prefixes
        for n, s in zip((1, 2, 3), (SERIES, IMAGE, FILM), strict=True)
        if hasattr(layers, f"{prefix}{n}D")
    }


LAYERS = {
    **by_dimension(POOLS[:2], 2),
    **by_dimension(POOLS[2:]),
    **by_dimension(["AdaptiveAveragePooling", "AdaptiveMaxPooling"], 2),
    **by_dimension(["Conv", "SeparableConv"], 3, 2),
    "Conv1DTranspose": case(lambda: layers.Conv1DTranspose(3, 2), SERIES),
    "Conv2DTranspose": case(lambda: layers.Conv2DTranspose(3, 2), IMAGE),
    "Conv3DTranspose": case(lambda: layers.Conv3DTranspose(3, 2), FILM),
    **by_dimension(["DepthwiseConv"], 2),
    **by_dimension(["Cropping", "ZeroPadding"], 1),
    **by_dimension(["UpSampling"], 2),
    **by_dimension(["SpatialDropout"], 0.5),
    "ConvLSTM1D": case(lambda: layers.ConvLSTM1D(2, 2), (3, 6, 2)),
    "ConvLSTM2D": case(lambda: layers.ConvLSTM2D(2, 2), FILM),
    "ConvLSTM3D": case(lambda: layers.ConvLSTM3D(2, 2), (2, 4, 4, 4, 1)),
    **{
        name: case(lambda name=name: getattr(layers, name)(), VECTOR, VECTOR)
        for name in ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
    },
    "Dot": case(lambda: layers.Dot(1), VECTOR, VECTOR),
    **{
        name: case(lambda name=name: getattr(layers, name)(), IMAGE)
        for name in (
            "BatchNormalization",
            "ELU",
            "Flatten",
            "Identity",
            "LayerNormalization",
            "LeakyReLU",
            "Masking",
            "PReLU",
            "RMSNormalization",
            "ReLU",
            "Softmax",
            "UnitNormalization",
        )
    },
    **{
        name: case(lambda name=name: getattr(layers, name)(0.5), IMAGE)
        for name in ("AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise")
    },
    "Activation": case(lambda: layers.Activation("gelu"), VECTOR),
    "AdditiveAttention": case(layers.AdditiveAttention, SERIES, SERIES),
    "Attention": case(lambda: layers.Attention(use_scale=True), SERIES, SERIES),
    "Attention, dropout": case(lambda: layers.Attention(dropout=0.5), SERIES, SERIES),
    "Bidirectional": case(lambda: layers.Bidirectional(layers.LSTM(3)), SERIES),
    "CategoryEncoding": texts(lambda: layers.CategoryEncoding(5)),
    "CenterCrop": case(lambda: layers.CenterCrop(4, 4), IMAGE),
    "Dense": case(lambda: layers.Dense(3, activation="tanh"), VECTOR),
    "Discretization": case(lambda: layers.Discretization([-0.5, 0.5]), VECTOR),
    "EinsumDense": case(lambda: layers.EinsumDense("abc,cd->abd", (6, 2)), SERIES),
    "Embedding": texts(lambda: layers.Embedding(5, 3, mask_zero=True)),
    "GRU": case(lambda: layers.GRU(3), SERIES),
    "GroupNormalization": case(lambda: layers.GroupNormalization(3), IMAGE),
    "GroupedQueryAttention": case(lambda: layers.GroupQueryAttention(3, 2, 1), SERIES, SERIES),
    "LSTM": case(lambda: layers.LSTM(3), SERIES),
    "LSTM, dropout": case(lambda: layers.LSTM(3, dropout=0.5), SERIES),
    "MelSpectrogram": case(
        lambda: layers.MelSpectrogram(fft_length=16, sequence_stride=8, num_mel_bins=4), (64,)
    ),
    "MultiHeadAttention": case(lambda: layers.MultiHeadAttention(2, 3), SERIES, SERIES),
    "MultiHeadAttention, dropout": case(
        lambda: layers.MultiHeadAttention(2, 3, dropout=0.5), SERIES, SERIES
    ),
    "Normalization": case(lambda: layers.Normalization(mean=0.1, variance=2.0), VECTOR),
    "Permute": case(lambda: layers.Permute((2, 1)), SERIES),
    "RNN": case(lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]), SERIES),
    "RepeatVector": case(lambda: layers.RepeatVector(2), VECTOR),
    "Rescaling": case(lambda: layers.Rescaling(0.5, 1.0), VECTOR),
    "Reshape": case(lambda: layers.Reshape((2, -1)), SERIES),
    "Resizing": case(lambda: layers.Resizing(4, 5), IMAGE),
    "ReversibleEmbedding": texts(lambda: layers.ReversibleEmbedding(5, 3)),
    "STFTSpectrogram": case(lambda: layers.STFTSpectrogram(frame_length=16, frame_step=8), (64, 1)),
    "Sequential": case(lambda: keras.Sequential([layers.Dense(3), layers.ReLU()]), VECTOR),
    "SimpleRNN": case(lambda: layers.SimpleRNN(3), SERIES),
    "SimpleRNN, recurrent dropout": case(
        lambda: layers.SimpleRNN(3, recurrent_dropout=0.5), SERIES
    ),
    "SpectralNormalization": case(lambda: layers.SpectralNormalization(layers.Dense(3)), VECTOR),
    "TimeDistributed": case(lambda: layers.TimeDistributed(layers.Dense(3)), SERIES),
    **{
        name: case(lambda name=name: getattr(layers, name)(0.5), IMAGE, low=0.0, high=255.0)
        for name in (
            "RandomBrightness",
            "RandomContrast",
            "RandomInvert",
            "RandomRotation",
            "RandomZoom",
        )
    },
    **{
        name: case(lambda name=name: getattr(layers, name)(), IMAGE, low=0.0, high=255.0)
        for name in (
            "AugMix",
            "AutoContrast",
            "RandAugment",
            "Solarization",
        )
    },
    **{
        name: case(lambda name=name: getattr(layers, name)(0.5), IMAGE, low=0.0, high=255.0)
        for name in (
            "RandomColorDegeneration",
            "RandomElasticTransform",
            "RandomGrayscale",
            "RandomPerspective",
            "RandomSharpness",
        )
    },
    "ContrastLimitedAdaptiveHistogramEqualization": case(
        layers.ContrastLimitedAdaptiveHistogramEqualization, IMAGE, low=0.0, high=255.0
    ),
    "RandomPosterization": case(lambda: layers.RandomPosterization(3), IMAGE, high=255.0),
    "RandomColorJitter": case(
        lambda: layers.RandomColorJitter(hue_factor=0.5), IMAGE, low=0.0, high=255.0
    ),
    "RandomFlip": case(layers.RandomFlip, IMAGE),
    "RandomCrop": case(lambda: layers.RandomCrop(3, 3), IMAGE),
    "RandomErasing": case(lambda: layers.RandomErasing(1.0), IMAGE),
    "RandomGaussianBlur": case(lambda: layers.RandomGaussianBlur(1.0), IMAGE),
    "RandomHue": case(lambda: layers.RandomHue(1.0), IMAGE, low=0.0, high=255.0),
    "RandomSaturation": case(lambda: layers.RandomSaturation(1.0), IMAGE, low=0.0, high=255.0),
    "RandomShear": case(lambda: layers.RandomShear(0.9, 0.9), IMAGE),
    "RandomTranslation": case(lambda: layers.RandomTranslation(0.9, 0.9), IMAGE),
    "Lambda": case(lambda: layers.Lambda(lambda x: x * 2.0), VECTOR),
    "ActivityRegularization": case(lambda: layers.ActivityRegularization(0.1), VECTOR),
    # The batch's axis, named from either end, and samples that take each other's places.
    "an axis counted from the end": case(lambda: layers.Softmax(axis=-2), VECTOR),
    "normalized over the batch": case(lambda: layers.UnitNormalization(axis=-2), VECTOR),
    "attention over the batch": case(
        lambda: layers.MultiHeadAttention(1, 2, attention_axes=(0,)), IMAGE, IMAGE
    ),
    "pictures without a batch": case(lambda: layers.Resizing(ROWS, 5), SERIES),
    "softmax of the batch": case(lambda: layers.Activation("softmax"), ()),
    "softmax of everything": case(lambda: layers.Softmax(axis=None), VECTOR),
    "an axis of numpy": case(lambda: layers.Softmax(axis=np.int64(0)), VECTOR),
    "scaled by sample": case(
        lambda: layers.Rescaling(np.arange(ROWS, dtype="float32")[:, None]), VECTOR
    ),
    "an activation of a layer": case(
        lambda: layers.Dense(3, activation=layers.Dropout(0.5)), VECTOR
    ),
    "an activation with statistics": case(
        lambda: layers.Dense(3, activation=layers.BatchNormalization()), VECTOR
    ),
    "an activation across samples": case(
        lambda: layers.Dense(3, activation=lambda x: ops.softmax(x, axis=0)), VECTOR
    ),
    "an operation as an activation": case(lambda: layers.Dense(3, activation=ops.mean), VECTOR),
}

UNARY = [
    "abs",
    "absolute",
    "arctan",
    "ceil",
    "cos",
    "cosh",
    "elu",
    "erf",
    "exp",
    "expm1",
    "floor",
    "gelu",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "leaky_relu",
    "log_sigmoid",
    "negative",
    "relu",
    "relu6",
    "round",
    "selu",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "sinh",
    "softplus",
    "softsign",
    "square",
    "stop_gradient",
    "tan",
    "tanh",
]
POSITIVE = ["log", "log10", "log1p", "log2", "reciprocal", "rsqrt", "sqrt"]
BINARY = [
    "add",
    "arctan2",
    "divide",
    "divide_no_nan",
    "equal",
    "floor_divide",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "maximum",
    "minimum",
    "mod",
    "multiply",
    "not_equal",
    "subtract",
    "true_divide",
]
REDUCTIONS = [
    "amax",
    "amin",
    "logsumexp",
    "log_softmax",
    "max",
    "mean",
    "min",
    "normalize",
    "prod",
    "squeeze",
    "std",
    "sum",
    "var",
    "expand_dims",
]


def along(name, axis):
    return lambda x: getattr(ops, name)(x, axis=axis)


OPERATIONS = {
    **{name: case(getattr(ops, name), VECTOR) for name in UNARY},
    **{name: case(getattr(ops, name), VECTOR, low=0.5, high=2.0) for name in POSITIVE},
    **{name: case(getattr(ops, name), VECTOR, VECTOR, low=0.5, high=2.0) for name in BINARY},
    **{f"{name} of samples": case(along(name, -1), (3, 1)) for name in REDUCTIONS},
    **{f"{name} of the batch": case(along(name, 0), (3, 1))
       for name in REDUCTIONS if name not in ("squeeze", "expand_dims")},
    **{f"{name} counted from the end": case(along(name, -2), VECTOR)
       for name in REDUCTIONS if name not in ("squeeze", "expand_dims")},
    "logical_and": case(lambda x: ops.logical_and(x > 0.0, x < 0.5), VECTOR),
    "logical_or": case(lambda x: ops.logical_or(x > 0.0, x < -0.5), VECTOR),
    "logical_not": case(lambda x: ops.logical_not(x > 0.0), VECTOR),
    "any": case(lambda x: ops.any(x > 0.9, axis=-1), VECTOR),
    "all": case(lambda x: ops.all(x > -0.9, axis=-1), VECTOR),
    "any of the batch": case(lambda x: ops.any(x > 0.9, axis=0), VECTOR),
    "a constant beside each": case(
        lambda x: ops.concatenate([x, np.arange(5.0 * ROWS).reshape(ROWS, 5).astype("float32")], 1),
        VECTOR,
    ),
    "with an empty key": case(lambda x: x[()], VECTOR),
    "cast": case(lambda x: ops.cast(x, "int32"), VECTOR),
    "clip": case(lambda x: ops.clip(x, -0.5, 0.5), VECTOR),
    "power": case(lambda x: ops.power(x, 2.0), VECTOR),
    "where": case(lambda x: ops.where(x > 0.0, x, 2.0), VECTOR),
    "stack": case(lambda x: ops.stack([x, x], axis=1), VECTOR),
    "stack from the end": case(lambda x: ops.stack([x, x], axis=-1), VECTOR),
    "stacked on the batch": case(lambda x: ops.stack([x, x], axis=-3), VECTOR),
    "concatenate": case(lambda x: ops.concatenate([x, x], axis=-1), VECTOR),
    "concatenated below": case(lambda x: ops.concatenate([x, x], axis=-2), VECTOR),
    "pad": case(lambda x: ops.pad(x, ((0, 0), (1, 1))), VECTOR),
    "padded by samples": case(lambda x: ops.pad(x, ((1, 0), (0, 0))), VECTOR),
    "transpose": case(lambda x: ops.transpose(x, (0, 2, 1)), SERIES),
    "transposed with the batch": case(ops.transpose, SERIES),
    "get_item": case(lambda x: x[:, 1:], SERIES),
    "from the end": case(lambda x: x[..., 0], SERIES),
    "of the batch": case(lambda x: x[..., 0, :, :], SERIES),
    "samples by other samples": case(lambda x: x + ops.transpose(x[:, :1]), (ROWS,)),
    "tensors of other rank": case(lambda x: x + x[:, 0], (ROWS,)),
    "a constant by sample": case(
        lambda x: x + np.arange(ROWS, dtype="float32").reshape(-1, 1), VECTOR
    ),
    "a constant for all": case(lambda x: x * np.arange(5, dtype="float32"), VECTOR),
    "reversed": case(lambda x: ops.flip(x, axis=0), VECTOR),
}  # fmt: skip


#: Layers that take their inputs one by one.
SEVERAL = ("MultiHeadAttention", "GroupedQueryAttention")


def model_of(found):
    operation, shapes, dtype, _, _ = found
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    called = operation() if found in LAYERS.values() else operation
    is_merged = isinstance(called, keras.Layer) and type(called).__name__ not in SEVERAL
    outputs = called(inputs if len(inputs) > 1 else inputs[0]) if is_merged else called(*inputs)
    return keras.Model(inputs, outputs)


def samples(found, rows):
    rng = np.random.default_rng(5)
    _, shapes, dtype, low, high = found
    values = [rng.uniform(low, high, (ROWS, *shape)) for shape in shapes]
    return [value[rows].astype(dtype) for value in values]
