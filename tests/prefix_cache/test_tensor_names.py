"""Tensors of different models have the same name if and only if they compute the same."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_freeze as kf
from keras_freeze.cuts.determinism_rules import Setting
from keras_freeze.cuts.model_cut import find
from keras_freeze.prefix_cache.tensor_names import _adapted, names_of


def build(activation="relu", width=3, seed=1, nested=False, inputs_dtype="float32"):
    inputs = keras.Input((4,), dtype=inputs_dtype)
    start = keras.initializers.GlorotUniform(seed=seed)
    x = layers.Dense(width, activation=activation, kernel_initializer=start)(inputs)
    x = layers.Dense(2, kernel_initializer=start)(x)
    if nested:
        inner = keras.Model(inputs, x)
        inputs = keras.Input((4,), dtype=inputs_dtype)
        x = inner(inputs)
    outputs = layers.Dense(1)(x)
    return keras.Model(inputs, outputs)


def names(model, inference=False, by_name=False):
    kf.freeze(model, before="head")
    frontier = find(model, Setting({id(v) for v in model.trainable_variables}, inference))
    found = names_of(frontier, by_name=by_name)
    kept = [tensor for cut in frontier.cuts for tensor in cut.kept]
    return [found.get(id(tensor)) for tensor in kept]


def test_models_built_again_are_alike():
    assert names(build()) == names(build())
    assert len(set(names(build()))) == 1


def test_a_nested_backbone_is_named_like_the_same_inlined():
    assert names(build(nested=True)) == names(build())


@pytest.mark.parametrize(
    "other",
    [{"activation": "tanh"}, {"width": 5}, {"seed": 2}, {"inputs_dtype": "float64"}],
    ids=lambda other: next(iter(other)),
)
def test_what_differs_is_told_apart(other):
    assert names(build()) != names(build(**other))


def test_weights_and_mode_are_told_apart():
    model = build()
    model.layers[1].kernel.assign_add(0.0 * model.layers[1].kernel + 1e-7)
    assert names(model) != names(build())
    assert names(build(), inference=True) != names(build())


def test_dtype_policies_are_told_apart():
    plain = names(build())
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = names(build())
    keras.config.set_dtype_policy("mixed_float16")
    assert plain != mixed != names(build()) != plain


def test_values_from_elsewhere():
    model = build()
    kf.freeze(model, before="head")
    frontier = find(model, Setting({id(v) for v in model.trainable_variables}, False))
    values = {id(v): keras.ops.convert_to_tensor(v) for v in model.weights}
    assert names_of(frontier, values) == names_of(frontier)
    values = {key: value + 1.0 for key, value in values.items()}
    assert names_of(frontier, values) != names_of(frontier)


def test_inputs_by_name():
    def named(name):
        inputs = keras.Input((4,), name=name)
        x = layers.Dense(3, kernel_initializer="ones")(inputs)
        return keras.Model(inputs, layers.Dense(1)(x))

    assert names(named("a")) == names(named("b"))
    assert names(named("a"), by_name=True) == names(named("a"), by_name=True)
    assert names(named("a"), by_name=True) != names(named("b"), by_name=True)


def test_a_nested_model_on_something_else():
    def twice(is_other):
        inner_inputs = keras.Input((2,))
        inner = keras.Model(inner_inputs, layers.Dense(3, kernel_initializer="ones")(inner_inputs))
        inputs = keras.Input((4,))
        one, other = (
            layers.Dense(2, kernel_initializer=start)(inputs) for start in ("ones", "zeros")
        )
        x = layers.Concatenate()([inner(one), inner(other if is_other else one)])
        x = layers.Dense(3, kernel_initializer="ones")(x)
        return keras.Model(inputs, layers.Dense(1)(x))

    assert names(twice(True)) == names(twice(True)) != [None]
    assert names(twice(True)) != names(twice(False))


def test_the_order_of_arguments_counts():
    def two(swapped):
        inputs = keras.Input((4,))
        start = keras.initializers.GlorotUniform(seed=1)
        a = layers.Dense(3, kernel_initializer=start)(inputs)
        b = layers.Dense(3, kernel_initializer="ones")(inputs)
        x = layers.Subtract()([b, a] if swapped else [a, b])
        return keras.Model(inputs, layers.Dense(1)(x))

    assert names(two(False)) == names(two(False))
    assert names(two(False)) != names(two(True))


def test_normalization_is_named_by_what_it_subtracts():
    def scaled(adapted_to, then=0.0):
        scale = layers.Normalization(axis=-1)
        scale.adapt(np.array([[adapted_to] * 4, [0.0] * 4]))
        scale.mean = scale.mean + then  # which its weights need not be: they are read once
        inputs = keras.Input((4,))
        x = layers.Dense(3, kernel_initializer="ones")(scale(inputs))
        return keras.Model(inputs, layers.Dense(1)(x))

    assert names(scaled(1.0)) == names(scaled(1.0)) != [None]
    assert names(scaled(1.0)) != names(scaled(2.0))
    assert names(scaled(1.0)) != names(scaled(1.0, then=1.0))


def test_what_a_layer_has_adapted_outside_of_its_weights_is_not_named():
    class Learning(layers.Rescaling):
        def adapt(self, data):
            self.scale = float(data.mean())

    inputs = keras.Input((4,))
    x = layers.Dense(3, kernel_initializer="ones")(Learning(2.0)(inputs))
    model = keras.Model(inputs, layers.Dense(1)(x))
    (node,) = model.get_layer(index=1)._inbound_nodes
    assert _adapted(node.operation) == [None]


def test_constants_count():
    def shifted(by):
        inputs = keras.Input((4,))
        x = layers.Dense(3, kernel_initializer="ones")(inputs + by)
        return keras.Model(inputs, layers.Dense(1)(x))

    assert names(shifted(1.0)) == names(shifted(1.0))
    assert names(shifted(1.0)) != names(shifted(2.0))


@pytest.mark.parametrize("dtype", ["int32", "float16"])
def test_an_input_of_a_nested_model_that_casts(dtype):
    """Keras casts to the dtype that a nested model declares, as it adds a missing dimension."""

    def around(dtype):
        ones = keras.initializers.Ones()
        inner = [keras.Input((4,), dtype=dtype), layers.Dense(2, kernel_initializer=ones)]
        return keras.Sequential([keras.Input((4,)), keras.Sequential(inner), layers.Dense(1)])

    assert names(around("float32")) == names(around("float32"))
    assert names(around("float32")) != names(around(dtype))


def test_what_no_configuration_holds():
    def built(autocast=True):
        dense = layers.Dense(2, dtype="mixed_bfloat16", kernel_initializer="ones")
        dense.autocast = autocast
        return keras.Sequential([keras.Input((4,)), dense, layers.Dense(1)])

    assert names(built()) == names(built())
    assert names(built()) != names(built(autocast=False))


def test_settings_of_keras_count():
    before, plain = keras.config.epsilon(), names(build())
    keras.config.set_epsilon(1e-3)
    try:
        assert names(build()) != plain
    finally:
        keras.config.set_epsilon(before)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict:UserWarning")
def test_inputs_go_by_their_keys():
    def built(first, second):
        one, two = keras.Input((4,), name=first), keras.Input((4,), name=second)
        x = layers.Dense(2, kernel_initializer="ones")(one)
        outputs = layers.Dense(1)(layers.Subtract()([x, layers.Rescaling(2.0)(two)[:, :2]]))
        return keras.Model({"p": one, "q": two}, outputs)

    assert names(built("u", "v"), by_name=True) == names(built("v", "u"), by_name=True)


@pytest.mark.parametrize(
    "setting", [{"kernel_regularizer": "l2"}, {"bias_initializer": "zeros"}, {}]
)
def test_what_changes_no_output_does_not_count(setting):
    def built(**setting):
        dense = layers.Dense(2, kernel_initializer=keras.initializers.Constant(0.5), **setting)
        return keras.Sequential([keras.Input((4,)), dense, layers.Dense(1)])

    assert names(built(**setting)) == names(built())
