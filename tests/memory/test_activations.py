"""What a step keeps for its backward pass, against bytes that were added up by hand."""

import keras
import pytest
from keras import layers

import keras_freeze as kf
from keras_freeze.memory.activations import NotKnown, activations_of
from keras_freeze.memory.backward_rules import Setting

pytestmark = pytest.mark.backend
FLOAT = 4  # bytes of a float32


def kept(model, batch_size):
    """Return what `activations_of` says of a model as it is frozen now."""
    trained = frozenset(id(variable) for variable in model.trainable_variables)
    return activations_of(model, batch_size, Setting(trained, {}))


def dense_chain(dtype=None):
    """4 inputs, then 8 (ReLU), 6 and 2 units."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="relu", name="a", dtype=dtype),
            layers.Dense(6, name="b", dtype=dtype),
            layers.Dense(2, name="c", dtype=dtype),
        ]
    )


# What is frozen: the units, for each sample, of what is kept. `a` keeps what its ReLU returns (8),
# which is also what `b` multiplies its kernel's gradient with; `c` its input (6). The loss reads
# the output (2).
CHAIN = {
    "nothing": ({}, 8 + 6 + 2),
    "a": ({"layers": ["a"]}, 8 + 6 + 2),
    "a and b": ({"layers": ["a", "b"]}, 6 + 2),
    "b": ({"layers": ["b"]}, 8 + 6 + 2),
    "b and c": ({"layers": ["b", "c"]}, 8 + 2),
    "all kernels": ({"matching": ".", "weights": "kernel"}, 8 + 2),
    "a, and the kernels": ({"layers": ["b", "c"], "weights": "kernel"}, 8 + 2),
    "everything": ({"matching": "."}, 0),
}


@pytest.mark.parametrize("case", CHAIN)
def test_dense_layers(case):
    how, units = CHAIN[case]
    model = dense_chain()
    if how:
        kf.freeze(model, **how)
    found = kept(model, 10)
    assert found.kept_bytes == 10 * units * FLOAT
    trains = [layer.name for layer in model.layers if layer.trainable_variables]
    assert found.lowest == (trains[0] if trains else None)
    assert found.doubts == ()


def test_the_peak_is_in_the_backward_pass_of_the_middle_layer():
    # There `a`'s output is kept (8 units), with the gradients of b's output (6) and input (8).
    assert kept(dense_chain(), 10).peak_bytes == 10 * (8 + 6 + 8) * FLOAT


def test_the_peak_of_a_frozen_model_is_one_layer_with_its_input():
    model = dense_chain()
    kf.freeze(model, matching=".")
    assert kept(model, 10).peak_bytes == 10 * (8 + 6) * FLOAT


def conv_net():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(2),
            layers.Conv2D(6, 3, name="conv2"),
            layers.BatchNormalization(name="norm"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, name="head"),
        ]
    )


# conv1 returns 8×8×4, which pooling keeps, and pooling 4×4×4; conv2 and the norm 2×2×6; the mean 6.
CONV = {
    "nothing": ([], 256 + 64 + 24 + 6 + 2),
    "conv1": (["conv1"], 64 + 24 + 6 + 2),
    "conv1 and conv2": (["conv1", "conv2"], 24 + 6 + 2),
    "all but the head": (["conv1", "conv2", "norm"], 6 + 2),
    "the norm": (["norm"], 256 + 64 + 6 + 2),
    "conv2 and the norm": (["conv2", "norm"], 256 + 6 + 2),
}


@pytest.mark.parametrize("case", CONV)
def test_convolutions(case):
    names, elements = CONV[case]
    model = conv_net()
    if names:
        kf.freeze(model, layers=names)
    assert kept(model, 5).kept_bytes == 5 * elements * FLOAT


def test_a_norm_with_fixed_statistics_keeps_its_input_for_gamma():
    model = conv_net()
    kf.freeze(model, layers=["conv1", "conv2"])
    kf.freeze(model, layers=["norm"])
    fixed = kept(model, 5).kept_bytes
    trained = frozenset(id(v) for v in (*model.trainable_variables, model.get_layer("norm").gamma))
    with_gamma = activations_of(model, 5, Setting(trained, {}))
    assert with_gamma.kept_bytes - fixed == 5 * 24 * FLOAT
    # The flag of another phase, in which the norm learns its statistics again and gamma doesn't.
    norm, head = model.get_layer("norm"), frozenset(id(v) for v in model.trainable_variables)
    learning = activations_of(model, 5, Setting(head | {id(norm.beta)}, {id(norm): True}))
    assert learning.kept_bytes - fixed == 5 * 24 * FLOAT


def test_mixed_precision_keeps_activations_in_the_dtype_of_the_computation():
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    found = kept(dense_chain(policy), 10)
    # The input is data, but its copy in half precision isn't.
    assert found.kept_bytes == 10 * (4 + 8 + 6 + 2) * 2


def test_branches_and_sums():
    inputs = keras.Input((4,))
    x = layers.Dense(5, name="low")(inputs)
    y = layers.Activation("tanh", name="tanh")(x)
    z = layers.Multiply()([x, y])
    outputs = layers.Dense(2, name="head")(layers.Add()([z, layers.Dropout(0.5)(x)]))
    model = keras.Model(inputs, outputs)
    # tanh its output, the product both factors, Dropout a byte an element, the head the sum.
    units = 5 + 5 + 5 + 2
    assert kept(model, 10).kept_bytes == 10 * (units * FLOAT + 5)
    kf.freeze(model, layers=["low"])
    assert kept(model, 10).kept_bytes == 10 * (5 + 2) * FLOAT


def test_operations_without_layers():
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="low")(inputs)
    x = keras.ops.reshape(keras.ops.exp(x) * 2.0, (-1, 2, 3))
    x = keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1)))
    model = keras.Model(inputs, x)
    # exp its output; the product with a number nothing; the factors of matmul; the output.
    assert kept(model, 10).kept_bytes == 10 * (6 + 6 + 6 + 4) * FLOAT


def test_attention_as_an_operation():
    inputs = keras.Input((5, 2, 4))
    x = layers.Dense(3)(inputs)
    model = keras.Model(inputs, keras.ops.dot_product_attention(x, x, x))
    # What is compared and combined, once; a weight for each pair of positions and head; the output.
    assert kept(model, 10).kept_bytes == 10 * (30 + 50 + 30) * FLOAT


def test_views_are_counted_once():
    inputs = keras.Input((4,))
    x = layers.Reshape((2, 3))(layers.Dense(6, activation="relu")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    # What ReLU returns is what the next kernel meets.
    assert kept(model, 10).kept_bytes == 10 * (6 + 4) * FLOAT


def test_time_steps_may_be_joined_with_samples():
    inputs = keras.Input((7, 4))
    x = keras.ops.reshape(layers.Dense(3)(inputs), (-1, 3))
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert kept(model, 10).kept_bytes == 10 * 7 * (3 + 2) * FLOAT


def test_gradients_end_where_they_are_stopped():
    inputs = keras.Input((4,))
    x = keras.ops.stop_gradient(layers.Dense(3, name="low")(inputs))
    x = layers.Activation("tanh")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    assert kept(model, 10).kept_bytes == 10 * (3 + 2) * FLOAT


def test_activations_inside_and_beside_layers_count_the_same():
    inputs = keras.Input((4,))

    def built(inside):
        x = layers.Dense(6, activation="gelu" if inside else None)(inputs)
        x = x if inside else layers.Activation("gelu")(x)
        return keras.Model(inputs, layers.Dense(2)(x))

    # What goes into GELU, what comes out of it, and the output.
    expected = 10 * (6 + 6 + 2) * FLOAT
    assert [kept(built(inside), 10).kept_bytes for inside in (True, False)] == [expected] * 2


def test_nested_models_count_as_if_they_were_inlined():
    inner = conv_net()
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Dense(3)(inner(inputs)))
    for names in ([], ["conv1"], ["conv1", "conv2", "norm"]):
        kf.unfreeze(inner, matching=".", batch_norm="follow")
        if names:
            kf.freeze(inner, layers=names)
        whole = kept(inner, 5).kept_bytes
        assert kept(model, 5).kept_bytes == whole + 5 * 3 * FLOAT
    twice = keras.Model(inputs, layers.Concatenate()([inner(inputs), inner(inputs)]))
    assert kept(twice, 5).kept_bytes == 2 * whole - 2 * 5 * 2 * FLOAT + 5 * 4 * FLOAT


def test_time_steps_of_a_distributed_model_are_samples():
    step = dense_chain()
    inputs = keras.Input((7, 4))
    model = keras.Model(inputs, layers.TimeDistributed(step)(inputs))
    assert kept(model, 10).kept_bytes == kept(step, 70).kept_bytes
    single = keras.Model(inputs, layers.TimeDistributed(layers.Dense(3))(layers.Dense(4)(inputs)))
    assert kept(single, 10).kept_bytes == 10 * 7 * (4 + 3) * FLOAT


def test_recurrent_layers():
    inputs = keras.Input((7, 4))
    x = layers.LSTM(3, return_sequences=True, name="low")(inputs)
    model = keras.Model(inputs, layers.GRU(5, name="high")(x))
    # Of each step: 6 × 3 and the state, which is the input of the next layer; 6 × 5. The output.
    assert kept(model, 2).kept_bytes == 2 * (7 * (6 * 3 + 3 + 6 * 5) + 5) * FLOAT
    kf.freeze(model, layers=["low"])
    assert kept(model, 2).kept_bytes == 2 * (7 * (3 + 6 * 5) + 5) * FLOAT
    both = keras.Model(inputs, layers.Bidirectional(layers.SimpleRNN(3), name="both")(inputs))
    assert kept(both, 2).kept_bytes == 2 * (7 * 2 * 3 + 6) * FLOAT


def test_attention():
    inputs = keras.Input((5, 4))
    attention = layers.MultiHeadAttention(2, 3, value_dim=6, dropout=0.1, name="attention")
    model = keras.Model(inputs, attention(inputs, inputs))
    # Queries and keys 2 × 3 wide, values and context 2 × 6; 5 × 5 weights of 2 heads, what Dropout
    # leaves of them and its mask; the output.
    floats = 5 * (6 + 6 + 12 + 12) + 2 * 50 + 5 * 4
    assert kept(model, 2).kept_bytes == 2 * (floats * FLOAT + 50)


def test_what_is_not_known_is_said():
    for shape, what in (((None, 4), "length"), ((None, None, 3), "size")):
        found = kept(keras.Sequential([keras.Input(shape), layers.Dense(2)]), 4)
        assert isinstance(found, NotKnown)
        assert f"the {what} of the input varies" in found.reason

    class Own(keras.Model):
        def call(self, x):
            return x

    class OwnStep(keras.Sequential):
        def train_step(self, *args):
            return super().train_step(*args)

    own, inputs = Own(name="own"), keras.Input((4,))
    own.build((None, 4))
    for model in (own, keras.Model(inputs, layers.Dense(2)(own(inputs)))):
        assert kept(model, 4) == NotKnown("model 'own' runs code of its own when it is called")
    step = OwnStep([inputs, layers.Dense(2)], name="step")
    assert kept(step, 4) == NotKnown("model 'step' has a train_step of its own")


class Unknown(layers.Layer):
    def call(self, x):
        return x * x


class Block(layers.Layer):
    """A layer that contains layers."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.norm, self.up = layers.LayerNormalization(), layers.Dense(6, activation="relu")
        self.down, self.drop = layers.Dense(4), layers.Dropout(0.5)

    def build(self, shape):
        self.norm.build(shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], 6))

    def call(self, x):
        return self.drop(self.down(self.up(self.norm(x))))

    def compute_output_shape(self, shape):
        return shape


