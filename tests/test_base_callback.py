"""What every callback has in common: its copies have its arguments, and no running fit."""

import copy
import pickle

import pytest

import keras_freeze as kf
from keras_freeze import FreezeGuard


class Strict(FreezeGuard):
    """A callback whose class has attributes under the names of arguments, and others."""

    every = "epoch"
    action = "raise"
    count = 0


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_a_copy_has_all_that_is_not_of_a_fit(copied):
    callback = Strict(3, action="warn")
    callback.count, callback._run = 4, "a running fit"
    other = copied(callback)
    assert (other.every, other.action, other.count, other._run) == (3, "warn", 4, None)
    assert repr(other) == "Strict(every=3, action='warn')"


@pytest.mark.parametrize("kind", [kf.FreezeScheduler, kf.GradualUnfreeze])
def test_an_argument_may_be_changed_later(kind, plain):
    callback = kind({0: "head"})
    callback.schedule = {0: "head", 5: "middle"}
    assert callback.phase_starts(plain(), 9) == (0, 5)
