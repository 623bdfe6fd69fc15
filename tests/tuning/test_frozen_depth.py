"""What an earlier trial froze does not stay frozen; what the user froze does."""

import keras
import pytest
from small_searches import fixed

import keras_freeze as kf
from keras_freeze import tuning
from keras_freeze.keras_internals.host_arrays import to_host


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


DEPTHS = [("batch_norm", depth, "frozen") for depth in range(3)]
DEPTHS += [("batch_norm", 1, mode) for mode in ("follow", "statistics", "train")]
DEPTHS += [("nested", depth, "frozen") for depth in range(3)]
QUICK = [("batch_norm", 1, "frozen")]


@pytest.mark.backend
@pytest.mark.filterwarnings("ignore:.*ends with flags of single variables")
@pytest.mark.parametrize(
    ("name", "depth", "mode"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in DEPTHS],
)
def test_a_depth_trains_as_a_schedule_that_freezes_it(name, depth, mode, request, data_for):
    """To the bit, the statistics of `BatchNormalization` above the depth included."""

    def fit(model, *callbacks):
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        x, y = data_for(model)
        history = model.fit(
            x, y, epochs=3, shuffle=False, verbose=0, validation_data=(x, y), callbacks=callbacks
        )
        return history.history, [to_host(v).tobytes() for v in model.weights]

    build = request.getfixturevalue(name)
    found = build()
    tuning.freeze_depth(fixed(freeze_depth=depth), found, batch_norm=mode)
    trained, weights = fit(found)
    schedule = kf.FreezeScheduler({0: depth}, batch_norm=mode, cache=False, verbose=0)
    history, expected = fit(build(), schedule)
    assert trained == {name: history[name] for name in trained}
    assert weights == expected


def test_freezing_says_which_batch_norms_still_train(batch_norm):
    model = batch_norm()
    result = kf.freeze(model, groups=1)
    assert result.training_batch_norms == ("block2_bn",)
    assert str(result).endswith("are frozen; 1 BatchNormalization layer still trains")
    assert "BatchNormalization that trains: block2_bn" in result._repr_html_()
    assert "still train" not in str(kf.freeze(model, matching="_bn"))
    assert "still train" not in str(kf.unfreeze(model))
