"""The four BatchNorm modes: as flags, in training, and through a saved file."""

import effects
import keras
import pytest
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze import policies
from keras_freeze.engine.transitions import transition
from keras_freeze.groups import picture_of
from keras_freeze.model_picture import every_layer, is_batch_norm, read_model
from keras_freeze.policies import flags

MODES = ["frozen", "follow", "statistics", "train"]


def build():
    """Two pretrained blocks with BatchNorm, and a head with one of its own."""
    inputs = keras.Input((6, 6, 2), name="image")
    x = inputs
    for name, filters in {"block1": 3, "block2": 4}.items():
        x = keras.layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)
        x = keras.layers.BatchNormalization(momentum=0.5, name=f"{name}_bn")(x)
        x = keras.layers.MaxPooling2D(padding="same", name=f"{name}_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(5, name="fc")(x)
    x = keras.layers.BatchNormalization(momentum=0.5, name="fc_bn")(x)
    outputs = keras.layers.Dense(3, activation="softmax", name="logits")(x)
    return as_if_trained(keras.Model(inputs, outputs, name="norms"))


def norms(model):
    """Return, for each BatchNorm layer, (gamma and beta train, statistics follow the data)."""
    found = {}
    for layer in filter(is_batch_norm, every_layer(model)):
        (trains,) = {v.trainable for v in (layer.gamma, layer.beta)}
        assert not layer.moving_mean.trainable and not layer.moving_variance.trainable
        found[layer.name] = trains, layer.trainable
    return found


def norms_that_moved(paths):
    """Return the same as `norms`, from the paths of what changed in a fit."""
    return {
        name: (f"{name}/gamma" in paths, f"{name}/moving_mean" in paths)
        for name in ("block1_bn", "block2_bn", "fc_bn")
    }


NEITHER, BOTH, NO_STATISTICS = (False, False), (True, True), (True, False)
PHASES = {  # block1 is frozen, block2 trains, fc_bn is in the head
    "frozen": {"block1_bn": NEITHER, "block2_bn": NEITHER, "fc_bn": BOTH},
    "follow": {"block1_bn": NEITHER, "block2_bn": BOTH, "fc_bn": BOTH},
    "statistics": {"block1_bn": NEITHER, "block2_bn": NO_STATISTICS, "fc_bn": BOTH},
    "train": {"block1_bn": BOTH, "block2_bn": BOTH, "fc_bn": BOTH},
}
FREEZES = {  # block1 freezes in a model that trains completely
    "frozen": {"block1_bn": NEITHER, "block2_bn": BOTH, "fc_bn": BOTH},
    "follow": {"block1_bn": NEITHER, "block2_bn": BOTH, "fc_bn": BOTH},
    "statistics": {"block1_bn": NEITHER, "block2_bn": BOTH, "fc_bn": BOTH},
    "train": {"block1_bn": BOTH, "block2_bn": BOTH, "fc_bn": BOTH},
}
UNFREEZES = {  # all unfreezes in a model that is frozen completely
    "frozen": {"block1_bn": NEITHER, "block2_bn": NEITHER, "fc_bn": BOTH},
    "follow": {"block1_bn": BOTH, "block2_bn": BOTH, "fc_bn": BOTH},
    "statistics": {"block1_bn": NO_STATISTICS, "block2_bn": NO_STATISTICS, "fc_bn": BOTH},
    "train": {"block1_bn": BOTH, "block2_bn": BOTH, "fc_bn": BOTH},
}


def begin_phase(model, mode):
    frozen = policies.FreezeGroups("block1").select(model)
    transition(model, flags.phase_flags(picture_of(model), frozen, mode))


def freeze_block1(model, mode):
    kf.freeze(model, groups=["block1"], batch_norm=mode)


def unfreeze_everything(model, mode):
    kf.freeze(model, matching=".")
    kf.unfreeze(model, matching=".", batch_norm=mode)


WAYS = {
    "phase": (begin_phase, PHASES),
    "freeze": (freeze_block1, FREEZES),
    "unfreeze": (unfreeze_everything, UNFREEZES),
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


def test_flags_of_a_mode(way, mode):
    apply, expected = way
    model = build()
    apply(model, mode)
    assert norms(model) == expected[mode]
    assert effects.flags(model)["block2_conv/kernel"]
    assert effects.flags(model)["block1_conv/kernel"] == (apply is unfreeze_everything)


@pytest.mark.slow_on_jax
@pytest.mark.backend
def test_a_fit_moves_what_the_mode_says(way, mode, data_for):
    apply, expected = way
    model = effects.compiled(build(), eager=True)
    apply(model, mode)
    trained = effects.trained(model)
    paths = effects.moved_by_fit(model, data_for(model))
    assert norms_that_moved(paths) == expected[mode]
    assert {path for path in paths if "moving" not in path} == trained


def test_a_mode_of_an_earlier_phase_leaves_nothing_behind(mode):
    model = build()
    for earlier in MODES:
        begin_phase(model, earlier)
        begin_phase(model, mode)
        assert norms(model) == PHASES[mode], earlier


def test_a_file_keeps_modes_that_treat_whole_layers(way, mode, tmp_path):
    apply, expected = way
    model = build()
    apply(model, mode)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    if NO_STATISTICS not in expected[mode].values():
        assert effects.flags(loaded) == effects.flags(model)
        assert norms(loaded) == expected[mode]
        return
    # Keras stores one flag a layer, so gamma and beta come back frozen. Saying it again helps.
    half = {name for name, state in expected[mode].items() if state == NO_STATISTICS}
    assert {name for name, state in norms(loaded).items() if state == NEITHER} >= half
    apply(loaded, mode)
    assert effects.flags(loaded) == effects.flags(model)
    assert norms(loaded) == expected[mode]


@pytest.mark.backend
@pytest.mark.slow_on_jax
def test_frozen_norms_of_a_backbone_stay_so_after_every_group_is_unfrozen(data_for):
    model = effects.compiled(build(), eager=True)
    kf.freeze(model, before="head")
    kf.unfreeze(model, before="head")
    paths = effects.moved_by_fit(model, data_for(model))
    assert norms_that_moved(paths) == UNFREEZES["frozen"]
    assert {"block1_conv/kernel", "block2_conv/kernel"} <= paths


@pytest.mark.slow_on_jax
@pytest.mark.backend
def test_freezing_holds_statistics_where_a_call_with_training_false_does_not(nested, data_for):
    """`backbone(x, training=False)` in a Functional model: `fit` passes its own True (Keras 3)."""
    model = effects.compiled(nested(), eager=True)
    paths = effects.moved_by_fit(model, data_for(model))
    assert sum("moving" in path for path in paths) == 4
    kf.freeze(model, layers=["backbone"])
    assert effects.moved_by_fit(model, data_for(model)) == {"head/kernel", "head/bias"}


def build_without_scale():
    """A BatchNorm that has statistics only, nested in a backbone, and a dense layer."""
    backbone = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, name="low"),
            keras.layers.BatchNormalization(center=False, scale=False, name="whiten"),
        ],
        name="backbone",
    )
    return keras.Sequential(
        [keras.Input((4,)), backbone, keras.layers.Dense(3, activation="softmax", name="logits")]
    )


