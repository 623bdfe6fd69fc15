"""Heat maps of models of which it is known what they look at."""

import keras
import numpy as np
import pytest

from keras_freeze import explain

layers = keras.layers
backend = keras.backend.backend()
#: TensorFlow's convolutions on a CPU know channels_last alone.
needs_channels_first = pytest.mark.skipif(backend == "tensorflow", reason="channels_last alone")


@keras.saving.register_keras_serializable("test")
class Window(layers.Layer):
    """Lets one part of its input through, and passes masks on."""

    def __init__(self, *window, **kwargs):
        super().__init__(**kwargs)
        self.window = window
        self.supports_masking = True

    def call(self, inputs):
        seen = np.zeros((1, *inputs.shape[1:]), "float32")
        seen[(0, *self.window)] = 1.0
        return inputs * keras.ops.cast(seen, inputs.dtype)


def set_weights(layer, *values):
    layer.set_weights([np.asarray(value, "float32") for value in values])


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


# Images ---------------------------------------------------------------------------------


def sees_a_patch(data_format="channels_last", **kwargs):
    is_last = data_format == "channels_last"
    patch = (slice(4, 8), slice(8, 12))
    return keras.Sequential(
        [
            keras.Input((12, 16, 2) if is_last else (2, 12, 16)),
            Window(*patch) if is_last else Window(slice(None), *patch),
            layers.Conv2D(8, 1, use_bias=False, activation="relu", data_format=data_format),
            layers.AveragePooling2D(2, data_format=data_format),
            layers.Conv2D(8, 1, use_bias=False, activation="relu", data_format=data_format),
            layers.Activation("relu", name="last"),
            layers.AveragePooling2D(2, data_format=data_format),
            layers.GlobalAveragePooling2D(data_format=data_format),
            layers.Dense(3, activation="softmax"),
        ],
        **kwargs,
    )


def part_in_patch(values):
    """Return how much is in the patch, with the pixels into which it is interpolated."""
    return values[:, 3:9, 7:13].sum(axis=(1, 2)) / values.sum(axis=(1, 2))


@pytest.mark.backend
@pytest.mark.parametrize(
    "data_format",
    ["channels_last", pytest.param("channels_first", marks=needs_channels_first)],
)
def test_an_image_is_hot_where_the_only_patch_that_matters_is(data_format, unchanged):
    model = sees_a_patch(data_format)
    model.compile("adam", "mse")
    shape = (3, 12, 16, 2) if data_format == "channels_last" else (3, 2, 12, 16)
    with unchanged(model):
        found = explain.heatmap(model, random(*shape))
    assert (found.layer, found.method) == ("last", "Grad-CAM")
    assert found.values.shape == (3, 12, 16)
    assert found.values.max(axis=(1, 2)).min() > 0
    np.testing.assert_allclose(part_in_patch(found.values), 1.0, rtol=1e-5)
    rows, columns = zip(*(np.unravel_index(v.argmax(), v.shape) for v in found.values), strict=True)
    assert set(rows) <= set(range(4, 8))
    assert set(columns) <= set(range(8, 12))


