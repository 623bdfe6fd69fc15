"""A newer Keras that lacks a private name is refused by feature, name and tested version."""

import keras
import pytest

from keras_freeze.keras_internals.required import TESTED, UnsupportedVersionError, require


def test_what_is_there_is_not_spoken_of():
    require("read weights", "keras", keras.Layer, "_flatten_layers")


@pytest.mark.parametrize("owner", [keras.Layer, keras.layers.Identity()])
def test_what_is_missing_is_named(owner):
    message = (
        rf"keras_freeze can't read weights with keras {keras.__version__}: \w+ has no _gone, "
        rf"_too\. It was tested with keras {TESTED['keras']}; install that release"
    )
    with pytest.raises(UnsupportedVersionError, match=message):
        require("read weights", "keras", owner, "_flatten_layers", "_gone", "_too")