WITHOUT_SCALE = {
    "matching nested": {"matching": "backbone"},
    "matching": {"matching": "^whiten$"},
    "nested": {"layers": ["backbone"]},
    "name": {"layers": ["whiten"]},
    "index": {"layers": [1]},
    "first": {"first": -1},
    "before": {"before": "logits"},
    "groups": {"groups": -1},
    "callable": {"policy": lambda variable, layer: layer.name == "whiten"},
    "not": {"policy": ~policies.FreezeLayers(["low"])},
}


@pytest.mark.parametrize("case", WITHOUT_SCALE)
@pytest.mark.at_commit("matching nested", "name", "callable", "not")
def test_a_norm_without_gamma_and_beta_freezes_and_unfreezes(case, data_for):
    model = effects.compiled(build_without_scale(), eager=True)
    way = dict(WITHOUT_SCALE[case])
    policy = [way.pop("policy")] if "policy" in way else []
    kf.freeze(model, *policy, **way)
    paths = effects.moved_by_fit(model, data_for(model))
    assert not any("moving" in path for path in paths)
    kf.unfreeze(model, *policy, **way, batch_norm="follow")
    paths = effects.moved_by_fit(model, data_for(model))
    assert sum("moving" in path for path in paths) == 2


def test_a_layer_with_statistics_of_its_own_unfreezes_with_a_later_phase():
    """Its flag was set False by one phase, so that the next has to set it True again."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Normalization(name="scale"),
            keras.layers.Dense(5, name="low"),
            keras.layers.Dense(3, name="logits"),
        ]
    )
    picture = picture_of(model)
    before = policies.FreezeBefore("logits").select(model)
    transition(model, flags.phase_flags(picture, before, "frozen"))
    assert [layer.trainable for layer in model.layers] == [False, False, True]
    nothing = policies.FreezeFirst(0).select(model)
    transition(model, flags.phase_flags(picture, nothing, "frozen"))
    assert [layer.trainable for layer in model.layers] == [True, True, True]


def test_freezing_one_of_gamma_and_beta_keeps_the_statistics_going(data_for):
    model = effects.compiled(build(), eager=True)
    kf.freeze(model, layers=["block1_bn"], weights="gamma")
    paths = effects.moved_by_fit(model, data_for(model))
    assert {p for p in paths if p.startswith("block1_bn")} == {
        "block1_bn/beta",
        "block1_bn/moving_mean",
        "block1_bn/moving_variance",
    }


def test_a_plan_sets_each_variable_and_layer_once():
    model = build()
    selection = policies.FreezeGroups("block1").select(model)
    plan = flags.phase_flags(picture_of(model), selection, "statistics")
    assert len({id(variable) for variable, _ in plan.variables}) == len(plan.variables)
    assert len({id(layer) for layer, _ in plan.layers}) == len(plan.layers)
    assert {id(v) for v, _ in plan.variables} == policies.FreezeMatching(".").select(
        model
    ).variables


def test_a_plan_says_nothing_of_what_is_not_named():
    model = build()
    selection = policies.FreezeLayers(["block1_conv"]).select(model)
    plan = flags.relative_flags(read_model(model), selection, False, "frozen")
    assert [(v.path, value) for v, value in plan.variables] == [
        ("block1_conv/kernel", False),
        ("block1_conv/bias", False),
    ]
    assert {layer.name: value for layer, value in plan.layers} == {
        "block1_conv": False,
        "norms": True,
    }
