"""The engine: what a recompile keeps, what it refuses, and what it costs."""

import collections
import gc
import itertools
import weakref

import keras
import numpy as np
import optimizer_table
import pytest
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze.engine import optimizer_state, transitions, update_rules
from keras_freeze.engine.transitions import flags_in_force
from keras_freeze.keras_internals import optimizers, trainer
from keras_freeze.model_picture import own_optimizers

pytestmark = pytest.mark.backend


class RecompileEverywhere(keras.callbacks.Callback):
    """Rebuild the step at each epoch's begin and in the middle of each epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        assert kf.recompile(self.model, force=True)

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            assert kf.recompile(self.model, force=True)


def state_of(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [optimizer_state.to_host(variable) for variable in variables]


def flags_of(model):
    return [item.trainable for item in (*model.layers, *model.weights)]


def assert_equal(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def fit(build, optimizer, data_for, callbacks=(), epochs=2, shuffle=True, **compile_args):
    model = build()
    settings = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], **compile_args}
    model.compile(optimizer, **settings)
    x, y = data_for(model, rows=20)
    keras.utils.set_random_seed(1)  # what fit shuffles by
    settings = {"epochs": epochs, "shuffle": shuffle, "callbacks": list(callbacks)}
    history = model.fit(x, y, batch_size=4, verbose=0, **settings)
    return history.history, state_of(model), model


def apply_gradients(model, optimizer, steps, recompile_before=()):
    """Compile a model, and let its optimizer apply gradients without any `fit`."""
    model.compile(optimizer, "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    variables = model.trainable_variables
    optimizer.build(variables)
    for step in range(steps):
        if step in recompile_before:
            assert kf.recompile(model, force=True)
        gradients = [keras.ops.cast(rng.normal(size=v.shape), v.dtype) for v in variables]
        optimizer.apply(gradients, variables)
    return model


def applied_outside_of_a_step(name):
    if name == "loss-scale" and keras.backend.backend() == "jax":
        pytest.skip("Keras's own LossScaleOptimizer can't `apply` outside of a step on JAX")
    return optimizer_table.ALL[name]()


@pytest.mark.parametrize("name", optimizer_table.cases(optimizer_table.ALL))
def test_a_recompile_keeps_every_bit_of_an_optimizer(name, plain):
    stayed = apply_gradients(plain(), applied_outside_of_a_step(name), 8)
    rebuilt = apply_gradients(plain(), optimizer_table.ALL[name](), 8, recompile_before=(2, 3, 7))
    assert_equal(state_of(rebuilt), state_of(stayed))
    assert len(rebuilt.optimizer.variables) == len({id(v) for v in rebuilt.optimizer.variables})


# In fits, a few at every commit and all in `make test-all`. The contract of bits is TensorFlow's;
# the other backends show the shuffled case only.
FITTED = [("adam", False), ("adam-accumulation", True)]
ORDERS = [True, False] if keras.backend.backend() == "tensorflow" else [True]
FITS = [
    pytest.param(
        name,
        shuffle,
        marks=() if (name, shuffle) in FITTED else pytest.mark.slow,
        id=f"{name}-{'shuffled' if shuffle else 'in-order'}",
    )
    for name in optimizer_table.ALL
    for shuffle in ORDERS
]


@pytest.mark.parametrize(("name", "shuffle"), FITS)
@pytest.mark.slow_on_jax
@pytest.mark.at_commit("adam-shuffled", "adam-accumulation-shuffled")
def test_a_recompile_in_any_place_changes_no_bit(name, shuffle, batch_norm, data_for):
    factory = optimizer_table.ALL[name]
    plain, plain_state, _ = fit(batch_norm, factory(), data_for, shuffle=shuffle)
    rebuilt = [RecompileEverywhere()]
    history, state, model = fit(batch_norm, factory(), data_for, rebuilt, shuffle=shuffle)
    assert history == plain
    assert_equal(state, plain_state)
    assert len(model.optimizer.variables) == len({id(v) for v in model.optimizer.variables})


@pytest.mark.parametrize(
    "settings",
    [
        {"run_eagerly": True},
        {"steps_per_execution": 2},
        {"weighted_metrics": ["accuracy"], "loss_weights": [0.5]},
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
    ],
    ids=["eager", "several-steps", "weighted", "jit"],
)
@pytest.mark.slow_on_jax
@pytest.mark.at_commit("several-steps")
def test_compile_settings_survive(settings, plain, data_for):
    if keras.backend.backend() == "torch" and not settings.keys() <= {
        "run_eagerly",
        "weighted_metrics",
        "loss_weights",
    }:
        pytest.skip("Keras has no steps_per_execution on torch, and its jit needs a compiler")
    settings = {"epochs": 1, **settings}
    before, before_state, _ = fit(plain, keras.optimizers.Adam(0.01), data_for, **settings)
    after, state, model = fit(
        plain, keras.optimizers.Adam(0.01), data_for, [RecompileEverywhere()], **settings
    )
    assert after == before
    assert_equal(state, before_state)
    for name in settings.keys() & {"run_eagerly", "steps_per_execution", "jit_compile"}:
        assert getattr(model, name) == settings[name]


@pytest.mark.parametrize(
    "policy",
    [
        "mixed_float16",
        pytest.param("mixed_bfloat16", marks=pytest.mark.slow),
        pytest.param("float64", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_dtype_policies_survive(policy, plain, data_for):
    if policy == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has float64 by an option of its own only")
    keras.config.set_dtype_policy(policy)
    try:
        before, before_state, _ = fit(plain, keras.optimizers.Adam(0.01), data_for, epochs=1)
        after, state, model = fit(
            plain, keras.optimizers.Adam(0.01), data_for, [RecompileEverywhere()], epochs=1
        )
    finally:
        keras.config.set_dtype_policy("float32")
    assert after == before
    assert_equal(state, before_state)
    is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (policy == "mixed_float16")


@pytest.mark.slow_on_jax
def test_the_optimizer_stays_the_same_object(plain, data_for):
    optimizer = keras.optimizers.AdamW(0.01)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    _, _, model = fit(plain, optimizer, data_for, [RecompileEverywhere()], run_eagerly=True)
    assert model.optimizer is optimizer
    assert type(optimizer) is type(keras.optimizers.AdamW())
    assert int(optimizers.iterations(optimizer)) == 10
    assert not optimizer._use_weight_decay(model.get_layer("head").bias)


def test_slots_are_kept_dropped_and_new(plain, data_for):
    _, _, model = fit(plain, keras.optimizers.Adam(0.01), data_for, run_eagerly=True)
    low, head = model.get_layer("low").kernel, model.get_layer("head").kernel
    momentum = optimizer_state.to_host(slot(model, head))
    kf.freeze(model, layers=["low"])
    assert id(low) not in {id(v) for v in model.optimizer._trainable_variables}
    np.testing.assert_array_equal(optimizer_state.to_host(slot(model, head)), momentum)
    kf.unfreeze(model, layers=["low"])
    np.testing.assert_array_equal(optimizer_state.to_host(slot(model, head)), momentum)
    assert not optimizer_state.to_host(slot(model, low)).any()
    assert update_rules.rules_of(model.optimizer).cohorts[id(low)].start == 10


def slot(model, variable):
    optimizer = model.optimizer
    return optimizer._momentums[optimizer._get_variable_index(variable)]


@pytest.mark.slow_on_jax
def test_an_average_begins_at_the_joining_weight(plain, data_for):
    model = plain()
    sgd = keras.optimizers.SGD(0.0, use_ema=True)
    model.compile(sgd, "sparse_categorical_crossentropy", run_eagerly=True)
    before = optimizer_state.to_host(model.get_layer("low").kernel)
    x, y = data_for(model, rows=20)
    schedule = kf.FreezeScheduler({0: "low", 1: None}, verbose=0)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[schedule])
    np.testing.assert_allclose(
        optimizer_state.to_host(model.get_layer("low").kernel), before, rtol=1e-5
    )


def items_of(optimizer):
    """Return an optimizer's variables as comparable items: name, shape and bits."""
    arrays = [(v.name, optimizer_state.to_host(v)) for v in optimizer.variables]
    # Nadam's product has no name but the one that Keras counts up.
    names = [name if not name.startswith("variable") else "variable" for name, _ in arrays]
    return collections.Counter(
        (name, a.shape, a.tobytes()) for name, (_, a) in zip(names, arrays, strict=True)
    )


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("kind", optimizer_table.cases(optimizer_table.ALL))
@pytest.mark.at_commit("loss-scale", "adam-ema", "multi-map", "adam-accumulation", "lion")
def test_what_remains_trainable_keeps_its_state_when_others_freeze(kind, plain):
    model = apply_gradients(plain(), applied_outside_of_a_step(kind), 5)
    before, count = items_of(model.optimizer), len(model.optimizer.variables)
    kf.freeze(model, layers=["low"])
    after = items_of(model.optimizer)
    assert after <= before  # the rest, bit for bit, accumulators and counters included
    dropped = before - after
    assert dropped.total() == count - len(model.optimizer.variables)
    if kind != "sgd":  # which has no slots
        assert dropped
    if kind != "adafactor":  # which calls its slots by the variables' short names
        assert all("low" in name for name, _, _ in dropped)
    assert any(np.frombuffer(bits, np.uint8).any() for _, _, bits in after)


