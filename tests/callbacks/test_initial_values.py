"""What nothing has trained is not taken for pretrained."""

import keras
import numpy as np
import pytest
from conftest import build_batch_norm, build_plain, build_recurrent
from effects import moved, values
from families import encoder
from keras import layers
from pretrained_models import as_if_trained, build_backbone, neck, unet_3

import keras_freeze as kf

pytestmark = pytest.mark.backend

HEAD = kf.policies.FreezeBefore("head")
FURTHER_MODES = ("follow", "statistics", "train")
NOTHING = "nothing in model '.*' is pretrained"


def built(build, seed=3):
    keras.utils.set_random_seed(seed)
    model = build()
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


def build_mobilenet():
    base = keras.applications.MobileNetV2((32, 32, 3), 0.35, include_top=False, weights=None)
    x = layers.GlobalAveragePooling2D()(base.output)
    return keras.Model(base.input, layers.Dense(3, "softmax")(x))


def build_transformer():
    model = encoder(2, norm_first=True)
    return keras.Model(model.input, layers.Softmax()(model.output))


UNTRAINED = [
    (build_plain, "even"),
    pytest.param(build_recurrent, "even", marks=pytest.mark.slow),
    (build_batch_norm, 1),
    pytest.param(build_mobilenet, "even", marks=pytest.mark.slow),
    pytest.param(build_transformer, "even", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("build", "schedule"), UNTRAINED)
@pytest.mark.at_commit("build_plain-even")
def test_an_untrained_model_trains_as_by_plain_fit(build, schedule, data_for):
    model, plain = built(build), built(build)
    x, y = data_for(model)
    with pytest.warns(UserWarning, match=NOTHING):
        model.fit(
            x,
            y,
            epochs=3,
            verbose=0,
            shuffle=False,
            callbacks=[kf.GradualUnfreeze(schedule, verbose=0)],
        )
    plain.fit(x, y, epochs=3, verbose=0, shuffle=False)
    for own, expected in zip(model.weights, plain.weights, strict=True):
        own, expected = (keras.ops.convert_to_numpy(v.value) for v in (own, expected))
        if keras.backend.backend() == "tensorflow":
            assert own.tobytes() == expected.tobytes()
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6)


def test_a_trigger_ends_the_fit_of_an_untrained_model(data_for):
    model = built(build_plain)
    x, y = data_for(model)
    callback = kf.GradualUnfreeze(lambda logs: True, verbose=0)
    with pytest.warns(UserWarning, match=NOTHING):
        history = model.fit(x, y, epochs=3, verbose=0, callbacks=[callback])
    assert history.history["non_trainable_params"] == [0]


@pytest.mark.slow_on_jax
def test_it_stays_so_in_a_fit_that_continues(data_for):
    """After the first fit nothing has initial values, and yet nothing is pretrained."""
    model, whole = built(build_batch_norm), built(build_batch_norm)
    x, y = data_for(model)
    for first, last in ((0, 2), (2, 4)):
        callback = kf.GradualUnfreeze(verbose=0)
        with pytest.warns(UserWarning, match=NOTHING):
            model.fit(
                x,
                y,
                epochs=last,
                initial_epoch=first,
                verbose=0,
                shuffle=False,
                callbacks=[callback],
            )
    with pytest.warns(UserWarning, match=NOTHING):
        whole.fit(
            x, y, epochs=4, verbose=0, shuffle=False, callbacks=[kf.GradualUnfreeze(verbose=0)]
        )
    for own, expected in zip(model.weights, whole.weights, strict=True):
        own, expected = (keras.ops.convert_to_numpy(v.value) for v in (own, expected))
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "told",
    [
        {"backbone": "low"},
        {"rates": 2.6},
        {"rates": None},
        {"groups": ["low", "middle", "head"]},
        {"schedule": {0: "head", 1: ["middle", "low"]}},
    ],
    ids=lambda told: next(iter(told)),
)
@pytest.mark.filterwarnings("ignore:.*will be frozen at initial values")
@pytest.mark.at_commit("backbone", "groups")
@pytest.mark.slow_on_jax
def test_whoever_says_what_to_do_is_believed(told, data_for):
    model = built(build_plain)
    x, y = data_for(model)
    history = model.fit(
        x, y, epochs=3, verbose=0, callbacks=[kf.GradualUnfreeze(**told, verbose=0)]
    )
    assert history.history["trainable_params"][0] < history.history["trainable_params"][-1]


