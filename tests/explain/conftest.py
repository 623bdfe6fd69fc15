"""What tests of explanations share."""

import contextlib

import keras
import numpy as np
import pytest

from keras_freeze.keras_internals import random_state
from keras_freeze.model_picture import every_layer


def _state_of(model):
    variables = [*model.variables, *(model.optimizer.variables if model.compiled else ())]
    return {
        "values": [np.array(keras.ops.convert_to_numpy(v)) for v in variables],
        "flags": [v.trainable for v in model.weights],
        "attributes": [dict(vars(layer)) for layer in every_layer(model)],
        "random": random_state.capture(),
    }


@pytest.fixture
def unchanged():
    """Return a context manager that fails if anything of a model or a generator has changed."""

    @contextlib.contextmanager
    def held(model):
        keras.random.uniform(())  # so that there is a global generator
        before = _state_of(model)
        yield
        after = _state_of(model)
        np.testing.assert_equal(after["values"], before["values"])
        assert after["flags"] == before["flags"]
        np.testing.assert_equal(after["random"], before["random"])
        for now, then in zip(after["attributes"], before["attributes"], strict=True):
            changed = {name for name in {*now, *then} if now.get(name) is not then.get(name)}
            # Keras notes that a layer has been called.
            assert changed <= {"_called"}

    return held
