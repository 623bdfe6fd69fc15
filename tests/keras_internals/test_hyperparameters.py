"""Names of hyperparameters within scopes."""

import keras_tuner
import pytest

from keras_freeze.keras_internals.hyperparameters import scoped_name
from keras_freeze.keras_internals.required import UnsupportedVersionError


def test_names_within_scopes():
    hp = keras_tuner.HyperParameters()
    assert scoped_name(hp, "depth") == "depth"
    with hp.name_scope("a"), hp.name_scope("b"):
        assert scoped_name(hp, "depth") == "a/b/depth"


def test_another_tuner_has_no_scopes():
    assert scoped_name(object(), "depth") == "depth"


def test_a_release_without_the_name(monkeypatch):
    monkeypatch.delattr(keras_tuner.HyperParameters, "_get_name")
    with pytest.raises(UnsupportedVersionError, match="HyperParameters has no _get_name"):
        scoped_name(keras_tuner.HyperParameters(), "depth")