class CountingStep(keras.Sequential):
    """Counts how often its forward pass is traced or run under `fit`."""

    def call(self, inputs, training=None, mask=None):
        if training:
            self.traces.append(1)
        return super().call(inputs, training=training, mask=mask)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch runs eagerly: no traces")
def test_one_retrace_per_transition_and_none_without_a_change(data_for):
    model = CountingStep([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(3)])
    traces = []
    object.__setattr__(model, "traces", traces)
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = data_for(model, rows=16)
    traces_by_epoch = []

    def on_epoch_begin(epoch, logs):
        assert not kf.recompile(model)
        if epoch == 2:
            assert kf.freeze(model, first=1).recompiled
            assert not kf.freeze(model, first=1).recompiled

    def on_epoch_end(epoch, logs):
        traces_by_epoch.append(len(traces))

    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=on_epoch_begin, on_epoch_end=on_epoch_end
    )
    model.fit(x, y, epochs=5, verbose=0, callbacks=[callback])
    first = traces_by_epoch[0]  # more than one where Keras builds the model symbolically
    assert traces_by_epoch == [first, first, first + 1, first + 1, first + 1]


def test_running_metrics_continue_in_the_middle_of_an_epoch(plain, data_for):
    seen = []

    class FreezeInside(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                kf.freeze(self.model, layers=["low"])
            seen.append(dict(logs))

    model = plain()
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy"])
    x, y = data_for(model, rows=20)
    history = model.fit(x, y, batch_size=4, epochs=1, verbose=0, callbacks=[FreezeInside()])
    whole = model.evaluate(x, y, verbose=0, return_dict=True)
    assert history.history["loss"][0] == pytest.approx(whole["loss"], rel=1e-5)
    assert history.history["accuracy"][0] == pytest.approx(whole["accuracy"])
    assert len(seen) == 5


def test_flags_changed_by_hand_take_effect(plain, data_for):
    class UnfreezeByHand(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            model = self.model  # on JAX this copies the weights back before the order changes
            model.get_layer("low").trainable = epoch > 0
            kf.recompile(model)

    model = plain()
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = data_for(model)
    weights = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: weights.append(model.get_layer("low").get_weights()[0])
    )
    model.fit(x, y, epochs=2, verbose=0, callbacks=[UnfreezeByHand(), record])
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[1] != model.get_layer("low").get_weights()[0]).any()


