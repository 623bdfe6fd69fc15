"""The call graph: nesting opened, ordered from input to output."""

import keras
import pytest
from keras import layers

from keras_freeze.groups.call_graph import call_graph


def names(calls):
    return [call.layer.name for call in calls if call.layer is not None]


def residual_backbone(inputs):
    x = layers.Conv2D(2, 3, padding="same", strides=2, name="stem")(inputs)
    y = layers.Conv2D(2, 3, padding="same", name="branch1")(x)
    y = layers.Conv2D(2, 3, padding="same", name="branch2")(y)
    x = layers.Add(name="join")([layers.Conv2D(2, 1, name="shortcut")(x), y])
    return layers.ReLU(name="out")(x)


def with_head(inputs, x):
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten(name="flat")(x)))


def inlined():
    inputs = keras.Input((8, 8, 3), name="image")
    return with_head(inputs, residual_backbone(inputs))


def nested(times):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, residual_backbone(inputs))
    for _ in range(times - 1):
        inputs = keras.Input((8, 8, 3))
        model = keras.Model(inputs, model(inputs))
    inputs = keras.Input((8, 8, 3), name="image")
    return with_head(inputs, model(inputs))


def described(calls):
    fields = ("inputs", "owns_weights", "carries_weights", "rank", "stride", "is_output")
    return [(call.layer.name, *(getattr(call, f) for f in fields)) for call in calls]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_nesting_does_not_change_the_graph(times):
    assert described(call_graph(nested(times))) == described(call_graph(inlined()))


def test_a_sequential_of_sequentials_is_one_chain():
    inner = keras.Sequential([layers.Dense(3, name="a"), layers.Dense(3, name="b")])
    model = keras.Sequential([keras.Input((3,), name="x"), inner, layers.Dense(2, name="c")])
    calls = call_graph(model)
    assert names(calls)[-3:] == ["a", "b", "c"]
    assert [call.inputs for call in calls[-2:]] == [(len(calls) - 3,), (len(calls) - 2,)]


def test_inputs_are_earlier_positions():
    for call_number, call in enumerate(call_graph(inlined())):
        assert all(source < call_number for source in call.inputs)


def test_a_side_branch_stands_next_to_where_it_joins():
    order = names(call_graph(inlined()))
    assert order.index("shortcut") > order.index("branch1")
    assert order.index("shortcut") < order.index("join")


def test_model_inputs_stand_before_everything():
    deep, late = keras.Input((3,), name="deep"), keras.Input((3,), name="late")
    x = layers.Dense(3, name="b")(layers.Dense(3, name="a")(deep))
    model = keras.Model([deep, late], layers.Add(name="join")([x, late]))
    assert names(call_graph(model)) == ["deep", "late", "a", "b", "join"]


def test_strides_accumulate_from_the_input():
    strides = {call.layer.name: call.stride for call in call_graph(inlined())}
    assert (strides["image"], strides["stem"], strides["out"]) == (1.0, 2.0, 2.0)


def test_only_what_depends_on_weights_carries_them():
    tokens = keras.Input((4,), name="tokens")
    mask = keras.Input((4,), name="mask")
    wide = layers.Reshape((4, 1), name="wide")(mask)
    x = layers.Embedding(5, 3, name="embedding")(tokens)
    x = layers.Multiply(name="masked")([x, wide])
    calls = {call.layer.name: call for call in call_graph(keras.Model([tokens, mask], x))}
    assert not calls["wide"].carries_weights
    assert calls["masked"].carries_weights
    assert not calls["masked"].owns_weights
    assert calls["embedding"].owns_weights


def test_siamese_calls_are_one_call():
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    shared = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="a"), layers.ReLU(name="r")])
    both = layers.Subtract(name="difference")([shared(left), shared(right)])
    model = keras.Model([left, right], both)
    order = names(call_graph(model))
    assert sorted(order[:2]) == ["left", "right"]
    assert order[2:] == ["a", "r", "difference"]


