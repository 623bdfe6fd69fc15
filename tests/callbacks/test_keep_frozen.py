"""What is frozen for good: named by `keep_frozen=`, or the teacher of a distiller."""

import warnings

import keras
import numpy as np
import pytest
from conftest import build_plain
from effects import compiled, moved, trained, values
from keras import layers
from pretrained_models import STAGES, as_if_trained, build_backbone, classifier

import keras_freeze as kf
from keras_freeze import policies

pytestmark = pytest.mark.backend


def layers_moved(before, model):
    return {path.split("/")[-2] for path in moved(before, model)}


@pytest.mark.parametrize(
    "kept",
    [
        "middle",
        ["middle"],
        "^mid",
        "middle/",
        policies.FreezeLayers(["middle"]),
        lambda variable, layer: layer.name == "middle",
    ],
    ids=["name", "names", "pattern", "path", "policy", "callable"],
)
@pytest.mark.parametrize("kind", ["gradual", pytest.param("plan", marks=pytest.mark.slow)])
@pytest.mark.at_commit("gradual-names", "gradual-path", "gradual-policy")
def test_it_never_unfreezes(kept, kind, plain, data_for):
    model = compiled(plain())
    before = values(model)
    callback = {
        "gradual": kf.GradualUnfreeze(1, keep_frozen=kept, verbose=0),
        "plan": kf.FreezeScheduler({0: 2, 1: None}, keep_frozen=kept, verbose=0),
    }[kind]
    x, y = data_for(model)
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    assert layers_moved(before, model) == {"low", "head"}
    assert not any("middle" in path for path in trained(model))
    counts = history.history["trainable_params"]
    assert counts[0] == 18 and counts[-1] == 18 + 30


def test_a_group_that_never_unfreezes_takes_no_epochs(plain):
    preview = kf.GradualUnfreeze(2, keep_frozen="middle").preview(as_if_trained(plain()), 6)
    assert [row.training for row in preview.rows] == [("head",), ("head", "low")]


def test_part_of_a_group(plain, data_for):
    model = compiled(plain())
    before = values(model)
    callback = kf.GradualUnfreeze(1, keep_frozen="low/kernel", verbose=0)
    x, y = data_for(model)
    with pytest.warns(UserWarning, match="flags of single variables"):
        model.fit(x, y, epochs=3, verbose=0, callbacks=[callback])
    assert {p for p in before if "low" in p} & moved(before, model) == {"plain/low/bias"}