@keras.saving.register_keras_serializable("keras_freeze_tests")
class FollowsTheRules(keras.optimizers.Optimizer):
    """A custom optimizer as Keras's documentation writes it, with a state of its own."""

    def build(self, variables):
        super().build(variables)
        self.momentums = [
            self.add_variable_from_reference(reference_variable=v, name="m") for v in variables
        ]
        self.energy = self.add_variable(shape=(), name="energy")

    def update_step(self, gradient, variable, learning_rate):
        m = self.momentums[self._get_variable_index(variable)]
        self.assign(m, 0.9 * m - learning_rate * gradient)
        self.assign_add(self.energy, keras.ops.sum(gradient**2))
        self.assign_add(variable, m)


def test_a_custom_optimizer_keeps_its_state(plain, data_for):
    before, before_state, _ = fit(plain, FollowsTheRules(0.01), data_for, epochs=1)
    rebuilt = [RecompileEverywhere()]
    after, state, _ = fit(plain, FollowsTheRules(0.01), data_for, rebuilt, epochs=1)
    assert after == before
    assert_equal(state, before_state)


class KeepsSlotsInADict(keras.optimizers.SGD):
    def build(self, variables):
        super().build(variables)
        self.extra = {v.path: self.add_variable_from_reference(v, name="extra") for v in variables}


