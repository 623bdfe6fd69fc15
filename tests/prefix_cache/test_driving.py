"""A cache that another callback drives does what it does by itself."""

import cached
import keras
import pytest
from cached import frozen, images

import keras_freeze as kf
from keras_freeze.prefix_cache import CacheDriver


class Drives(keras.callbacks.Callback):
    """Runs a cache along with a fit."""

    def __init__(self, cache, expected=None):
        super().__init__()
        self.cache, self.expected = cache, expected

    def on_train_begin(self, logs=None):
        self.driver = CacheDriver(self.cache, self)
        self.driver.begin()
        self.driver.expect(self.expected)

    def on_epoch_begin(self, epoch, logs=None):
        self.driver.begin_epoch(epoch)

    def on_train_end(self, logs=None):
        self.driver.end()
        self.driver.end()


@pytest.mark.backend
def test_a_driven_cache_serves_the_fit(batch_norm, capsys):
    cache, build = kf.PrefixCache(auto=False), frozen(batch_norm, 1)
    settings = {"epochs": 3}
    outcome = cached.fit(build, images(), Drives(cache), **settings)
    cached.assert_same(outcome, cached.fit(build, images(), Drives(None), **settings))
    assert (cache.statistics.misses, cache.statistics.hits) == (20, 40)
    assert capsys.readouterr().out.count("samples were looked up") == 1


def test_a_driven_cache_knows_when_the_model_changes_next(batch_norm, monkeypatch):
    monkeypatch.setattr("keras_freeze.prefix_cache.planning.MIN_WORK", 0)
    cache = kf.PrefixCache(verbose=0)
    settings = {"epochs": 2}
    cached.fit(frozen(batch_norm, 1), images(), Drives(cache, expected=1), **settings)
    assert cache.statistics.misses == 0  # in one epoch nothing is repeated
