"""Give a trial a prefix cache where its build function freezes, and no callback brings one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import keras

from keras_freeze.callbacks.freeze_scheduler import FreezeScheduler
from keras_freeze.keras_internals.callback_list import sibling_callbacks
from keras_freeze.prefix_cache import PrefixCache


class TrialCache(keras.callbacks.Callback):
    """Runs a `PrefixCache` along with a fit, unless one of its neighbours does.

    Args:
        settings: `PrefixCache` of which it runs a copy.
    """

    def __init__(self, settings: PrefixCache) -> None:
        super().__init__()
        self._settings = settings
        self._cache: PrefixCache | None = None

    def set_model(self, model: keras.Model) -> None:
        """Take the model, and see what else stands in the list of callbacks."""
        super().set_model(model)
        kinds = (FreezeScheduler, PrefixCache)
        others = sibling_callbacks(self)
        is_needed = not any(isinstance(other, kinds) for other in others)
        self._cache = copy.copy(self._settings) if is_needed else None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Put the cache into the model's steps."""
        if self._cache is not None:
            self._cache.set_params(self.params)
            self._cache.set_model(self._model)
            self._cache.on_train_begin()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Take note that samples should come again."""
        if self._cache is not None:
            self._cache.on_epoch_begin(epoch)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Take the cache out of the model."""
        if self._cache is not None:
            self._cache.on_train_end()
            self._cache = None
