"""Models are cut behind their frozen, deterministic layers, at any depth, and train the same."""

import cached
import keras
import numpy as np
import pytest
from cached import frozen, images, tokens, vectors
from keras import layers

import keras_freeze as kf
from keras_freeze.cuts.determinism_rules import Setting
from keras_freeze.cuts.frontier import Frontier
from keras_freeze.cuts.model_cut import find
from keras_freeze.cuts.reasons import NoCut, Reason

slow = pytest.mark.slow


def found(model, inference=False):
    return find(model, Setting({id(v) for v in model.trainable_variables}, inference))


def behind(layer):
    """A frozen layer behind another one, and a head."""
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="low")(inputs)
    x = layers.Dense(4, name="middle")(layer(x))
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    for one in model.layers[:-1]:
        one.trainable = False
    return model


class TestFind:
    def test_up_to_the_first_layer_that_trains(self):
        frontier = found(frozen(cached.dense_stack, layers=["low", "middle"])())
        assert isinstance(frontier, Frontier)
        assert (frontier.name, frontier.ended_by) == ("middle", None)
        assert frontier.work == 4 * 6 + 6 * 5
        assert frontier.share == pytest.approx(54 / 69)

    def test_what_ends_the_cut_is_told(self):
        frontier = found(behind(layers.Dropout(0.5, name="drop")))
        assert frontier.name == "low"
        detail = "Dropout 'drop' is stochastic in training mode"
        assert frontier.ended_by == NoCut(Reason.RANDOM, detail)

    def test_in_inference_mode_dropout_does_not_end_it(self):
        frontier = found(behind(layers.Dropout(0.5, name="drop")), inference=True)
        assert (frontier.name, frontier.ended_by) == ("middle", None)

    def test_the_heads_own_dropout_is_not_frozen(self):
        inputs = keras.Input((4,))
        x = layers.Dropout(0.5)(layers.Dense(4, name="low")(inputs))
        model = keras.Model(inputs, layers.Dense(3, name="head")(x))
        model.layers[1].trainable = False
        assert found(model, inference=True).name == "low"

    def test_nothing_is_frozen(self):
        no_cut = found(cached.dense_stack())
        assert no_cut.reason is Reason.TRAINS and no_cut.reason.is_expected

    def test_without_weights_there_is_nothing_to_keep(self):
        model = keras.Sequential([keras.Input((4,)), layers.ReLU(), layers.Rescaling(2.0)])
        assert found(model).reason is Reason.NOTHING_FROZEN

    def test_a_call_that_does_not_return_a_row_for_each_sample(self):
        inputs = keras.Input((4,))
        x = layers.Dense(4, name="low")(inputs) + np.ones((5, 1, 4), "float32")
        model = keras.Model(inputs, layers.Dense(3, name="head")(x))
        model.get_layer("low").trainable = False
        frontier = found(model)
        assert (frontier.name, frontier.ended_by.reason) == ("low", Reason.ACROSS_SAMPLES)

    def test_a_model_that_is_cut_may_be_called_once_only(self):
        inner = frozen(cached.dense_stack, layers=["low"])()
        a, b = keras.Input((4,)), keras.Input((4,))
        both = layers.Concatenate()([inner(a), inner(b)])
        assert found(keras.Model([a, b], layers.Dense(1)(both))).reason is Reason.TRAINS
        outer = keras.Sequential([keras.Input((4,)), inner])
        again = keras.Model(a, layers.Concatenate()([outer(a), inner(a)]))
        assert found(again).reason is Reason.USED_TWICE


# Where the cut falls


def test_a_nested_backbone_cut_in_its_middle(nested):
    cached.compare(frozen(nested, layers=["block1_conv"]), images())


def test_a_nested_backbone_cut_in_its_middle_counts_no_call_twice(nested, batch_norm):
    found = []
    for build in (nested, batch_norm):
        model = frozen(build, layers=["block1_conv"])()
        found.append(find(model, Setting({id(v) for v in model.trainable_variables})))
    assert found[0].work == found[1].work > 0
    assert found[0].share == found[1].share < 1


@pytest.mark.slow
def test_a_nested_backbone_behind_frozen_layers():
    def build():
        inner_in = keras.Input((8, 8, 3))
        x = layers.Conv2D(4, 3, name="inner_1")(inner_in)
        inner = keras.Model(inner_in, layers.Conv2D(4, 3, name="inner_2")(x), name="inner")
        inputs = keras.Input((8, 8, 2))
        x = inner(layers.Conv2D(3, 1, name="stem")(inputs))
        outputs = layers.Dense(3, activation="softmax")(layers.Flatten()(x))
        return keras.Model(inputs, outputs)

    cached.compare(frozen(build, layers=["stem", "inner_1"]), images())


def skips():
    """A model whose head reads the input, a frozen layer and a deeper one."""
    inputs = keras.Input((4,))
    scaled = layers.Rescaling(0.5)(inputs)
    low = layers.Dense(5, activation="relu", name="low")(scaled)
    middle = layers.Dense(5, activation="relu", name="middle")(low)
    x = layers.Concatenate()([layers.Add()([low, middle]), scaled, low * 2.0, inputs])
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))


@pytest.mark.parametrize("names", [pytest.param(["low"], marks=slow), ["low", "middle"]])
def test_several_tensors_cross_the_cut(names):
    cached.compare(frozen(skips, layers=names), vectors())


def test_several_outputs_tap_the_backbone():
    def build():
        inputs = keras.Input((4,))
        low = layers.Dense(5, activation="relu", name="low")(inputs)
        middle = layers.Dense(5, activation="relu", name="middle")(low)
        heads = [
            layers.Dense(3, activation="softmax", name=f"head_{n}")(x)
            for n, x in enumerate([low, middle])
        ]
        return keras.Model(inputs, heads)

    x, y = vectors()
    cached.compare(frozen(build, layers=["low", "middle"]), (x, [y, y]))