class FailsTheSecondTime(keras.optimizers.SGD):
    def build(self, variables):
        if getattr(self, "was_built", False):
            raise RuntimeError("out of memory")
        super().build(variables)
        self.was_built = True


def unstable_map():
    return keras.optimizers.MultiOptimizer(lambda variable: keras.optimizers.Adam(0.01))


@pytest.mark.parametrize(
    ("optimizer", "error", "message"),
    [
        (lambda: KeepsSlotsInADict(0.1), ValueError, "can't be carried over"),
        (unstable_map, ValueError, "same optimizer object"),
        (lambda: FailsTheSecondTime(0.1, momentum=0.9), RuntimeError, "out of memory"),
    ],
    ids=["dict", "unstable-map", "failing-build"],
)
def test_what_cannot_be_carried_over_leaves_everything_as_it_was(
    optimizer, error, message, plain, data_for
):
    _, _, model = fit(plain, optimizer(), data_for, epochs=1, run_eagerly=True)
    before, flags = state_of(model), [v.trainable for v in model.weights]
    with pytest.raises(error, match=message):
        kf.freeze(model, layers=["low"])
    assert [v.trainable for v in model.weights] == flags
    assert [layer.trainable for layer in model.layers] == [True] * 3
    assert_equal(state_of(model), before)
    x, y = data_for(model, rows=20)
    model.fit(x, y, epochs=1, verbose=0)  # and it can be trained further
    assert optimizers.iterations(model.optimizer) > 5


def test_a_model_that_is_not_compiled_is_refused(plain):
    with pytest.raises(ValueError, match=r"must get a compiled model.*Call `model.compile"):
        kf.recompile(plain())


def with_a_train_step_of_its_own():
    import tensorflow as tf

    class Doubled(keras.Sequential):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = 2 * self.compute_loss(x, y, self(x, training=True))
            variables = self.trainable_variables
            self.optimizer.apply_gradients(
                zip(tape.gradient(loss, variables), variables, strict=True)
            )
            return {"doubled": loss}

    keras.utils.set_random_seed(0)
    return Doubled([keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(3)])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a step is for one backend")
def test_a_custom_train_step_survives(data_for):
    def train(callbacks):
        adam = keras.optimizers.Adam(0.01)
        build = with_a_train_step_of_its_own
        return fit(build, adam, data_for, callbacks, metrics=None, epochs=1)

    plain, plain_state, _ = train([])
    history, state, _ = train([RecompileEverywhere()])
    assert history == plain
    assert history.keys() == {"doubled"}
    assert_equal(state, plain_state)


