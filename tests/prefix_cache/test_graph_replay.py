"""Only a call of the model on the batch itself is replayed; any other computes everything."""

import threading

import cached
import keras
import numpy as np
import pytest
from cached import frozen, vectors
from keras import layers

from keras_freeze.cuts import Setting, find
from keras_freeze.prefix_cache.graph_replay import Replay, features_of


def shared_backbone(again):
    def build():
        inner_in = keras.Input((4,))
        x = layers.Dense(4, activation="relu", name="low")(inner_in)
        inner = keras.Model(inner_in, layers.Dense(4, name="middle")(x), name="inner")
        one, many = keras.Input((4,)), keras.Input((3, 4))
        first = inner(one)
        for _ in range(3):  # so deep that it is called before the others
            first = layers.Rescaling(0.9)(first)
        pooled = layers.GlobalAveragePooling1D()(again(inner)(many))
        x = layers.Concatenate()([first, pooled])
        return keras.Model([one, many], layers.Dense(3, activation="softmax", name="head")(x))

    return frozen(build, layers=["low"])


class Each(layers.Layer):
    """Calls a model on each of three inputs."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return keras.ops.stack([self.inner(x[:, n]) for n in range(3)], axis=1)


@pytest.mark.parametrize(
    "again", [Each, pytest.param(layers.TimeDistributed, marks=pytest.mark.slow)]
)
def test_a_model_that_is_cut_and_used_elsewhere_too(again):
    x, y = vectors()
    many = np.stack([x, x + 1.0, x * 2.0], axis=1)
    cached.compare(shared_backbone(again), ([x, many], y))


@pytest.mark.backend
def test_another_thread_that_calls_the_model_computes_all_of_it():
    """As a server does, or a user's own prefetching, while a batch's features are computed."""
    model = frozen(cached.dense_stack, layers=["low"])()
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    x, _ = vectors()
    expected = keras.ops.convert_to_numpy(model(x[:3]))
    frontier = find(model, Setting({id(v) for v in model.trainable_variables}))
    own, found = model._standardize_inputs, []

    def interrupted(inputs):
        """Let the other thread in after the call has begun, before it walks through the graph."""
        model._standardize_inputs = own
        caller = threading.Thread(target=lambda: found.append(model(x[:3])))
        caller.start()
        caller.join()
        return own(inputs)

    model._standardize_inputs = interrupted
    (((features, _),),) = features_of(model, frontier, x, training=True)
    assert features.shape == (20, 6)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found[0]), expected, rtol=1e-6)


@pytest.mark.backend
def test_a_call_of_another_thread_that_goes_on_does_not_hide_the_batch():
    """A Sequential model's `call` gets other objects than the call began with."""

    def build():
        return keras.Sequential(
            [keras.Input((4,)), layers.Dense(6, name="low"), layers.Dense(3, name="head")]
        )

    model = frozen(build, layers=["low"])()
    (x, _), low = vectors(), model.get_layer("low")
    frontier = find(model, Setting({id(v) for v in model.trainable_variables}))
    own, is_inside, goes_on = low.call, threading.Event(), threading.Event()

    def call(value, **mode):
        if threading.current_thread() is caller:
            is_inside.set()
            goes_on.wait(20)
        return own(value, **mode)

    def started(value, check=model._assert_input_compatibility):
        """Let the other thread in between the two methods that a call of a model consists of."""
        model._assert_input_compatibility = check
        caller.start()
        assert is_inside.wait(20)
        return check(value)

    caller = threading.Thread(target=lambda: model(x[:3]))
    low.call, model._assert_input_compatibility = call, started
    (((features, _),),) = features_of(model, frontier, x, training=True)
    goes_on.set()
    caller.join()
    assert features.shape == (20, 6)


@pytest.mark.backend
def test_replicas_take_turns_in_the_middle_of_a_step():
    """Each replays its own features, whichever came last."""
    model = frozen(cached.dense_stack, layers=["low"])()
    frontier = find(model, Setting({id(v) for v in model.trainable_variables}))
    replay, (x, _) = Replay(model, frontier), vectors()
    batches = [keras.ops.convert_to_tensor(x[:8]), keras.ops.convert_to_tensor(x[8:12])]
    expected = [keras.ops.convert_to_numpy(model(batch)) for batch in batches]
    features = [features_of(model, frontier, batch, training=True) for batch in batches]
    found = {}

    def other():
        with replay.of(batches[1], features[1]) as use:
            found[1] = model(batches[1])
        assert use.calls == 1

    with replay.of(batches[0], features[0]) as use:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        found[0] = model(batches[0])
    assert use.calls == 1
    for n, values in enumerate(expected):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(found[n]), values, rtol=1e-5)
    assert "_run_through_graph" not in vars(model)
