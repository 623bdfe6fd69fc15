"""FreezeGuard inside `fit`: what moves while frozen, which flags flip, and when; no false alarm."""

import copy
import re

import keras
import numpy as np
import pytest
from conftest import BUILDERS
from effects import compiled, moved, values

import keras_freeze as kf
from keras_freeze.callbacks import freeze_guard

pytestmark = pytest.mark.backend
BACKEND = keras.backend.backend()
CALLBACKS = keras.callbacks
MODES = ["frozen", "follow", "statistics", "train"]


def fit(model, data_for, *callbacks, epochs=3, **settings):
    """Fit in steps of four rows, four steps an epoch."""
    x, y = data_for(model, rows=16)
    arguments = {"batch_size": 4, "epochs": epochs, "verbose": 0, **settings}
    return model.fit(x, y, callbacks=list(callbacks), **arguments)


class At(keras.callbacks.Callback):
    """Does something to the model at one moment of a fit."""

    def __init__(self, moment, action, epoch=1, step=0):
        super().__init__()
        self.at = (moment, epoch, step if moment == "step_begin" else 0)
        self.action = action
        self.epoch = None
        self.steps = 0

    def _meet(self, moment, step=0):
        if (moment, self.epoch, step) == self.at:
            self.action(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self._meet("epoch_begin")

    def on_train_batch_begin(self, batch, logs=None):
        self._meet("step_begin", batch)

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        self._meet("epoch_end")


def add_one(path):
    def assign(model):
        (variable,) = (v for v in model.weights if v.path == path)
        variable.assign(variable.value + 1)

    return assign


def frozen_low(build, *, eager=True):
    model = compiled(build(), eager=eager)
    kf.freeze(model, layers=["low"])
    return model


def low_frozen_of_two(*, eager=False):
    """Two dense blocks with BatchNorm, of which the first is frozen, and a head."""
    inputs = x = keras.Input((4,))
    for name in ("low", "high"):
        x = keras.layers.Dense(3, name=name)(x)
        x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    outputs = keras.layers.Dense(3, activation="softmax", name="head")(x)
    model = compiled(keras.Model(inputs, outputs, name="two"), eager=eager)
    kf.freeze(model, layers=["low", "low_bn"])
    return model


def exactly(message):
    return f"^{re.escape(message)}$"


# What moves while frozen


class Counts(keras.layers.Layer):
    """Counts its calls in a weight, frozen or not, and has a kernel besides."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")
        self.count = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="count"
        )

    def call(self, x):
        self.count.assign(self.count.value + 1)
        return x @ self.kernel


def with_layer(layer, shape=(4,), *, eager=True):
    layers = [keras.Input(shape), layer, keras.layers.Flatten(), keras.layers.Dense(3, name="head")]
    model = compiled(keras.Sequential(layers, name="net"), eager=eager)
    kf.freeze(model, layers=[layer.name])
    return model


SpectralNormalization = keras.layers.SpectralNormalization
RESTLESS = {
    "SpectralNormalization of Dense": (
        lambda: SpectralNormalization(keras.layers.Dense(3), name="restless"),
        (4,),
        {"kernel", "vector_u"},
    ),
    "SpectralNormalization of Conv2D": (
        lambda: SpectralNormalization(keras.layers.Conv2D(3, 2), name="restless"),
        (5, 5, 2),
        {"kernel", "vector_u"},
    ),
    "a layer that assigns in call": (lambda: Counts(name="restless"), (4,), {"count"}),
}
ADVICE = (
    "A layer that assigns weights in `call` does so frozen or not: let it train, or replace it "
    "(SpectralNormalization by its inner `layer`). If `trainable` was changed after an earlier "
    "fit, call keras_freeze.recompile(model)."
)


@pytest.mark.parametrize("every", ["epoch", 1])
@pytest.mark.parametrize("case", RESTLESS)
@pytest.mark.at_commit("SpectralNormalization of Dense-epoch", "a layer that assigns in call-1")
def test_a_layer_that_changes_weights_while_frozen_is_named(case, every, data_for):
    build, shape, moving = RESTLESS[case]
    model = with_layer(build(), shape, eager=every == 1)
    before = values(model)
    with pytest.raises(RuntimeError) as raised:
        fit(model, data_for, kf.FreezeGuard(every))
    paths = [path for path in before if path in moved(before, model) and "head" not in path]
    assert {path.rpartition("/")[2] for path in paths} == moving
    kind = type(model.get_layer("restless")).__name__
    named = " and ".join(f"{path} ({kind})" for path in paths)
    count = "1 frozen weight" if len(paths) == 1 else "2 frozen weights"
    when = "in epoch 1" if every == "epoch" else "in epoch 1, step 1"
    assert str(raised.value) == f"FreezeGuard: {count} moved {when}: {named}. {ADVICE}"


def test_the_same_layer_may_train_or_be_replaced_as_the_message_says(data_for):
    unsteady = SpectralNormalization(keras.layers.Dense(3), name="restless")
    model = with_layer(unsteady)
    kf.unfreeze(model, matching=".")
    fit(model, data_for, kf.FreezeGuard(1))
    fit(with_layer(unsteady.layer), data_for, kf.FreezeGuard(1))


WHEN = {
    "by epochs": ("epoch", "epoch_begin", 0, "in epoch 2"),
    "by epochs, inside": ("epoch", "step_begin", 2, "in epoch 2"),
    "by epochs, at the end": ("epoch", "epoch_end", 0, "in epoch 2"),
    "by steps, before": (2, "epoch_begin", 0, "in epoch 2, steps 1 to 2"),
    "by steps, first": (2, "step_begin", 1, "in epoch 2, steps 1 to 2"),
    "by steps, last": (2, "step_begin", 3, "in epoch 2, after step 2"),
    "by steps, end": (3, "epoch_end", 0, "in epoch 2, after step 3"),
    "by more steps than there are": (9, "step_begin", 3, "in epoch 2"),
}


@pytest.mark.parametrize("case", WHEN)
@pytest.mark.at_commit(
    "by epochs, inside", "by steps, first", "by steps, end", "by more steps than there are"
)
def test_the_message_says_when_a_weight_moved(case, plain, data_for):
    every, moment, step, when = WHEN[case]
    model = frozen_low(plain)
    other = At(moment, add_one("plain/low/bias"), step=step)
    expected = f"1 frozen weight moved {when}: plain/low/bias (Dense)."
    with pytest.raises(RuntimeError, match=re.escape(expected)):
        fit(model, data_for, kf.FreezeGuard(every), other)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no steps_per_execution on torch")
def test_several_steps_at_once_are_counted_as_they_are(plain, data_for):
    model = plain()
    model.compile("sgd", "sparse_categorical_crossentropy", steps_per_execution=2)
    kf.freeze(model, layers=["low"])
    other = At("step_begin", add_one("plain/low/bias"), step=6)
    with pytest.raises(RuntimeError, match="in epoch 2, steps 5 to 8:"):
        fit(model, data_for, kf.FreezeGuard(3), other, batch_size=1)


def test_many_weights_are_counted_and_the_first_named(data_for):
    model = low_frozen_of_two()
    kf.freeze(model, before="head")

    def all_weights(model):
        for variable in model.weights:
            variable.assign(variable.value + 1)

    message = "FreezeGuard: 12 frozen weights moved in epoch 2: low/kernel (Dense), "
    message += "low/bias (Dense), low_bn/gamma (BatchNormalization) and 9 more. "
    with pytest.raises(RuntimeError, match=re.escape(message)):
        fit(model, data_for, kf.FreezeGuard(), At("epoch_begin", all_weights))


def test_a_weight_of_which_only_adapters_train_is_watched(plain, data_for):
    model = plain()
    model.get_layer("low").enable_lora(2)
    fit(compiled(model, eager=True), data_for, kf.FreezeGuard())
    base = next(v.path for v in model.weights if v.path.endswith("low/kernel"))
    with pytest.raises(RuntimeError, match=f"1 frozen weight moved in epoch 2: {base}"):
        fit(model, data_for, kf.FreezeGuard(), At("epoch_begin", add_one(base)))


def test_a_layer_that_trains_may_change_what_it_likes(data_for):
    model = with_layer(Counts(name="restless"))
    kf.unfreeze(model, matching=".")
    fit(model, data_for, kf.FreezeGuard(1), At("step_begin", add_one("net/restless/kernel")))


# Flags that change behind our back


def set_layer(name, value):
    return lambda model: setattr(model.get_layer(name), "trainable", value)


def set_variable(path, value):
    def change(model):
        (variable,) = (v for v in model.weights if v.path == path)
        variable.trainable = value

    return change


def set_layer_only(name, value):
    return lambda model: setattr(model.get_layer(name), "_trainable", value)


def set_model(value):
    return lambda model: setattr(model, "trainable", value)


FLIPS = {
    "layer freezes": (set_layer("head", False), "head to False"),
    "layer unfreezes": (set_layer("low", True), "low to True"),
    "variable freezes": (set_variable("head/bias", False), "head/bias to False"),
    "variable unfreezes": (set_variable("low/kernel", True), "low/kernel to True"),
    "BatchNorm freezes": (set_layer("high_bn", False), "high_bn to False"),
    "BatchNorm flag only, freezes": (set_layer_only("high_bn", False), "high_bn to False"),
    "BatchNorm flag only, unfreezes": (set_layer_only("low_bn", True), "low_bn to True"),
    "model freezes": (set_model(False), "two to False"),
}
MOMENTS = {
    "epoch_begin": ("before epoch 2, step 1", 4),
    "step_begin": ("before epoch 2, step 3", 6),
    "epoch_end": ("in epoch 2", 8),
}
CONSEQUENCE = {
    "tensorflow": "The running train step continues to train what it trained before.",
    "jax": "The running train step keeps to the old flags; it fails or mixes weights up.",
    "torch": "The optimizer still knows the old set only, and fails at a weight that unfreezes.",
}
CURE = "Call keras_freeze.recompile(model) after changing `trainable`, or leave it as it was."


def expect_flip(guard_first, moment, action, named, data_for, *, eager):
    when, steps = MOMENTS[moment]
    other, guard = At(moment, action, step=2), kf.FreezeGuard()
    message = f"FreezeGuard: `trainable` was changed without a recompile {when}: {named}. "
    message += f"{CONSEQUENCE['torch' if eager and BACKEND == 'tensorflow' else BACKEND]} {CURE}"
    model = low_frozen_of_two(eager=eager)
    with pytest.raises(RuntimeError, match=exactly(message)):
        fit(model, data_for, *([guard, other] if guard_first else [other, guard]))
    assert other.steps == steps  # before anything trained by them


@pytest.mark.parametrize("case", FLIPS)
@pytest.mark.at_commit(
    "layer freezes", "variable unfreezes", "BatchNorm flag only, freezes", "model freezes"
)
def test_a_flag_that_another_callback_flips_is_reported(case, data_for):
    expect_flip(True, "epoch_begin", *FLIPS[case], data_for, eager=True)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("guard_first", [True, False], ids=["guard first", "guard last"])
@pytest.mark.at_commit("guard first-epoch_begin", "guard last-step_begin", "guard first-epoch_end")
def test_a_flip_is_reported_before_the_next_step(guard_first, moment, data_for):
    expect_flip(guard_first, moment, *FLIPS["layer unfreezes"], data_for, eager=False)


def test_the_flags_at_the_beginning_of_a_fit_count(data_for):
    other = At("epoch_begin", set_layer("low", True), epoch=0)
    with pytest.raises(RuntimeError, match="before epoch 1, step 1: low to True"):
        fit(low_frozen_of_two(eager=True), data_for, kf.FreezeGuard(), other)


def test_many_flags_are_counted(data_for):
    def freeze_each(model):
        for layer in model.layers[1:]:
            layer.trainable = layer.name.startswith("low")

    message = r"step 1: low to True, low_bn to True, high to False and 2 more\. "
    with pytest.raises(RuntimeError, match=message):
        fit(low_frozen_of_two(), data_for, kf.FreezeGuard(), At("epoch_begin", freeze_each))


def test_a_flip_beside_a_schedule_in_the_same_epoch_is_no_transition(plain, data_for):
    model = compiled(plain())
    other = At("epoch_begin", set_layer("low", True))
    with pytest.raises(RuntimeError, match="step 1: low to True"):
        fit(model, data_for, kf.FreezeGuard(), kf.GradualUnfreeze(1, verbose=0), other)


def test_a_flip_that_is_taken_back_before_the_next_step_is_none(plain, data_for):
    model = frozen_low(plain)
    unfreeze, freeze = (
        At("step_begin", set_layer("low", value), step=1) for value in (True, False)
    )
    fit(model, data_for, unfreeze, freeze, kf.FreezeGuard(1))


def test_flags_changed_between_two_fits_of_one_step_are_reported(plain, data_for):
    model = compiled(plain())
    fit(model, data_for, kf.FreezeScheduler({0: "low"}, verbose=0), epochs=1)
    model.get_layer("middle").trainable = False
    with pytest.raises(RuntimeError, match="before epoch 1, step 1: middle to False"):
        fit(model, data_for, kf.FreezeGuard())
    kf.recompile(model)
    fit(model, data_for, kf.FreezeGuard())
    model.get_layer("middle").trainable = True
    compiled(model)
    fit(model, data_for, kf.FreezeGuard())


def test_after_a_flip_the_weights_are_those_that_training_left(data_for):
    def square():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(3, name=name) for name in ("low", "middle", "head")]
        return compiled(keras.Sequential([keras.Input((3,)), *layers], name="square"))

    model = square()
    kernel = model.get_layer("low").kernel

    def flip(batch, logs):
        # As a callback that holds the layer and never reads `self.model`, so that JAX has the
        # values elsewhere. Equal shapes: pairing them wrongly would go unnoticed.
        kernel.trainable = batch != 2

    other = CALLBACKS.LambdaCallback(on_train_batch_begin=flip)
    with pytest.raises(RuntimeError, match="before epoch 1, step 3: square/low/kernel to False"):
        fit(model, data_for, other, kf.FreezeGuard(), shuffle=False)
    assert not kernel.trainable  # the user's flags are not ours to change
    expected = square()
    x, y = data_for(expected, rows=16)
    expected.fit(x[:8], y[:8], batch_size=4, shuffle=False, verbose=0)
    for path, value in values(expected).items():
        np.testing.assert_allclose(values(model)[path], value, rtol=1e-6, err_msg=path)


# What is no alarm


@pytest.mark.landing
@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(
            pytest.param(
                name,
                "frozen",
                marks=pytest.mark.slow if name in ("recurrent", "multi_input") else (),
            )
            for name in BUILDERS
        ),
        *(("batch_norm", mode) for mode in MODES[1:]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*ends with flags of single variables:UserWarning")
def test_silent_while_a_schedule_unfreezes(name, mode, request, data_for):
    optimizer = keras.optimizers.SGD(0.01)  # at a high rate the net with a number as target dies
    model = compiled(request.getfixturevalue(name)(), optimizer, eager=name != "batch_norm")
    schedule = kf.GradualUnfreeze(1, batch_norm=mode, verbose=0)
    with Comparisons() as compared:
        fit(model, data_for, kf.FreezeGuard(1), schedule, epochs=len(kf.layer_groups(model)))
    first = {w.variable.path for w in compared.watched[0]}
    assert first
    assert not any(path.startswith("head") for path in first)
    assert len(compared.watched[-1]) < len(first)


class Comparisons:
    """Notes what a guard watches at each comparison."""

    def __enter__(self):
        self.watched = []
        self.patch = pytest.MonkeyPatch()
        check = kf.FreezeGuard._check_weights

        def noting(guard, run, when):
            self.watched.append([weight for weight, _ in run.watched.values()])
            return check(guard, run, when)

        self.patch.setattr(kf.FreezeGuard, "_check_weights", noting)
        return self

    def __exit__(self, *error):
        self.patch.undo()


@pytest.mark.slow_on_jax
def test_silent_while_a_schedule_freezes(batch_norm, data_for):
    plan = {0: None, 1: "block1", 2: ["block1", "block2"], 3: "block2"}
    model = compiled(batch_norm(), eager=True)
    with Comparisons() as compared:
        fit(model, data_for, kf.FreezeScheduler(plan, verbose=0), kf.FreezeGuard(), epochs=4)
    norms = [
        {w.variable.path for w in weights if "bn" in w.variable.path}
        for weights in compared.watched
    ]
    convolutions = [
        {w.variable.path for w in weights} - norm
        for weights, norm in zip(compared.watched, norms, strict=True)
    ]
    one, two = {"block1_conv/kernel"}, {"block2_conv/kernel"}
    assert convolutions == [set(), one, one | two, two]
    assert [len(norm) for norm in norms] == [8] * 4  # frozen in every phase, by default


@pytest.mark.parametrize("moment", ["epoch_begin", "step_begin", "epoch_end"])
@pytest.mark.slow_on_jax
def test_flags_changed_with_a_recompile_are_watched_from_then_on(moment, plain, data_for):
    model = compiled(plain(), eager=True)

    def freeze_by_hand(model):
        model.get_layer("low").trainable = False
        kf.recompile(model)

    with Comparisons() as compared:
        fit(model, data_for, kf.FreezeGuard(2), At(moment, freeze_by_hand, step=2))
    assert compared.watched[0] == []
    assert [w.variable.path for w in compared.watched[-1]] == ["plain/low/kernel", "plain/low/bias"]


def test_what_is_frozen_before_and_after_a_transition_is_compared_across_it(plain, data_for):
    model = compiled(plain(), eager=True)
    unfreeze = kf.GradualUnfreeze({0: "head", 1: "middle"}, verbose=0)
    other = At("epoch_begin", add_one("plain/low/bias"))
    with pytest.raises(RuntimeError, match="1 frozen weight moved in epoch 2: plain/low/bias"):
        fit(model, data_for, kf.FreezeGuard(), unfreeze, other)


def test_what_moved_before_it_was_unfrozen_is_named(plain, data_for):
    model = compiled(plain(), eager=True)
    schedule = kf.GradualUnfreeze({0: ["head", "middle"], 1: "low"}, verbose=0)
    other = At("epoch_begin", add_one("plain/low/bias"))
    with pytest.raises(RuntimeError, match="moved before epoch 2, step 1: plain/low/bias"):
        fit(model, data_for, kf.FreezeGuard(), other, schedule)


def test_what_unfreezes_is_watched_no_more(plain, data_for):
    model = frozen_low(plain)

    def unfreeze(model):
        kf.unfreeze(model, layers=["low"])

    with Comparisons() as compared:
        fit(model, data_for, kf.FreezeGuard(2), At("step_begin", unfreeze, step=1))
    assert len(compared.watched[0]) == 2
    assert compared.watched[-1] == []


class CountsReads(kf.FreezeGuard):
    """Counts how often `model` is read, which on JAX copies all values back."""

    reads = 0

    @property
    def model(self):
        self.reads += 1
        return super().model


def test_nothing_frozen_is_nothing_read(plain, data_for, monkeypatch):
    monkeypatch.setattr(freeze_guard, "fingerprint", None)
    guard = CountsReads(1)
    fit(compiled(plain(), eager=True), data_for, guard)
    assert guard.reads == 1  # to find that out


def beside(tmp_path):
    return {
        "EarlyStopping": CALLBACKS.EarlyStopping(
            "loss", patience=3, min_delta=9.0, restore_best_weights=True
        ),
        "ReduceLROnPlateau": CALLBACKS.ReduceLROnPlateau("loss", patience=2, min_delta=9.0),
        "ModelCheckpoint": CALLBACKS.ModelCheckpoint(str(tmp_path / "{epoch}.keras")),
        "BackupAndRestore": kf.BackupAndRestore(tmp_path),
    }


@pytest.mark.parametrize(
    "name", ["EarlyStopping", "ReduceLROnPlateau", "ModelCheckpoint", "BackupAndRestore"]
)
@pytest.mark.at_commit("ReduceLROnPlateau", "ModelCheckpoint")
@pytest.mark.slow_on_jax
def test_silent_beside_the_stock_callbacks(name, batch_norm, data_for, tmp_path):
    unfreeze, other = kf.GradualUnfreeze(1, verbose=0), beside(tmp_path)[name]
    model = compiled(batch_norm(), eager=True)
    fit(model, data_for, kf.FreezeGuard(1), unfreeze, other, epochs=5)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has it for TF and JAX")
@pytest.mark.parametrize("on_epoch", [True, False])
def test_silent_beside_swap_ema_weights(on_epoch, plain, data_for):
    model = compiled(plain(), keras.optimizers.SGD(0.1, use_ema=True))
    swap = CALLBACKS.SwapEMAWeights(swap_on_epoch=on_epoch)
    fit(model, data_for, kf.FreezeGuard(1), swap, kf.GradualUnfreeze(1, verbose=0), epochs=4)


def test_a_training_that_is_taken_up_again_begins_with_the_weights_restored(
    plain, data_for, tmp_path
):
    def interrupted(model):
        raise KeyboardInterrupt

    def backup():
        return CALLBACKS.BackupAndRestore(str(tmp_path / "backup"))

    model = frozen_low(plain)
    model.get_layer("low").kernel.assign(np.ones((4, 6)))
    with pytest.raises(KeyboardInterrupt):
        fit(model, data_for, backup(), At("epoch_begin", interrupted))
    again = frozen_low(plain)
    fit(again, data_for, kf.FreezeGuard(1), backup())
    assert (values(again)["plain/low/kernel"] == 1).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
@pytest.mark.at_commit("bfloat16")
def test_dtype_policies(policy, data_for):
    keras.config.set_dtype_policy(policy)
    try:
        model = low_frozen_of_two()
    finally:
        keras.config.set_dtype_policy("float32")
    fit(model, data_for, kf.FreezeGuard(1), epochs=1)
    with pytest.raises(RuntimeError, match="1 frozen weight moved in epoch 2: low_bn/gamma"):
        fit(model, data_for, kf.FreezeGuard(), At("epoch_begin", add_one("low_bn/gamma")))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.low = keras.layers.Dense(3, name="low", trainable=False)
        self.norm = keras.layers.BatchNormalization(name="norm", trainable=False)
        self.head = keras.layers.Dense(3, activation="softmax", name="head")

    def call(self, x):
        return self.head(self.norm(self.low(x)))


def test_a_model_that_its_first_step_builds(data_for, plain):
    model, like = Subclassed(), plain()
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = data_for(like, rows=16)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[kf.FreezeGuard(1)])
    model = Subclassed()
    model.compile("sgd", "sparse_categorical_crossentropy")

    def assign(model):
        model.low.kernel.assign(model.low.kernel.value + 1)

    guards = [kf.FreezeGuard(1), At("step_begin", assign, epoch=0, step=2)]
    with pytest.raises(RuntimeError, match="in epoch 1, step 2: subclassed/low/kernel"):
        model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=guards)


def test_a_frozen_recurrent_layer_may_keep_its_state(data_for):
    layers = [keras.layers.LSTM(3, stateful=True, name="low"), keras.layers.Dense(3, name="head")]
    model = compiled(keras.Sequential([keras.Input((5, 2), batch_size=4), *layers]))
    kf.freeze(model, layers=["low"])
    with Comparisons() as compared:
        fit(model, data_for, kf.FreezeGuard(1), shuffle=False)
    assert len(compared.watched[0]) == 3


@pytest.mark.slow
def test_mirrored_strategy(mirrored, plain, data_for):
    import tensorflow as tf

    with mirrored.scope():
        model = compiled(plain())
    x, y = data_for(model, rows=16)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    unfreeze = kf.GradualUnfreeze({0: "head", 1: "middle"}, verbose=0)
    settings = {"epochs": 2, "shuffle": False, "verbose": 0}
    model.fit(data, callbacks=[kf.FreezeGuard(1), unfreeze], **settings)
    other = At("epoch_begin", add_one("plain/low/kernel"))
    with pytest.raises(RuntimeError, match="moved in epoch 2: plain/low/kernel"):
        model.fit(data, callbacks=[kf.FreezeGuard(), other], **settings)


# With a warning


def said_by(caught):
    return [str(warning.message) for warning in caught if warning.category is UserWarning]


def test_each_weight_is_warned_of_once_and_training_goes_on(data_for):
    model = with_layer(Counts(name="restless"))

    def another_transition(model):
        assert kf.freeze(model, matching="head/bias").recompiled

    others = [
        At("epoch_begin", add_one("net/restless/kernel")),
        At("epoch_begin", another_transition, epoch=2),
    ]
    with pytest.warns(UserWarning, match="FreezeGuard") as caught:
        history = fit(model, data_for, kf.FreezeGuard(2, action="warn"), *others, epochs=4)
    found = [text.partition(" (")[0] for text in said_by(caught)]
    assert found == [
        "FreezeGuard: 1 frozen weight moved in epoch 1, steps 1 to 2: net/restless/count",
        "FreezeGuard: 1 frozen weight moved in epoch 2, steps 1 to 2: net/restless/kernel",
    ]
    assert len(history.history["loss"]) == 4


@pytest.mark.skipif(BACKEND == "jax", reason="there the step fails: see the error's text")
def test_where_nothing_is_traced_a_flag_takes_effect_and_is_said_once(data_for):
    model = low_frozen_of_two()
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    before = values(model)
    other = At("epoch_begin", set_layer_only("low_bn", True))
    with pytest.warns(UserWarning) as caught:
        fit(model, data_for, kf.FreezeGuard(1, action="warn"), other)
    assert "low_bn/moving_mean" in moved(before, model)
    (said,) = said_by(caught)
    assert f"2, step 1: low_bn to True. {CONSEQUENCE['torch']}" in said


@pytest.mark.skipif(BACKEND == "jax", reason="there the step fails: see the error's text")
def test_each_flip_is_warned_of_once_and_training_goes_on(data_for):
    model = low_frozen_of_two()
    others = [
        At("epoch_begin", set_layer_only("low_bn", True), epoch=1),
        At("epoch_begin", set_layer("high", False), epoch=2),
    ]
    with pytest.warns(UserWarning, match="FreezeGuard") as caught:
        fit(model, data_for, kf.FreezeGuard(2, action="warn"), *others, epochs=4)
    found = [text.partition(". ")[0] for text in said_by(caught)]
    said = "FreezeGuard: `trainable` was changed without a recompile before epoch"
    assert found == [
        f"{said} 2, step 1: low_bn to True",
        f"{said} 3, step 1: high to False",
    ]


@pytest.mark.skipif(BACKEND == "jax", reason="there the step fails: see the error's text")
def test_a_flip_back_is_none_and_one_after_a_recompile_is_another(data_for):
    others = [
        At("epoch_begin", set_layer("high", False), epoch=1),
        At("epoch_begin", set_layer("high", True), epoch=2),
        At("epoch_begin", kf.recompile, epoch=3),
        At("epoch_begin", set_layer("high", False), epoch=4),
    ]
    with pytest.warns(UserWarning, match="FreezeGuard") as caught:
        fit(low_frozen_of_two(), data_for, kf.FreezeGuard(action="warn"), *others, epochs=5)
    assert [re.search(r"epoch \d", text)[0] for text in said_by(caught)] == ["epoch 2", "epoch 5"]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere the step fails, or heeds the flag")
def test_what_a_flipped_flag_calls_frozen_is_not_warned_of_again(plain, data_for):
    model = frozen_low(plain, eager=False)
    before = values(model)
    guard = kf.FreezeGuard(1, action="warn")
    with pytest.warns(UserWarning) as caught:
        fit(model, data_for, guard, At("epoch_begin", set_layer("middle", False)))
    assert len(said_by(caught)) == 1
    assert moved(before, model) == {p for p in before if "low" not in p}


# The callback itself


def test_one_guard_serves_two_fits_and_copies(plain, data_for):
    guard, copies = kf.FreezeGuard(2, action="warn"), []
    take = CALLBACKS.LambdaCallback(on_epoch_end=lambda *_: copies.append(copy.deepcopy(guard)))
    for _ in range(2):
        model = frozen_low(plain)
        fit(model, data_for, guard, take)
        assert guard._run is None
    assert [(c._run, c.model, c.every) for c in copies] == [(None, None, 2)] * 6
    with pytest.warns(UserWarning, match="moved in epoch 2, steps 1 to 2: plain/low/bias"):
        fit(model, data_for, copies[0], At("epoch_begin", add_one("plain/low/bias")))


@pytest.mark.parametrize(
    ("guard", "text"),
    [
        (kf.FreezeGuard(), "FreezeGuard()"),
        (kf.FreezeGuard(5), "FreezeGuard(every=5)"),
        (kf.FreezeGuard(action="warn"), "FreezeGuard(action='warn')"),
    ],
    ids=str,
)
def test_repr_lists_the_arguments_given(guard, text):
    assert repr(guard) == text
    assert repr(copy.deepcopy(guard)) == text


def test_a_guard_keeps_asynchronous_dispatch(plain):
    (guard,) = guards = [kf.FreezeGuard(1)]
    assert keras.callbacks.CallbackList(guards, model=plain())._async_train == (
        keras.callbacks.CallbackList([], model=plain())._async_train
    )
    assert guard.model is not None


def test_hooks_called_without_a_fit_do_nothing(plain, data_for):
    model = frozen_low(plain)
    guard = kf.FreezeGuard(1)
    x, y = data_for(model)
    model.evaluate(x, y, verbose=0, callbacks=[guard])
    guard.on_epoch_begin(0)
    guard.on_train_batch_begin(0)
    guard.on_epoch_end(0)
    assert guard._run is None


def test_the_guard_stands_behind_all_others(plain):
    guard, other = kf.FreezeGuard(), At("epoch_begin", print)
    callbacks = keras.callbacks.CallbackList([guard, other], add_history=True, model=plain())
    assert callbacks.callbacks[0] is other
    assert callbacks.callbacks[-1] is guard
    assert len(callbacks.callbacks) == 3