def test_a_model_is_freed_when_it_is_no_longer_used(plain, data_for):
    def train():
        model = plain()
        model.compile("adam", "sparse_categorical_crossentropy")
        x, y = data_for(model)
        callback = kf.GradualUnfreeze(verbose=0)
        model.fit(x, y, epochs=3, verbose=0, callbacks=[callback])
        kf.freeze(model, layers=["low"])
        return weakref.ref(model), callback

    dead, callback = train()
    callback.set_model(None)
    keras.backend.clear_session()
    gc.collect()
    assert dead() is None


# The flags that a step goes by


def test_flags_in_force_are_those_of_the_last_transition_or_compile(plain, data_for):
    _, _, model = fit(plain, keras.optimizers.Adam(0.01), data_for, epochs=1, run_eagerly=True)
    low = model.get_layer("low")
    at_first = flags_in_force(model)
    assert at_first[id(low)] is at_first[id(low.kernel)] is True
    low.trainable = False
    assert flags_in_force(model) is at_first
    kf.recompile(model)
    then = flags_in_force(model)
    assert then is flags_in_force(model) is not at_first
    assert then[id(low)] is then[id(low.kernel)] is False
    low.trainable = True
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert flags_in_force(model)[id(low)] is True


def test_a_recompile_that_changes_nothing_notes_the_flags_too(plain, data_for):
    _, _, model = fit(plain, keras.optimizers.Adam(0.01), data_for, epochs=1, run_eagerly=True)
    kf.recompile(model)
    model.get_layer("low").trainable = False
    assert flags_in_force(model)[id(model.get_layer("low"))] is True


class Interrupted(BaseException):
    """What Ctrl+C raises is no `Exception` either."""


def interrupted_at(module, name, after):
    own = getattr(module, name)

    def interrupted(*args, **kwargs):
        if after:
            own(*args, **kwargs)
        raise Interrupted

    return interrupted


MOMENTS = [
    (optimizers, "forget_slots"),
    (optimizers, "untrack"),
    (update_rules, "new_rules"),
    (update_rules, "set_rules"),
    (trainer, "make_function"),
    (transitions, "_note_flags"),
]


def test_an_interrupted_transition_has_changed_nothing(plain, data_for, monkeypatch):
    def trained(interruptions):
        model = plain()
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))
        model.compile(optimizer, "sparse_categorical_crossentropy")
        kf.freeze(model, layers=["low"])
        x, y = data_for(model, rows=20)
        model.fit(x, y, batch_size=10, shuffle=False, verbose=0)
        kf.recompile(model)
        flags, before = flags_of(model), state_of(model)
        for (module, name), after in interruptions:
            with monkeypatch.context() as patch, pytest.raises(Interrupted):
                patch.setattr(module, name, interrupted_at(module, name, after))
                kf.unfreeze(model, layers=["low"])
            assert flags_of(model) == flags, name
            assert_equal(state_of(model), before)
            assert not kf.recompile(model), name
        model.fit(x, y, batch_size=10, shuffle=False, verbose=0)
        kf.unfreeze(model, layers=["low"])
        model.fit(x, y, batch_size=10, shuffle=False, verbose=0)
        return state_of(model)

    interrupted = trained(itertools.product(MOMENTS, [False, True]))
    assert_equal(interrupted, trained([]))


# What a trace has baked in, in all three functions.


def regularized():
    keras.utils.set_random_seed(0)
    l2 = keras.regularizers.L2(0.1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, kernel_regularizer=l2, name="low"),
            keras.layers.Dense(5, bias_regularizer=l2, name="middle"),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    return as_if_trained(model)


