"""`GradualUnfreeze("auto")`: what a fit does with the model, compared with trainings by hand."""

import copy

import keras
import numpy as np
import pytest
from effects import values
from keras import layers

import keras_freeze as kf
from keras_freeze.schedules import AfterEpochs, Auto, FreezeSchedule, OnPlateau, Phase

pytestmark = pytest.mark.backend

LAYERS = ("low", "middle", "high")


OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "MultiOptimizer": lambda: keras.optimizers.MultiOptimizer(ByLayer()),
    "LossScale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
    "EMA": lambda: keras.optimizers.SGD(0.1, use_ema=True, gradient_accumulation_steps=2),
}


class ByLayer:
    """Gives the lowest layer an optimizer of its own."""

    def __init__(self):
        self.optimizers = keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.01)

    def __call__(self, variable):
        return self.optimizers[0 if "low" in variable.path else 1]


def build(optimizer="Adam"):
    """A net whose dropout shows whether random states were restored."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,)),
            *[layers.Dense(8, activation="relu", name=name) for name in LAYERS],
            layers.Dropout(0.2, name="drop", seed=3),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    model.compile(OPTIMIZERS[optimizer](), "sparse_categorical_crossentropy")
    return model


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, 6)).astype("float32")
    y = (np.abs(x).argmax(axis=1) % 3).astype("int32")
    return x[:32], y[:32], (x[32:], y[32:])


def fit(model, callback, epochs=12, **arguments):
    x, y, validation = data()
    arguments = {"shuffle": False, "batch_size": 8, "verbose": 0, **arguments}
    callbacks = [callback, *arguments.pop("beside", [])]
    if arguments.pop("validated", True):
        arguments["validation_data"] = validation
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, **arguments)


def auto(schedule="auto", **arguments):
    arguments = {"backbone": list(LAYERS), "verbose": 0, "cache": False, **arguments}
    return kf.GradualUnfreeze(schedule, **arguments)


def state(model):
    """Weights and optimizer; a best epoch is gone back to without the states of generators."""
    variables = [*model.weights, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def assert_same(model, other):
    for one, two in zip(state(model), state(other), strict=True):
        if keras.backend.backend() == "tensorflow":
            np.testing.assert_array_equal(one, two)
        else:
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


class LastEpoch(keras.callbacks.Callback):
    """Remembers the weights after each epoch."""

    def on_train_begin(self, logs=None):
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(list(values(self.model).values()))


@pytest.mark.at_commit("Adam")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_winner_of_a_race_is_trained_as_if_alone(optimizer):
    raced, seen = build(optimizer), LastEpoch()
    history = fit(raced, auto(), epochs=18, beside=[seen]).history
    depth = int(history["freeze_depth"][-1])
    own = [n for n, value in enumerate(history["freeze_depth"]) if value == depth]
    assert 2 < len(own) < 18
    assert len(set(history["freeze_depth"][:4])) == 4
    alone, seen_alone = build(optimizer), LastEpoch()
    rates = {name: 2.6 ** (n - 3) for n, name in enumerate([*LAYERS, "head"])}
    schedule = kf.FreezeScheduler(
        {0: depth}, backbone=list(LAYERS), rates=rates, cache=False, verbose=0
    )
    by_hand = fit(alone, schedule, epochs=len(own), beside=[seen_alone]).history
    close = {"rtol": 0 if keras.backend.backend() == "tensorflow" else 1e-5}
    np.testing.assert_allclose([history["val_loss"][n] for n in own], by_hand["val_loss"], **close)
    for n, weights in zip(own, seen_alone.weights, strict=True):
        for one, two in zip(seen.weights[n], weights, strict=True):
            np.testing.assert_allclose(one, two, atol=0 if close["rtol"] == 0 else 1e-6)
    # At the end the model is as it was in the best epoch of that depth.
    best = own[int(np.argmin([history["val_loss"][n] for n in own]))]
    expected = seen.weights[best]
    if optimizer == "EMA":  # whose averages Keras takes as a fit ends
        ended = build(optimizer)
        fit(ended, schedule, epochs=1 + own.index(best))
        expected = list(values(ended).values())
        assert any((a != b).any() for a, b in zip(expected, seen.weights[best], strict=True))
    for one, two in zip(values(raced).values(), expected, strict=True):
        np.testing.assert_allclose(one, two, atol=0 if close["rtol"] == 0 else 1e-6, **close)
    assert {g.name for g in kf.layer_groups(raced, backbone=list(LAYERS))[:depth]} == {
        layer.name for layer in raced.layers if layer.weights and not layer.trainable
    }


@pytest.mark.slow_on_jax
def test_iterations_are_those_of_each_candidate():
    model = build()
    iterations = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: iterations.append(int(model.optimizer.iterations))
    )
    history = fit(model, auto(), beside=[record]).history
    epochs = {}
    for candidate, count in zip(history["candidate"], iterations, strict=True):
        epochs[candidate] = epochs.get(candidate, 0) + 1
        assert count == 4 * epochs[candidate]


@pytest.mark.slow_on_jax
@pytest.mark.at_commit("continue")
@pytest.mark.parametrize("then", ["stop", "continue"])
def test_a_group_that_brings_no_gain_is_undone_wholly(then):
    whole, part = build(), build()
    schedule = Auto("sequence", stall=2, min_gain=10.0, then=then)
    history = fit(whole, auto(schedule), epochs=6).history
    assert history["freeze_depth"] == [3, 3, 3, 2, 2, 2]
    best = int(np.argmin(history["val_loss"][:3])) + 1
    head = kf.FreezeScheduler({0: 3}, backbone=list(LAYERS), cache=False, verbose=0)
    fit(part, head, epochs=best)
    assert_same(whole, part)
    assert [v.trainable for v in whole.weights] == [v.trainable for v in part.weights]


def test_a_sequence_goes_on_from_the_best_epoch_of_each_phase(capsys):
    model, seen = build(), LastEpoch()
    callback = auto(Auto("sequence", stall=1, min_gain=0.02), verbose=1)
    history = fit(model, callback, epochs=30, beside=[seen]).history
    assert len(set(history["freeze_depth"])) > 1
    best = int(np.argmin(history["val_loss"]))
    for one, two in zip(values(model).values(), seen.weights[best], strict=True):
        np.testing.assert_array_equal(one, two)
    assert "After training: depth" in capsys.readouterr().out


@pytest.mark.slow_on_jax
def test_training_goes_on_at_the_best_depth_or_ends():
    arguments = {"stall": 1, "min_gain": 0.5}
    goes_on = fit(build(), auto(Auto("sequence", **arguments)), epochs=9).history
    assert goes_on["freeze_depth"] == [3, 3, 2, 2] + [3] * 5
    stops = fit(build(), auto(Auto("sequence", **arguments, then="stop")), epochs=9).history
    assert stops["freeze_depth"] == [3, 3, 2, 2]


class Stop(keras.callbacks.Callback):
    """Ends a fit after some epochs, as a button would."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            self.model.stop_training = True


