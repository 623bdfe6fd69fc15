"""Several devices and other precisions: schedules and resumption give what one device gives."""

import keras
import numpy as np
import optimizer_table
import pytest

import keras_freeze as kf
from keras_freeze.engine import optimizer_state
from keras_freeze.schedules import AfterSteps, FreezeSchedule, OnPlateau, Phase, Warmup

BACKEND = keras.backend.backend()
EPOCHS = 6


class Crash(keras.callbacks.Callback):
    """Interrupts a fit in the middle of an epoch."""

    now = None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == 3:
            raise KeyboardInterrupt


def by_epochs():
    return kf.FreezeScheduler({0: ["low"], 2: None, 4: 1}, rates={"low": 0.1}, verbose=0)


def by_logs():
    trigger = OnPlateau("loss", patience=1, min_delta=9.0)
    return kf.FreezeScheduler(
        FreezeSchedule(
            [
                Phase(2, until=AfterSteps(5), curve=Warmup(3)),
                Phase(1, until=trigger, restore_best="loss"),
                Phase(0, rates=2.0),
            ]
        ),
        verbose=0,
    )


SCHEDULES = {"by epochs": by_epochs, "by logs": by_logs}


def train(build, data_for, callbacks, optimizer="adamw", precision=None):
    keras.config.set_dtype_policy(precision or "float32")
    try:
        model = build()
    finally:
        keras.config.set_dtype_policy("float32")
    made = optimizer_table.ALL[optimizer]() if isinstance(optimizer, str) else optimizer
    model.compile(made, "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = data_for(model, rows=16)
    arguments = {"epochs": EPOCHS, "batch_size": 8, "shuffle": False, "verbose": 0}
    history = model.fit(x, y, callbacks=callbacks, **arguments)
    return history.history, [optimizer_state.to_host(v) for v in model.weights], model


def train_interrupted(build, data_for, folder, schedule, **settings):
    with pytest.raises(KeyboardInterrupt):
        train(build, data_for, [kf.BackupAndRestore(folder), schedule(), Crash()], **settings)
    return train(build, data_for, [kf.BackupAndRestore(folder), schedule()], **settings)


def assert_close(left, right):
    (history, weights, _), (expected, other, _) = left, right
    assert history["trainable_params"] == expected["trainable_params"]
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)
    for a, b in zip(weights, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def assert_same(left, right):
    """Assert that two trainings are the same to the bit."""
    assert left[0] == right[0]
    for a, b in zip(left[1], right[1], strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


@pytest.fixture
def spread(request):
    """Spread what is built and trained in a test over two devices."""
    if request.param == "MirroredStrategy":
        scope = request.getfixturevalue("mirrored").scope()
    else:
        devices = keras.distribution.list_devices("cpu")
        assert len(devices) == 2, "conftest sets up two"
        scope = keras.distribution.DataParallel(devices=devices).scope()
        if request.param == "ModelParallel":
            mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], devices)
            layouts = keras.distribution.LayoutMap(mesh)
            layouts[".*low/kernel"] = (None, "model")
            scope = keras.distribution.ModelParallel(
                layout_map=layouts, batch_dim_name="batch"
            ).scope()
    with scope:
        yield request.param


KINDS = {"tensorflow": ["MirroredStrategy"], "jax": ["DataParallel", "ModelParallel"]}


@pytest.mark.backend
@pytest.mark.parametrize("spread", KINDS.get(BACKEND, []), indirect=True)
def test_a_schedule_equals_its_phases_by_hand_to_the_bit(spread, plain, data_for):
    """Of plain SGD, which has no state that a new optimizer would lack."""
    settings = {"batch_size": 8, "shuffle": False, "verbose": 0}

    def compiled():
        model = plain()
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    by_hand, found = compiled(), compiled()
    if spread == "ModelParallel":
        assert not found.get_layer("low").kernel.value.sharding.is_fully_replicated
    x, y = data_for(found, rows=16)
    losses = []
    for frozen in (["low", "middle"], ["low"], []):
        for layer in by_hand.layers:
            layer.trainable = layer.name not in frozen
        by_hand.compile("sgd", by_hand.loss)
        losses += by_hand.fit(x, y, epochs=2, **settings).history["loss"]
    plan = kf.FreezeScheduler({0: ["low", "middle"], 2: ["low"], 4: None}, verbose=0)
    history = found.fit(x, y, epochs=6, callbacks=[plan], **settings).history
    assert_same((history["loss"], found.get_weights()), (losses, by_hand.get_weights()))