@pytest.mark.parametrize("eager", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.slow_on_jax
def test_a_validation_counts_the_regularizers_of_what_trains_at_its_time(eager, data_for):
    class Evaluate(keras.callbacks.Callback):
        """Evaluate another model with the same weights and flags after each epoch."""

        expected = ()

        def on_epoch_end(self, epoch, logs=None):
            twin = regularized()
            twin.set_weights(self.model.get_weights())
            for ours, theirs in zip(self.model.layers, twin.layers, strict=True):
                theirs.trainable = ours.trainable
            twin.compile(loss="sparse_categorical_crossentropy", run_eagerly=eager)
            self.expected = (*self.expected, twin.evaluate(x, y, verbose=0))

    model, evaluate = regularized(), Evaluate()
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=eager)
    x, y = data_for(model)
    schedule = kf.GradualUnfreeze(1, cache=False, verbose=0)
    history = model.fit(
        x, y, epochs=3, validation_data=(x, y), callbacks=[schedule, evaluate], verbose=0
    )
    assert history.history["val_loss"] == pytest.approx(evaluate.expected, rel=1e-6)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(evaluate.expected[-1], rel=1e-6)


def test_a_forced_recompile_reaches_evaluate_and_predict(plain, data_for):
    def changed(model):
        model.layers[0].activation = keras.activations.tanh
        return model

    model, other = plain(), changed(plain())
    x, y = data_for(model)
    for compiled in (model, other):
        compiled.compile("adam", "sparse_categorical_crossentropy")
    before = model.evaluate(x, y, verbose=0), model.predict(x, verbose=0)
    kf.recompile(changed(model), force=True)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(other.evaluate(x, y, verbose=0))
    np.testing.assert_allclose(model.predict(x, verbose=0), other.predict(x, verbose=0))
    assert abs(model.evaluate(x, y, verbose=0) - before[0]) > 1e-4
    assert np.abs(model.predict(x, verbose=0) - before[1]).max() > 1e-4


def test_a_function_traced_before_the_first_fit_is_made_anew(data_for):
    model = regularized()
    model.get_layer("middle").bias.assign(keras.ops.ones(5))
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = data_for(model)
    loss = model.evaluate(x, y, verbose=0)
    kf.freeze(model, layers=["middle"], weights="bias")
    assert model.evaluate(x, y, verbose=0) == pytest.approx(loss - 0.5)  # 0.1 for each of five
    kf.unfreeze(model, layers=["middle"], weights="bias")
    assert model.evaluate(x, y, verbose=0) == pytest.approx(loss)


def test_no_trace_of_an_earlier_step_is_used_while_something_holds_it(plain, data_for):
    """JAX would: what trains now and what trained then have the same shapes."""

    def trained(held):
        model = keras.Sequential(
            [keras.Input((4,)), *(keras.layers.Dense(4, name=name) for name in "abc")]
        )
        model.set_weights(weights)
        model.compile("sgd", "mse")
        for frozen in ("a", "b"):
            for layer in model.layers:
                layer.trainable = layer.name != frozen
            kf.recompile(model, force=True)
            model.fit(x, x, batch_size=8, shuffle=False, verbose=0)
            model.evaluate(x, x, verbose=0)
            held += [model.train_function, model.test_function]
        return model.get_weights(), model.evaluate(x, x, verbose=0)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 4)).astype("float32")
    weights = [rng.normal(size=shape) for _ in "abc" for shape in ((4, 4), (4,))]
    ours, loss = trained([])
    theirs, other = trained(collections.deque(maxlen=0))
    assert_equal(ours, theirs)
    assert loss == other


def test_optimizers_met_in_an_interrupted_transition_are_met_again(plain, data_for, monkeypatch):
    model, inner = plain(), keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(keras.optimizers.MultiOptimizer(lambda variable: inner), "mse")
    x, _ = data_for(model)
    y = np.zeros((len(x), 3))
    callback = kf.FreezeScheduler({0: "low"}, rates=2.6, verbose=0, cache=False)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(transitions, "_update_functions", interrupted_at(transitions, "_ids", False))
        model.fit(x, y, verbose=0, callbacks=[callback])
    model.fit(x, y, verbose=0)
    slots = [v for v in model.optimizer.variables if "momentum" in v.path]
    assert len(slots) == len(model.trainable_variables) == 6


