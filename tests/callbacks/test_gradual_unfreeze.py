"""GradualUnfreeze and FreezeScheduler inside `fit`: what trains when, and what they say."""

import copy
import pathlib

import keras
import numpy as np
import pytest
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze import schedules

pytestmark = pytest.mark.backend
CALLBACKS = keras.callbacks


class Watch(keras.callbacks.Callback):
    """Notes in each epoch which groups train."""

    def __init__(self):
        super().__init__()
        self.training = []

    def on_epoch_end(self, epoch, logs=None):
        groups = kf.layer_groups(self.model)
        trained = [g.name for g in groups if any(v.trainable for v in g.variables)]
        self.training.append(tuple(trained))


def compiled(model, optimizer="adam", **settings):
    """Compile a model for steps that are not traced: enough to see what trains when."""
    model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=True, **settings)
    return model


def fit(model, data_for, callback, epochs, compile=True, **settings):
    if compile:
        compiled(model, metrics=["accuracy"])
    x, y = data_for(model)
    watch = Watch()
    history = model.fit(
        x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=[callback, watch], **settings
    )
    return watch.training, history.history


HEAD, TWO, ALL = ("head",), ("middle", "head"), ("low", "middle", "head")


@pytest.mark.parametrize(
    ("schedule", "epochs", "expected"),
    [
        ("even", 6, [HEAD, HEAD, TWO, TWO, ALL, ALL]),
        ("even", 3, [HEAD, TWO, ALL]),
        ("even", 2, [HEAD, ALL]),
        ("even", 1, [ALL]),
        (1, 4, [HEAD, TWO, ALL, ALL]),
        (2, 5, [HEAD, HEAD, TWO, TWO, ALL]),
        ({0: "head", 2: ["middle", "low"]}, 3, [HEAD, HEAD, ALL]),
        ({0: ["head", "middle"]}, 2, [TWO, TWO]),
        ({0: "low", 1: "head"}, 2, [("low",), ("low", "head")]),
    ],
    ids=str,
)
def test_groups_thaw_when_the_schedule_says(schedule, epochs, expected, plain, data_for):
    training, history = fit(plain(), data_for, kf.GradualUnfreeze(schedule, verbose=0), epochs)
    assert training == expected
    sizes = {"low": 30, "middle": 35, "head": 18}
    assert history["trainable_params"] == [sum(sizes[n] for n in names) for names in expected]
    assert history["non_trainable_params"] == [83 - n for n in history["trainable_params"]]


@pytest.mark.at_commit("nested", "batch_norm")
def test_works_without_arguments_on_every_kind_of_model(any_model, data_for):
    model = any_model()
    loss = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    model.compile("adam", loss if len(model.outputs) > 1 else loss["kind"])
    before = model.get_weights()
    x, y = data_for(model)
    model.fit(x, y, epochs=4, verbose=0, callbacks=[kf.GradualUnfreeze(verbose=0)])
    groups = kf.layer_groups(model)
    normalised = {
        id(v)
        for layer in model._flatten_layers()
        for v in layer.weights
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    for group in groups:
        assert all(v.trainable for v in group.variables if id(v) not in normalised)
    for variable, old in zip(model.weights, before, strict=True):
        moved = (keras.ops.convert_to_numpy(variable.value) != old).any()
        assert moved == (id(variable) not in normalised), variable.path


def test_what_is_frozen_stays_to_the_last_bit(batch_norm, data_for):
    model = batch_norm()
    before = {v.path: np.array(keras.ops.convert_to_numpy(v.value)) for v in model.weights}
    model.compile("adam", "sparse_categorical_crossentropy")
    fit(model, data_for, kf.GradualUnfreeze({0: "head"}, verbose=0), 2, compile=False)
    for variable in model.weights:
        same = np.array_equal(before[variable.path], keras.ops.convert_to_numpy(variable.value))
        assert same == ("head" not in variable.path), variable.path


def test_each_transition_prints_one_line(plain, data_for, capsys):
    model = plain()
    compiled(model, keras.optimizers.Adam(0.01))
    callback = kf.GradualUnfreeze({0: "head", 2: "middle"}, rates=2.0, cache=False)
    fit(model, data_for, callback, 3, compile=False)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "Epoch 1/3: head trains at 1.0e-02, low and middle are frozen; 18 of 83 parameters train.",
        "Epoch 3/3: middle unfreezes at 5.0e-03; 53 of 83 parameters train.",
        "After training: low is frozen, as no phase of the schedule unfreezes more.",
        "After training: group learning rates are reset; a further fit trains at 1.0e-02 "
        "everywhere.",
    ]


