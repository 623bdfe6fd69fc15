"""What is pretrained starts frozen; what is new trains from the first step, wherever it stands."""

import keras
import numpy as np
import pytest
from effects import changed, values
from pretrained_models import MODELS, as_if_trained, build_backbone, neck, nested_neck
from stacks import stack_model

import keras_freeze as kf

pytestmark = pytest.mark.backend


def data(model, rows=4):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(rows, *t.shape[1:])).astype("float32") for t in model.inputs]
    y = [rng.normal(size=(rows, *t.shape[1:])).astype("float32") for t in model.outputs]
    return (x[0] if len(x) == 1 else x), (y[0] if len(y) == 1 else y)


class Moved(keras.callbacks.Callback):
    """Which weights each epoch has changed, by the name of their layer and their own."""

    def __init__(self):
        super().__init__()
        self.by_epoch = []

    def on_train_begin(self, logs=None):
        self.before = values(self.model)

    def on_epoch_end(self, epoch, logs=None):
        after = values(self.model)
        self.by_epoch.append({tuple(p.split("/")[-2:]) for p in changed(self.before, after)})
        self.before = after


def weights(*names, statistics):
    """Return what changes where layers train that are a convolution and its BatchNormalization."""
    found = {(name, variable) for name in names for variable in ("kernel", "bias")}
    if statistics:
        for name in names:
            found |= {(f"{name}_bn", v) for v in ("gamma", "beta", "moving_mean")}
    return found


#: The models of every commit; `make test-all` tries them all.
QUICK = ("unet_3", "below_and_above")
CASES = [
    pytest.param(name, mode, marks=[] if name in QUICK and mode == "frozen" else pytest.mark.slow)
    for name in MODELS
    for mode in ("frozen", "follow")
]


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(("name", "batch_norm"), CASES)
def test_each_phase_trains_what_is_new_and_what_has_unfrozen(name, batch_norm):
    build, stages = MODELS[name]
    keras.utils.set_random_seed(0)
    backbone = build_backbone()
    model = build(backbone)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    schedule = {0: "head", 1: stages[-1], 2: list(stages[:-1])}
    callback = kf.GradualUnfreeze(
        schedule, backbone=backbone, rates=None, batch_norm=batch_norm, cache=False, verbose=0
    )
    moved = Moved()
    x, y = data(model)
    model.fit(x, y, epochs=3, batch_size=4, verbose=0, callbacks=[callback, moved])
    trained = [(), stages[-1:], stages]
    pretrained = {f"{name}{end}" for name in stages for end in ("", "_bn")}
    for changes, expected in zip(moved.by_epoch, trained, strict=True):
        in_backbone = {(layer, name) for layer, name in changes if layer in pretrained}
        # A moving variance may stay where it was to the last bit.
        in_backbone = {pair for pair in in_backbone if pair[1] != "moving_variance"}
        follows = batch_norm == "follow"
        # A bias before a normalization by the batch's mean has no effect but by rounding.
        allowed = weights(*expected, statistics=follows)
        assert in_backbone <= allowed
        assert allowed - in_backbone <= {(name, "bias") for name in expected}
        new = {layer for layer, _ in changes} - pretrained
        assert new == {w.split("/")[-2] for w in values(model)} - pretrained
        assert all((layer, "moving_mean") in changes for layer in new if layer.endswith("_bn"))


def test_the_first_line_of_a_fit_names_it(capsys):
    model = nested_neck(build_backbone())
    model.compile("sgd", "mse")
    x, y = data(model)
    model.fit(x, y, verbose=0, callbacks=[kf.GradualUnfreeze()])
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "Backbone: backbone (9 layers); new: 6 layers."


def test_in_doubt_the_line_says_how_to_name_it(capsys):
    model = neck(build_backbone())
    model.compile("sgd", "mse")
    x, y = data(model)
    model.fit(x, y, verbose=0, callbacks=[kf.FreezeScheduler({0: 1})])
    first = capsys.readouterr().out.splitlines()[0]
    assert first == (
        "Backbone: assumed to be all groups but head (13 layers); new: 1 layer. Pass backbone= if "
        "it is another."
    )


def test_the_line_says_that_nothing_can_be_cached(capsys):
    build, _ = MODELS["below_and_above"]
    backbone = build_backbone()
    model = build(backbone)
    model.compile("sgd", "mse")
    x, y = data(model)
    model.fit(x, y, verbose=0, callbacks=[kf.GradualUnfreeze(backbone=backbone)])
    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith("New layers feed the backbone, so nothing can be cached.")