@pytest.mark.parametrize("mode", ["train", pytest.param("frozen", marks=pytest.mark.slow)])
def test_part_of_a_batch_norm(mode, data_for):
    model = classifier(build_backbone())
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = values(model)
    callback = kf.FreezeScheduler(
        {0: None}, keep_frozen="low_bn/gamma", batch_norm=mode, cache=False, verbose=0
    )
    x, y = data_for(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*flags of single variables")
        model.fit(x, y, verbose=0, callbacks=[callback])
    assert "low_bn/gamma" not in moved(before, model)


@pytest.mark.parametrize(
    "mode", ["train", *(pytest.param(m, marks=pytest.mark.slow) for m in ("frozen", "follow"))]
)
def test_its_batch_norms_stay_too(mode, data_for):
    model = classifier(build_backbone())
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = values(model)
    callback = kf.FreezeScheduler(
        {0: None}, keep_frozen=["low", "low_bn"], batch_norm=mode, cache=False, verbose=0
    )
    x, y = data_for(model)
    model.fit(x, y, verbose=0, callbacks=[callback])
    assert layers_moved(before, model).isdisjoint({"low", "low_bn"})
    assert {"middle", "deep"} < layers_moved(before, model)


def test_it_holds_in_a_later_fit_and_not_for_another_callback(plain, data_for):
    model = compiled(plain())
    x, y = data_for(model)
    for _ in range(2):
        callback = kf.FreezeScheduler({0: None}, keep_frozen="low", verbose=0)
        model.fit(x, y, verbose=0, callbacks=[callback])
        assert not any("low" in path for path in trained(model))
    model.fit(x, y, verbose=0, callbacks=[kf.FreezeScheduler({0: None}, verbose=0)])
    assert any("low" in path for path in trained(model))


@pytest.mark.parametrize("wrong", [3, [], "", ["low", 2], keras.layers.Dense])
def test_another_type_is_refused_where_it_is_given(wrong):
    with pytest.raises(TypeError, match=r"GradualUnfreeze\(keep_frozen=\.\.\.\) must be names"):
        kf.GradualUnfreeze(keep_frozen=wrong)


def test_what_matches_nothing_is_refused_at_the_start(plain, data_for):
    model = compiled(plain())
    x, y = data_for(model)
    with pytest.raises(
        ValueError, match=r"GradualUnfreeze\(keep_frozen=\.\.\.\) must match .*'lo w'"
    ):
        model.fit(x, y, verbose=0, callbacks=[kf.GradualUnfreeze(keep_frozen="lo w")])


@pytest.mark.parametrize(
    "callback",
    [kf.FreezeScheduler({0: 0}, keep_frozen="."), kf.GradualUnfreeze(keep_frozen=".")],
    ids=repr,
)
def test_keeping_everything_frozen_is_refused(callback, plain, data_for):
    model = compiled(plain())
    x, y = data_for(model)
    with pytest.raises(ValueError, match="leave at least one trainable variable"):
        model.fit(x, y, verbose=0, callbacks=[callback])


def test_a_plan_may_name_what_stays_frozen(plain, data_for):
    model = compiled(plain())
    x, y = data_for(model)
    callback = kf.GradualUnfreeze(
        {0: "head", 1: ["middle", "low"]}, keep_frozen="low", rates=None, verbose=0
    )
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    assert {path.split("/")[-2] for path in trained(model)} == {"middle", "head"}


class TestDistiller:
    def distiller(self):
        teacher, student = as_if_trained(build_plain()), as_if_trained(build_plain())
        teacher.name, student.name = "teacher", "student"
        distiller = keras.distillation.Distiller(
            teacher=teacher,
            student=student,
            distillation_losses=keras.distillation.LogitsDistillation(temperature=2.0),
        )
        distiller.build((None, 4))
        distiller.compile("sgd", "sparse_categorical_crossentropy")
        return distiller

    def test_its_teacher_is_a_group_that_never_trains(self):
        distiller = self.distiller()
        groups = kf.layer_groups(distiller)
        assert [group.name for group in groups] == ["teacher", "low", "middle", "head"]
        teacher = {id(v) for v in distiller.teacher.variables}
        assert {id(v) for v in groups[0].variables} <= teacher
        student = [v for group in groups[1:] for v in group.variables]
        assert [id(v) for v in student] == [id(v) for v in distiller.student.weights]

    @pytest.mark.parametrize(
        "callback",
        [kf.GradualUnfreeze(1), kf.FreezeScheduler({0: None}), kf.FreezeScheduler({0: 2, 1: 0})],
        ids=repr,
    )
    def test_no_schedule_trains_it(self, callback):
        distiller = self.distiller()
        before = values(distiller.teacher), values(distiller.student)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(16, 4)), rng.integers(0, 3, 16)
        distiller.fit(x, y, epochs=3, verbose=0, callbacks=[callback])
        assert not moved(before[0], distiller.teacher)
        assert layers_moved(before[1], distiller.student) == {"low", "middle", "head"}

    def test_a_backbone_of_its_student(self):
        distiller = self.distiller()
        groups = kf.layer_groups(distiller, backbone=["low", "middle"])
        assert [group.name for group in groups] == ["teacher", "low", "middle", "head"]
        assert [len(group.variables) for group in groups] == [6, 2, 2, 2]

    def test_groups_of_ones_own_are_its_students(self):
        groups = kf.layer_groups(self.distiller(), {"body": "low|middle", "top": "head"})
        assert [group.name for group in groups] == ["teacher", "body", "top"]

    def test_a_depth_counts_no_group_that_never_trains(self):
        keras_tuner = pytest.importorskip("keras_tuner")
        hp = keras_tuner.HyperParameters()
        kf.tuning.freeze_depth(hp, self.distiller())
        (depth,) = hp.space
        assert depth.values == [0, 2, 3]

    def test_unfreezing_everything_leaves_it(self):
        distiller = self.distiller()
        kf.freeze(distiller, matching="low")
        kf.unfreeze(distiller)
        assert not distiller.teacher.trainable_variables
        assert len(distiller.student.trainable_variables) == 6


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("mode", ["train", pytest.param("frozen", marks=pytest.mark.slow)])
@pytest.mark.parametrize("is_scheduled", [False, True], ids=["plain fit", "schedule"])
def test_a_search_keeps_batch_norms_frozen(mode, is_scheduled, data_for):
    keras_tuner = pytest.importorskip("keras_tuner")
    model = classifier(build_backbone())
    hp = keras_tuner.HyperParameters()
    hp.Fixed("freeze_depth", 0)
    kf.tuning.freeze_depth(hp, model, keep_frozen=["low", "low_bn"], batch_norm=mode)
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = values(model)
    callbacks = []
    if is_scheduled:
        callbacks.append(kf.tuning.schedule(hp, choices=[1], batch_norm=mode, verbose=0))
    x, y = data_for(model)
    model.fit(x, y, epochs=3, verbose=0, callbacks=callbacks)
    assert layers_moved(before, model).isdisjoint({"low", "low_bn"})


@pytest.mark.parametrize("name", STAGES)
def test_a_depth_that_is_searched_keeps_it_frozen(name):
    keras_tuner = pytest.importorskip("keras_tuner")
    for depth in range(4):
        model = classifier(build_backbone())
        hp = keras_tuner.HyperParameters()
        hp.Fixed("freeze_depth", depth)
        kf.tuning.freeze_depth(hp, model, keep_frozen=[name, f"{name}_bn"])
        frozen = {*STAGES[:depth], name}
        convolutions = {layer.name for layer in model.layers if isinstance(layer, layers.Conv2D)}
        training = {path.split("/")[0] for path in trained(model)}
        assert convolutions - training == frozen
