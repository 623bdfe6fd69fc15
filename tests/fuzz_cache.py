"""Random frozen models and data that reshuffle, trained with the prefix cache and without.

`python tests/fuzz_cache.py --seconds 600 --first 1000` tries case after case and prints what
differs. Each case is made from its number alone. The bounds are of rounding: features that were
looked up lie within `FEATURES` of those that the batch at hand gives, and after three epochs of
SGD weights and losses lie within `WEIGHTS` of the plain fit's, both relative to the largest value.
A model that magnifies a rounding more than that is held to what plain Keras makes of one: ten times
the difference that random parts of a unit in the last place of inputs and frozen weights make
without a cache, by the largest of several draws: where a ReLU is about to switch, one in several
shows it. With `precision="bfloat16"` the bounds are of its 8 bits, and so is that unit.
"""

import argparse
import dataclasses
import itertools
import os
import random
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cached
import keras
import numpy as np
from keras import layers
from operations import LAYERS, model_of

import keras_freeze as kf
from keras_freeze.prefix_cache.feature_lookup import FeatureLookup

EPOCHS = 3
FEATURES = 1e-6
#: Recurrent layers carry a rounding from step to step.
RECURRENT_FEATURES = 4e-6
#: Features that a fit with batches of another size has kept, with the rounding of those batches: in
#: sums over thousands of values more than batches of one size have among each other.
KEPT_FEATURES, KEPT_RECURRENT_FEATURES = 2e-6, RECURRENT_FEATURES
#: Batches that are computed together are larger than this fit's, and summed otherwise: a
#: normalization of a few values that are nearly equal magnifies that.
AHEAD_FEATURES = 1e-4
WEIGHTS = 1e-5
BFLOAT16_FEATURES, BFLOAT16_WEIGHTS = 0.02, 0.02
#: Of what one unit in the last place of the inputs makes of a model that magnifies roundings.
MAGNIFIED = 10
#: How many random changes of inputs and frozen weights by parts of a unit are tried.
CHANGES = 8
#: That unit, relative to the value, in float32 and in bfloat16.
UNIT, BFLOAT16_UNIT = 2.0**-23, 2.0**-8
ROWS = 22
DATA = ("arrays", "reshuffled", "tf.data", "unknown length", "static", "weighted")


@dataclasses.dataclass(frozen=True)
class Case:
    """What is drawn for a number."""

    low: str  # an example of `operations.LAYERS`
    middle: tuple[str, ...]
    nested: bool
    frozen: int  # of the layers with weights, from the input on
    gradual: bool
    data: str
    batch: int
    cache: str = "plain"


def draw(number):
    rng = random.Random(number)
    parts = ("dense", "norm", "layer_norm", "residual", "operation", "dropout")
    return Case(
        rng.choice(sorted(name for name in LAYERS if name[0].isupper() and "Random" not in name)),
        tuple(rng.choice(parts) for _ in range(rng.randint(1, 4))),
        rng.random() < 0.4,
        rng.randint(1, 4),
        rng.random() < 0.3,
        rng.choice(DATA),
        rng.choice([4, 5, 7]),
        rng.choice(["plain", "plain", "ahead", "kept", "bfloat16"]),
    )


def part(x, kind, name):
    size = x.shape[-1]
    if kind == "dense":
        return layers.Dense(7, activation="tanh", name=name)(x)
    if kind == "norm":
        return layers.BatchNormalization(name=name, trainable=False)(x)
    if kind == "layer_norm":
        return layers.LayerNormalization(name=name)(x)
    if kind == "residual":
        return x + layers.Dense(size, activation="relu", name=name)(x)
    if kind == "operation":
        return keras.ops.tanh(keras.ops.concatenate([x, x * 0.5], axis=-1))
    return layers.Dropout(0.2, seed=3, name=name)(x)


