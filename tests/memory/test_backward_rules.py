"""Each layer of Keras has a rule, or is known to have none."""

import pytest
from keras import layers

from keras_freeze.memory.backward_rules import (
    LAYERS,
    NOTHING,
    Kept,
    Setting,
    Site,
    Size,
    is_view,
    item_bytes,
    kept_by,
)


def names(text):
    return set(text.split())


# Layers without a rule: their inputs and output are counted, or what they contain. They stand
# before anything that trains, hold the code of others, or are of no fixed kind.
WITHOUT = names(
    """
    ActivityRegularization AugMix AutoContrast CategoryEncoding CenterCrop ConvLSTM1D ConvLSTM2D
    ConvLSTM3D ContrastLimitedAdaptiveHistogramEqualization CutMix Discretization Equalization
    FlaxLayer GRUCell HashedCrossing Hashing IntegerLookup JaxLayer LSTMCell Lambda Layer
    MaxNumBoundingBoxes MelSpectrogram MixUp Pipeline RandAugment Resizing STFTSpectrogram
    SimpleRNNCell Solarization SpectralNormalization StackedRNNCells StringLookup TFSMLayer
    TextVectorization TorchModuleWrapper Wrapper
    """
)


def test_every_layer_has_a_rule():
    found = {
        name
        for name, value in vars(layers).items()
        if isinstance(value, type) and issubclass(value, layers.Layer)
    }
    others = {name for name in found - LAYERS.keys() - WITHOUT if not name.startswith("Random")}
    own_names = {getattr(layers, name).__name__ for name in others}  # some have two names
    assert own_names - LAYERS.keys() - WITHOUT == set()


def site(layer, inputs, output, live=True, trained=()):
    sizes = tuple(Size(shape, 4) for shape in inputs)
    setting = Setting(frozenset(map(id, trained)), {})
    return Site(layer, sizes, Size(output, 4), tuple(live for _ in sizes), setting)


def test_a_separable_convolution_keeps_what_each_kernel_is_multiplied_with():
    layer = layers.SeparableConv2D(5, 3, depth_multiplier=2)
    layer.build((None, 8, 8, 3))
    shapes = ([(2, 8, 8, 3)], (2, 6, 6, 5))
    assert kept_by(site(layer, *shapes, trained=[layer.depthwise_kernel])) == Kept((0,))
    between = 2 * 6 * 6 * 6 * 4
    assert kept_by(site(layer, *shapes, trained=[layer.pointwise_kernel])) == Kept(extra=between)
    assert kept_by(site(layer, *shapes)) == NOTHING


def test_lora_keeps_the_sum_of_kernel_and_adapters_where_a_gradient_passes():
    layer = layers.Dense(6)
    layer.build((None, 4))
    layer.enable_lora(2)
    trained = layer.trainable_variables
    assert len(trained) == 3
    shapes = ([(10, 4)], (10, 6))
    assert kept_by(site(layer, *shapes, live=False, trained=trained)) == Kept((0,))
    assert kept_by(site(layer, *shapes, trained=trained)) == Kept((0,), extra=24 * 4)


def test_a_scale_keeps_its_input_to_learn_from():
    layer = layers.PReLU()  # a layer with a weight of its own
    layer.build((None, 4))
    setting = site(layer, [(10, 4)], (10, 4), trained=layer.weights)
    assert LAYERS["LayerScale"](setting) == Kept((0,))
    assert LAYERS["LayerScale"](site(layer, [(10, 4)], (10, 4))) == NOTHING


def test_only_a_learning_norm_and_a_passing_gradient_need_the_input():
    layer = layers.LayerNormalization()
    layer.build((None, 4))
    shapes = ([(10, 4)], (10, 4))
    assert kept_by(site(layer, *shapes)) == Kept((0,))
    assert kept_by(site(layer, *shapes, live=False, trained=[layer.gamma])) == Kept((0,))
    assert kept_by(site(layer, *shapes, live=False, trained=[layer.beta])) == NOTHING


def test_a_cell_of_ones_own_is_said():
    class Cell(layers.SimpleRNNCell):
        def call(self, inputs, states, training=False):
            return super().call(inputs, states, training)

    layer = layers.RNN(Cell(3), name="mine")
    found = kept_by(site(layer, [(2, 7, 4)], (2, 3)))
    assert (found.inputs, found.output) == ((0,), True)
    assert found.doubt == "by inputs and output alone"


def test_a_subclass_without_code_of_its_own_has_the_rule_of_its_class():
    class Named(layers.ReLU):
        pass

    class Other(layers.ReLU):
        def call(self, x):
            return x

    assert kept_by(site(Named(), [(2, 3)], (2, 3))) == Kept(output=True)
    assert kept_by(site(Other(), [(2, 3)], (2, 3))).doubt


def own_activation(x):
    return x


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (None, NOTHING),
        ("linear", NOTHING),
        ("sigmoid", Kept(output=True)),
        ("silu", Kept(extra=80)),
        (own_activation, Kept(output=True, extra=80)),
        (layers.ReLU(), Kept(output=True)),
        (layers.LeakyReLU(), Kept(extra=80)),
    ],
    ids=["none", "linear", "sigmoid", "silu", "own", "layer by output", "layer by input"],
)
def test_activations_within_a_layer(activation, expected):
    layer = layers.Dense(2, activation=activation)
    layer.build((None, 4))
    assert kept_by(site(layer, [(10, 4)], (10, 2))) == expected


def test_views_are_no_memory_of_their_own():
    views = (layers.Flatten(), layers.Reshape((4,)), layers.Dropout(0), layers.Activation("linear"))
    assert all(map(is_view, views))
    assert not any(map(is_view, (layers.Dropout(0.1), layers.Activation("relu"), layers.ReLU())))


@pytest.mark.parametrize(
    ("dtype", "size"), [("bfloat16", 2), ("float64", 8), ("bool", 1), ("int8", 1)]
)
def test_elements(dtype, size):
    assert item_bytes(dtype) == size


def test_attention_without_projections():
    found = kept_by(site(layers.Attention(), [(2, 5, 4), (2, 7, 4)], (2, 5, 4)))
    assert found == Kept((0, 1), extra=2 * 5 * 7 * 4)
    drops = kept_by(site(layers.Attention(dropout=0.1), [(2, 5, 4), (2, 7, 4)], (2, 5, 4)))
    assert drops.extra - found.extra == 2 * 5 * 7 * (4 + 1)


def test_grouped_queries_are_compared_with_repeated_keys():
    layer = layers.GroupQueryAttention(3, 4, 2)
    layer.build((None, 5, 8), (None, 7, 8))
    sizes = ([(2, 5, 8), (2, 7, 8)], (2, 5, 8))
    # Queries, context, keys and values of 4 heads of 3; a weight for each pair of positions.
    elements = 2 * (2 * 4 * 3 * (5 + 7) + 4 * 5 * 7)
    assert kept_by(site(layer, *sizes)) == Kept(extra=4 * elements)
    assert kept_by(site(layer, *sizes, trained=layer.weights)) == Kept((0, 1), extra=4 * elements)


def test_noise_that_multiplies_is_kept():
    shapes = ([(10, 4)], (10, 4))
    assert kept_by(site(layers.GaussianDropout(0.5), *shapes)) == Kept(extra=160)
    assert kept_by(site(layers.GaussianDropout(0.0), *shapes)) == NOTHING
    assert kept_by(site(layers.GaussianNoise(0.5), *shapes)) == NOTHING
