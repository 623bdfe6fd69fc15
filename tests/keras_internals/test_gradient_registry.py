"""TensorFlow's registry of gradient functions."""

import warnings

import keras
import pytest

from keras_freeze.keras_internals import gradient_registry
from keras_freeze.tuning import memory

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")


@pytest.fixture
def unread(monkeypatch):
    """Forget what was looked up, for one test."""
    gradient_registry.gradient_functions.cache_clear()
    yield
    gradient_registry.gradient_functions.cache_clear()


def test_it_is_the_registry_itself(unread):
    import tensorflow as tf

    @tf.RegisterGradient("keras_freeze_test")
    def gradient(op, grad):
        return grad

    found = gradient_registry.gradient_functions()
    assert found.pop("keras_freeze_test")["type"] is gradient


def test_without_one_nothing_is_released_after_one_warning(unread, monkeypatch):
    from tensorflow.python.framework import ops

    monkeypatch.delattr(ops, "gradient_registry")
    message = r"stay in memory until the process ends: TensorFlow \d.*Tested with TensorFlow 2\.21"
    with pytest.warns(UserWarning, match=message), memory.release_traced_steps():
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with memory.release_traced_steps():
            pass