def build(case):
    """Return a model of the example, some layers behind it, and a head that trains."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    below = model_of(LAYERS[case.low])
    x = layers.Rescaling(1.0, dtype="float32")(below.output)
    x = layers.Reshape((-1,))(x)
    for number, kind in enumerate(case.middle):
        x = part(x, kind, f"middle{number}")
    inputs = below.inputs
    if case.nested:
        inner = keras.Model(inputs, x, name="inner")
        inputs = [keras.Input(t.shape[1:], dtype=t.dtype) for t in inner.inputs]
        x = inner(inputs if len(inputs) > 1 else inputs[0])
    given = inputs if len(inputs) > 1 else inputs[0]
    model = keras.Model(given, layers.Dense(1, name="head")(layers.Dense(5, name="neck")(x)))
    weighted = [layer for layer in kf.model_picture.opened_layers(model) if layer.weights]
    for layer in weighted[: min(case.frozen, len(weighted) - 2)]:
        layer.trainable = False
    return model


class Reshuffled(keras.utils.PyDataset):
    """Arrays in another order in each epoch, the same in each fit."""

    def __init__(self, x, y, batch):
        super().__init__()
        self.x, self.y, self.batch, self.epoch = x, y, batch, 0
        self.on_epoch_begin()

    def __len__(self):
        return -(-ROWS // self.batch)

    def __getitem__(self, index):
        rows = self.order[index * self.batch : (index + 1) * self.batch]
        x = [a[rows] for a in self.x]
        return (tuple(x) if len(x) > 1 else x[0]), self.y[rows]

    def on_epoch_begin(self):
        self.order = np.random.default_rng(self.epoch).permutation(ROWS)
        self.epoch += 1


def nudge(array, change):
    """Return an array changed at random by parts of a unit; `change` is the unit and a number."""
    if change is None or array.dtype.kind != "f":
        return array
    unit, number = change
    parts = np.random.default_rng([number, array.size]).uniform(-1, 1, array.shape)
    return (array * (1 + parts * unit)).astype(array.dtype)


def samples(case, seed=0, nudged=None):
    _, shapes, dtype, low, high = LAYERS[case.low]
    rng = np.random.default_rng(seed)
    x = [rng.uniform(low, high, (ROWS, *shape)).astype(dtype) for shape in shapes]
    return [nudge(a, nudged) for a in x], rng.normal(size=(ROWS, 1)).astype("float32")


def validation_for(case, nudged=None):
    x, y = samples(case, seed=1, nudged=nudged)
    return {"validation_data": (x if len(x) > 1 else x[0], y), "validation_batch_size": 6}


def data_for(case, nudged=None):
    """Return arguments of `fit`, new ones for each fit."""
    x, y = samples(case, nudged=nudged)
    given = tuple(x) if len(x) > 1 else x[0]
    if case.data in ("arrays", "weighted"):
        weights = np.linspace(0.5, 1.5, ROWS) if case.data == "weighted" else None
        arrays = list(x) if len(x) > 1 else x[0]
        return {"x": arrays, "y": y, "batch_size": case.batch, "sample_weight": weights}
    if case.data == "reshuffled":
        return {"x": Reshuffled(x, y, case.batch)}
    import tensorflow as tf

    rows = tf.data.Dataset.from_tensor_slices((given, y))
    rows = rows.shuffle(ROWS, seed=5, reshuffle_each_iteration=True)
    if case.data == "unknown length":
        rows = rows.filter(lambda x, y: y[0] > -1.0)
    return {"x": rows.batch(case.batch, drop_remainder=case.data == "static")}


def fit(case, eager, *callbacks, nudged=None):
    model = build(case)
    model.compile(keras.optimizers.SGD(0.05), "mse", run_eagerly=eager)
    settings = data_for(case, nudged) | validation_for(case, nudged)
    opened = kf.model_picture.opened_layers(model)
    last = [x.name for x in opened if x.weights and not x.trainable][-1:]
    if case.gradual and last:
        callbacks = (*callbacks, cached.At(lambda m: kf.unfreeze(m, layers=last), epoch=2))
    to_host = cached.optimizer_state.to_host
    frozen = [(v, to_host(v)) for v in model.non_trainable_variables]
    changed = [nudge(value, nudged) for _, value in frozen]
    for (variable, _), value in zip(frozen, changed, strict=True):
        variable.assign(value)
    keras.utils.set_random_seed(3)
    history = model.fit(epochs=EPOCHS, verbose=0, callbacks=list(callbacks), **settings).history
    for (variable, value), other in zip(frozen, changed, strict=True):
        if np.array_equal(to_host(variable), other):  # what stayed frozen is no difference
            variable.assign(value)
    return history, [to_host(v) for v in (*model.weights, iterations(model))]


def iterations(model):
    return model.optimizer.iterations


def distance(a, b):
    """Return the largest difference, relative to the largest value; 0 for values that are equal."""
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    if a.shape != b.shape:
        return np.inf
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    differing = ~((a == b) | (np.isnan(a) & np.isnan(b)))  # not of a training that diverges
    scale = np.max(np.abs(b), initial=1e-12, where=np.isfinite(b))
    return float(np.max(np.abs(a[differing] - b[differing])) / scale)


class Measured:
    """Measures, while it is entered, how far looked up features are from the present batch's."""

    def __enter__(self):
        self.largest, self.own = 0.0, FeatureLookup.stored

        def stored(lookup, plan, batch, *keys):
            rows = self.own(lookup, plan, batch, *keys)
            for row, value in zip(rows or [], plan.prefix(batch) if rows else [], strict=True):
                here = keras.ops.convert_to_numpy(value)
                self.largest = max(self.largest, distance(row, here))
            return rows

        FeatureLookup.stored = stored
        return self

    def __exit__(self, *error):
        FeatureLookup.stored = self.own


