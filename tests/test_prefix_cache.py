"""The prefix cache changes no number, on any kind of model, data and schedule."""

import cached
import keras
import numpy as np
import pytest
from keras import layers

import keras_freeze as kf
from keras_freeze.schedules import AfterSteps, FreezeSchedule, Phase

BACKEND = cached.BACKEND


def frozen(build, first=None, **options):
    """Return a factory of the model with a part frozen."""

    def make():
        model = build()
        kf.freeze(model, **({"groups": first} if first is not None else options))
        return model

    return make


@pytest.mark.backend
def test_head_only(any_model, data_for):
    model = any_model()
    data = data_for(model, rows=20)
    depth = len(kf.layer_groups(model)) - 1
    statistics = cached.compare(frozen(any_model, depth), data)
    # 20 rows, each computed once for training and once for validation.
    assert statistics.misses == 40
    assert statistics.hits == 80


@pytest.mark.backend
def test_gradual(any_model, data_for):
    model = any_model()
    data = data_for(model, rows=20)
    groups = len(kf.layer_groups(model))
    cached.compare(
        any_model, data, lambda: kf.GradualUnfreeze(2, verbose=0), epochs=2 * groups
    )