def test_freezing_and_unfreezing_in_one_plan(plain, data_for, capsys):
    plan = {0: "low", 1: ["middle", "head"], 3: None}
    training, _ = fit(plain(), data_for, kf.FreezeScheduler(plan), 4)
    assert training == [TWO, ("low",), ("low",), ALL]
    out = capsys.readouterr().out
    assert "Epoch 1/4: head and middle train at 1.0e-03, low is frozen; " in out
    assert "Epoch 2/4: low unfreezes at 1.0e-03, middle and head freeze; " in out
    assert "After training" not in out


def test_a_plan_may_hold_policies_callables_and_phases(plain, data_for):
    plan = {
        0: ~kf.policies.FreezeMatching("head"),
        1: lambda variable, layer: variable.name == "kernel",
        2: schedules.Phase(frozen=1, rates={"middle": 0.5}, batch_norm="follow"),
    }
    _, history = fit(plain(), data_for, kf.FreezeScheduler(plan, verbose=0), 3)
    assert history["trainable_params"] == [18, 14, 53]


def test_before_the_first_phase_the_flags_hold(plain, data_for, capsys):
    model = plain()
    kf.freeze(model, layers=["middle"])
    training, history = fit(model, data_for, kf.FreezeScheduler({2: None}), 3)
    said = capsys.readouterr().out.splitlines()[1]
    assert said.startswith("Epoch 3/3: middle unfreezes at 1.0e-03; 83 of 83 ")
    assert training == [("low", "head"), ("low", "head"), ALL]
    assert history["trainable_params"] == [48, 48, 83]


@pytest.mark.slow_on_jax
def test_details_go_into_the_logs_by_option(plain, data_for):
    callback = kf.GradualUnfreeze(1, rates=2.0, log_details=True, verbose=0)
    _, history = fit(plain(), data_for, callback, 3)
    assert history["phase"] == [0, 1, 2]
    assert history["frozen_groups"] == [2, 1, 0]
    assert history["learning_rate/middle"] == pytest.approx([0, 0.0005, 0.0005])
    assert history["learning_rate/head"] == pytest.approx([0.001] * 3)
    _, plain_history = fit(plain(), data_for, kf.GradualUnfreeze(verbose=0), 3)
    assert not any(name.startswith(("phase", "learning_rate")) for name in plain_history)


# Several fits


def test_one_instance_serves_two_fits_and_the_second_starts_over(plain, data_for, capsys):
    callback, model = kf.GradualUnfreeze(1), plain()
    first, _ = fit(model, data_for, callback, 3)
    assert "starts over" not in capsys.readouterr().out
    second, _ = fit(model, data_for, callback, 3, compile=False)
    assert first == second == [HEAD, TWO, ALL]
    assert capsys.readouterr().out.count("this fit starts over from the head") == 1


def test_a_fit_that_continues_never_freezes_again_what_was_unfrozen(plain, data_for):
    model = plain()
    fit(model, data_for, kf.GradualUnfreeze(verbose=0), 3)  # everything has been unfrozen
    training, _ = fit(
        model, data_for, kf.GradualUnfreeze(verbose=0), 9, compile=False, initial_epoch=3
    )
    assert training == [ALL] * 6


def test_total_epochs_pins_the_schedule_over_several_fits(plain, data_for):
    whole, _ = fit(plain(), data_for, kf.GradualUnfreeze(verbose=0), 6)
    model, callback = plain(), kf.GradualUnfreeze(total_epochs=6, verbose=0)
    first, _ = fit(model, data_for, callback, 3)
    second, _ = fit(model, data_for, callback, 6, compile=False, initial_epoch=3)
    assert first + second == whole


