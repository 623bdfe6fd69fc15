"""Give a trial a prefix cache where its build function freezes, and no callback brings one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import keras

from keras_freeze.base_callback import BaseCallback
from keras_freeze.callbacks import FreezeScheduler
from keras_freeze.checks import ArgumentTypeError
from keras_freeze.keras_internals.callback_list import sibling_callbacks
from keras_freeze.prefix_cache import CacheDriver, PrefixCache


def trial_cache(owner: str, cache: Any) -> PrefixCache | None:
    """Return the cache that each trial copies, None for none, of what a user gave for it.

    Raises:
        TypeError: in the name of `owner`, if it is neither a bool nor a `PrefixCache`.
    """
    if isinstance(cache, PrefixCache):
        return cache
    if not isinstance(cache, bool):
        raise ArgumentTypeError(owner, "cache", "be a bool or a PrefixCache", value=cache)
    return PrefixCache(verbose=0) if cache else None


class TrialCache(BaseCallback):
    """Runs a `PrefixCache` along with a fit, unless one of its neighbours does.

    Args:
        settings: `PrefixCache`, which is copied.
    """

    _is_needed = False
    _cache: CacheDriver | None = None

    def __init__(self, settings: PrefixCache) -> None:
        super().__init__()
        self.settings = settings

    def set_model(self, model: keras.Model) -> None:
        """Store the model, and look for a cache among the other callbacks."""
        super().set_model(model)
        kinds = (FreezeScheduler, PrefixCache)
        self._is_needed = not any(isinstance(other, kinds) for other in sibling_callbacks(self))

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Put the cache into the model's steps."""
        self._cache = CacheDriver(copy.copy(self.settings) if self._is_needed else None, self)
        self._cache.begin()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Tell the cache that samples should be repeated."""
        if self._cache is not None:
            self._cache.begin_epoch(epoch)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Remove the cache from the model."""
        if self._cache is not None:
            self._cache.end()
        self._cache = None