@pytest.mark.parametrize("cache", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.slow_on_jax
@pytest.mark.slow
def test_blocks_of_a_stack_unfreeze_one_by_one(cache):
    model = as_if_trained(stack_model(blocks=2))
    model.compile("sgd", "mse")
    by_hand = stack_model(blocks=2)
    by_hand.compile("sgd", "mse")
    by_hand.set_weights(model.get_weights())
    x, y = data(model)
    fit = {"batch_size": 2, "verbose": 0, "shuffle": False}
    callback = kf.GradualUnfreeze(1, rates=None, cache=cache, verbose=0)
    seen = Moved()
    ours = model.fit(x, y, epochs=4, **fit, callbacks=[callback, seen]).history["loss"]
    stack, low = by_hand.get_layer("stack"), by_hand.get_layer("patches")
    parts = (low, *stack.blocks, stack.last)  # all but the head
    theirs = []
    for frozen in (parts, parts[:2], parts[:1], ()):
        for part in parts:
            part.trainable = part not in frozen
        by_hand.compile("sgd", "mse")
        theirs += by_hand.fit(x, y, epochs=1, **fit).history["loss"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    for a, b in zip(model.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert [{name for name, _ in epoch} & {"norm", "up", "patches"} for epoch in seen.by_epoch] == [
        set(),
        {"norm", "up"},
        {"norm", "up"},
        {"norm", "up", "patches"},
    ]


@pytest.mark.slow
@pytest.mark.hub
def test_a_detector_trains_its_pyramid_and_heads_first():
    """RetinaNet, whose image encoder alone is pretrained: stages unfreeze from the top down."""
    pytest.importorskip("keras_hub")
    from hub_backbones import detector

    model, encoder = detector()
    as_if_trained(encoder)
    model.compile("sgd", box_loss="mae")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 64, 64, 3)).astype("float32")
    boxes = np.array([[[8, 8, 40, 40], [0, 16, 60, 30]]] * 2, "float32")
    y = {"boxes": boxes, "labels": np.array([[0, 2]] * 2, "float32")}
    seen = Moved()
    callback = kf.GradualUnfreeze(1, backbone=encoder, batch_norm="follow", verbose=0)
    model.fit(x, y, epochs=6, batch_size=2, shuffle=False, verbose=0, callbacks=[callback, seen])
    stage_of = {
        layer.name: group.name
        for group in kf.layer_groups(model, backbone=encoder)
        for layer in group.layers
    }
    stages = [{stage_of.get(name, "head") for name, _ in moved} for moved in seen.by_epoch]
    order = ["stack3", "stack2", "stack1", "stack0", "conv1"]
    assert stages == [{"head", *order[:n]} for n in range(6)]
    statistics = [{stage_of[n] for n, w in moved if w == "moving_mean"} for moved in seen.by_epoch]
    assert statistics == [set(order[:n]) for n in range(6)]


class TestInSearchesAndReports:
    def test_a_depth_by_layers_is_refused_where_new_layers_come_first(self):
        keras_tuner = pytest.importorskip("keras_tuner")
        build, _ = MODELS["below_and_above"]
        backbone = build_backbone()
        hp, model = keras_tuner.HyperParameters(), build(backbone)
        with pytest.raises(ValueError, match='be "group" where new layers feed the backbone'):
            kf.tuning.freeze_depth(hp, model, unit="layer", backbone=backbone)
        kf.tuning.freeze_depth(hp, model, backbone=backbone)
        assert hp.space[0].max_value == 3

    def test_a_schedule_needs_the_backbone_of_the_depth(self):
        keras_tuner = pytest.importorskip("keras_tuner")
        hp = keras_tuner.HyperParameters()
        backbone = build_backbone()
        model = neck(backbone)
        kf.tuning.freeze_depth(hp, model, backbone=backbone)
        with pytest.raises(ValueError, match="must be that of freeze_depth"):
            kf.tuning.schedule(hp, choices=[1]).preview(model, 4)
        assert kf.tuning.schedule(hp, choices=[1], backbone=backbone).preview(model, 4).rows

    def test_a_report_has_its_groups(self):
        backbone = build_backbone()
        report = kf.parameter_report(neck(backbone), backbone=backbone)
        assert [row.name for row in report.rows] == ["low", "middle", "deep", "head"]
        with pytest.raises(ValueError, match=r'backbone=...\) must be None where by="layer"'):
            kf.parameter_report(neck(backbone), by="layer", backbone=backbone)

    def test_builders_take_its_groups(self):
        backbone = build_backbone()
        groups = kf.layer_groups(neck(backbone), backbone=backbone)
        schedule = kf.schedules.gradual(groups)
        assert [len(phase.frozen) for phase in schedule.phases] == [3, 2, 1, 0]
        assert schedule.groups == tuple((group.name, group.total_params) for group in groups)
