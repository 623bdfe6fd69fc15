"""`TopGradient`: a policy that is decided when its phase begins."""

import copy

import keras
import numpy as np
import pytest

import keras_freeze as kf
from keras_freeze.policies import FreezeLayers
from keras_freeze.schedules import FreezeSchedule, Phase, TopGradient, top_gradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)).astype("float32")
Y = RNG.normal(size=(24, 2)).astype("float32")
LAYERS = ["one", "two", "three"]


def build():
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            *[keras.layers.Dense(5, activation="tanh", name=name) for name in LAYERS],
            keras.layers.Dense(2, name="head"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.2), "mse")
    return model


def schedule(k=1, **arguments):
    return FreezeSchedule([Phase(LAYERS, until=1), Phase(TopGradient(k, X, Y, **arguments))])


def scheduler(plan, **arguments):
    return kf.FreezeScheduler(plan, backbone=LAYERS, verbose=0, **arguments)


def fit(model, *callbacks, **arguments):
    settings = {"batch_size": 4, "epochs": 2, "verbose": 0}
    return model.fit(X, Y, **{**settings, **arguments}, callbacks=list(callbacks))


class Ranks(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.ranked = kf.rank_groups(self.model, X, Y, backbone=LAYERS, **self.settings).ranked(
                self.by
            )

    def __init__(self, by="relative_gradient_norm", **settings):
        super().__init__()
        self.by, self.settings = by, settings


SETTINGS = {
    "one": (1, {}),
    "two": (2, {}),
    "by noise": (1, {"by": "signal_to_noise", "batch_size": 4, "batches": 3}),
}


@pytest.mark.backend
@pytest.mark.at_commit("one")
@pytest.mark.parametrize(("k", "arguments"), SETTINGS.values(), ids=SETTINGS)
def test_what_trains_ranks_first_as_the_phase_begins(k, arguments):
    ranks, model = Ranks(**arguments), build()
    first = {name: kernel(model, name) for name in LAYERS}
    fit(model, ranks, scheduler(schedule(k, **arguments)))
    for name in LAYERS:
        has_moved = not np.array_equal(first[name], kernel(model, name))
        assert has_moved == (name in ranks.ranked[:k])
        assert model.get_layer(name).trainable == has_moved


def kernel(model, name):
    return keras.ops.convert_to_numpy(model.get_layer(name).kernel)


@pytest.mark.parametrize("names", [("low", "middle", "top"), ("one", "three", "head")])
def test_groups_are_those_of_the_callback(names):
    division = dict(zip(names, [["one", "two"], ["three"], ["head"]], strict=True))
    model = build()
    first = kf.rank_groups(model, X, Y, groups=division).ranked()[0]
    plan = FreezeSchedule([Phase(TopGradient(1, X, Y))])
    fit(model, scheduler(plan, groups=division), epochs=1)
    trains = [layer.name for layer in model.layers if layer.trainable]
    assert trains == [*division[first], "head"]


def test_gradients_are_computed_once_for_each_phase(monkeypatch):
    calls, own = [], top_gradient.rank_in
    monkeypatch.setattr(top_gradient, "rank_in", lambda *args: calls.append(1) or own(*args))
    fit(build(), scheduler(schedule()))
    assert len(calls) == 1


@pytest.mark.parametrize(
    "combine",
    [lambda top: top | FreezeLayers(["three"]), lambda top: ~~top & FreezeLayers(LAYERS)],
    ids=["either", "both"],
)
def test_gradients_are_computed_once_where_it_is_part_of_another(combine, monkeypatch):
    calls, own = [], top_gradient.rank_in
    monkeypatch.setattr(top_gradient, "rank_in", lambda *args: calls.append(1) or own(*args))
    plan = FreezeSchedule([Phase(LAYERS, until=1), Phase(combine(TopGradient(1, X, Y)))])
    callback = scheduler(plan)
    assert "decided as it begins" in str(callback.preview(build(), epochs=2))
    assert not calls
    fit(build(), callback)
    assert len(calls) == 1
    with pytest.raises(ValueError, match=r"initial_epoch=.*TopGradient.*BackupAndRestore"):
        fit(build(), scheduler(plan), initial_epoch=1)


def test_some_weights_of_what_does_not_rank_first():
    model = build()
    plan = FreezeSchedule([Phase(TopGradient(2, X, Y), weights="kernel")])
    ranked = kf.rank_groups(model, X, Y, backbone=LAYERS).ranked()
    with pytest.warns(
        UserWarning, match=r"flags of single variables [^.]*\.keras .* mixed up\. keras"
    ):
        fit(model, scheduler(plan), epochs=1)
    frozen = [v.path for v in model.weights if not v.trainable]
    assert [path.split("/")[-2:] for path in frozen] == [[ranked[-1], "kernel"]]


def test_a_phase_that_decides_late_can_not_be_prepared_for():
    with pytest.raises(ValueError, match=r"FreezeScheduler\(schedule=.*TopGradient.*keras_freeze"):
        scheduler(schedule()).prepare(build())


class OwnStep(keras.Sequential):
    def train_step(self, *args):
        return super().train_step(*args)


UNABLE = {
    "no targets": ({"y": None}, ValueError, r"y=\.\.\.\) must be given"),
    "a generator": ({"x": iter([(X, Y)]), "y": None}, TypeError, "read again"),
    "no data": ({"x": X[:0], "y": Y[:0]}, ValueError, "at least one batch"),
    "noise of one batch": ({"by": "signal_to_noise"}, ValueError, "at least two batches"),
    "noise of the first batch": (
        {"by": "signal_to_noise", "batch_size": 4, "batches": 1},
        ValueError,
        "at least two batches",
    ),
}


@pytest.mark.parametrize(("change", "error", "message"), UNABLE.values(), ids=UNABLE)
def test_what_can_not_be_ranked_is_refused_before_the_first_step(change, error, message):
    model = build()
    policy = TopGradient(**{"k": 1, "x": X, "y": Y, **change})
    with pytest.raises(error, match=message):
        fit(model, scheduler(FreezeSchedule([Phase(LAYERS, until=1), Phase(policy)])))
    assert model.optimizer.iterations == 0


def test_a_step_of_its_own_is_refused_before_the_first_step():
    model = build()
    own = OwnStep([keras.Input((6,)), *model.layers])
    own.compile("sgd", "mse")
    with pytest.raises(ValueError, match="train_step"):
        fit(own, scheduler(schedule()))
    assert own.optimizer.iterations == 0


@pytest.mark.parametrize(("kept", "able"), [("head", 3), (["head", "two"], 2)])
def test_k_counts_what_has_a_rank(kept, able):
    plans = [FreezeSchedule([Phase(TopGradient(k, X, Y))]) for k in (able, able + 1)]
    fit(build(), scheduler(plans[0], keep_frozen=kept))
    with pytest.raises(ValueError, match=rf"TopGradient\(k=\.\.\.\) must be at most {able}"):
        fit(build(), scheduler(plans[1], keep_frozen=kept))


def test_what_may_not_train_is_not_ranked():
    model = build()
    fit(model, scheduler(schedule(2), keep_frozen="two"))
    assert [name for name in LAYERS if model.get_layer(name).trainable] == ["one", "three"]


def test_more_groups_than_there_are():
    with pytest.raises(ValueError, match=r"TopGradient\(k=\.\.\.\) must be at most 3"):
        fit(build(), scheduler(schedule(4)))


def test_a_later_start_is_refused():
    with pytest.raises(ValueError, match=r"initial_epoch=.*TopGradient.*BackupAndRestore"):
        fit(build(), scheduler(schedule()), initial_epoch=1)


def test_outside_a_schedule_it_says_what_to_do():
    with pytest.raises(ValueError, match=r"must be in a phase of a schedule.*rank_groups\("):
        kf.freeze(build(), TopGradient(1, X, Y))


def test_a_file_can_not_hold_it(tmp_path):
    with pytest.raises(TypeError, match=r"decides by data.*TopGradient\(.*rank_groups"):
        schedule().to_yaml(tmp_path / "plan.yaml")


def test_it_is_a_value_with_its_data():
    policy = TopGradient(1, X, {"y": Y})
    assert policy == TopGradient(1, X.copy(), {"y": Y.copy()}) != TopGradient(1, X + 1, {"y": Y})
    assert hash(policy) == hash(TopGradient(1, X.copy(), {"y": Y}))
    assert policy != TopGradient(2, X, {"y": Y})
    assert policy != TopGradient(1, [X.tolist()], {"y": Y})
    assert copy.deepcopy(policy) is policy
    assert "array" not in repr(policy)
