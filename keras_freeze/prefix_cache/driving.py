"""Run a prefix cache along with another callback's fit."""

from __future__ import annotations

import keras

from keras_freeze.prefix_cache.callback import PrefixCache


class CacheDriver:
    """A `PrefixCache` that another callback runs; with None it does nothing.

    Args:
        cache: `PrefixCache`, or None.
        callback: The callback, in a fit that begins.
    """

    def __init__(self, cache: PrefixCache | None, callback: keras.callbacks.Callback) -> None:
        self._cache = cache
        if cache is not None:
            cache.set_params(callback.params)
            cache.set_model(callback.model)
            cache.on_train_begin()

    def begin_epoch(self, epoch: int) -> None:
        """Tell the cache that an epoch (0-based) begins."""
        if self._cache is not None:
            self._cache.on_epoch_begin(epoch)

    def expect(self, epoch: int | None) -> None:
        """Tell the cache before which epoch the model changes next; None where that isn't known."""
        if self._cache is not None:
            self._cache.expect(epoch)

    def end(self) -> None:
        """Take the cache out of the model."""
        if self._cache is not None:
            self._cache.on_train_end()
