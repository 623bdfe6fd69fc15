"""Models whose steps train with optimizers that they aren't compiled with, as a GAN's do."""

import keras
import numpy as np
import pytest

import keras_freeze as kf
from keras_freeze import schedules
from keras_freeze.model_picture import own_optimizers

pytestmark = pytest.mark.filterwarnings("ignore:.*ends with flags of single variables:UserWarning")
BACKEND = keras.backend.backend()
EPOCHS = 4

served = pytest.mark.skipif(BACKEND == "jax", reason="Keras updates the compiled optimizer alone")


def gradients(model, x, y, variables):
    """Return the mean squared error of a batch, and its gradients."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = keras.ops.mean((model(x, training=True) - y) ** 2)
        return loss, tape.gradient(loss, variables)
    model.zero_grad()
    loss = keras.ops.mean((model(x, training=True) - y) ** 2)
    loss.backward()
    return loss, [variable.value.grad for variable in variables]


class TwoOptimizers(keras.Sequential):
    """Trains its layers below the head by one optimizer, and the head by another."""

    lists_made_before = False
    without_variables = False

    def find(self):
        return self.own

    def parts(self):
        below = [v for layer in self.layers[:-1] for v in layer.trainable_variables]
        return below, self.layers[-1].trainable_variables

    def train_step(self, data):
        parts = self.known_parts if self.lists_made_before else self.parts()
        loss, grads = gradients(self, *data, [*parts[0], *parts[1]])
        for optimizer, part, own in zip(
            self.find(), parts, (grads[: len(parts[0])], grads[len(parts[0]) :]), strict=True
        ):
            arguments = () if self.without_variables else (part,)
            if BACKEND == "torch":
                import torch

                with torch.no_grad():
                    optimizer.apply(own, *arguments)
            else:
                optimizer.apply(own, *arguments)
        return {"loss": loss}


def two_optimizers(build=True, **compile_options):
    keras.utils.set_random_seed(0)
    model = TwoOptimizers(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh", name="low"),
            keras.layers.Dense(5, activation="tanh", name="mid"),
            keras.layers.Dense(1, name="head"),
        ]
    )
    model.compile(**compile_options)
    model.own = [keras.optimizers.Adam(0.05), keras.optimizers.SGD(0.1, momentum=0.9)]
    for optimizer, part in zip(model.own, model.parts(), strict=True):
        if build:
            optimizer.build(part)
    model.known_parts = model.parts()
    return model


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(24, 4)).astype("float32"), rng.normal(size=(24, 1)).astype("float32")


def fit(model, schedule, epochs=EPOCHS, **options):
    settings = {"rates": None, "cache": False, "verbose": 0, **options}
    callback = kf.FreezeScheduler(schedule, **settings)
    x, y = data()
    return model.fit(
        x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=[callback]
    )


LOW_LATER = {0: "low", 2: 0}  # how much is frozen


@served
@pytest.mark.parametrize("compiled", [{}, {"optimizer": None}], ids=["compiled", "none compiled"])
def test_each_optimizer_trains_what_it_was_built_for(compiled):
    """As by hand: what joins late is trained by an optimizer of the same kind that begins then."""
    model = two_optimizers(**compiled)
    fit(model, LOW_LATER)

    by_hand = two_optimizers()
    by_hand.layers[0].trainable = False
    below, head = by_hand.parts()
    by_hand.own[0] = keras.optimizers.Adam(0.05)
    late = keras.optimizers.Adam(0.05)
    x, y = data()
    for epoch in range(EPOCHS):
        by_hand.layers[0].trainable = epoch >= 2
        low = by_hand.layers[0].trainable_variables
        for start in range(0, len(x), 8):
            batch = slice(start, start + 8)
            tensors = (keras.ops.convert_to_tensor(a[batch]) for a in (x, y))
            variables = [*low, *below, *head]
            _, grads = gradients(by_hand, *tensors, variables)
            grads = [keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(g)) for g in grads]
            if low:
                late.apply(grads[:2], low)
            by_hand.own[0].apply(grads[len(low) : len(low) + 2], below)
            by_hand.own[1].apply(grads[len(low) + 2 :], head)

    for got, wanted in zip(model.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)
    assert [len(opt._trainable_variables) for opt in model.own] == [4, 2]


@served
def test_what_is_frozen_stays_and_goes_back_to_its_optimizer():
    model = two_optimizers()
    before = model.layers[0].get_weights()
    fit(model, {0: "low"})
    for old, new in zip(before, model.layers[0].get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(before[0][:1], model.layers[1].get_weights()[0][:1])
    fit(model, {0: 0})  # Adam is built for it again
    assert not np.array_equal(before[0], model.layers[0].get_weights()[0])
    assert kf.freeze(model, layers=["low"])
    assert [len(opt._trainable_variables) for opt in model.own] == [2, 2]


@served
@pytest.mark.filterwarnings("ignore:.*no weight of:UserWarning")
def test_rates_hold_for_each_optimizer(capsys):
    moved = {}
    for rate in (1e-30, 1.0):
        model = two_optimizers()
        before = model.get_weights()
        fit(model, {0: 0}, rates={"head": 1.0, "mid": rate, "low": rate}, verbose=1, epochs=1)
        pairs = zip(before, model.get_weights(), strict=True)
        moved[rate] = [bool(np.any(old != new)) for old, new in pairs]
    # Biases begin at zero, where no step is too small to be seen.
    assert moved == {1e-30: [False, True, False, True, True, True], 1.0: [True] * 6}
    assert "train at 1, 1e-30 and 1e-30 times the compiled rate" in capsys.readouterr().out


class Worse(keras.callbacks.Callback):
    """Makes the second epoch the worse one."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = float(epoch)


