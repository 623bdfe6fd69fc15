"""Images that filters respond to: an edge at its angle, and what stays as it was."""

import keras
import numpy as np
import pytest

from keras_freeze import explain

layers = keras.layers
ANGLES = (0, 40, 90, 130)


def gabor(angle, size=7):
    """Return a filter for edges whose gradient points at an angle, in degrees."""
    rows, columns = np.mgrid[:size, :size] - size // 2
    turn = np.deg2rad(angle)
    along = columns * np.cos(turn) + rows * np.sin(turn)
    kernel = np.exp(-(rows**2 + columns**2) / 8.0) * np.sin(1.2 * along)
    return kernel - kernel.mean()


def edges(activation=None, channels=1, **kwargs):
    model = keras.Sequential(
        [
            keras.Input((None, None, channels)),
            layers.Conv2D(len(ANGLES), 7, activation=activation, name="edges", **kwargs),
        ]
    )
    kernels = np.stack([gabor(angle) for angle in ANGLES], axis=-1)[:, :, None]
    model.set_weights([np.repeat(kernels, channels, axis=2), np.zeros(len(ANGLES))])
    return model


def orientation(image):
    """Return the angle of an image's gradients, in degrees from 0 to 180: its structure tensor."""
    rows, columns = np.gradient(image.mean(axis=-1))
    turn = np.arctan2(2 * (rows * columns).sum(), (columns**2 - rows**2).sum()) / 2
    return np.rad2deg(turn) % 180


@pytest.mark.backend
@pytest.mark.parametrize("activation", ["relu", None])
def test_the_maximiser_of_an_edge_filter_is_an_edge_at_its_angle(activation, unchanged):
    model = edges(activation)
    model.compile("adam", "mse")
    with unchanged(model):
        found = explain.activation_maximisation(model, "edges", steps=40, size=24)
    assert found.images.shape == (4, 24, 24, 1)
    assert found.filters == (0, 1, 2, 3)
    for angle, image in zip(ANGLES, found.images, strict=True):
        off = abs(orientation(image) - angle)
        assert min(off, 180 - off) < 10
    assert (found.after > 5 * found.before).all()


def test_a_single_filter_and_another_range():
    found = explain.activation_maximisation(
        edges("relu", 3), "edges", 1, steps=20, size=(16, 20), value_range=(0, 255)
    )
    assert found.filters == (1,)
    assert found.images.shape == (1, 16, 20, 3)
    assert found.images.min() >= 0
    assert found.images.max() <= 255
    assert found.images.std() > 20
    off = abs(orientation(found.images[0]) - ANGLES[1])
    assert min(off, 180 - off) < 10


def test_before_and_after_are_mean_responses():
    model = edges("relu")
    found = explain.activation_maximisation(model, "edges", [2, 0], steps=12, size=16)
    outputs = keras.ops.convert_to_numpy(model(found.images))
    expected = [outputs[0, ..., 2].mean(), outputs[1, ..., 0].mean()]
    np.testing.assert_allclose(found.after, expected, rtol=1e-4)
    start = explain.activation_maximisation(
        model, "edges", [2, 0], steps=1, size=16, blur=0, jitter=0, decay=0
    )
    np.testing.assert_array_equal(start.before, found.before)
    other = explain.activation_maximisation(model, "edges", [2, 0], steps=1, size=16, seed=1)
    assert (other.before != found.before).all()


@pytest.mark.parametrize("size, jitter", [(8, 0), (40, 2), (96, 4)])
def test_small_images_are_moved_less(size, jitter):
    found, given = (
        explain.activation_maximisation(edges("relu"), "edges", 0, steps=4, size=size, **options)
        for options in ({}, {"jitter": jitter})
    )
    np.testing.assert_array_equal(found.images, given.images)


@pytest.mark.backend
def test_a_unit_of_the_output_and_a_model_of_half_precision(unchanged):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential(
            [
                keras.Input((12, 12, 2), batch_size=2),
                layers.Conv2D(3, 3, activation="relu"),
                layers.Dropout(0.5),
                layers.GlobalAveragePooling2D(),
                layers.Dense(3, activation="softmax", name="head", dtype="float32"),
            ]
        )
    finally:
        keras.config.set_dtype_policy(before)
    with unchanged(model):
        found = explain.activation_maximisation(model, "head", steps=12)
    logits = keras.Sequential([*model.layers[:-1], linear := layers.Dense(3)])
    logits.build((2, 12, 12, 2))
    linear.set_weights(model.layers[-1].get_weights())
    for n, image in enumerate(found.images):
        outputs = keras.ops.convert_to_numpy(logits(np.stack([image, image])))
        np.testing.assert_allclose(found.after[n], outputs[0, n], rtol=0.02, atol=0.01)
    assert (found.after > found.before).all()


@pytest.mark.backend
@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="channels_last alone")
def test_channels_first():
    model = keras.Sequential(
        [
            keras.Input((1, None, None)),
            layers.Conv2D(
                len(ANGLES), 7, activation="relu", name="edges", data_format="channels_first"
            ),
        ]
    )
    model.set_weights(edges().get_weights())
    first = explain.activation_maximisation(model, "edges", steps=12, size=16)
    last = explain.activation_maximisation(edges("relu"), "edges", steps=12, size=16)
    assert first.images.shape == (4, 16, 16, 1)
    np.testing.assert_allclose(first.images, last.images, atol=1e-3)


def two_inputs():
    inputs = [keras.Input((8, 8, 1)), keras.Input((8, 8, 1))]
    return keras.Model(inputs, layers.Conv2D(2, 3, name="edges")(layers.Add()(inputs)))


def series():
    return keras.Sequential([keras.Input((8, 3)), layers.Conv1D(2, 3, name="edges")])


def of_one_size():
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(2, 3, name="edges")])


REFUSED = {
    "two inputs": (two_inputs, {}, r"\(model=.*one input, images of floats.*shape \(None, 8, 8"),
    "series": (series, {}, r"\(model=.*float32 of shape \(None, 8, 3\)"),
    "another size": (of_one_size, {"size": 9}, r"\(size=.*be that of the model's images"),
    "no size": (edges, {"size": (9,)}, r"\(size=.*be a positive int, two of them or None"),
    "no filter": (edges, {"filters": 4}, r"\(filters=.*be from 0 to 3"),
    "filters of floats": (edges, {"filters": [0.5]}, r"\(filters=.*be an int, several ints"),
    "blur": (edges, {"blur": -1.0}, r"\(blur=.*be a number of pixels from 0"),
    "decay": (edges, {"decay": 1.0}, r"\(decay=.*be from 0 to less than 1"),
    "jitter": (edges, {"jitter": -1}, r"\(jitter=.*non-negative integer"),
    "range": (edges, {"value_range": (1, 0)}, r"\(value_range=.*the smaller one first"),
    "layer": (edges, {"layer": "edgse"}, r"\(layer=.*Did you mean 'edges'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_images_is_refused(case):
    build, arguments, message = REFUSED[case]
    with pytest.raises(
        (TypeError, ValueError), match=rf"(?s)^explain.activation_maximisation{message}"
    ):
        explain.activation_maximisation(build(), **{"layer": "edges", **arguments})