def test_layers_of_ones_own_are_counted_roughly_and_named():
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="low")(inputs)
    unknown = kept(keras.Model(inputs, Unknown(name="odd")(x)), 10)
    assert unknown.kept_bytes == 10 * (4 + 4) * FLOAT
    assert unknown.doubts == ("Unknown 'odd' is counted by inputs and output alone",)
    three = x
    for name in ("one", "two", "three", "four"):
        three = Unknown(name=name)(three)
    (doubt,) = kept(keras.Model(inputs, three), 10).doubts
    assert doubt == "Unknown 'one', 'two' and 2 more are counted by inputs and output alone"
    block = kept(keras.Model(inputs, Block(name="block")(x)), 10)
    # The norm's input (4), up's input (4) and its ReLU (6), down's input (6), a mask; the output.
    assert block.kept_bytes == 10 * ((4 + 4 + 6 + 6 + 4) * FLOAT + 4)
    assert block.doubts == ("Block 'block' is counted by the layers inside",)


def test_calls_that_the_cache_serves_are_left_out_of_the_peak():
    model = conv_net()
    kf.freeze(model, layers=["conv1", "conv2", "norm"])
    graph = model._functional
    served = {
        id(node)
        for nodes in graph._nodes_by_depth.values()
        for node in nodes
        if node.operation.name in ("conv1", "max_pooling2d", "conv2", "norm")
    }
    trained = frozenset(id(v) for v in model.trainable_variables)
    found = activations_of(model, 5, Setting(trained, {}), served)
    assert found.kept_bytes == 5 * (6 + 2) * FLOAT
    assert found.peak_bytes == 5 * (256 + 64) * FLOAT
    # What is left: the mean of conv2's output (24 and 6), and the head.
    assert found.served_peak_bytes == 5 * (24 + 6) * FLOAT