def test_a_layer_called_twice_in_a_row_owns_its_weights_once():
    inputs = keras.Input((3,), name="x")
    shared = layers.Dense(3, name="shared")
    model = keras.Model(inputs, shared(layers.ReLU(name="relu")(shared(inputs))))
    calls = call_graph(model)
    assert names(calls) == ["x", "shared", "relu", "shared"]
    assert [call.owns_weights for call in calls] == [False, True, False, False]
    assert calls[3].carries_weights


def test_a_layer_with_only_tied_weights_owns_none():
    class Tied(layers.Layer):
        def __init__(self, source, **kwargs):
            super().__init__(**kwargs)
            self.table = source.kernel

        def call(self, x):
            return keras.ops.matmul(x, keras.ops.transpose(self.table))

    inputs = keras.Input((3,), name="x")
    source = layers.Dense(4, use_bias=False, name="source")
    x = source(inputs)
    calls = call_graph(keras.Model(inputs, Tied(source, name="tied")(x)))
    assert [call.owns_weights for call in calls] == [False, True, False]


def test_what_reaches_no_output_is_left_out():
    inputs = keras.Input((8, 8, 3))
    backbone = keras.Model(
        inputs,
        {
            "used": layers.Conv2D(2, 3, name="used")(inputs),
            "unused": layers.Conv2D(2, 3, name="unused")(inputs),
        },
    )
    image = keras.Input((8, 8, 3), name="image")
    model = keras.Model(image, layers.Flatten(name="flat")(backbone(image)["used"]))
    assert names(call_graph(model)) == ["image", "used", "flat"]


def test_a_branch_to_an_output_of_its_own_comes_early():
    inputs = keras.Input((4,), name="x")
    trunk = layers.Dense(4, name="trunk0")(inputs)
    side = layers.Dense(1, name="side")(trunk)
    for n in range(1, 4):
        trunk = layers.Dense(4, name=f"trunk{n}")(trunk)
    order = names(call_graph(keras.Model(inputs, [trunk, side])))
    assert order.index("side") < order.index("trunk2")


def test_outputs_are_marked():
    inputs = keras.Input((4,), name="x")
    x = layers.Dense(4, name="a")(inputs)
    calls = call_graph(keras.Model(inputs, [x, layers.Dense(1, name="b")(x)]))
    assert [call.is_output for call in calls] == [False, True, True]


def test_pooled_means_after_global_pooling_on_every_way():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    gate = layers.Conv2D(4, 1, name="excite")(gate)
    x = layers.Multiply(name="gated")([x, gate])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    pooled = {c.layer.name: c.is_pooled for c in call_graph(keras.Model(inputs, x))}
    assert [name for name, is_pooled in pooled.items() if is_pooled] == [
        "squeeze",
        "excite",
        "pool",
    ]


def test_a_subclassed_model_is_a_chain_of_its_opened_layers():
    class Classifier(keras.Model):
        def __init__(self):
            super().__init__()
            inputs = keras.Input((8, 8, 3))
            self.backbone = keras.Model(inputs, residual_backbone(inputs))
            self.flat = layers.Flatten(name="flat")
            self.classify = layers.Dense(2, name="classify")

        def call(self, x):
            return self.classify(self.flat(self.backbone(x)))

    model = Classifier()
    model(keras.ops.zeros((1, 8, 8, 3)))
    calls = call_graph(model)
    assert names(calls)[0] == "stem"
    assert names(calls)[-4:] == ["join", "out", "flat", "classify"]
    assert calls[-1].inputs == (len(calls) - 2,)


def test_a_wrapped_model_is_opened():
    inputs = keras.Input((8, 8, 3))
    backbone = keras.Model(inputs, residual_backbone(inputs))
    clip = keras.Input((5, 8, 8, 3), name="clip")
    model = keras.Model(clip, layers.TimeDistributed(backbone)(clip))
    assert names(call_graph(model))[:2] == ["clip", "stem"]
