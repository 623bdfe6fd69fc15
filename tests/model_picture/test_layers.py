"""How a model's layers, weights and calls are read."""

import keras
import numpy as np
import pytest
from keras import layers
from stacks import stack_model

from keras_freeze.groups.strides import stride
from keras_freeze.keras_internals.callback_list import move_to_end, sibling_callbacks
from keras_freeze.keras_internals.graph import functional_graph, graph_nodes, output_rank
from keras_freeze.keras_internals.layers import is_builtin
from keras_freeze.model_picture import every_layer, frozen_weights, opened_layers, weights_of


def small_backbone(name="backbone"):
    inputs = keras.Input((8, 8, 3), name="inner")
    x = layers.Conv2D(2, 3, name="conv")(inputs)
    return keras.Model(inputs, layers.BatchNormalization(name="norm")(x), name=name)


def names(found):
    return [layer.name for layer in found]


class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(3, name="first")
        self.second = layers.Dense(3, name="second")

    def call(self, x):
        return self.second(self.first(x))


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_opened_layers_do_not_depend_on_nesting(levels):
    backbone = small_backbone()
    inputs = keras.Input((8, 8, 3), name="image")
    outputs = (
        backbone(inputs)
        if levels
        else layers.BatchNormalization(name="norm")(layers.Conv2D(2, 3, name="conv")(inputs))
    )
    model = keras.Model(inputs, layers.Flatten(name="flat")(outputs))
    if levels == 2:
        outer = keras.Input((8, 8, 3), name="image")
        model = keras.Model(outer, model(outer))
    assert names(opened_layers(model)) == ["image", "conv", "norm", "flat"]


def test_a_leading_inner_input_is_kept_where_the_outer_model_lists_none():
    model = keras.Sequential([small_backbone(), layers.Flatten(name="flat")])
    assert names(opened_layers(model)) == ["inner", "conv", "norm", "flat"]


def test_composite_and_wrapped_layers_stay_whole_but_wrapped_models_open():
    inputs = keras.Input((5, 8, 8, 3), name="clip")
    x = layers.TimeDistributed(small_backbone(), name="frames")(inputs)
    x = layers.TimeDistributed(layers.Flatten(name="flat"), name="flat_frames")(x)
    x = layers.Bidirectional(layers.LSTM(2), name="both_ways")(x)
    model = keras.Model(inputs, Block(name="block")(x))
    opened = names(opened_layers(model))
    assert opened == ["clip", "conv", "norm", "flat_frames", "both_ways", "block"]


def test_every_layer_lists_containers_before_contents_once():
    shared = layers.Dense(3, name="shared")
    inputs = keras.Input((3,), name="x")
    block = Block(name="block")
    model = keras.Model(inputs, shared(block(shared(inputs))), name="top")
    found = names(every_layer(model))
    assert sorted(found) == ["block", "first", "second", "shared", "top", "x"]
    assert found[0] == "top"
    assert found.index("block") < found.index("first")


def test_weights_of_gives_each_weight_once_with_its_innermost_owner():
    inputs = keras.Input((3,))
    block = Block(name="block")
    model = keras.Model(inputs, block(block(inputs)))
    found = weights_of(model)
    assert [id(w.variable) for w in found] == [id(w) for w in model.weights]
    assert [w.layer.name for w in found] == ["first", "first", "second", "second"]
    assert names(found[0].enclosing) == ["block"]


def test_moving_statistics_are_never_potentially_trainable():
    model = small_backbone()
    model.trainable = False
    trained = {w.variable.name: w.potentially_trainable for w in weights_of(model)}
    assert trained == {
        "kernel": True,
        "bias": True,
        "gamma": True,
        "beta": True,
        "moving_mean": False,
        "moving_variance": False,
    }


def test_graphs_exist_for_functional_and_built_sequential_models_only():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    functional = small_backbone()
    sequential = keras.Sequential([layers.Dense(2)])
    assert functional_graph(sequential) is None
    sequential.build((None, 3))
    assert functional_graph(functional) is functional
    assert len(graph_nodes(functional_graph(sequential))) == 2
    assert functional_graph(Subclassed()) is None


