"""What the table says of every layer and operation, against what it does.

Each is called twice on the same samples, together with others and in another order. One that
may be cached has to return the same for a sample each time and to leave every variable as it was;
of one that may not, something of this has to differ, or the reason is one that can't be seen here.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_freeze.model_picture import every_layer
from keras_freeze.prefix_cache import determinism_rules, planning
from keras_freeze.prefix_cache.audit import to_host
from keras_freeze.prefix_cache.batches import Batch
from keras_freeze.prefix_cache.determinism import reason_in_graph
from keras_freeze.prefix_cache.determinism_rules import Setting
from keras_freeze.prefix_cache.frontier import Frontier
from keras_freeze.prefix_cache.planning import Options
from keras_freeze.prefix_cache.reasons import Reason

ROWS = 6
#: Reasons that a single call does not show.
UNSEEN = (Reason.NOT_KNOWN, Reason.ADDS_LOSS)


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


def reason_against(model):
    """Return why the last call that is not an input can't be cached, or one before it."""
    setting = Setting(trained=())
    for layer in model.layers:
        layer.trainable = type(layer).__name__ == "BatchNormalization"
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes]
    found = [reason_in_graph(node, setting) for node in nodes if not node.is_input]
    return next((reason for reason in found if reason is not None), None)


def samples(found, rows):
    rng = np.random.default_rng(5)
    _, shapes, dtype, low, high = found
    values = [rng.uniform(low, high, (ROWS, *shape)) for shape in shapes]
    return [value[rows].astype(dtype) for value in values]


def values_of(model):
    return [keras.ops.convert_to_numpy(v) for layer in every_layer(model) for v in layer.variables]


def differs(found, model):
    """Tell whether an output depends on more than its sample, or something is written."""
    before = values_of(model)
    order = np.array([4, 0, 2])
    try:
        whole = model(samples(found, np.arange(ROWS)), training=True)
        part = model(samples(found, order), training=True)
    except Exception:  # where another number of samples does not fit
        return True
    flat = zip(keras.tree.flatten(whole), keras.tree.flatten(part), strict=True)
    for one, other in flat:
        left, right = keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
        if len(left) != ROWS or len(right) != len(order):
            return True
        if not np.allclose(left[order], right, rtol=1e-5, atol=1e-5, equal_nan=True):
            return True
    return any(not np.array_equal(a, b) for a, b in zip(before, values_of(model), strict=True))


@pytest.mark.backend
@pytest.mark.parametrize("name", [*LAYERS, *OPERATIONS])
def test_what_the_table_says_is_what_happens(name):
    keras.utils.set_random_seed(3)
    found = LAYERS.get(name) or OPERATIONS[name]
    model = model_of(found)
    reason = reason_against(model)
    if reason is None or reason.reason not in UNSEEN:
        assert differs(found, model) == (reason is not None), reason


@pytest.mark.backend
@pytest.mark.parametrize("name", LAYERS)
def test_trying_a_cut_changes_nothing(name):
    keras.utils.set_random_seed(3)
    found = LAYERS[name]
    below = model_of(found)
    reason_against(below)  # which freezes it
    outputs = layers.Dense(1)(layers.Rescaling(1.0)(below.output))
    model = keras.Model(below.inputs, outputs)
    model.compile(keras.optimizers.Adam())
    model.optimizer.build(model.trainable_variables)
    tensors = list(map(keras.ops.convert_to_tensor, samples(found, np.arange(ROWS))))
    batch = Batch(tensors if len(tensors) > 1 else tensors[0], state=jax_state(model))

    def values():
        return [to_host(v) for v in (*model.variables, *model.optimizer.variables)]

    before = values()
    frontier = planning.search(model, Options(False, False, False, None, lambda: None))
    if isinstance(frontier, Frontier):
        planning.trial(planning.make(model, frontier, batch, None), batch)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(), strict=True))


def jax_state(model):
    """Return what JAX's trainer passes into a step; nothing elsewhere."""
    if keras.backend.backend() != "jax":
        return ()
    variables = model.trainable_variables, model.non_trainable_variables
    return tuple([v.value for v in own] for own in variables)


#: Layers that are never cached, whatever they do, and those that are cells or bases of others.
NEVER = [
    "AugMix",
    "AutoContrast",
    "ContrastLimitedAdaptiveHistogramEqualization",
    "CutMix",
    "Equalization",
    "FlaxLayer",
    "Functional",
    "HashedCrossing",
    "Hashing",
    "InputLayer",
    "IntegerLookup",
    "JaxLayer",
    "Layer",
    "MaxNumBoundingBoxes",
    "MixUp",
    "Model",
    "Pipeline",
    "RandAugment",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomElasticTransform",
    "RandomGrayscale",
    "RandomPerspective",
    "RandomPosterization",
    "RandomSharpness",
    "Solarization",
    "StringLookup",
    "TFSMLayer",
    "TextVectorization",
    "TorchModuleWrapper",
    "Wrapper",
]
PARTS = ["ConvLSTMCell", "GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells"]


def test_every_layer_of_the_table_is_tried():
    tried = {name.partition(",")[0] for name in LAYERS} | set(NEVER) | set(PARTS)
    assert not set(determinism_rules.LAYERS) - tried - set(determinism_rules.HUB_LAYERS)


def test_every_operation_of_the_table_is_tried():
    met = set()
    for found in OPERATIONS.values():
        nodes = model_of(found)._nodes_by_depth.values()
        met |= {type(node.operation).__name__ for same in nodes for node in same}
    assert not set(determinism_rules.OPERATIONS) - met
