"""What TensorFlow keeps of trainings that are over."""

import functools
import gc
import logging
import weakref

import keras
import numpy as np
import pytest

from keras_freeze import tuning
from keras_freeze.tuning import memory

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")
X, Y = np.ones((8, 4), "float32"), np.ones((8, 1), "float32")


@pytest.mark.landing
def test_trials_do_not_pile_up(tmp_path):
    handles = []

    def build():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        handles.extend(weakref.ref(variable.value.handle) for variable in model.weights)
        return model

    sweep = tuning.DepthSweep(build, executions_per_trial=2, directory=tmp_path)
    sweep.search(X, Y, validation_data=(X, Y), epochs=2, verbose=0)
    del sweep
    keras.utils.clear_session()
    gc.collect()
    assert len(handles) >= 16  # two depths, twice each
    assert [handle for handle in handles if handle() is not None] == []


def test_what_others_hold_still_works(plain):
    import tensorflow as tf

    @tf.custom_gradient
    def tripled(x):
        def gradient(dy):
            return 7 * dy + (0 * absent if dy is None else 0)

        if x is None:
            absent = 1.0
        return 3 * x, gradient

    function = tf.function(tripled)
    model = plain()
    model.compile("adam", "sparse_categorical_crossentropy")
    with memory.release_traced_steps():
        function(tf.constant(1.0))
        model.fit(X, np.zeros(8), verbose=0)
    with tf.GradientTape() as tape:
        x = tf.constant(2.0)
        tape.watch(x)
        y = function(x)
    assert (float(y), float(tape.gradient(y, x))) == (6.0, 7.0)
    model.fit(X, np.zeros(8), epochs=2, verbose=0)
    assert int(model.optimizer.iterations) == 3


def test_that_trials_trace_is_not_warned_of(monkeypatch, request):
    import tensorflow as tf

    logger, said = logging.getLogger("tensorflow"), []
    monkeypatch.setattr(logger, "handlers", [_Collecting(said)])
    request.addfinalizer(functools.partial(logger.setLevel, logger.level))
    logger.setLevel(logging.WARNING)

    def trace_often(function):
        for _ in range(6):
            tf.function(function)(tf.constant(1.0))

    with memory.release_traced_steps():
        trace_often(lambda x: x + 1)
        logger.warning("something else")
    assert said == ["something else"]
    trace_often(lambda x: x + 2)  # TensorFlow warns twice of each function
    assert any("retracing" in message for message in said)


class _Collecting(logging.Handler):
    def __init__(self, said):
        super().__init__()
        self.said = said

    def emit(self, record):
        self.said.append(record.getMessage())
