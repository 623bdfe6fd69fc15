"""Trials that freeze the same weights share what these compute; scores stay the same."""

import keras
import numpy as np
import pytest
from small_searches import X, Y, build, project

import keras_freeze as kf
from keras_freeze import tuning
from keras_freeze.prefix_cache.compiled_prefix import Prefix
from keras_freeze.tuning.trial_cache import TrialCache

rng = np.random.default_rng(0)


def test_a_cache_of_ones_own_has_its_limits_in_each_trial(tmp_path):
    model = build(traced=True)
    kf.freeze(model, groups=2)
    (tmp_path / "file").touch()
    limits = kf.PrefixCache(max_bytes=0, directory=tmp_path / "file", auto=False, verbose=0)
    with pytest.raises(ValueError, match=r"directory=.*must be a folder.*file"):
        model.fit(X, Y, epochs=2, verbose=0, callbacks=[TrialCache(limits)])


def test_scores_are_the_same_with_shared_features(batch_norm, tmp_path, monkeypatch):
    base = batch_norm()
    x = rng.normal(size=(20, *base.input_shape[1:])).astype("float32")
    y = rng.integers(0, 3, 20)

    def make(hp):
        model = keras.models.clone_model(base)
        model.set_weights(base.get_weights())
        rate = hp.Choice("rate", [0.1, 0.01])
        model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
        tuning.freeze_depth(hp, model, min=2)
        return model

    def scores(cache, name=""):
        keras.utils.set_random_seed(0)
        options = {
            "max_trials": 2,
            "seed": 0,
            "cache": cache,
            **project(tmp_path / (name or str(cache))),
        }
        tuner = tuning.RandomSearch(make, "val_loss", **options)
        data = {"validation_data": (x, y), "epochs": 2, "verbose": 0, "batch_size": 8}
        tuner.search(x, y, shuffle=False, **data)
        return {tuple(sorted(row["values"].items())): row["score"] for row in tuner.rows()}

    monkeypatch.setattr("keras_freeze.prefix_cache.planning.MIN_WORK", 0)
    monkeypatch.setattr("keras_freeze.prefix_cache.planning.MIN_SHARE", 0)
    adopted, adopt = [], Prefix.adopt
    monkeypatch.setattr(
        Prefix, "adopt", lambda self, *args: adopted.append(self) or adopt(self, *args)
    )
    shared = scores(True)
    assert len(shared) == 2
    assert adopted
    adopted.clear()
    (tmp_path / "features").mkdir()
    in_folder = kf.PrefixCache(directory=str(tmp_path / "features"), verbose=0)
    assert scores(in_folder, "in a folder") == shared
    assert adopted
    adopted.clear()
    assert shared == scores(False)
    assert not adopted


@pytest.mark.slow
def test_a_second_search_begins_with_the_features_of_the_first(batch_norm, tmp_path, monkeypatch):
    base = batch_norm()
    x = rng.normal(size=(20, *base.input_shape[1:])).astype("float32")
    y = rng.integers(0, 3, 20)

    def make(hp):
        model = keras.models.clone_model(base)
        model.set_weights(base.get_weights())
        model.compile("sgd", "sparse_categorical_crossentropy")
        tuning.freeze_depth(hp, model)
        return model

    computed, call = [], Prefix.__call__

    def counted(self, batch, features=()):
        computed.append(batch.rows)
        return call(self, batch, features)

    monkeypatch.setattr(Prefix, "__call__", counted)
    monkeypatch.setattr("keras_freeze.prefix_cache.planning.MIN_WORK", 0)
    monkeypatch.setattr("keras_freeze.prefix_cache.planning.MIN_SHARE", 0)
    monkeypatch.setattr("keras_freeze.prefix_cache.feature_lookup.AUDIT_SHARE", 0.0)
    rows = []
    for number in range(2):
        computed.clear()
        cache = kf.PrefixCache(directory=tmp_path / "features", keep=True, verbose=0)
        tuner = tuning.DepthSweep(make, "val_loss", cache=cache, **project(tmp_path / str(number)))
        data = {"validation_data": (x, y), "epochs": 2, "verbose": 0, "batch_size": 8}
        tuner.search(x, y, **data)
        rows.append(sum(computed))
    kept = kf.PrefixCache.contents(tmp_path / "features").shelves
    assert len(kept) > 2
    assert all(shelf.samples == 20 for shelf in kept)
    # The second computes what the first audit of each trial takes, and nothing else.
    assert rows[1] < rows[0] / 4