def test_another_process_goes_on_by_the_flags_of_a_loaded_model(plain, data_for, tmp_path):
    model = plain()
    fit(model, data_for, kf.GradualUnfreeze({0: "head", 1: "middle"}, verbose=0), 2)
    model.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    callback = kf.GradualUnfreeze({0: "head", 5: "middle", 6: "low"}, verbose=0)
    training, _ = fit(loaded, data_for, callback, 7, compile=False, initial_epoch=2)
    assert training == [TWO, TWO, TWO, TWO, ALL]


def test_a_model_rebuilt_for_a_later_epoch_follows_the_plan(plain, data_for):
    callback = kf.GradualUnfreeze({0: "head", 3: "middle"}, verbose=0)
    training, _ = fit(plain(), data_for, callback, 4, initial_epoch=2)
    assert training == [HEAD, TWO]


def test_callbacks_copy_and_print(plain, data_for):
    callback = kf.GradualUnfreeze({0: "head"}, rates={"low": 0.5}, verbose=0)
    fit(plain(), data_for, callback, 1)
    duplicate = copy.deepcopy(callback)
    assert duplicate.model is None
    assert repr(duplicate) == repr(callback)
    assert repr(callback) == (
        "GradualUnfreeze(schedule={0: 'head'}, rates={'low': 0.5}, verbose=0)"
    )
    model = plain()
    training, _ = fit(model, data_for, duplicate, 2)
    assert training == [HEAD, HEAD]


def test_a_copy_made_during_a_fit_is_independent(plain, data_for):
    copies = []
    callback = kf.GradualUnfreeze(1, verbose=0)
    model = plain()
    compiled(model)
    x, y = data_for(model)
    take = CALLBACKS.LambdaCallback(
        on_epoch_end=lambda epoch, logs: copies.append(copy.deepcopy(callback))
    )
    model.fit(x, y, epochs=3, verbose=0, callbacks=[callback, take])
    assert [c._run for c in copies] == [None] * 3


# What stands beside


def test_too_few_epochs_are_said(plain, data_for, capsys):
    fit(plain(), data_for, kf.GradualUnfreeze(), 2)
    said = "GradualUnfreeze: 2 epochs for 3 layer groups, so several groups unfreeze at once."
    assert said in capsys.readouterr().out


def test_a_phase_that_is_not_reached_is_warned_of(plain, data_for):
    with pytest.warns(UserWarning, match=r"phase at epoch 4 is not reached in 3 epochs"):
        fit(plain(), data_for, kf.GradualUnfreeze({0: "head", 4: "middle"}, verbose=0), 3)


def test_a_model_of_one_group_is_warned_of(data_for):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    with pytest.warns(UserWarning, match="single layer group"):
        fit(model, data_for, kf.GradualUnfreeze(verbose=0), 2)


IMPATIENT = {
    "stop": (
        CALLBACKS.EarlyStopping("loss", patience=1),
        r"may end training at epoch 1, .* at epoch 2\. Pass start_from_epoch=2 to EarlyStopping",
        CALLBACKS.EarlyStopping("loss", patience=1, start_from_epoch=2),
    ),
    "reduce": (
        CALLBACKS.ReduceLROnPlateau("loss", patience=1),
        r"may lower the learning rate at epoch 1, .* at epoch 2\. Pass patience=2 to it",
        CALLBACKS.ReduceLROnPlateau("loss", patience=2),
    ),
}


@pytest.mark.parametrize("order", [1, -1], ids=["before", "after"])
@pytest.mark.parametrize("case", IMPATIENT)
def test_who_does_not_wait_for_the_last_phase_is_warned_of_once(case, order, plain, data_for):
    other, message, safe = IMPATIENT[case]
    model = plain()
    compiled(model)
    x, y = data_for(model)
    callbacks = [other, kf.GradualUnfreeze(1, verbose=0)]
    with pytest.warns(UserWarning, match=message) as caught:
        model.fit(x, y, epochs=3, verbose=0, callbacks=callbacks[::order])
    assert len([w for w in caught if type(other).__name__ in str(w.message)]) == 1
    model.fit(x, y, epochs=3, verbose=0, callbacks=[safe, kf.GradualUnfreeze(1, verbose=0)])