def test_nodes_come_from_input_to_output():
    calls = [node.operation.name for node in graph_nodes(small_backbone())]
    assert calls == ["inner", "conv", "norm"]


class Halving(layers.Layer):
    def call(self, x):
        return x[:, ::2, ::2]


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (layers.Conv2D(2, 3, strides=2), (9, 9, 1), 2.0),
        (layers.Conv2D(2, 3), (None, None, 1), 1.0),
        (layers.Conv1D(2, 3, strides=4), (9, 1), 4.0),
        (layers.MaxPooling2D((2, 1)), (None, None, 1), 2.0),
        (layers.Conv2DTranspose(2, 3, strides=2), (9, 9, 1), 0.5),
        (layers.UpSampling2D(2), (9, 9, 1), 0.5),
        (layers.UpSampling1D(3), (9, 1), 1 / 3),
        (layers.GlobalAveragePooling2D(), (9, 9, 1), 1.0),
        (layers.Dense(2), (9,), 1.0),
        (Halving(), (8, 8, 1), 2.0),
        (Halving(), (None, 8, 1), 1.0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else str(value),
)
def test_stride(layer, shape, expected):
    model = keras.Sequential([keras.Input(shape), layer])
    node = graph_nodes(functional_graph(model))[-1]
    assert stride(layer, node) == pytest.approx(expected)


def test_rank_is_known_inside_and_outside_a_graph():
    layer = layers.LayerNormalization()
    model = keras.Sequential([keras.Input((5, 4)), layer, layers.Flatten()])
    nodes = graph_nodes(functional_graph(model))
    assert [output_rank(node.operation, node) for node in nodes] == [3, 3, 2]
    assert output_rank(layer) == 3
    assert output_rank(layers.ReLU()) is None


def test_builtin_means_defined_by_keras():
    assert is_builtin(layers.Dense(1))
    assert not is_builtin(Block())


def test_reading_changes_nothing():
    model = keras.Sequential([small_backbone(), layers.Flatten(), layers.Dense(2)])
    before = [np.array(w) for w in model.get_weights()]
    flags = [w.trainable for w in model.weights]
    weights_of(model)
    opened_layers(model)
    assert [w.trainable for w in model.weights] == flags
    assert all(map(np.array_equal, before, model.get_weights()))


# What is frozen


class Counter(layers.Layer):
    """Holds weights of both kinds, a seed and a metric."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(), name="scale")
        self.count = self.add_weight(shape=(), name="count", trainable=False)
        self.seed = keras.random.SeedGenerator(0)
        self.metric = keras.metrics.Mean()

    def call(self, x):
        return x * self.scale


class Tally(layers.Layer):
    """Holds nothing that could be trained."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), name="count", trainable=False)

    def call(self, x):
        return x


def set_flag(layer, value):
    layer.trainable = value


def set_variables(layer, value):
    for variable in layer._trainable_variables:
        variable.trainable = value


def set_flag_only(layer, value):
    layer._trainable = value


BATCH_NORM = {"gamma", "beta", "moving_mean", "moving_variance"}
FROZEN = {
    "dense trains": (lambda: layers.Dense(2), None, set()),
    "dense": (lambda: layers.Dense(2), set_flag, {"kernel", "bias"}),
    "dense by its variables": (lambda: layers.Dense(2), set_variables, {"kernel", "bias"}),
    "batch norm trains": (lambda: layers.BatchNormalization(), None, set()),
    "batch norm": (lambda: layers.BatchNormalization(), set_flag, BATCH_NORM),
    "batch norm by its flag": (
        lambda: layers.BatchNormalization(),
        set_flag_only,
        {"moving_mean", "moving_variance"},
    ),
    "batch norm by its variables": (
        lambda: layers.BatchNormalization(),
        set_variables,
        {"gamma", "beta"},
    ),
    "batch norm without scale and centre": (
        lambda: layers.BatchNormalization(scale=False, center=False),
        None,
        set(),
    ),
    "custom trains": (Counter, None, set()),
    "custom": (Counter, set_flag, {"scale", "count"}),
    "custom by its variables": (Counter, set_variables, {"scale", "count"}),
    "custom by its flag": (Counter, set_flag_only, {"count"}),
    "nothing to train": (Tally, None, set()),
    "nothing to train, flag off": (Tally, set_flag, {"count"}),
    "normalization": (lambda: layers.Normalization(), None, set()),
    "wrapper trains": (lambda: layers.SpectralNormalization(layers.Dense(2)), None, set()),
    "wrapper": (
        lambda: layers.SpectralNormalization(layers.Dense(2)),
        set_flag,
        {"kernel", "bias", "vector_u"},
    ),
}


