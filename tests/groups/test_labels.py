"""Labels: what layer names tell about structure, and when they are not to be trusted."""

import keras
import pytest
from keras import layers

from keras_freeze.groups import kinds
from keras_freeze.groups.atoms import chains
from keras_freeze.groups.call_graph import call_graph
from keras_freeze.groups.labels import common_prefix, labels


def labels_of(*stack):
    model = keras.Sequential([keras.Input((32, 32, 3)), *stack])
    return labels([atom for atom in chains(call_graph(model)).trunk if atom.weighted])


def conv(name, strides=1):
    return layers.Conv2D(2, 1, strides=strides, name=name)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["block1_conv1", "block1_conv2", "block2_conv1"], ["block1", "block1", "block2"]),
        (["conv1_conv", "conv2_block1_1_conv"], ["conv1", "conv2"]),
        (["block1a_dwconv", "block1b_dwconv", "block2a_x"], ["block1", "block1", "block2"]),
        (["stage_0_block_0", "stage_0_block_1", "stage_1_block_0"], ["stage0", "stage0", "stage1"]),
        (["tiny_stage_0_x", "tiny_stage_1_x"], ["stage0", "stage1"]),
        (["a_block1", "b_block1"], ["a_block1", "b_block1"]),
        (["Block_1", "Block_2"], ["block1", "block2"]),
        (["stem", "block1", "block2"], [None, "block1", "block2"]),
        (["block1", "extra", "block2"], ["block1", "block1", "block2"]),
        (["block1", "block2", "top_conv"], ["block1", "block2", "block2"]),
    ],
    ids=lambda value: "-".join(map(str, value)),
)
def test_labels(given, expected):
    assert labels_of(*map(conv, given)) == expected


@pytest.mark.parametrize(
    "given",
    [
        ["conv2d_1", "conv2d_2", "conv2d_3"],
        ["dense_1", "dense_2"],
        ["downsampling_conv_0", "downsampling_conv_1"],
        ["block1", "block2", "block1_again"],
        ["block1_a", "block1_b"],
        ["a", "b", "c", "block1", "block2"],
    ],
    ids="-".join,
)
def test_names_that_do_not_help(given):
    assert labels_of(*map(conv, given)) == []


def test_an_unlabelled_layer_that_strides_opens_the_next_block():
    norm = layers.LayerNormalization(name="downsampling_norm")
    stack = [conv("stage_0_a"), norm, conv("downsampling", strides=2), conv("stage_1_a")]
    assert labels_of(*stack) == ["stage0", "stage1", "stage1", "stage1"]


def test_a_label_that_only_a_norm_has_is_no_label():
    norm = layers.BatchNormalization(name="pool2_bn")
    stack = [conv("block1_a"), norm, conv("block2_a"), layers.BatchNormalization(name="block3_bn")]
    assert labels_of(*stack) == ["block1", "block1", "block2", "block2"]


def test_a_leading_norm_belongs_to_the_first_label():
    norm = layers.BatchNormalization(name="bn_data")
    assert labels_of(norm, conv("block1_a"), conv("block2_a")) == ["block1", "block1", "block2"]


class Residual(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Conv2D(2, 1), layers.Conv2D(2, 1)

    def call(self, x):
        return self.second(self.first(x))


def test_each_layer_made_of_layers_is_a_label_whatever_its_number():
    first, second = Residual(), Residual()
    assert labels_of(first, conv("extra"), second) == [first.name, first.name, second.name]


def test_common_prefix():
    assert common_prefix([["a", "b", "c"], ["a", "b"]]) == ["a", "b"]
    assert common_prefix([["a"], ["b"]]) == []


@pytest.mark.parametrize(
    ("layer", "automatic"),
    [
        (layers.Conv2D(1, 1, name="conv2d_12"), True),
        (layers.Conv2D(1, 1, name="conv2d"), True),
        (layers.BatchNormalization(name="batch_normalization_3"), True),
        (layers.ReLU(name="re_lu"), True),
        (layers.Conv2D(1, 1, name="conv2d_a"), False),
        (layers.Dense(1, name="conv2d"), False),
    ],
    ids=lambda value: value.name if isinstance(value, layers.Layer) else "",
)
def test_automatic_names(layer, automatic):
    assert kinds.has_automatic_name(layer) is automatic


class Conv2X3D(layers.ReLU):
    """Digits and capitals in an order that Keras treats in a way of its own."""


@pytest.mark.parametrize(
    "kind",
    [layers.BatchNormalization, layers.GlobalAveragePooling1D, layers.MaxPooling3D, Conv2X3D],
)
def test_automatic_names_are_what_keras_makes(kind):
    assert all(kinds.has_automatic_name(kind()) for _ in range(2))