def test_a_preview_shows_it_too():
    model = built(build_plain)
    assert [row.training for row in kf.GradualUnfreeze().preview(model, 9).rows] == [
        ("head", "middle", "low")
    ]
    as_if_trained(model)
    assert len(kf.GradualUnfreeze().preview(model, 9).rows) == 3


class TestSomeLayers:
    def test_new_layers_in_a_group_that_is_frozen_are_warned_of(self, data_for):
        model = unet_3(build_backbone())
        model.compile("sgd", "mse")
        x, _ = data_for(model)
        y = np.zeros((16, 16, 16, 1))
        said = r"3 layers of model .* \(up1_t, up1 and up1_bn\) will be frozen at"
        with pytest.warns(UserWarning, match=said):
            model.fit(x, y, verbose=0, callbacks=[kf.FreezeScheduler({0: HEAD}, verbose=0)])

    @pytest.mark.slow_on_jax
    def test_but_not_where_the_backbone_is_given_or_they_train(self, data_for):
        for build, callback in (
            (neck, lambda base: kf.GradualUnfreeze(backbone=base, verbose=0)),
            (neck, lambda base: kf.FreezeScheduler({0: "low"}, verbose=0)),
        ):
            base = build_backbone()
            model = build(base)
            model.compile("sgd", "sparse_categorical_crossentropy")
            x, y = data_for(model)
            model.fit(x, y, verbose=0, callbacks=[callback(base)])

    @pytest.mark.filterwarnings("ignore:.*ends with flags of single variables")
    @pytest.mark.parametrize(
        "mode", ["frozen", *(pytest.param(m, marks=pytest.mark.slow) for m in FURTHER_MODES)]
    )
    def test_an_untouched_batch_norm_follows_instead_of_being_frozen(self, mode, data_for):
        """It is `deep_bn` here, in a group that unfreezes; `low_bn` has seen data."""
        base = build_backbone()
        base.get_layer("deep_bn").moving_mean.assign(np.zeros(5))
        base.get_layer("deep_bn").moving_variance.assign(np.ones(5))
        model = keras.Model(
            base.input, layers.Dense(3)(layers.GlobalAveragePooling2D()(base.output))
        )
        model.compile("sgd", "sparse_categorical_crossentropy")
        x, y = data_for(model)
        callback = kf.FreezeScheduler(
            {0: "low", 1: "low"}, backbone=base, batch_norm=mode, cache=False, verbose=0
        )
        before = values(model)
        model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
        statistics = {p.split("/")[-2] for p in moved(before, model) if "moving_mean" in p}
        expected = {
            "frozen": {"deep_bn"},
            "follow": {"middle_bn", "deep_bn"},
            "statistics": set(),
            "train": {"low_bn", "middle_bn", "deep_bn"},
        }
        assert statistics == expected[mode]

    def test_unfreezing_one_unfreezes_its_statistics(self):
        base = build_backbone()
        base.get_layer("deep_bn").moving_mean.assign(np.zeros(5))
        base.get_layer("deep_bn").moving_variance.assign(np.ones(5))
        base.trainable = False
        model = neck(base)
        kf.unfreeze(model, groups=["deep", "middle"], backbone=base)
        trainable = {name: model.get_layer(f"{name}_bn").trainable for name in ("middle", "deep")}
        assert trainable == {"middle": False, "deep": True}
