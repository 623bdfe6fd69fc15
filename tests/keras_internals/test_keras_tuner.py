"""The private names of KerasTuner: they are there, and a release without one says so."""

import keras_tuner
import pytest

from keras_freeze.keras_internals import keras_tuner as internals


def test_the_installed_release_has_all():
    assert internals.missing_names() == []
    internals.check()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (keras_tuner.Tuner, "_build_hypermodel"),
        (keras_tuner.oracles.HyperbandOracle, "_get_size"),
    ],
)
def test_a_release_without_a_method(owner, name, monkeypatch):
    monkeypatch.delattr(owner, name)
    message = (
        rf"need {owner.__name__}\.{name}, which KerasTuner \d.* Tested with KerasTuner 1\.4\.8"
    )
    with pytest.raises(ImportError, match=message):
        internals.check()


def test_a_release_without_a_module(monkeypatch):
    monkeypatch.setitem(internals.IN_MODULES, "keras_tuner.src.engine.absent", ("anything",))
    with pytest.raises(ImportError, match=r"need keras_tuner\.src\.engine\.absent, which"):
        internals.check()
