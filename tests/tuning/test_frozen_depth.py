"""What an earlier trial froze does not stay frozen; what the user froze does."""

import keras
from small_searches import fixed

from keras_freeze import tuning


def trained(model):
    return {variable.path.split("/")[-2] for variable in model.trainable_variables}


def test_a_shared_backbone_does_not_stay_frozen():
    backbone = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="low"),
            keras.layers.Dense(3, name="mid"),
        ]
    )

    def build():
        return keras.Sequential([keras.Input((4,)), backbone, keras.layers.Dense(2)])

    counts = []
    for depth in (2, 0, 1, 0):
        model = build()
        tuning.freeze_depth(fixed(freeze_depth=depth), model)
        counts.append(len(model.trainable_variables))
    assert counts == [2, 6, 4, 6]


def test_what_the_user_had_frozen_stays_so(plain):
    model = plain()
    model.get_layer("middle").trainable = False
    for depth in (1, 0):
        tuning.freeze_depth(fixed(freeze_depth=depth), model)
    assert trained(model) == {"low", "head"}
