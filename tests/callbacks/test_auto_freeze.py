"""`AutoFreeze`: what it measures and freezes in a fit, compared with gradients computed by hand."""

import itertools

import keras
import numpy as np
import pytest
from effects import values

import keras_freeze as kf
from keras_freeze.keras_internals.gradients import loss_gradients
from keras_freeze.measures import NotMeasurableError, cka, svcca

pytestmark = pytest.mark.backend

LAYERS = ("one", "two", "three", "four")
RATE, BATCH, EPOCHS, INTERVALS = 0.05, 4, 6, 8
ROWS = 20  # 5 batches an epoch: an interval of 4 ends in the middle of epochs


def build():
    keras.utils.set_random_seed(5)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,)),
            *[layers.Dense(7, activation="tanh", name=name) for name in LAYERS],
            layers.Dense(3, name="head"),
        ]
    )
    model.compile(keras.optimizers.SGD(RATE, clipnorm=10.0), "mse")
    return model


def data():
    rng = np.random.default_rng(1)
    return rng.normal(size=(ROWS, 6)).astype("float32"), rng.normal(size=(ROWS, 3)).astype(
        "float32"
    )


def fit(model, callback, **arguments):
    x, y = data()
    settings = {"batch_size": BATCH, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
    return model.fit(x, y, **{**settings, **arguments}, callbacks=[callback])


def auto_freeze(**arguments):
    arguments = {"intervals": INTERVALS, "backbone": list(LAYERS), "verbose": 0, **arguments}
    return kf.AutoFreeze(**{"cache": False, **arguments})


def by_hand(percentile):
    """Train by gradients that are computed apart; return norms and depth of each interval."""
    model = build()
    x, y = data()
    batches = [(x[n : n + BATCH], y[n : n + BATCH]) for n in range(0, ROWS, BATCH)] * EPOCHS
    ends = [-(-n * len(batches) // INTERVALS) for n in range(INTERVALS + 1)]
    variables = model.trainable_variables
    gradients, others = loss_gradients(model, variables)
    owner = [layer.name for layer in model.layers for _ in layer.trainable_variables]
    names, depth, depths, found = [*LAYERS, "head"], 0, [], []
    for begin, end in itertools.pairwise(ends):
        sums = [np.zeros(v.shape) for v in variables]
        for inputs, targets in batches[begin:end]:
            depths.append(depth)
            tensors = map(keras.ops.convert_to_tensor, (inputs, targets))
            computed, others = gradients(*tensors, None, others)
            for n, (variable, gradient) in enumerate(zip(variables, computed, strict=True)):
                if names.index(owner[n]) >= depth:
                    array = keras.ops.convert_to_numpy(gradient)
                    sums[n] += array
                    variable.assign(keras.ops.convert_to_numpy(variable) - RATE * array)
        norms = {}
        for name, total in zip(owner, sums, strict=True):
            norms[name] = norms.get(name, 0.0) + np.abs(total).sum()
        found.append(norms)
        if len(found) > 1 and end < len(batches):
            own = names[depth:-1]
            change = [abs(found[-2][n] - found[-1][n]) / found[-2][n] for n in own]
            reaching = np.flatnonzero(change >= np.percentile(change, percentile))
            depth += int(reaching[0])
    return model, depths


@pytest.mark.at_commit("50")
@pytest.mark.parametrize("percentile", [50, 80])
def test_what_freezes_when_is_what_gradients_by_hand_say(percentile):
    expected, depths = by_hand(percentile)
    model, callback = build(), auto_freeze(percentile=percentile)
    history = fit(model, callback).history
    per_epoch = ROWS // BATCH
    assert history["freeze_depth"] == [depths[(n + 1) * per_epoch - 1] for n in range(EPOCHS)]
    assert history["freeze_depth"][-1] > 0
    for one, two in zip(values(model).values(), values(expected).values(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.slow_on_jax
def test_nothing_of_the_recording_is_left():
    model = build()
    fit(model, auto_freeze())
    assert len(model.optimizer.variables) == 2  # iterations and learning rate
    assert not [name for name in vars(model.optimizer) if "sums" in name]


@pytest.mark.slow
def test_what_is_frozen_is_cached():
    model = build()
    cache = kf.PrefixCache(auto=False, verbose=0)
    plain = fit(build(), auto_freeze(), epochs=16).history
    cached = fit(model, auto_freeze(cache=cache), epochs=16).history
    assert cached["freeze_depth"] == plain["freeze_depth"]
    np.testing.assert_allclose(cached["loss"], plain["loss"], rtol=1e-4)
    assert cache.statistics.hits


@pytest.mark.slow_on_jax
def test_what_has_nothing_to_train_does_not_keep_others_from_freezing():
    keras.utils.set_random_seed(5)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.BatchNormalization(name="norm"),
            *[layers.Dense(7, activation="tanh", name=name) for name in LAYERS],
            layers.Dense(3, name="head"),
        ]
    )
    model.compile(keras.optimizers.SGD(RATE), "mse")
    groups = {name: [name] for name in ("norm", *LAYERS, "head")}
    callback = auto_freeze(backbone=["norm", *LAYERS], groups=groups)
    model.get_layer("norm").set_weights([np.full(6, value) for value in (1.1, 0.1, 0.2, 0.9)])
    history = fit(model, callback).history
    assert history["freeze_depth"][-1] > 1
    assert [row.what for row in callback.decisions.rows][:2] == ["one freezes", "two freezes"]


@pytest.mark.slow_on_jax
def test_a_fit_that_is_stopped_reports_what_was_carried_out():
    callback = auto_freeze(intervals=3)  # the second ends with the second epoch of three

    class Stops(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    x, y = data()
    model = build()
    model.fit(
        x, y, batch_size=BATCH, epochs=3, shuffle=False, verbose=0, callbacks=[callback, Stops()]
    )
    assert callback.decisions.rows == ()
    assert callback.decisions.verdict.startswith("depth 0 of 4")
    assert all(layer.trainable for layer in model.layers)


@pytest.mark.slow_on_jax
def test_a_backup_is_of_a_training_of_as_many_epochs():
    first, later = auto_freeze(), auto_freeze()
    recorder = Recorder(lambda model: first.training_state())
    x, y = data()
    build().fit(x, y, epochs=2, verbose=0, callbacks=[first, recorder])
    after_an_epoch = recorder.seen[1]

    class Resumes(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            later.check_training_state(after_an_epoch)

    with pytest.raises(ValueError, match="2 epochs, and this one has 4: pass epochs=2"):
        build().fit(x, y, epochs=4, verbose=0, callbacks=[later, Resumes()])


@pytest.mark.slow_on_jax
def test_decisions_name_the_groups(capsys):
    callback = auto_freeze(verbose=1)
    history = fit(build(), callback).history
    found = callback.decisions
    frozen = [row.what for row in found.rows]
    assert frozen == [f"{name} freezes" for name in LAYERS[: history["freeze_depth"][-1]]]
    assert all(row.value < row.threshold for row in found.rows)
    labels = {point.label for point in found.measured}
    assert labels <= set(LAYERS)
    printed = capsys.readouterr().out
    said = [line for line in printed.splitlines() if "freeze" in line and " one " in line]
    assert len(said) == 1  # when it freezes, not when that is decided
    row, criterion = found.rows[0], "change of the gradient's norm"
    assert f"parameters train ({criterion} {row.value:.4g}" in said[0]
    assert said[0].endswith(f"against {row.threshold:.4g}).")
    assert f"depth {history['freeze_depth'][-1]} of 4" in printed


class Recorder(keras.callbacks.Callback):
    """Keeps, from before the training and after each epoch, what `see` finds in the model."""

    def __init__(self, see):
        super().__init__()
        self.see, self.seen = see, []

    def on_train_begin(self, logs=None):
        self.seen = [self.see(self.model)]

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.see(self.model))


PROBE = np.random.default_rng(2).normal(size=(80, 6)).astype("float32")


def weights_of(model):
    return {
        name: [keras.ops.convert_to_numpy(w) for w in model.get_layer(name).weights]
        for name in LAYERS
    }


def outputs_of(model):
    """Compute the outputs with numpy: dense layers with tanh."""
    found, x = {}, PROBE
    for name, (kernel, bias) in weights_of(model).items():
        x = np.tanh(x @ kernel + bias)
        found[name] = x
    return found


def moved(before, after):
    one, two = (np.concatenate([w.ravel() for w in look]) for look in (before, after))
    return np.linalg.norm(two - one) / np.linalg.norm(one)


def farthest(before, after):
    return np.abs(before - after).max()


BATCHES = [slice(0, 26), slice(26, 53), slice(53, 80)]  # of about the same size, 32 at most
#: What is seen of the model, the change between two looks, and the arguments.
CRITERIA = {
    "weights": (weights_of, moved, {"criterion": "weight_change", "rates": 4.0}),
    "svcca": (outputs_of, lambda a, b: 1 - svcca(a, b), {"criterion": "svcca", "probe": PROBE}),
    "cka": (
        outputs_of,
        lambda a, b: 1 - cka([a[rows] for rows in BATCHES], [b[rows] for rows in BATCHES]),
        {"criterion": "cka", "probe": PROBE},
    ),
    "since pretraining": (
        outputs_of,
        farthest,
        {"criterion": farthest, "probe": PROBE, "reference": "pretrained"},
    ),
}


@pytest.mark.at_commit("since pretraining")
@pytest.mark.parametrize(("see", "change", "arguments"), CRITERIA.values(), ids=CRITERIA)
def test_what_each_criterion_measures_is_what_numpy_says(see, change, arguments):
    callback, recorder = auto_freeze(intervals=EPOCHS, **arguments), Recorder(see)
    x, y = data()
    history = build().fit(
        x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[recorder, callback]
    )
    depths = history.history["freeze_depth"]
    assert depths[-1] > 0
    found = {(point.epochs, point.label): point.value for point in callback.decisions.measured}
    expected = {}
    for epoch in range(2, EPOCHS):
        before = recorder.seen[0 if "reference" in arguments else epoch - 1]
        for name in LAYERS[depths[epoch - 1] :]:
            expected[float(epoch), name] = change(before[name], recorder.seen[epoch][name])
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-3, abs=1e-6)


class Says(keras.callbacks.Callback):
    """Gives a metric the values of a list, epoch by epoch."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]


@pytest.mark.slow_on_jax
def test_groups_unfreeze_when_validation_gets_worse(capsys):
    callback = auto_freeze(
        verbose=1, intervals=6, criterion="weight_change", tolerance=0.1, rates=4.0
    )
    x, y = data()
    history = build().fit(
        x, y, batch_size=4, epochs=6, verbose=0, callbacks=[Says([1, 1, 1, 2, 2, 2]), callback]
    )
    depths = history.history["freeze_depth"]
    assert depths[4] < depths[3]
    assert depths[5] == depths[4]  # the next interval only records
    (found, *_) = [row for row in callback.decisions.rows if "unfreezes" in row.what]
    assert (found.epochs, found.value, found.metric) == (4, 2.0, "val_loss")
    assert found.threshold == pytest.approx(1.1)
    printed = capsys.readouterr().out
    assert "unfreezes at" in printed
    assert "(val_loss 2, against 1.1)." in printed


def test_a_metric_that_is_missing_is_named():
    with pytest.raises(ValueError, match=r"AutoFreeze\(monitor=\.\.\.\) must name a metric"):
        fit(build(), auto_freeze(tolerance=0.1))


@pytest.mark.slow_on_jax
def test_what_a_criterion_can_not_measure_is_refused_before_the_first_step():
    model = build()
    before = values(model)
    with pytest.raises(ValueError, match=r"criterion=.*'one' can be measured.*at least 10 rows"):
        fit(model, auto_freeze(criterion="svcca", probe=PROBE[:12]))
    assert all(np.array_equal(before[name], value) for name, value in values(model).items())


@pytest.mark.slow_on_jax
def test_a_group_that_can_no_longer_be_measured_goes_on_training():
    def once(before, after):
        if not np.array_equal(before, after):
            raise NotMeasurableError("it has moved")
        return 0.0

    with pytest.warns(UserWarning) as caught:
        history = fit(build(), auto_freeze(intervals=6, criterion=once, probe=PROBE)).history
    assert history["freeze_depth"][-1] == 0
    told = [str(w.message) for w in caught if "AutoFreeze" in str(w.message)]
    assert [message.split()[1] for message in told] == list(LAYERS)  # once each
    assert all("keeps training" in message and "it has moved" in message for message in told)


def test_data_of_unknown_length_are_refused():
    def batches():
        while True:
            yield data()

    with pytest.raises(ValueError, match=r"AutoFreeze\(intervals=\.\.\.\)"):
        build().fit(batches(), epochs=2, shuffle=False, verbose=0, callbacks=[auto_freeze()])


@pytest.mark.parametrize("arguments", [{"groups": {"all": "."}}, {"keep_frozen": list(LAYERS)}])
def test_where_a_single_group_may_train_all_epochs_are_trained(arguments, capsys):
    settings = {"backbone": None if "groups" in arguments else list(LAYERS), "verbose": 1}
    history = fit(build(), auto_freeze(**settings, **arguments)).history
    assert len(history["loss"]) == EPOCHS
    name = "all" if "groups" in arguments else "head"
    expected = f"AutoFreeze: only {name} may train, so that nothing freezes."
    assert expected in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("probe", "shown"),
    [
        (np.ones((8, 6), "float32"), "<array of shape (8, 6), float32>"),
        ({"a": np.ones((8, 6)), "b": [np.ones(8, "int32")]},
         "{'a': <array of shape (8, 6), float64>, 'b': [<array of shape (8,), int32>]}"),
    ],
)  # fmt: skip
def test_arrays_are_shown_by_their_shapes(probe, shown):
    callback = kf.AutoFreeze(criterion="cka", probe=probe)
    assert repr(callback) == f"AutoFreeze(criterion='cka', probe={shown})"


def test_a_function_is_named_without_where_it_was_made():
    def halves(before, after):
        return 0.5

    callback = auto_freeze(criterion=halves, probe=data()[0])
    fit(build(), callback)
    assert callback.decisions.criterion == "change of outputs (halves)"
