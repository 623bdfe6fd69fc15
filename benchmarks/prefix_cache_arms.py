"""One arm of a case of `prefix_cache.py`, in a process of its own: prints its measures."""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

import keras_freeze as kf
from keras_freeze.demo import vgg

BATCH = 32
LOSS = "sparse_categorical_crossentropy"
BLOCKS = ["block1", "block2", "block3", "block4", "block5"]
Data = tuple[Any, Any, tuple[Any, Any]]
spent: dict[str, float] = {}


@contextmanager
def measured() -> Iterator[None]:
    """Count the time of what is inside."""
    began, began_processor = time.perf_counter(), time.process_time()
    yield
    spent["seconds"] = time.perf_counter() - began
    spent["processor_s"] = time.process_time() - began_processor


def images(size: int = 64, rows: int = 512) -> Data:
    rng = np.random.default_rng(0)

    def part(n: int) -> tuple[Any, Any]:
        x = rng.normal(0, 58, (n, size, size, 3)).astype("float32")
        return x, rng.integers(0, 15, n)

    return *part(rows), part(rows // 4)


def texts(length: int) -> Data:
    rng = np.random.default_rng(0)

    def part(n: int) -> tuple[Any, Any]:
        return rng.integers(1, 2000, (n, length)).astype("int32"), rng.integers(0, 15, n)

    return *part(512), part(128)


def vgg16(size: int = 64) -> Any:
    return vgg.classifier(vgg.backbone(size, "none")[0], 15)


def resnet50(size: int = 64) -> Any:
    backbone = keras.applications.ResNet50(
        weights=None, include_top=False, input_shape=(size, size, 3), pooling="avg"
    )
    outputs = layers.Dense(15, activation="softmax", name="head")(backbone.output)
    return keras.Model(backbone.inputs, outputs)


def transformer() -> Any:
    inputs = keras.Input((64,), dtype="int32")
    x = layers.Embedding(2000, 128, mask_zero=True)(inputs)
    for _ in range(4):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 32)(x, x))
        hidden = layers.Dense(512, activation="gelu")(x)
        x = layers.LayerNormalization()(x + layers.Dense(128)(hidden))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(15, activation="softmax", name="head")(x))


def lstm() -> Any:
    return keras.Sequential(
        [
            keras.Input((64,), dtype="int32"),
            layers.Embedding(2000, 128, mask_zero=True),
            *(layers.LSTM(128, return_sequences=n < 2) for n in range(3)),
            layers.Dense(15, activation="softmax", name="head"),
        ]
    )


def batches(arrays: Any, shuffle: bool = False) -> Any:
    """Batch arrays as Keras does on TensorFlow, but without tf.data's autotuning.

    An iterator that is tuned may wait for its tuner as it is deleted, now and then for as long as
    its epoch took, so that equal runs would differ by a tenth and more.
    """
    import tensorflow as tf

    tensors = keras.tree.map_structure(tf.constant, arrays)
    rows = len(keras.tree.flatten(tensors)[0])
    order = tf.data.Dataset.range(rows)
    if shuffle:
        order = order.shuffle(rows)
    order = order.batch(BATCH, drop_remainder=rows % BATCH == 0)
    options = tf.data.Options()
    options.autotune.enabled = False
    gathered = order.map(lambda rows: tf.nest.map_structure(lambda t: tf.gather(t, rows), tensors))
    return gathered.prefetch(2).with_options(options)


