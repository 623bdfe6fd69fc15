"""A model is left whole where a cut is not possible or would not save time, and the user told."""

import cached
import keras
import pytest
from cached import frozen, images, vectors
from keras import layers

import keras_freeze as kf
from keras_freeze.cuts.frontier import Frontier
from keras_freeze.cuts.reasons import Reason
from keras_freeze.features import Library
from keras_freeze.prefix_cache import planning
from keras_freeze.prefix_cache.planning import Options, reason_against_step, search


def options(**changes):
    return Options(
        **{
            "inference": False,
            "auto": True,
            "custom_step": False,
            "steps": 3,
            "epochs_left": lambda: 2,
            **changes,
        }
    )


class TestSearch:
    @pytest.fixture
    def model(self):
        return frozen(cached.dense_stack, layers=["low", "middle"])()

    def test_too_little_work(self, model):
        no_cut = search(model, options())
        assert no_cut.reason is Reason.LITTLE_WORK
        assert no_cut.detail.startswith("the frozen part (up to middle) takes too little time")

    @pytest.mark.parametrize(
        ("work", "share", "is_enough"), [(55, 0, False), (0, 0.79, False), (54, 0.78, True)]
    )
    def test_work_and_share_have_to_be_enough(self, work, share, is_enough, model, monkeypatch):
        # 54 of 69 multiplications, which is 0.783 of them.
        monkeypatch.setattr(planning, "MIN_WORK", work)
        monkeypatch.setattr(planning, "MIN_SHARE", share)
        assert isinstance(search(model, options()), Frontier) == is_enough

    @pytest.mark.parametrize("changes", [{"auto": False}, {"inference": True}])
    def test_what_was_asked_for_is_done(self, changes, model):
        assert isinstance(search(model, options(epochs_left=lambda: 1, **changes)), Frontier)

    def test_a_phase_of_one_epoch_repeats_nothing(self, model, monkeypatch):
        monkeypatch.setattr(planning, "MIN_WORK", 0)
        short = {"epochs_left": lambda: 1}
        assert search(model, options(**short)).reason is Reason.SHORT_PHASE
        assert isinstance(search(model, options(**short, library=Library())), Frontier)


def test_what_is_not_known_to_be_deterministic_ends_the_prefix(capsys):
    def build():
        inputs = keras.Input((4,))
        x = layers.Dense(4, name="low")(cached.Custom(name="mine")(inputs))
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))

    cached.compare(
        frozen(build, layers=["low"]),
        vectors(),
        cache=kf.PrefixCache(auto=False),
        expect_hits=False,
    )
    said = "cache: not used: Custom 'mine' is not known to be deterministic.\n"
    assert capsys.readouterr().out == said


def test_what_is_too_small_is_left_alone(batch_norm, capsys):
    build, data = frozen(batch_norm, 1), images()
    cached.compare(
        build,
        data,
        cache=kf.PrefixCache(),
        expect_hits=False,
        plain="head of batch_norm",
        validate=True,
    )
    assert "takes too little time of a step" in capsys.readouterr().out


def test_what_is_not_cut_on_several_devices(mirrored, batch_norm):
    class Own(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    def reason(strategy, cls):
        with strategy.scope():
            model = batch_norm()
            model = cls(model.inputs, model.outputs, name="own")
            model.compile("sgd", "sparse_categorical_crossentropy")
        return reason_against_step(model, "train", custom_step=True)

    class OtherStrategy(type(mirrored)):
        pass

    assert reason(mirrored, keras.Model) is None
    own = reason(mirrored, Own)
    assert own.detail == "model 'own' has a train_step of its own, on several devices"
    other = reason(OtherStrategy(mirrored.extended.worker_devices), keras.Model)
    assert other.reason is Reason.UNSUPPORTED_STEP
    assert other.detail.startswith("OtherStrategy spreads the model")