@pytest.mark.at_commit("3")
@pytest.mark.parametrize("epochs", [1, 3, 5])
def test_a_race_that_another_callback_ends_leaves_its_best_depth(epochs):
    model, seen = build(), LastEpoch()
    history = fit(model, auto(), epochs=18, beside=[seen, Stop(epochs)]).history
    best = int(np.argmin(history["val_loss"]))
    for one, two in zip(values(model).values(), seen.weights[best], strict=True):
        np.testing.assert_array_equal(one, two)
    depth = int(history["freeze_depth"][best])
    assert [layer.trainable for layer in model.layers[:3]] == [n >= depth for n in range(3)]


@pytest.mark.slow
def test_the_cache_serves_each_depth_from_the_features_that_it_made():
    model = build()
    cache = kf.PrefixCache(auto=False, verbose=0)
    plain = fit(build(), auto(), epochs=18).history
    cached = fit(model, auto(cache=cache), epochs=18).history
    assert cached["freeze_depth"] == plain["freeze_depth"]
    np.testing.assert_allclose(cached["val_loss"], plain["val_loss"], rtol=1e-4)
    frozen_epochs = sum(depth > 0 for depth in cached["freeze_depth"])
    cuts = len({depth for depth in cached["freeze_depth"] if depth > 0})
    # 32 rows are trained on and 16 validated on in an epoch; a cut computes each once.
    assert cache.statistics.hits >= 48 * (frozen_epochs - cuts)


