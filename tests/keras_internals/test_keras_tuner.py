"""The private names of KerasTuner: they are there, and a release without one says so."""

import keras_tuner
import pytest

from keras_freeze.keras_internals import keras_tuner as internals
from keras_freeze.keras_internals.required import UnsupportedVersionError


def test_the_installed_release_has_all():
    internals.check()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (keras_tuner.Tuner, "_build_hypermodel"),
        (keras_tuner.oracles.HyperbandOracle, "_get_size"),
        (internals.tuner_utils, "TunerCallback"),
    ],
)
def test_a_release_without_one(owner, name, monkeypatch):
    monkeypatch.delattr(owner, name)
    message = rf"can't run a search with keras-tuner \d.*: {owner.__name__} has no {name}\."
    with pytest.raises(UnsupportedVersionError, match=message):
        internals.check()