@pytest.mark.landing
@pytest.mark.parametrize(
    ("schedule", "optimizer"),
    [
        pytest.param("by epochs", "adamw", marks=pytest.mark.slow),
        pytest.param("by epochs", "sgd-momentum", marks=pytest.mark.slow),
        pytest.param("by epochs", "adafactor", marks=pytest.mark.slow),
        pytest.param("by epochs", "loss-scale", marks=pytest.mark.slow),
        pytest.param("by epochs", "nadam", marks=pytest.mark.slow),
        ("by logs", "adamw"),
    ],
)
def test_mirrored_strategy_gives_the_one_device_result(
    schedule, optimizer, mirrored, plain, data_for
):
    make = SCHEDULES[schedule]
    one = train(plain, data_for, [make()], optimizer)
    with mirrored.scope():
        two = train(plain, data_for, [make()], optimizer)
    assert_close(two, one)
    for leaf in optimizer_state.leaf_optimizers(two[2].optimizer):
        assert isinstance(leaf._iterations, keras.Variable)


@pytest.mark.slow
def test_gradients_are_recorded_of_all_replicas(mirrored, plain, data_for):
    def make():
        plan = {0: ["low"], 2: None}
        return kf.FreezeScheduler(plan, rates="auto", log_details=["gradients"], verbose=0)

    one = train(plain, data_for, [make()], "sgd-momentum")
    with mirrored.scope():
        two = train(plain, data_for, [make()], "sgd-momentum")
    assert_close(two, one)
    for name in one[0]:
        if name.startswith("gradient_norm"):
            np.testing.assert_allclose(two[0][name], one[0][name], rtol=1e-3)


@pytest.mark.slow
def test_gradients_are_added_up_over_all_replicas(mirrored, plain, data_for):
    def make():
        return kf.AutoFreeze(intervals=6, backbone=["low", "middle"], verbose=0)

    callbacks = [make(), make()]
    one = train(plain, data_for, callbacks[:1], "sgd-momentum")
    with mirrored.scope():
        two = train(plain, data_for, callbacks[1:], "sgd-momentum")
    assert_close(two, one)
    found, expected = (callback.decisions.measured for callback in reversed(callbacks))
    assert [point.label for point in found] == [point.label for point in expected]
    values = [point.value for point in expected]
    np.testing.assert_allclose([point.value for point in found], values, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_mirrored_strategy_resumes_to_the_bit(schedule, mirrored, plain, data_for, tmp_path):
    with mirrored.scope():
        whole = train(plain, data_for, [SCHEDULES[schedule]()])
        resumed = train_interrupted(plain, data_for, tmp_path, SCHEDULES[schedule])
    assert_same(resumed, whole)


@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution")
@pytest.mark.backend
@pytest.mark.parametrize("schedule", [pytest.param("by epochs", marks=pytest.mark.slow), "by logs"])
def test_data_parallel_on_jax_gives_the_one_device_result(schedule, plain, data_for, tmp_path):
    make = SCHEDULES[schedule]
    one = train(plain, data_for, [make()])
    devices = keras.distribution.list_devices("cpu")
    assert len(devices) == 2, "conftest sets up two"
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    try:
        two = train(plain, data_for, [make()])
        resumed = train_interrupted(plain, data_for, tmp_path, make)
    finally:
        keras.distribution.set_distribution(None)
    assert_close(two, one)
    assert_same(resumed, two)


# In bfloat16 alone 0.999 is 1, so that Adam never moves a weight, in plain Keras too.
@pytest.mark.filterwarnings("ignore:.*has changed in phase")
@pytest.mark.backend
@pytest.mark.parametrize(
    ("schedule", "precision"),
    [
        ("by epochs", "mixed_float16"),
        pytest.param("by logs", "bfloat16", marks=pytest.mark.slow),
        pytest.param("by epochs", "mixed_bfloat16", marks=pytest.mark.slow),
        pytest.param("by epochs", "bfloat16", marks=pytest.mark.slow),
        pytest.param("by logs", "mixed_float16", marks=pytest.mark.slow),
        pytest.param("by logs", "mixed_bfloat16", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_other_precisions_are_resumed_to_the_bit(schedule, precision, plain, data_for, tmp_path):
    make = SCHEDULES[schedule]
    optimizer = "adam" if precision == "mixed_float16" else "adam-schedule"
    whole = train(plain, data_for, [make()], optimizer, precision)
    settings = {"optimizer": optimizer, "precision": precision}
    resumed = train_interrupted(plain, data_for, tmp_path, make, **settings)
    assert_same(resumed, whole)
    is_scaled = isinstance(resumed[2].optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (precision == "mixed_float16")