@served
def test_the_best_epoch_has_the_state_of_each_optimizer():
    """So a phase that was undone has left nothing behind: as if it had had one epoch."""
    states = []
    for epochs in (2, 1):
        model = two_optimizers()
        best = schedules.FreezeSchedule(
            [schedules.Phase(0, until=epochs, restore_best="val_loss"), schedules.Phase(0)]
        )
        x, y = data()
        callback = kf.FreezeScheduler(best, rates=None, cache=False, verbose=0)
        model.fit(
            x,
            y,
            batch_size=8,
            epochs=epochs + 1,
            shuffle=False,
            verbose=0,
            callbacks=[Worse(), callback],
        )
        slots = [v.numpy() for opt in model.own for v in opt.variables if "learning" not in v.path]
        states.append([*model.get_weights(), *slots])
    for got, wanted in zip(*states, strict=True):
        np.testing.assert_array_equal(got, wanted)


@served
@pytest.mark.parametrize("build", [True, False])
def test_the_only_optimizer_is_built_for_all_that_trains(build):
    model = two_optimizers(build=False, optimizer=None)
    only = keras.optimizers.Adam(0.05)
    model.own = [only, only]
    if build:
        only.build(model.trainable_variables)
    fit(model, LOW_LATER)
    assert len(only._trainable_variables) == 6


def refused(message, model, schedule=LOW_LATER, **options):
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        fit(model, schedule, **options)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@served
def test_what_can_not_be_told_is_refused_before_the_first_step():
    refused(r"own\[0\], own\[1\]\) not built", two_optimizers(build=False))
    refused("freezes all that .*own.1.* trains", two_optimizers(), {0: "head"})
    without_any = two_optimizers(optimizer=None)
    without_any.own = []
    refused("with no optimizer", without_any)
    several = two_optimizers()
    several.own.append(keras.optimizers.MultiOptimizer(lambda v: several.own[0]))
    refused("no MultiOptimizer of its own", several)
    with_curve = schedules.FreezeSchedule([schedules.Phase(0, curve=schedules.Cosine())])
    refused("no curves for a model with optimizers of its own", two_optimizers(), with_curve)


@served
def test_what_no_optimizer_was_built_for_is_not_unfrozen():
    model = two_optimizers(build=False, optimizer=None)
    model.layers[0].trainable = False
    for optimizer, part in zip(model.own, model.parts(), strict=True):
        optimizer.build(part)
    refused(
        r"nothing that none .* was built for.*phase at epoch 2, which trains .*low/kernel", model
    )
    with pytest.raises(ValueError, match=r"which of the optimizers .* trains a variable"):
        kf.unfreeze(model)
    assert not model.layers[0].trainable


