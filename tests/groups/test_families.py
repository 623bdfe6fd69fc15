"""GradualUnfreeze without arguments, and the report, on every kind of model there is.

The families of `keras.applications` take a while, so they are slow tests; one quick member of
each other kind is fitted in the tests of every commit.
"""

import contextlib
import io
import re

import families
import keras
import numpy as np
import pytest
from keras import layers
from pretrained_models import as_if_trained

import keras_freeze as kf


def summary_counts(model):
    """Return what `model.summary()` prints: total, trainable and non-trainable parameters."""
    lines = []
    model.summary(print_fn=lambda line, line_break=False: lines.append(line))
    text = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(lines))
    names = ("Total params", "Trainable params", "Non-trainable params")
    return [int(re.search(rf" {n}: ([\d,]+)", text)[1].replace(",", "")) for n in names]


def assert_report_equals_summary(model):
    uncompiled = keras.Model(model.inputs, model.outputs)  # without the optimizer's variables
    for by in ("group", "layer"):
        report = kf.parameter_report(uncompiled, by)
        counts = [report.total_params, report.trainable_params, report.non_trainable_params]
        assert counts == summary_counts(uncompiled)


def image_model(family, size):
    backbone = families.application(family, size)
    inputs = keras.Input((size, size, 3))
    pooled = layers.GlobalAveragePooling2D()(backbone(inputs))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(pooled))


def lstm_stack():
    return keras.Sequential(
        [
            keras.Input((6, 2)),
            layers.LSTM(4, return_sequences=True),
            layers.LSTM(4, return_sequences=True),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def gru_and_bidirectional():
    return keras.Sequential(
        [
            keras.Input((6, 2)),
            layers.Bidirectional(layers.GRU(3, return_sequences=True)),
            layers.GRU(4),
            layers.Dense(3, activation="softmax"),
        ]
    )


SMALL = {
    "lstm": lstm_stack,
    "gru-bidirectional": gru_and_bidirectional,
    "transformer": lambda: families.encoder(3, norm_first=True),
    "image-and-text": families.image_and_text,
}


def arrays(model, rows=4):
    rng = np.random.default_rng(0)
    shapes = [(rows, *(size or 64 for size in tensor.shape[1:])) for tensor in model.inputs]
    inputs = [rng.integers(0, 5, shape).astype("float32") for shape in shapes]
    targets = [np.zeros((rows, *tensor.shape[1:]), "float32") for tensor in model.outputs]
    return (part[0] if len(part) == 1 else part for part in (inputs, targets))


def fit_and_check(model):
    as_if_trained(model)
    model.compile("sgd", "mse")
    x, y = arrays(model)
    frozen_first = []

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                frozen_first.extend(v.path for v in self.model.non_trainable_weights)

    names = [group.name for group in kf.layer_groups(model)]
    epochs = min(len(names), 3)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        history = model.fit(
            x, y, epochs=epochs, verbose=0, callbacks=[kf.GradualUnfreeze(), Note()]
        )
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("Epoch")]
    assert len(lines) == epochs
    assert lines[0].startswith(f"Epoch 1/{epochs}: {names[-1]} trains")
    trained = history.history["trainable_params"]
    assert trained == sorted(trained)
    assert len(frozen_first) > 0
    assert not any(np.isnan(history.history["loss"]))
    assert_report_equals_summary(model)


@pytest.mark.slow_on_jax
@pytest.mark.backend
@pytest.mark.parametrize(
    "name",
    [
        "lstm",
        pytest.param("gru-bidirectional", marks=pytest.mark.slow),
        pytest.param("transformer", marks=pytest.mark.slow),
        pytest.param("image-and-text", marks=pytest.mark.slow),
    ],
)
def test_small_models_of_every_kind(name):
    fit_and_check(SMALL[name]())


class Subclassed(keras.Model):
    """A model without a graph, with a weight of its own."""

    def __init__(self):
        super().__init__()
        self.low = layers.Dense(5, activation="relu", name="low")
        self.middle = layers.Dense(4, activation="relu", name="middle")
        self.top = layers.Dense(2, name="top")

    def build(self, input_shape):
        self.shift = self.add_weight(shape=(4,), name="shift")
        super().build(input_shape)

    def call(self, x):
        return self.top(self.middle(self.low(x + self.shift)))


@pytest.mark.backend
def test_a_subclassed_model():
    model = Subclassed()
    x, y = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.zeros((8, 2))
    model(x)
    as_if_trained(model)
    model.compile("sgd", "mse")
    before = model.get_weights()
    callback = kf.GradualUnfreeze({0: "head", 1: "middle"}, verbose=0)
    with pytest.warns(UserWarning, match=r"flags of single variables \(.*shift\)"):
        history = model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    assert history.history["trainable_params"] == [10, 34]
    moved = {
        v.path.split("/")[-2] if "/" in v.path else v.name
        for v, old in zip(model.weights, before, strict=True)
        if (keras.ops.convert_to_numpy(v.value) != old).any()
    }
    assert moved == {"middle", "top"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "size"), [case.values[:2] for case in families.FAMILIES], ids=lambda v: str(v)
)
def test_every_family_of_applications(family, size):
    fit_and_check(image_model(family, size or 96))


@pytest.mark.slow
@pytest.mark.hub
@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # Llama's output embedding
@pytest.mark.parametrize("name", ["bert", "gpt2", "bart", "llama"])
def test_kerashub_backbones(name):
    hub_backbones = pytest.importorskip("hub_backbones")
    build, output, _ = hub_backbones.BACKBONES[name]
    backbone = build()
    features = backbone.output if output is None else backbone.output[output]
    if features.ndim == 3:
        features = layers.GlobalAveragePooling1D()(features)
    model = as_if_trained(keras.Model(backbone.input, layers.Dense(3)(features)))
    x = {name: np.ones((4, 6), "int32") for name in backbone.input}
    model.compile("sgd", "mse")
    callback = kf.GradualUnfreeze(verbose=0)
    history = model.fit(x, np.zeros((4, 3)), epochs=3, verbose=0, callbacks=[callback])
    trained = history.history["trainable_params"]
    assert trained == sorted(trained)
    assert trained[0] < trained[-1]
    assert_report_equals_summary(model)