def attention_encoder():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, 8, mask_zero=True, name="embedding")(inputs)
    for n in (1, 2):
        attended = layers.MultiHeadAttention(2, 4, name=f"attention_{n}")(x, x)
        x = layers.LayerNormalization(name=f"norm_{n}")(x + attended)
        x = x + layers.Dense(8, activation="gelu", name=f"dense_{n}")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))


@pytest.mark.parametrize(
    "matching",
    [
        pytest.param("embedding", marks=slow),
        pytest.param("embedding|.*_1", marks=slow),
        "embedding|.*_[12]",
    ],
)
def test_masks_cross_the_cut(matching):
    cached.compare(frozen(attention_encoder, matching=matching), tokens())


def lstm_stack():
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(11, 4, mask_zero=True, name="embedding"),
            layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both"),
            layers.GRU(4, return_sequences=True, name="gru"),
            layers.TimeDistributed(layers.Dense(4), name="each"),
            layers.LSTM(4, name="lstm"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )


@slow
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_stack_of_recurrent_layers(depth):
    cached.compare(frozen(lstm_stack, depth), tokens(), epochs=2)


@pytest.mark.slow
@pytest.mark.parametrize("training", [None, False])
@pytest.mark.parametrize(("depth", "rows"), [("head", 24), ("middle", 24), ("middle", 20)])
@pytest.mark.parametrize("family", ["VGG16", "ResNet50", "EfficientNetB0"])
def test_families_of_applications(family, depth, rows, training):
    def build():
        backbone = getattr(keras.applications, family)(
            weights=None, include_top=False, input_shape=(48, 48, 3)
        )
        inputs = keras.Input((48, 48, 3))
        x = backbone(inputs) if training is None else backbone(inputs, training=training)
        x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
        x = layers.Dense(16, activation="relu")(layers.LayerNormalization()(x))
        model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
        groups = len(kf.layer_groups(model))
        kf.freeze(model, groups=groups - 1 if depth == "head" else groups // 2)
        return model

    # EfficientNet's own dropout in its blocks leaves only what is before them.
    cached.compare(build, images(rows, size=48, channels=3), epochs=2)


# What else a tensor, or a call, brings with it


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.backend
@pytest.mark.slow_on_jax
@pytest.mark.slow
def test_a_mask_that_goes_into_a_nested_model():
    def build():
        inputs = keras.Input((6,), dtype="int32")
        x = layers.Embedding(11, 4, mask_zero=True, name="embedding")(inputs)
        inner = [keras.Input((6, 4)), layers.Dense(4, name="low"), layers.LSTM(3)]
        x = keras.Sequential(inner, name="inner")(x)
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    cached.compare(frozen(build, layers=["embedding", "low"]), tokens(), exact=False)


@pytest.mark.backend
def test_a_nested_model_that_takes_its_inputs_by_name():
    def build():
        a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
        x = layers.Dense(5, name="middle")(a)
        parts = [layers.Dense(3)(t) for t in (x, a, b)]
        inner = keras.Model([b, a], layers.Add()(parts), name="inner")
        one, two = keras.Input((4,)), keras.Input((4,))
        x = inner({"a": layers.Dense(4, name="low")(one), "b": two})
        return keras.Model([one, two], layers.Softmax()(x))

    x, y = vectors()
    data = [x, 2.0 * x[::-1].copy()], y
    cached.compare(frozen(build, layers=["low", "middle"]), data, exact=False)


@pytest.mark.backend
@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.at_commit("True")
def test_an_output_keeps_its_logits(is_nested):
    def build():
        inputs = keras.Input((4,))
        x = layers.Dense(3, activation="softmax", name="low")
        x = keras.Sequential([keras.Input((4,)), x], name="inner") if is_nested else x
        outputs = x(inputs)
        model = keras.Model(inputs, [outputs, layers.Dense(1, name="head")(outputs)])
        kernel = next(v for v in model.weights if "low/kernel" in v.path)
        kernel.assign(kernel * 80.0)
        return model

    x, y = vectors()
    data = x, [y, y.astype("float32")]
    cached.compare(frozen(build, layers=["low"]), data, expect_hits=False, exact=False)


@pytest.mark.backend
@pytest.mark.slow
def test_a_state_that_is_given_for_the_whole_batch():
    def build():
        inputs = keras.Input((5, 3))
        state = [keras.ops.zeros((8, 4))] * 2
        x = layers.LSTM(4, name="low")(inputs, initial_state=state)
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    rng = np.random.default_rng(3)
    data = rng.normal(size=(16, 5, 3)).astype("float32"), rng.integers(0, 3, 16)
    cached.compare(frozen(build, layers=["low"]), data, expect_hits=False)


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_a_masked_lstm_is_cut():
    def build():
        inputs = keras.Input((5, 3))
        x = layers.LSTM(4, name="low")(layers.Masking()(inputs))
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 5, 3)).astype("float32")
    x[::2, 3:] = 0.0
    cached.compare(frozen(build, layers=["low"]), (x, rng.integers(0, 3, 20)), exact=False)


@cached.on_tensorflow
def test_sparse_inputs_are_left_alone(capsys):
    import tensorflow as tf

    inputs = keras.Input((4,), sparse=True)
    x = layers.Dense(4, name="low", trainable=False)(inputs)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = vectors()
    data = tf.data.Dataset.from_tensor_slices((tf.sparse.from_dense(x), y)).batch(5)
    model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[kf.PrefixCache(auto=False)])
    assert "the inputs are SparseTensor, not arrays" in capsys.readouterr().out