@pytest.mark.slow_on_jax
@pytest.mark.slow
def test_the_guard_takes_restored_weights_for_what_they_are():
    fit(build(), auto(Auto(budget=0.5)), beside=[kf.FreezeGuard(every=1)])


COMPARING = {
    "EarlyStopping": lambda: keras.callbacks.EarlyStopping(),
    "ReduceLROnPlateau": lambda: keras.callbacks.ReduceLROnPlateau(),
    "LearningRateScheduler": lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
    "TerminateOnNaN": lambda: keras.callbacks.TerminateOnNaN(),
    "ModelCheckpoint": lambda: keras.callbacks.ModelCheckpoint("x.keras", save_best_only=True),
}


@pytest.mark.slow_on_jax
@pytest.mark.at_commit("ReduceLROnPlateau", "ModelCheckpoint")
@pytest.mark.parametrize("make", COMPARING.values(), ids=COMPARING)
def test_what_compares_epochs_can_not_stand_beside_a_race(make):
    with pytest.raises(
        ValueError, match=r"fit\(callbacks=\.\.\.\) must not contain .* beside a race"
    ):
        fit(build(), auto(), beside=[make()])


@pytest.mark.slow_on_jax
@pytest.mark.slow
def test_what_compares_epochs_may_stand_beside_a_sequence(tmp_path):
    every = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    fit(build(), auto(), epochs=6, beside=[every])
    best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    fit(build(), auto(Auto("sequence")), epochs=3, beside=[best])
    assert len(list(tmp_path.glob("*.keras"))) == 7


@pytest.mark.slow_on_jax
def test_early_stopping_beside_a_sequence_has_to_wait_for_its_stalls():
    early = keras.callbacks.EarlyStopping(patience=3)
    with pytest.warns(UserWarning, match="may end training at the first stall"):
        fit(build(), auto(Auto("sequence", stall=3)), epochs=1, beside=[early])
    late = keras.callbacks.EarlyStopping(patience=4)
    fit(build(), auto(Auto("sequence", stall=3)), epochs=1, beside=[late])


@pytest.mark.slow_on_jax
def test_a_model_with_optimizers_of_its_own_is_refused():
    model = build()
    model.own = keras.optimizers.SGD(0.1)
    model.own.build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"for an adaptive|on the JAX backend"):
        fit(model, auto())


@pytest.mark.slow_on_jax
def test_what_is_not_known_before_training_is_not_written_or_prepared(tmp_path):
    model, callback = build(), auto()
    assert callback.phase_starts(model, 12) == (0, None)
    with pytest.raises(ValueError, match="must be known before training to be planned"):
        callback.to_yaml(tmp_path / "x.yaml", model, 12)
    with pytest.raises(ValueError, match="must be known before training to be prepared for"):
        callback.prepare(model, epochs=12)