class Epochs(keras.callbacks.Callback):
    """Count the time of the epochs after the first, in which things are compiled and computed."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.ends: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.ends.append(time.perf_counter())

    def on_train_end(self, logs: Any = None) -> None:
        if len(self.ends) > 2:
            times = [end - begin for begin, end in zip(self.ends, self.ends[1:], strict=False)]
            spent["epoch_s"] = statistics.median(times)


def fed(arrays: Any) -> Any:
    """Return arrays as an epoch of validation or prediction takes them."""
    return batches(arrays) if keras.backend.backend() == "tensorflow" else arrays


def fit(model: Any, data: Data, epochs: int, *callbacks: Any, first: int = 0) -> None:
    x, y, validation = data
    settings = {"verbose": 0, "initial_epoch": first, "epochs": epochs}
    settings |= {"validation_data": fed(validation), "callbacks": [*callbacks, Epochs()]}
    if keras.backend.backend() == "tensorflow":
        model.fit(batches((x, y), shuffle=True), **settings)
    else:
        model.fit(x, y, batch_size=BATCH, **settings)


def suffix_of(model: Any, cut: Any) -> Any:
    """Return the rest of a model behind a symbolic tensor, with the same layers."""
    inputs = keras.Input(cut.shape[1:], dtype=cut.dtype)
    values = {id(cut): inputs}
    for layer in model.layers:
        sources = [id(t) for node in layer._inbound_nodes[:1] for t in node.input_tensors]
        if sources and all(source in values for source in sources):
            values[id(layer.output)] = layer(values[sources[0]])
    return keras.Model(inputs, values[id(model.outputs[0])])


def floor(model: Any, cut: Any, data: Data, epochs: int) -> None:
    """Pass all samples once through what is before the cut, and train the rest alone."""
    x, y, (xv, yv) = data
    prefix = keras.Model(model.inputs, cut)
    rest = suffix_of(model, cut)
    rest.compile("adam", LOSS)
    features, others = (prefix.predict(fed(part), verbose=0) for part in (x, xv))
    fit(rest, (features, y, (others, yv)), epochs)


def head_only(build: Callable[[], Any], data: Data, arm: str, epochs: int) -> None:
    model, folder = build(), tempfile.TemporaryDirectory()
    model.compile("adam", LOSS)
    kf.freeze(model, groups=len(kf.layer_groups(model)) - 1)
    caches = {
        "cache": {},
        "ahead": {"look_ahead": 4},
        "device": {"max_bytes": 2**32, "on_device": True},
        "kept": {"directory": folder.name, "keep": True},
    }
    if arm == "kept":  # the fit before
        first = keras.models.clone_model(model)
        first.set_weights(model.get_weights())
        first.compile("adam", LOSS)
        kf.freeze(first, groups=len(kf.layer_groups(first)) - 1)
        fit(first, data, epochs, kf.PrefixCache(**caches[arm]))
    with measured():
        if arm == "floor":
            last = max(n for n, layer in enumerate(model.layers) if layer.trainable_weights == [])
            first = next(n for n, layer in enumerate(model.layers) if layer.trainable_weights)
            floor(model, model.layers[min(last, first - 1)].output, data, epochs)
        else:
            fit(model, data, epochs, *([kf.PrefixCache(**caches[arm])] if arm in caches else []))


def recipe(model: Any, data: Data, epochs: int) -> None:
    """Unfreeze by hand, as the Keras guide on transfer learning does: flags, compile, fit."""
    frozen = [BLOCKS, BLOCKS[:4], BLOCKS[:3]]
    for names in frozen:
        for layer in model.layers:
            layer.trainable = not layer.name.startswith(tuple(names))
        model.compile("adam", LOSS)
        fit(model, data, epochs)


def gradual(arm: str, cache: Any = "auto") -> None:
    model, data = vgg16(), images()
    model.compile("adam", LOSS)
    with measured():
        if arm == "plain":
            recipe(model, data, 5)
        elif arm == "cache":
            schedule = {0: "head", 5: "block5", 10: "block4"}
            fit(model, data, 15, kf.GradualUnfreeze(schedule, rates=None, cache=cache))
        else:
            for name in ("block5_pool", "block4_pool", "block3_pool"):
                floor(model, model.get_layer(name).output, data, 5)


def transitions(arm: str) -> None:
    model, data = vgg16(32), images(32, 64)
    model.compile("adam", LOSS)
    with measured():
        if arm == "cache":
            fit(model, data, 6, kf.GradualUnfreeze(1, rates=None, cache=False, verbose=0))
            return
        for depth in range(5, -1, -1):
            for layer in model.layers:
                layer.trainable = not layer.name.startswith(tuple(BLOCKS[:depth]) or "-")
            model.compile("adam", LOSS)
            fit(model, data, 6 - depth, first=5 - depth)


def too_small(arm: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 32)).astype("float32")
    data = x, rng.integers(0, 15, len(x)), (x[:2000], rng.integers(0, 15, 2000))
    model = keras.Sequential(
        [keras.Input((32,))]
        + [layers.Dense(64, activation="relu", name=f"dense_{n}") for n in range(3)]
        + [layers.Dense(15, activation="softmax", name="head")]
    )
    model.compile("adam", LOSS)
    kf.freeze(model, groups=len(kf.layer_groups(model)) - 1)
    with measured():
        fit(model, data, 10, *([kf.PrefixCache()] if arm == "cache" else []))


def augmented(arm: str) -> None:
    import tensorflow as tf

    model, (x, y, _) = vgg16(), images()
    model.compile("adam", LOSS)
    kf.freeze(model, groups=5)
    noisy = batches((x, y), shuffle=True).map(
        lambda x, y: (x + tf.random.normal((len(x), 1, 1, 1), stddev=10), y)
    )
    callbacks = [kf.PrefixCache()] if arm == "cache" else []
    with measured():
        model.fit(noisy, epochs=4, verbose=0, callbacks=callbacks)


def larger(arm: str, size: int, rows: int) -> None:
    """Train with the cache: 48 x 48 pixels and 256 images as "plain", more as "cache"."""
    size, rows = (size, rows) if arm == "cache" else (48, 256)
    head_only(lambda: vgg16(size), images(size, rows), "cache", 5)


ARMS: dict[str, Callable[[str], None]] = {
    "head-10": lambda arm: head_only(vgg16, images(), arm, 10),
    "head-30": lambda arm: head_only(vgg16, images(), arm, 30),
    "gradual-15": gradual,
    "resnet50": lambda arm: head_only(resnet50, images(), arm, 10),
    "transformer": lambda arm: head_only(transformer, texts(64), arm, 10),
    "lstm": lambda arm: head_only(lstm, texts(64), arm, 10),
    "cache-off": lambda arm: gradual(arm, cache=False),
    "transitions": transitions,
    "too-small": too_small,
    "augmented": augmented,
    "samples": lambda arm: larger(arm, 48, 1024),
    "area": lambda arm: larger(arm, 96, 256),
    "large": lambda arm: head_only(lambda: resnet50(224), images(224, 2048), arm, 10),
}


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    ARMS[sys.argv[1]](sys.argv[2])
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(json.dumps({**spent, "peak_bytes": peak}))