def is_recurrent(case):
    return any(word in case.low for word in ("LSTM", "GRU", "RNN", "Bidirectional"))


def _gaps(outcome, reference):
    """Return how far losses, and weights, of a fit are from those of another."""
    (history, values), (expected, others) = outcome, reference
    gaps = {name: distance(history[name], numbers) for name, numbers in expected.items()}
    gaps["weights"] = max(distance(a, b) for a, b in zip(values, others, strict=True))
    return gaps


def differences(case, eager=True):
    """Train a case both ways; return what differs by more than rounding, and what was looked up."""
    expected, values = fit(case, eager)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "plain": {},
            "kept": {"directory": folder, "keep": True},
            "ahead": {"look_ahead": 3},
            "bfloat16": {"precision": "bfloat16"},
        }[case.cache]
        caches = [kf.PrefixCache(auto=False, verbose=0, **settings) for _ in range(2)]
        if case.cache == "kept":
            fit(dataclasses.replace(case, batch=case.batch + 1), eager, caches[0])
        with Measured() as measured:
            history, others = fit(case, eager, caches[1])
    bounds = {
        "plain": (FEATURES, RECURRENT_FEATURES),
        "kept": (KEPT_FEATURES, KEPT_RECURRENT_FEATURES),
        "ahead": (AHEAD_FEATURES, AHEAD_FEATURES),
        "bfloat16": (BFLOAT16_FEATURES, BFLOAT16_FEATURES),
    }
    found, bound = [], bounds[case.cache][is_recurrent(case)]
    if measured.largest > bound:
        found.append(f"features by {measured.largest:.2g}")
    gaps = _gaps((history, others), (expected, values))
    low = case.cache == "bfloat16"
    bound = BFLOAT16_WEIGHTS if low else WEIGHTS
    diverges = not np.isfinite(expected["loss"]).all()
    if max(gaps.values()) > bound and not (low and diverges):
        over = {name: gap for name, gap in gaps.items() if gap > bound}
        for number in range(CHANGES):
            change = BFLOAT16_UNIT if low else UNIT, number
            own = _gaps(fit(case, eager, nudged=change), (expected, values))
            over = {name: gap for name, gap in over.items() if gap > MAGNIFIED * own[name]}
            if not over:
                break
        found += [f"{name} by {gap:.2g}" for name, gap in over.items()]
    return found, caches[1].statistics.hits


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    begun, failed, hits = time.monotonic(), 0, 0
    for number in itertools.count(arguments.first):
        if time.monotonic() - begun > arguments.seconds:
            break
        found, looked_up = differences(draw(number), eager=number % 10 != 0)
        hits += looked_up > 0
        if found:
            failed += 1
            print(f"{number}: {'; '.join(found)}; {draw(number)}", flush=True)
    tried = number - arguments.first
    print(f"{tried} cases from {arguments.first} on, {hits} with a cache: {failed} differ.")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