@pytest.mark.parametrize("case", FROZEN)
def test_frozen_weights(case):
    build, freeze, expected = FROZEN[case]
    layer = build()
    model = keras.Sequential([keras.Input((3,)), layer, layers.Dense(2, name="head")])
    if freeze is not None:
        freeze(layer, False)
    assert {w.variable.name for w in frozen_weights(model)} == expected


def test_the_base_of_adapters_is_frozen_with_or_without_them():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.Dense(2)])
    low = model.layers[0]
    low.enable_lora(1)
    assert [id(w.variable) for w in frozen_weights(model)] == [id(low._kernel)]
    low.trainable = False
    assert len(frozen_weights(model)) == 4


def test_of_a_frozen_model_all_is_frozen():
    model = small_backbone()
    model.trainable = False
    assert len(frozen_weights(model)) == len(model.weights)


def test_states_of_a_recurrent_layer_are_not_frozen():
    inputs = keras.Input((5, 2), batch_size=4)
    model = keras.Model(inputs, layers.LSTM(3, stateful=True)(inputs))
    model.trainable = False
    assert [w.variable.name for w in frozen_weights(model)] == [
        "kernel",
        "recurrent_kernel",
        "bias",
    ]


# The list of callbacks


class Last(keras.callbacks.Callback):
    """Wants to be called after the others."""

    def __init__(self, rank=1):
        super().__init__()
        self.rank_at_end = rank

    def set_model(self, model):
        super().set_model(model)
        move_to_end(self)


class Unranked(Last):
    def __init__(self):
        super().__init__()
        del self.rank_at_end


def test_callbacks_move_to_the_end_in_the_order_of_their_ranks():
    very_last, last, first = Last(2), Last(1), keras.callbacks.Callback()
    for given in ([very_last, last, first], [last, very_last, first], [first, very_last, last]):
        callbacks = keras.callbacks.CallbackList(given, model=small_backbone(), epochs=1)
        assert callbacks.callbacks == [first, last, very_last]
        assert all(c.model is not None and c.params for c in callbacks.callbacks)
        assert given is not callbacks.callbacks


def test_a_callback_without_a_rank_moves_to_the_end():
    callback, other = Unranked(), keras.callbacks.Callback()
    callbacks = keras.callbacks.CallbackList([callback, other], model=small_backbone())
    assert callbacks.callbacks == [other, callback]


def test_no_list_nothing_to_move():
    move_to_end(Last())
    assert sibling_callbacks(Last()) == ()


class TestStacks:
    def test_a_stack_of_blocks_is_opened(self):
        opened = names(opened_layers(stack_model()))
        blocks = [f"deep_{n}" for n in range(3)]
        assert opened == ["tokens", "patches", *blocks, "last_norm", "pool", "new"]

    @pytest.mark.parametrize(
        "arguments", [{"blocks": 1}, {"has_own_weight": True}, {"embeds_last": True}]
    )
    def test_one_block_a_weight_of_its_own_or_a_late_embedding_leaves_it_whole(self, arguments):
        opened = names(opened_layers(stack_model(**arguments)))
        assert opened == ["tokens", "patches", "stack", "pool", "new"]

    def test_its_layers_may_be_stacks_in_a_nested_model(self):
        inner = stack_model(blocks=2)
        inputs = keras.Input((3, 4), name="outside")
        opened = names(opened_layers(keras.Model(inputs, inner(inputs))))
        assert opened == ["outside", "patches", "deep_0", "deep_1", "last_norm", "pool", "new"]