@served
def test_a_step_that_hands_over_frozen_variables_is_refused():
    model = two_optimizers()
    model.lists_made_before = True
    refused(r"low/kernel, which is frozen. .*keep no list made before", model)


@served
def test_an_optimizer_keeps_the_order_in_which_it_was_built():
    """Since `apply` without variables takes gradients in that order."""
    weights = []
    for schedule in (None, {0: 0}, "recompile"):
        model = two_optimizers()
        upwards = model.parts

        def downwards(upwards=upwards):
            below, head = upwards()
            return below[::-1], head

        model.parts = downwards
        model.own[0] = keras.optimizers.SGD(0.1)
        model.own[0].build(downwards()[0])
        model.without_variables = True
        if schedule == "recompile":
            kf.freeze(model, layers=["low"])
            kf.unfreeze(model)
        if isinstance(schedule, dict):
            fit(model, schedule)
        else:
            x, y = data()
            model.fit(x, y, batch_size=8, epochs=EPOCHS, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for other in weights[1:]:
        for got, wanted in zip(other, weights[0], strict=True):
            np.testing.assert_array_equal(got, wanted)


@served
def test_an_optimizer_that_is_not_found_is_warned_of():
    model = two_optimizers()
    pair = model.own
    model.find, model.own = (lambda: pair), []
    with pytest.warns(UserWarning, match="none of the optimizers .* took a step in epoch 1"):
        fit(model, {0: 0}, rates="default")


@served
def test_what_recompile_can_not_tell_it_refuses():
    model = two_optimizers(build=False)
    model.layers[0].trainable = False
    for optimizer, part in zip(model.own, model.parts(), strict=True):
        optimizer.build(part)
    fit(model, {0: "low"})
    model.layers[0].trainable = True
    with pytest.raises(ValueError, match=r"which of the optimizers .* trains a variable"):
        kf.recompile(model)


@served
def test_an_optimizer_that_is_no_longer_used_is_refused():
    model = two_optimizers()
    model.before = keras.optimizers.SGD(0.1)
    model.before.build(model.trainable_variables)
    refused("one optimizer of its own for each variable", model)


@served
def test_where_a_fit_of_another_kind_went_before_it_begins_anew():
    model = two_optimizers()
    x, y = data()
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    with pytest.raises(ValueError, match=r"initial_epoch=.*must be 0 for a model with optimizers"):
        model.fit(
            x,
            y,
            epochs=4,
            initial_epoch=2,
            verbose=0,
            callbacks=[kf.FreezeScheduler(LOW_LATER, rates=None, cache=False, verbose=0)],
        )


@served
def test_a_weight_of_the_model_itself_may_have_an_optimizer():
    model = two_optimizers()
    model.log_alpha = model.add_weight(name="log_alpha", shape=())
    model.alpha_optimizer = keras.optimizers.SGD(0.1)
    model.alpha_optimizer.build([model.log_alpha])
    fit(model, {0: "mid", 2: 0})
    assert len(model.alpha_optimizer._trainable_variables) == 1


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.function")
def test_a_step_that_is_a_function_of_tensorflow_is_refused():
    import tensorflow as tf

    class Traced(keras.Sequential):
        @tf.function
        def train_step(self, batch):
            return super().train_step(batch)

    layers = [keras.layers.Dense(5, name="low"), keras.layers.Dense(1, name="head")]
    model = Traced([keras.Input((4,)), *layers])
    model.compile("sgd", "mse")
    refused("train_step that is no tf.function", model)
    model.fit(*data(), verbose=0)
    with pytest.raises(ValueError, match=r"must not be a tf\.function"):
        kf.freeze(model, layers=["low"])


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere they are served")
def test_on_jax_they_are_refused():
    refused("on the JAX backend", two_optimizers())


def test_one_that_two_models_train_is_refused():
    one, other = two_optimizers(), two_optimizers()
    other.own = one.own
    with pytest.raises(ValueError, match="One optimizer must train one model"):
        kf.freeze(other, layers=["low"])
    assert list(own_optimizers(one)) == ["own[0]", "own[1]"]