def test_one_that_has_nothing_to_lower_is_not_warned_of(plain, data_for):
    model = plain()
    compiled(model)
    reduce = CALLBACKS.ReduceLROnPlateau("loss", patience=1, min_lr=1.0)
    callbacks = [reduce, kf.GradualUnfreeze(1, verbose=0)]
    model.fit(*data_for(model), epochs=3, verbose=0, callbacks=callbacks)


def beside(tmp_path):
    return {
        "EarlyStopping": CALLBACKS.EarlyStopping("loss", patience=9, restore_best_weights=True),
        "ReduceLROnPlateau": CALLBACKS.ReduceLROnPlateau("loss", patience=2, min_delta=9.0),
        "LearningRateScheduler": CALLBACKS.LearningRateScheduler(lambda epoch, rate: rate / 2),
        "ModelCheckpoint": CALLBACKS.ModelCheckpoint(str(tmp_path / "{epoch}.keras")),
        "CSVLogger": CALLBACKS.CSVLogger(str(tmp_path / "log.csv")),
        "TerminateOnNaN": CALLBACKS.TerminateOnNaN(),
    }


@pytest.mark.parametrize("name", beside(pathlib.Path()))
@pytest.mark.at_commit("EarlyStopping", "ReduceLROnPlateau", "ModelCheckpoint")
def test_works_beside_the_stock_callbacks(name, plain, data_for, tmp_path):
    model, other = plain(), beside(tmp_path)[name]
    compiled(model, keras.optimizers.Adam(0.01))
    x, y = data_for(model)
    watch = Watch()
    callbacks = [kf.GradualUnfreeze(1, verbose=0), other, watch]
    history = model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=callbacks)
    assert watch.training == [HEAD, TWO, ALL, ALL]
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    if name == "ReduceLROnPlateau":
        assert rate < 0.01
    if name == "LearningRateScheduler":
        assert rate == pytest.approx(0.01 / 16)
    if name == "CSVLogger":
        text = (tmp_path / "log.csv").read_text()
        assert "trainable_params" in text.splitlines()[0]
        assert len(text.splitlines()) == 5
    if name == "ModelCheckpoint":
        for epoch, flags in ((1, [False, False, True]), (2, [False, True, True])):
            saved = keras.models.load_model(tmp_path / f"{epoch}.keras")
            assert [layer.trainable for layer in saved.layers] == flags
            steps = keras.ops.convert_to_numpy(saved.optimizer._iterations)
            assert int(steps) == 2 * epoch
    assert len(history.history["loss"]) == 4


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has it for TF and JAX")
@pytest.mark.slow
def test_works_beside_swap_ema_weights(plain, data_for):
    model = plain()
    optimizer = keras.optimizers.SGD(0.0, use_ema=True)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    before = model.get_weights()
    x, y = data_for(model)
    swap = CALLBACKS.SwapEMAWeights(swap_on_epoch=True)
    model.fit(x, y, epochs=4, verbose=0, callbacks=[kf.GradualUnfreeze(1, verbose=0), swap])
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="writes TensorFlow summaries")
@pytest.mark.slow
def test_works_beside_tensorboard(plain, data_for, tmp_path):
    model = plain()
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = data_for(model)
    board = CALLBACKS.TensorBoard(str(tmp_path), write_graph=False)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[kf.GradualUnfreeze(1, verbose=0), board])
    assert list(tmp_path.rglob("events*"))


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(4 * index, 4 * index + 4)
        return self.x[rows], self.y[rows]


