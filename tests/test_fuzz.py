"""Random models and schedules against the same phases in plain Keras; `make fuzz` tries more."""

import fuzz
import keras
import pytest

pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(
        keras.backend.backend() == "jax", reason="Keras can't compile in a fit on JAX, as by hand"
    ),
    pytest.mark.filterwarnings("ignore:.*ends with flags of single variables"),
    pytest.mark.filterwarnings("ignore:.*has changed in phase"),
]
COUNT = 500 if keras.backend.backend() == "tensorflow" else 50
TENS = range(0, COUNT, 10)


@pytest.mark.slow
@pytest.mark.parametrize("first", TENS)
def test_ten_cases(first):
    """One of ten with a traced step, which takes most of the time."""
    found = {n: fuzz.differences(n, eager=n % 10 != 0) for n in range(first, first + 10)}
    assert {n: words for n, words in found.items() if words} == {}


@pytest.mark.parametrize("number", [3, 72])  # one of all, and those that found something
def test_a_case(number):
    assert fuzz.differences(number) == []


def test_the_comparison_sees_a_difference(monkeypatch):
    own = fuzz.ByHand.set_flags

    def wrong(self, model, frozen, weights, mode):
        own(self, model, frozen, weights, mode)
        model.trainable_variables[0].trainable = False

    monkeypatch.setattr(fuzz.ByHand, "set_flags", wrong)
    assert fuzz.differences(3)
