"""The depths that a model has, in each unit."""

import keras
import pytest

from keras_freeze.groups import picture_of
from keras_freeze.tuning.depth_range import count_of, depths_within, max_depth


@pytest.fixture
def pooled():
    """Return the picture of a model in which every second layer has no weights."""
    return picture_of(
        keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(2, 3, name="low"),
                keras.layers.MaxPooling2D(),
                keras.layers.Conv2D(2, 3, name="high"),
                keras.layers.GlobalMaxPooling2D(),
                keras.layers.Dense(2, name="head"),
            ]
        )
    )


@pytest.mark.parametrize(
    ("unit", "lower", "upper", "depths"),
    [
        ("group", None, None, [0, 1, 2]),
        ("group", 1, 2, [1, 2]),
        ("layer", None, None, [0, 1, 3]),
        ("layer", 2, 4, [2, 3]),
        ("fraction", None, None, [0.0, 0.6, 1.0]),
        ("fraction", 0.5, None, [0.5, 1.0]),
    ],
)
def test_one_of_those_that_freeze_the_same_weights(pooled, unit, lower, upper, depths):
    assert depths_within(pooled, lower, upper, unit) == depths


@pytest.mark.parametrize(("unit", "highest"), [("group", 2), ("layer", 4), ("fraction", 1.0)])
def test_only_the_head_trains_at_most(pooled, unit, highest):
    assert max_depth(pooled, unit) == highest
    assert count_of(pooled, highest, unit) == (2 if unit == "group" else 4)