@pytest.mark.parametrize("kind", ["arrays", "tf.data", "PyDataset", "generator"])
def test_any_kind_of_data(kind, plain, data_for):
    model = plain()
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = data_for(model, rows=16)
    watch, settings = Watch(), {}
    data = (x, y)
    if kind == "tf.data":
        tf = pytest.importorskip("tensorflow")
        data = (tf.data.Dataset.from_tensor_slices((x, y)).batch(4),)
        settings = {"shuffle": False}
    elif kind == "PyDataset":
        data = (Batches(x, y),)
    elif kind == "generator":
        batches = Batches(x, y)
        data = ((batches[i % 4] for i in range(100)),)
        settings = {"steps_per_epoch": 4, "shuffle": False}
    callbacks = [kf.GradualUnfreeze(1, verbose=0), watch]
    model.fit(*data, epochs=3, verbose=0, callbacks=callbacks, **settings)
    assert watch.training == [HEAD, TWO, ALL]


def test_two_schedules_in_one_fit_are_refused(plain, data_for):
    model = plain()
    compiled(model)
    x, y = data_for(model)
    both = [kf.GradualUnfreeze(verbose=0), kf.FreezeScheduler({0: "low"}, verbose=0)]
    with pytest.raises(ValueError, match=r"at most one freeze schedule.*Put both plans into one"):
        model.fit(x, y, verbose=0, callbacks=both)


def test_a_phase_whose_batch_norm_rule_leaves_nothing_is_refused(batch_norm, data_for):
    only_norms = ~kf.policies.FreezeMatching("_bn$")
    with pytest.raises(ValueError, match="must leave at least one trainable variable"):
        fit(batch_norm(), data_for, kf.FreezeScheduler({0: only_norms}, verbose=0), 1)


def test_what_was_unfrozen_by_hand_is_not_frozen_again_by_a_later_fit(plain, data_for):
    model = plain()
    fit(model, data_for, kf.GradualUnfreeze({0: "head"}, verbose=0), 2)
    kf.unfreeze(model, layers=["low"])
    callback = kf.GradualUnfreeze({0: "head", 3: "middle"}, verbose=0)
    training, _ = fit(model, data_for, callback, 4, compile=False, initial_epoch=2)
    assert training == [("low", "head"), ALL]


@pytest.mark.slow_on_jax
def test_a_loss_scale_counts_as_training_done(plain, data_for, tmp_path):
    model = plain()
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))
    compiled(model, scaled)
    fit(model, data_for, kf.GradualUnfreeze(1, verbose=0), 3, compile=False)
    model.save(tmp_path / "scaled.keras")
    loaded = keras.models.load_model(tmp_path / "scaled.keras")
    callback = kf.GradualUnfreeze(5, verbose=0, total_epochs=20)
    training, _ = fit(loaded, data_for, callback, 5, compile=False, initial_epoch=3)
    assert training == [ALL, ALL]


def test_early_stopping_late_in_a_training_is_not_warned_of(plain, data_for):
    model = plain()
    compiled(model)
    x, y = data_for(model)
    callbacks = [kf.GradualUnfreeze(2, verbose=0), CALLBACKS.EarlyStopping("loss", patience=3)]
    model.fit(x, y, epochs=6, initial_epoch=5, verbose=0, callbacks=callbacks)


def test_epochs_may_be_numpy_integers(plain, data_for):
    plan = {np.int64(0): "head", np.int64(1): "middle"}
    training, _ = fit(plain(), data_for, kf.GradualUnfreeze(plan, verbose=0), 2)
    assert training == [HEAD, TWO]


def test_a_group_called_by_its_place_is_shown_with_its_first_layer(data_for, capsys):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6),
            layers.Dense(5),
            layers.Dense(3, "softmax", name="head"),
        ]
    )
    as_if_trained(model)
    lowest, middle, _ = (layer.name for layer in model.layers)
    plan = {0: "head", 1: middle}
    fit(model, data_for, kf.GradualUnfreeze(plan, rates=None, cache=False), 2)
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"Epoch 1/2: head trains at 1.0e-03, group0 ({lowest}) and group1 ({middle}) are frozen; "
        "18 of 83 parameters train.",
        f"Epoch 2/2: group1 ({middle}) unfreezes at 1.0e-03; 53 of 83 parameters train.",
        f"After training: group0 ({lowest}) is frozen, as no phase of the schedule unfreezes more.",
    ]