def red_or_green():
    """Each class is the mean of a colour."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(2, 1, use_bias=False, name="colours"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, activation="softmax", use_bias=False, name="head"),
        ]
    )
    set_weights(model.get_layer("colours"), np.eye(2)[None, None])
    set_weights(model.get_layer("head"), np.eye(2))
    x = np.zeros((2, 8, 8, 2), "float32")
    x[:, 1:3, 1:3, 0] = 1.0
    x[:, 5:8, 4:7, 1] = [[[1.0]], [[0.1]]]
    return model, x


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_each_class_is_hot_where_its_colour_is():
    model, x = red_or_green()
    for target in (0, 1):
        found = explain.heatmap(model, x, target=target)
        assert found.targets == (target, target)
        np.testing.assert_allclose(found.values, x[..., target] / 64)
        np.testing.assert_allclose(found.scores, x[..., target].mean(axis=(1, 2)), rtol=1e-5)
    predicted = explain.heatmap(model, x)
    assert predicted.targets == (1, 0)
    mixed = explain.heatmap(model, x, target=[0, 1])
    np.testing.assert_allclose(mixed.values[0], x[0, ..., 0] / 64)
    np.testing.assert_allclose(mixed.scaled().max(axis=(1, 2)), 1.0)


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_a_function_gets_the_outputs_as_they_are():
    model, x = red_or_green()
    found = explain.heatmap(model, x, target=lambda outputs: outputs[:, 1])
    assert found.targets is None
    np.testing.assert_allclose(found.scores, model.predict(x, verbose=0)[:, 1], rtol=1e-5)
    two = keras.Model(model.inputs, [model.outputs[0], model.get_layer("colours").output])
    other = explain.heatmap(two, x, "colours", lambda outputs: outputs[0][:, 1])
    np.testing.assert_allclose(other.values, found.values)


@pytest.mark.skipif(backend != "tensorflow", reason="written in TensorFlow")
def test_grad_cam_as_the_paper_writes_it(nested):
    import tensorflow as tf

    model, x = nested(), random(4, 8, 8, 2)
    backbone = model.get_layer("backbone")
    with tf.GradientTape() as tape:
        maps = backbone(x, training=False)
        tape.watch(maps)
        pooled = tf.reduce_mean(maps, axis=(1, 2))
        head = model.get_layer("head")
        score = (pooled @ head.kernel + head.bias)[:, 2]
    weights = tf.reduce_mean(tape.gradient(score, maps), axis=(1, 2))
    expected = tf.nn.relu(tf.einsum("nhwk,nk->nhw", maps, weights))
    expected = tf.image.resize(expected[..., None], (8, 8))[..., 0]
    found = explain.heatmap(model, x, "block2_relu", 2)
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.scores, score, rtol=1e-5)
    unnamed = explain.heatmap(model, x, target=2, batch_size=3)
    assert unnamed.layer == "block2_relu"
    np.testing.assert_allclose(unnamed.values, found.values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("is_layer", [True, False])
def test_the_last_map_of_a_residual_network_is_the_sum(is_layer):
    inputs = keras.Input((8, 8, 2))
    stem = layers.Conv2D(3, 1, name="stem")(inputs)
    branch = layers.Conv2D(3, 3, padding="same", name="branch")(stem)
    both = layers.Add(name="both")([stem, branch]) if is_layer else keras.ops.add(stem, branch)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(both)
    pooled = layers.GlobalMaxPooling2D()(layers.Conv2D(3, 1, name="gate")(gate))
    model = keras.Model(inputs, layers.Dense(2)(pooled))
    found = explain.heatmap(model, random(2, 8, 8, 2))
    assert found.layer.startswith("both" if is_layer else "add")
    assert found.values.max() > 0


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_a_model_for_batches_of_a_certain_size():
    free, fixed = sees_a_patch(), keras.Sequential([keras.Input((12, 16, 2), batch_size=2)])
    for layer in free.layers:
        fixed.add(layer)
    x = random(3, 12, 16, 2)
    one, two = explain.heatmap(free, x), explain.heatmap(fixed, x)
    np.testing.assert_allclose(one.values, two.values, rtol=1e-4)
    assert one.targets == two.targets


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_gradients_of_half_precision_do_not_vanish():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = sees_a_patch()
    finally:
        keras.config.set_dtype_policy(before)
    whole = sees_a_patch()
    half.layers[-1].kernel.assign(1e-5 * half.layers[-1].kernel)
    whole.set_weights(half.get_weights())
    x = random(3, 12, 16, 2)
    one, two = explain.heatmap(half, x, target=1), explain.heatmap(whole, x, target=1)
    assert one.values.dtype == "float32"
    assert two.values.max() > 0
    np.testing.assert_allclose(one.values, two.values, rtol=0.05, atol=0.02 * two.values.max())


# Before softmax and sigmoid -------------------------------------------------------------


def softmax_layer(x):
    return layers.Softmax()(layers.Dense(3, name="head")(x))


ENDS = {
    "Dense": lambda x: layers.Dense(3, activation="softmax", name="head")(x),
    "sigmoid": lambda x: layers.Dense(3, activation="sigmoid", name="head")(x),
    "Activation": lambda x: layers.Activation("softmax")(layers.Dense(3, name="head")(x)),
    "Softmax": softmax_layer,
    "ops": lambda x: keras.ops.softmax(layers.Dense(3, name="head")(x)),
    "nested": lambda x: keras.Model(y := keras.Input((4,)), softmax_layer(y))(x),
}


@pytest.mark.backend
@pytest.mark.parametrize("end", ENDS)
def test_the_score_is_that_before_a_softmax_or_sigmoid(end, unchanged):
    def build(end):
        inputs = keras.Input((8, 8, 2))
        x = layers.Conv2D(4, 3, name="conv")(inputs)
        return keras.Model(inputs, end(layers.GlobalMaxPooling2D()(x)))

    model, plain = build(ENDS[end]), build(lambda x: layers.Dense(3, name="head")(x))
    plain.set_weights(model.get_weights())
    x = random(3, 8, 8, 2)
    with unchanged(model):
        found = explain.heatmap(model, x, target=[0, 1, 2])
    expected = explain.heatmap(plain, x, target=[0, 1, 2])
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    assert abs(found.scores).max() > 1e-3


# Series and tokens ----------------------------------------------------------------------


def one_unit(*before, dtype="float32", shape=(6, 3)):
    return keras.Sequential(
        [keras.Input(shape, dtype=dtype), *before, layers.Flatten(), layers.Dense(1, name="head")]
    )


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_a_series_is_hot_at_the_only_step_that_matters(unchanged):
    model, x = one_unit(Window(4)), random(3, 6, 3)
    with unchanged(model):
        found = explain.heatmap(model, x)
    assert (found.layer, found.method) == ("input", "gradient x activation")
    assert found.targets == (0, 0, 0)
    kernel = keras.ops.convert_to_numpy(model.get_layer("head").kernel).reshape(6, 3)
    expected = np.zeros((3, 6))
    expected[:, 4] = np.linalg.norm(x[:, 4] * kernel[4], axis=-1)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)


def test_a_layer_with_fewer_steps_is_stretched_to_those_of_the_input():
    model = one_unit(layers.Conv1D(4, 2, strides=2, name="conv"), Window(1))
    found = explain.heatmap(model, random(2, 6, 3), "conv")
    assert found.values.shape == (2, 6)
    assert set(found.values.argmax(axis=1)) <= {2, 3}
    np.testing.assert_array_equal(found.values[:, [0, 5]], 0.0)


@needs_channels_first
@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_a_series_with_channels_first():
    first = {"data_format": "channels_first"}
    model = one_unit(Window(slice(None), 4), layers.Conv1D(2, 1, **first), shape=(3, 6))
    found = explain.heatmap(model, random(2, 3, 6))
    assert found.values.shape == (2, 6)
    assert (found.values[:, 4] > 0).all()
    assert np.count_nonzero(found.values) == 2


@pytest.mark.backend
def test_a_text_is_hot_at_the_only_token_that_matters(unchanged):
    model = one_unit(layers.Embedding(9, 4, name="words"), Window(2), dtype="int32", shape=(5,))
    x = np.random.default_rng(0).integers(1, 9, (3, 5))
    with unchanged(model):
        found = explain.heatmap(model, x)
    assert found.layer == "words"
    assert (found.values[:, 2] > 0).all()
    assert np.count_nonzero(found.values) == 3


class Total(layers.Layer):
    """Adds up all steps, masked ones as well."""

    def call(self, inputs):
        return keras.ops.sum(inputs, axis=1)

    def compute_mask(self, inputs, mask=None):
        return None

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_masked_tokens_are_0():
    embedding = layers.Embedding(9, 4, mask_zero=True)
    model = one_unit(embedding, Total(), dtype="int32", shape=(5,))
    found = explain.heatmap(model, np.array([[3, 4, 5, 0, 0]]))
    assert (found.values[0] > 0).tolist() == [True, True, True, False, False]


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_of_a_dict_the_tokens_are_explained_and_its_padding_is_0():
    ids = keras.Input((5,), dtype="int32", name="token_ids")
    segments = keras.Input((5,), dtype="int32", name="segment_ids")
    padding = keras.Input((5,), dtype="int32", name="padding_mask")
    both = layers.Embedding(2, 4)(segments) + layers.Embedding(9, 4, name="words")(ids)
    inputs = {"token_ids": ids, "segment_ids": segments, "padding_mask": padding}
    scaled = layers.Dense(1)(keras.ops.sum(both, axis=1))
    model = keras.Model(inputs, scaled * keras.ops.cast(padding[:, :1], "float32"))
    x = {
        "token_ids": np.array([[3, 4, 5, 6, 7]]),
        "segment_ids": np.array([[0, 0, 1, 1, 1]]),
        "padding_mask": np.array([[1, 1, 1, 0, 0]]),
    }
    found = explain.heatmap(model, x)
    assert found.layer == "words"
    assert (found.values[0] > 0).tolist() == [True, True, True, False, False]


def test_a_layer_of_a_transformer_is_explained_by_token():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 4, name="words")(inputs)
    x = layers.LayerNormalization(name="norm")(x + layers.MultiHeadAttention(2, 2)(x, x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x[:, 0]))
    found = explain.heatmap(model, np.array([[3, 4, 5, 6, 7]]), "norm")
    assert np.flatnonzero(found.values[0]).tolist() == [0]
    assert explain.heatmap(model, np.array([[3, 4, 5, 6, 7]])).layer == "words"


# What is refused ------------------------------------------------------------------------


def twice():
    inputs = keras.Input((8, 8, 2))
    shared = layers.Conv2D(2, 3, padding="same", name="shared")
    pooled = layers.GlobalAveragePooling2D()(shared(shared(inputs)))
    return keras.Model(inputs, layers.Dense(2)(pooled))


def two_outputs():
    inputs = keras.Input((8, 8, 2))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3, name="conv")(inputs))
    return keras.Model(inputs, [layers.Dense(2)(pooled), layers.Dense(1)(pooled)])


def moved_axes():
    permute = layers.Permute((2, 3, 1), name="turned")
    rest = [layers.Conv2D(2, 3, name="conv"), layers.Flatten(), layers.Dense(2)]
    return keras.Sequential([keras.Input((2, 8, 8)), permute, *rest])


def without_weights():
    middle = [layers.Rescaling(0.5), layers.Flatten(), layers.Dense(2)]
    return keras.Sequential([keras.Input((8, 8, 2)), *middle])


IMAGES, IDS = np.ones((2, 8, 8, 2), "float32"), np.ones((2, 6), "int32")
REFUSED = {
    "a shared layer": (twice, IMAGES, {"layer": "shared"}, "'shared', which is called 2 times"),
    "no layer has a map": (twice, IMAGES, {}, "be given, since no layer .* a map of positions"),
    "no weights": (without_weights, IMAGES, {}, "be given, since no layer of model"),
    "no map": (two_outputs, IMAGES, {"layer": "dense"}, "return a map of several positions"),
    "two outputs": (two_outputs, IMAGES, {}, "be a function .*outputs of shapes"),
    "no scores": (two_outputs, IMAGES, {"target": lambda y: y[0]}, r"return a tensor of shape"),
    "moved axes": (moved_axes, np.ones((2, 2, 8, 8)), {}, "'turned' moves axes"),
    "a table": (twice, np.ones((2, 8)), {}, "have positions"),
    "two images": (twice, [IMAGES, IMAGES], {}, "have one array of rank 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_heat_map_is_refused(case):
    build, x, arguments, message = REFUSED[case]
    with pytest.raises(ValueError, match=rf"(?s)^explain.heatmap\(.*{message}"):
        explain.heatmap(build(), x, **arguments)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (2, "be from 0 to 1, a unit of the output. Received: target=2"),
        (-1, "be from 0 to 1"),
        ([0, 1, 1], "have an int for each sample. Received: 3 for 2 samples"),
        ("cat", "be an int, an int for each sample, a function or None"),
    ],
)
def test_a_target_that_is_no_unit_is_refused(target, message):
    model, x = red_or_green()
    with pytest.raises((TypeError, ValueError), match=message):
        explain.heatmap(model, x, target=target)


def test_a_text_without_an_embedding_is_refused():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3, name="low"), layers.Dense(1)])
    with pytest.raises(ValueError, match=r"no layer of model .* embeds each token"):
        explain.heatmap(model, IDS)
    with pytest.raises(ValueError, match="return features for each token"):
        explain.heatmap(model, IDS, "low")


def test_values_that_are_not_finite_are_refused():
    model, x = red_or_green()
    with pytest.raises(ValueError, match="give finite outputs and gradients"):
        explain.heatmap(model, x * np.nan)


def test_its_representation_leaves_arrays_out():
    model, x = red_or_green()
    text = repr(explain.heatmap(model, x))
    assert text.startswith("HeatMap(values=<array of shape (2, 8, 8), float32>")