class Adapts(keras.callbacks.Callback):
    """Adds LoRA in the middle of a fit."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.get_layer("low").enable_lora(2)
            kf.recompile(self.model, force=True)


@pytest.mark.slow_on_jax
def test_weights_that_come_in_the_middle_of_a_race_are_refused():
    model = build()
    with pytest.raises(ValueError, match="must keep its weights while an adaptive schedule"):
        fit(model, auto(), beside=[Adapts()])


@pytest.mark.slow_on_jax
def test_a_metric_that_is_no_number_is_warned_of_once():
    model = build()
    model.compile("sgd", lambda y, p: keras.ops.sum(p) * float("nan"))
    with pytest.warns(UserWarning, match="is nan in epoch 1") as caught:
        fit(model, auto())
    assert sum("is nan in epoch" in str(w.message) for w in caught) == 1


@pytest.mark.slow_on_jax
def test_a_race_that_is_to_stop_ends_where_the_winner_stalls():
    schedule = Auto(then="stop", stall=2, min_gain=5.0)
    history = fit(build(), auto(schedule), epochs=30).history
    raced = 4 * 1 + 2 * 2  # 4 depths for an epoch, the better two for two more
    assert len(history["loss"]) == raced + 3


@pytest.mark.slow_on_jax
def test_without_validation_data_it_says_what_to_do():
    model, epochs = build(), []
    beside = [kf.FreezeGuard()]
    rule = r"Auto\(monitor=\.\.\.\).*without validation data.*Pass validation_data="
    with pytest.raises(ValueError, match=rule):
        fit(model, auto(), validated=False, beside=beside)
    assert int(model.optimizer.iterations) == 0
    # A function may add the metric to the logs.
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    with pytest.raises(ValueError, match=r"Auto\(monitor=\.\.\.\).*Pass validation_data= to fit"):
        fit(model, auto(), validated=False, beside=[note])
    assert int(model.optimizer.iterations) > 0
    x, y, _ = data()
    model.fit(x, y, epochs=9, validation_split=0.25, verbose=0, callbacks=[auto()])


@pytest.mark.parametrize(
    ("phase", "owner"),
    [
        (Phase((), until=OnPlateau(patience=1)), "OnPlateau"),
        (Phase((), until=AfterEpochs(1) | OnPlateau("val_accuracy")), "OnPlateau"),
        (Phase((), until=1, restore_best=True), "Phase"),
    ],
    ids=["plateau", "either", "best"],
)
def test_a_schedule_that_waits_for_validation_says_so_at_once(phase, owner):
    plan, model = FreezeSchedule([phase, Phase(())]), build()
    callback = kf.FreezeScheduler(plan, backbone=list(LAYERS), verbose=0)
    with pytest.raises(ValueError, match=rf"{owner}\(.*without validation data"):
        fit(model, callback, validated=False)
    assert int(model.optimizer.iterations) == 0


def test_validation_every_other_epoch_is_refused_at_once():
    model = build()
    with pytest.raises(ValueError, match=r"Auto\(monitor=.*with validation_freq=2\..*freq=1"):
        fit(model, auto(), validation_freq=2)
    assert int(model.optimizer.iterations) == 0


def test_a_fit_that_never_waits_for_it_needs_no_validation():
    waits = Phase(1, until=OnPlateau(patience=1))
    plan = FreezeSchedule([Phase(2, until=3), waits, Phase(())])

    def callback():
        return kf.FreezeScheduler(plan, backbone=list(LAYERS), total_epochs=9, verbose=0)

    fit(build(), callback(), epochs=3, validated=False)  # the first part of a split training
    late = FreezeSchedule([waits, Phase(())])
    own = keras.callbacks.Callback()
    own.on_epoch_end = lambda epoch, logs=None: logs.update(val_loss=1.0)
    scheduler = kf.FreezeScheduler(late, backbone=list(LAYERS), verbose=0)
    x, y, _ = data()
    build().fit(x, y, epochs=4, verbose=0, callbacks=[own, scheduler])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a step of TensorFlow's form")
def test_a_step_of_ones_own_and_an_output_may_give_what_looks_like_validation():
    class Own(keras.Sequential):
        def train_step(self, data):
            return {**super().train_step(data), "val_loss": 1.0}

    x, y, _ = data()
    inputs = keras.Input((6,))
    outputs = {"val": layers.Dense(3, activation="softmax", name="val")(inputs)}
    outputs |= {"other": layers.Dense(3, activation="softmax", name="other")(inputs)}
    for model, targets in (
        (Own([keras.Input((6,)), layers.Dense(3, activation="softmax", name="top")]), y),
        (keras.Model(inputs, outputs), {"val": y, "other": y}),
    ):
        model.compile("sgd", "sparse_categorical_crossentropy")
        plan = FreezeSchedule([Phase((), until=OnPlateau(patience=1, min_delta=9.0)), Phase(())])
        callback = kf.FreezeScheduler(plan, verbose=0)
        model.fit(x, targets, epochs=4, verbose=0, callbacks=[callback])


def test_a_list_of_callbacks_may_be_used_again():
    model, x, y = build(), *data()[:2]
    plan = FreezeSchedule([Phase(1, until=OnPlateau(patience=1)), Phase(())])
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(val_loss=1.0)
    )
    scheduler = kf.FreezeScheduler(plan, backbone=list(LAYERS), verbose=0)
    settings = {"epochs": 4, "steps": 1, "verbose": 0}
    found = keras.callbacks.CallbackList(
        [note, scheduler], add_history=True, model=model, **settings
    )
    for _ in range(2):
        model.fit(x, y, epochs=4, batch_size=32, verbose=0, callbacks=found)


@pytest.mark.slow_on_jax
def test_a_metric_of_the_training_may_be_named():
    history = fit(build(), auto(Auto(monitor="loss")), validated=False).history
    assert "candidate" in history


@pytest.mark.slow_on_jax
def test_a_second_fit_can_not_go_on_with_a_race():
    model = build()
    with pytest.raises(ValueError, match=r"fit\(initial_epoch=\.\.\.\) must be 0"):
        fit(model, auto(), epochs=12, initial_epoch=3)
    with pytest.raises(ValueError, match=r"total_epochs=\.\.\.\) must be left out"):
        fit(model, auto(total_epochs=30), epochs=12)


@pytest.mark.slow_on_jax
@pytest.mark.slow
def test_one_callback_serves_two_fits():
    callback = auto()
    first = fit(build(), callback, epochs=6).history
    second = fit(build(), callback, epochs=6).history
    copied = fit(build(), copy.deepcopy(callback), epochs=6).history
    assert first == second == copied


@pytest.mark.slow_on_jax
def test_nothing_pretrained_trains_from_the_first_step():
    with pytest.warns(UserWarning, match="nothing in model"):
        history = fit(build(), kf.GradualUnfreeze("auto", verbose=0, cache=False)).history
    assert "candidate" not in history


@pytest.mark.slow_on_jax
def test_the_lines_of_a_race(capsys):
    fit(build(), auto(verbose=1), epochs=9)
    lines = capsys.readouterr().out.splitlines()
    assert lines.pop(2).startswith("Check: Biases and statistics of low, middle and high")
    assert lines.pop(1).startswith("GradualUnfreeze: depths 3 and 0 of 0 to 3 race; ")
    first = "Epoch 1/9, depth 3: head trains at 1.0e-02, low, middle and high are frozen"
    assert lines[1].startswith(first)
    assert lines[2].startswith(
        "Epoch 2/9, depth 0: 4 groups (head to low) train at 1.0e-02 to 5.7e-04;"
    )
    assert "is dropped (val_loss" in lines[3]
    assert lines[-2].startswith("After training: depth ")


@pytest.mark.slow_on_jax
def test_a_preview_shows_the_first_round():
    table = auto().preview(build(), epochs=18)
    assert [row.training for row in table.rows] == [
        ("head",),
        ("head", "high"),
        ("head", "high", "middle"),
        ("head", "high", "middle", "low"),
    ]


@pytest.mark.slow_on_jax
def test_decisions_say_when_what_and_by_which_value():
    callback = auto()
    assert callback.decisions is None
    history = fit(build(), callback, epochs=18).history
    found = callback.decisions
    losses = history["val_loss"]
    measured = [(point.epochs, point.label, point.value) for point in found.measured]
    assert measured == [
        (n + 1, f"depth {depth}", losses[n])
        for n, depth in enumerate(history["freeze_depth"][: len(measured)])
    ]
    dropped = [row for row in found.rows if "dropped" in row.what]
    assert [row.epochs for row in dropped[:2]] == [4, 4]
    for row in dropped:
        depth = row.what.removesuffix(" is dropped")
        scores = [value for n, label, value in measured if label == depth and n <= row.epochs]
        assert row.value == min(scores) >= row.threshold
    assert found.freeze_depth == history["freeze_depth"][-1]
    assert found.verdict.startswith(f"depth {found.freeze_depth} of 3: ")
    assert "against" in str(found)
    fit(build(), kf.GradualUnfreeze(backbone=list(LAYERS), verbose=0, cache=False), epochs=2)
    assert callback.decisions == found


@pytest.mark.slow_on_jax
def test_a_fit_by_a_given_schedule_has_decided_nothing():
    callback = auto("even")
    fit(build(), callback, epochs=2)
    assert callback.decisions is None


@pytest.mark.slow_on_jax
def test_the_depth_counts_all_groups():
    callback = auto(keep_frozen=[LAYERS[0]])
    history = fit(build(), callback, epochs=12).history
    assert min(history["freeze_depth"]) == 1
    assert max(history["freeze_depth"]) == 3
    depth = int(history["freeze_depth"][-1])
    assert callback.decisions.freeze_depth == depth
    assert callback.decisions.verdict.startswith(f"depth {depth} of 3: ")
    assert {row.what.split()[1] for row in callback.decisions.rows} <= {"1", "2", "3"}