def test_an_optimizer_met_in_an_interrupted_transition_is_not_kept(plain, data_for, monkeypatch):
    model, late = plain(), keras.optimizers.SGD(0.1, momentum=0.9)
    early = keras.optimizers.SGD(0.1, momentum=0.9)
    parts = keras.optimizers.MultiOptimizer(lambda v: late if "low" in v.path else early)
    model.compile(parts, "sparse_categorical_crossentropy")
    kf.freeze(model, layers=["low"])
    x, y = data_for(model)
    model.fit(x, y, verbose=0)

    def state():
        return list(parts.optimizers), list(parts.variables)

    before = state()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(transitions, "_update_functions", interrupted_at(transitions, "_ids", False))
        kf.unfreeze(model, layers=["low"])
    assert state() == before
    kf.unfreeze(model, layers=["low"])
    assert model.fit(x, y, verbose=0).history["loss"]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.train.Checkpoint")
def test_an_interrupted_transition_leaves_what_a_checkpoint_saves(plain, data_for, monkeypatch):
    model, optimizer = plain(), keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    kf.freeze(model, layers=["low"])
    model.fit(*data_for(model), verbose=0)
    assert len(optimizer._trackable_children()["momentums"]) == 4
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(transitions, "_update_functions", interrupted_at(transitions, "_ids", False))
        kf.unfreeze(model, layers=["low"])
    assert len(optimizer._trackable_children()["momentums"]) == 4


class WithOwnOptimizer(keras.Sequential):
    """Trains with an optimizer that it isn't compiled with."""

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        self.own = keras.optimizers.SGD(0.01)


def with_own_optimizer():
    layers = [keras.layers.Dense(6, name="low"), keras.layers.Dense(3, name="head")]
    model = WithOwnOptimizer([keras.Input((4,)), *layers])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("hold", ["a list", "a dict", "the compiled one"])
def test_optimizers_of_its_own_are_found(hold):
    model = with_own_optimizer()
    model.own = {
        "a list": [keras.optimizers.SGD(), keras.optimizers.Adam()],
        "a dict": {"generator": keras.optimizers.SGD()},
        "the compiled one": model.optimizer,
    }[hold]
    names = {"a list": ["own[0]", "own[1]"], "a dict": ["own['generator']"], "the compiled one": []}
    assert list(own_optimizers(model)) == names[hold]


def test_an_optimizer_of_another_model_is_refused(plain, data_for):
    first, second = plain(), plain()
    optimizer = keras.optimizers.Adam(0.01)
    for model in (first, second):
        model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=True)
    first.fit(*data_for(first), verbose=0)
    state = [optimizer_state.to_host(v) for v in optimizer.variables]
    with pytest.raises(ValueError, match=r"One optimizer must train one model.*of another"):
        kf.freeze(second, layers=["low"])
    assert second.get_layer("low").trainable
    with pytest.raises(ValueError, match="One optimizer must train one model"):
        second.fit(*data_for(second), verbose=0, callbacks=[kf.GradualUnfreeze(verbose=0)])
    for before, variable in zip(state, optimizer.variables, strict=True):
        np.testing.assert_array_equal(before, optimizer_state.to_host(variable))


@pytest.mark.parametrize("lora", [False, True])
def test_a_layer_that_is_quantized_after_a_fit_is_its_own(lora, plain, data_for):
    model = plain()
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(*data_for(model), verbose=0)
    if lora:
        model.get_layer("low").enable_lora(2)
    model.get_layer("low").quantize("int8")
    kf.freeze(model, layers=["head"])
    model.fit(*data_for(model), verbose=0)
