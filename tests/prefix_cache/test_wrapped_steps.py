"""The steps of a model are wrapped while a fit with a cache runs, and no longer."""

import cached
import keras
import numpy as np
import pytest
from cached import frozen, images, scale_kernel

import keras_freeze as kf
from keras_freeze.prefix_cache.session import CacheRun


def test_a_second_fit_and_a_fit_without(batch_norm):
    build, data = frozen(batch_norm, 1), images()
    outcomes = []
    for cache in (None, kf.PrefixCache(auto=False, verbose=0)):
        model = build()
        model.compile("adam", "sparse_categorical_crossentropy")
        callbacks = [cache] if cache else []
        settings = {"epochs": 2, "batch_size": 8, "verbose": 0, "shuffle": False}
        model.fit(*data, callbacks=callbacks, **settings)
        scale_kernel(model)
        model.fit(*data, callbacks=callbacks, **settings)
        model.fit(*data, **settings)
        evaluation = model.evaluate(*data, verbose=0)
        outcomes.append([*model.get_weights(), evaluation, model.predict(data[0], verbose=0)])
        assert not {"train_step", "make_train_function"} & set(vars(model))
    for a, b in zip(*outcomes, strict=True):
        if cached.BACKEND == "tensorflow":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)


@pytest.mark.slow
def test_training_on_a_batch_by_hand_within_a_fit(batch_norm):
    class ByHand(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if keras.backend.backend() == "tensorflow":
                x, y = images(rows=4)
                self.model.train_on_batch(x[::-1], y)
                self.model.evaluate(x * 2.0, y, verbose=0)

    cached.compare(frozen(batch_norm, 1), images(), ByHand)


def test_after_an_interrupted_fit_the_next_is_plain(batch_norm):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    model = frozen(batch_norm, 1)()
    model.compile("adam", "sparse_categorical_crossentropy")
    cache = kf.PrefixCache(auto=False, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*images(), verbose=0, callbacks=[cache, Stop()])
    model.fit(*images(), epochs=2, verbose=0)
    assert cache.statistics.hits == 0
    assert "make_train_function" not in vars(model)


def test_steps_that_stay_whole_are_asked_once_until_the_model_changes(batch_norm, monkeypatch):
    asked, wants = [], CacheRun.wants

    def noted(self, kind):
        asked.append(kind)
        return wants(self, kind)

    monkeypatch.setattr(CacheRun, "wants", noted)
    model = batch_norm()
    model.compile("adam", "sparse_categorical_crossentropy")
    cache = kf.PrefixCache(auto=False, verbose=0)
    schedule = kf.FreezeScheduler({0: None, 2: 1}, cache=cache, verbose=0)
    data, seen = images(), []

    class Counts(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(len(asked))

    settings = {"epochs": 4, "batch_size": 5, "verbose": 0}
    model.fit(*data, callbacks=[schedule, Counts()], **settings)
    assert seen == [1, 1, 1 + 4, 1 + 8]
    assert cache.statistics.hits == len(data[0])
