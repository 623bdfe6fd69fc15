"""The memory of a step: what freezing saves of each part, and what the prefix cache would."""

import effects
import keras
import pytest
from keras import layers

import keras_freeze as kf
from keras_freeze.cuts import Setting, find
from keras_freeze.memory import step_memory
from keras_freeze.model_picture import bytes_of

pytestmark = pytest.mark.backend


def chain(dtype=None, dropout=0.0):
    inputs = keras.Input((4,))
    x = layers.Dense(8, activation="relu", name="a", dtype=dtype)(inputs)
    x = layers.Dropout(dropout, dtype=dtype)(x) if dropout else x
    x = layers.Dense(6, name="b", dtype=dtype)(x)
    return keras.Model(inputs, layers.Dense(2, name="c", dtype=dtype)(x), name="chain")


A, B, C = 4 * 8 + 8, 8 * 6 + 6, 6 * 2 + 2


@pytest.mark.parametrize(
    ("frozen", "trained"), [([], A + B + C), (["a"], B + C), (["c"], A + B), (["a", "b", "c"], 0)]
)
def test_weights_gradients_and_momentum(frozen, trained):
    model = chain()
    model.compile(keras.optimizers.SGD(momentum=0.9), "mse")
    if frozen:
        kf.freeze(model, layers=frozen[:2])
        for name in frozen[2:]:  # a fit would be refused
            model.get_layer(name).trainable = False
    memory = step_memory(model, 10)
    assert memory.weight_bytes == 4 * (A + B + C)
    assert memory.gradient_bytes == 4 * trained
    assert memory.frozen_bytes == 4 * (A + B + C - trained)
    counters = sum(map(bytes_of, keras.optimizers.SGD().variables))
    assert memory.optimizer_bytes == 4 * trained + counters
    parts = (memory.weight_bytes, memory.gradient_bytes, memory.optimizer_bytes)
    assert memory.total_bytes == sum(parts) + memory.activation_bytes + memory.working_bytes


def test_mixed_precision_keeps_weights_and_gradients_in_float32():
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    full, half = (step_memory(chain(dtype), 10) for dtype in (None, policy))
    assert half.weight_bytes == full.weight_bytes
    assert half.gradient_bytes == full.gradient_bytes
    assert half.activation_bytes == full.activation_bytes // 2 + 10 * 4 * 2  # and the input's copy


def test_lora_saves_gradients_and_state_but_no_activations():
    model = chain()
    model.compile(keras.optimizers.Adam(), "mse")
    before = step_memory(model, 10)
    for name in ("a", "b"):
        model.get_layer(name).enable_lora(1)
    model.compile(keras.optimizers.Adam(), "mse")
    after = step_memory(model, 10)
    adapters = (4 + 8) + (8 + 6)
    assert after.gradient_bytes == 4 * (adapters + 8 + 6 + C)  # biases and the head train on
    assert after.weight_bytes == before.weight_bytes + 4 * adapters
    # And b's kernel with the adapters in it, through which the gradient of a passes.
    assert after.activation_bytes == before.activation_bytes + 4 * 8 * 6


def test_the_cache_serves_what_is_frozen_from_the_input():
    model = chain()
    assert step_memory(model, 10).served is None
    kf.freeze(model, layers=["a", "b"])
    memory = step_memory(model, 10)
    assert memory.served.up_to == "b"
    assert memory.served.feature_bytes == 6 * 4
    # Without the cache the most is a layer with its input (8 and 6); with it, c with the features
    # that it keeps (6), their gradients aside, since none is needed.
    kept = 10 * (6 + 2) * 4
    assert memory.activation_bytes == kept
    assert memory.working_bytes == 10 * (8 + 6) * 4 - kept
    assert memory.served.working_bytes == 10 * (6 + 2) * 4 - kept
    assert memory.served.total_bytes is None  # there is no optimizer
    model.compile("adam", "mse")
    memory = step_memory(model, 10)
    saved = memory.working_bytes - memory.served.working_bytes
    assert memory.served.total_bytes == memory.total_bytes - saved


def test_the_cache_serves_nothing_behind_what_is_random():
    model = chain(dropout=0.5)
    kf.freeze(model, layers=["a", "b"])
    assert step_memory(model, 10).served.up_to == "a"


def test_the_cut_may_be_in_a_nested_model():
    inner, inputs = chain(), keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3, name="head")(inner(inputs)))
    kf.freeze(model, layers=["a"])
    memory = step_memory(model, 10)
    assert memory.served.up_to == "a"
    assert memory.served.feature_bytes == 8 * 4
    # The most is held in the backward pass of c, inside: it is not served.
    assert memory.served.working_bytes == memory.working_bytes == 10 * 3 * 4
    assert memory.lowest == "b"


def test_models_of_ones_own_have_all_but_activations():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.low = layers.Dense(3)

        def call(self, x):
            return self.low(x)

    model = Own()
    model(keras.ops.ones((1, 4)))
    model.compile(keras.optimizers.SGD(momentum=0.9), "mse")
    memory = step_memory(model, 10)
    assert (memory.weight_bytes, memory.gradient_bytes) == (60, 60)
    assert memory.optimizer_bytes >= 60
    assert memory.activation_bytes is memory.working_bytes is memory.total_bytes is None
    assert memory.known_bytes == 120 + memory.optimizer_bytes
    assert list(memory.not_known) == ["activations"]


def test_a_model_is_only_looked_at(any_model):
    model = effects.compiled(any_model())
    kf.freeze(model, groups=1)
    flags, values = effects.flags(model), effects.values(model)
    step_memory(model, 4)
    assert effects.flags(model) == flags
    assert effects.moved(values, model) == set()


def test_what_the_cut_reads_is_the_package_s_own_cut():
    model = chain()
    kf.freeze(model, layers=["a"])
    cut = find(model, Setting({id(v) for v in model.trainable_variables}))
    assert step_memory(model, 4).served.up_to == cut.name
