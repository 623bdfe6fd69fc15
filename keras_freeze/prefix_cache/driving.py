"""Run a cache along with the fit of another callback."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import keras

from keras_freeze.checks import ArgumentError
from keras_freeze.features import Library, present, shared
from keras_freeze.prefix_cache.callback import PrefixCache


def cache_for(
    owner: str,
    cache: bool | str | PrefixCache,
    siblings: Sequence[keras.callbacks.Callback],
    verbose: int,
) -> PrefixCache | None:
    """Return the cache that a schedule runs along with it, None if there is to be none.

    Raises:
        ValueError: if one is asked for, and another stands in the list of callbacks.
    """
    if any(isinstance(other, PrefixCache) for other in siblings):
        if isinstance(cache, PrefixCache) or cache is True:
            raise ArgumentError(
                owner,
                "cache",
                "be left out beside a PrefixCache in the list of callbacks",
                value=cache,
            )
        return None
    if isinstance(cache, PrefixCache):
        return cache
    return PrefixCache(auto=cache == "auto", verbose=verbose) if cache else None


class CacheDriver:
    """Runs a `PrefixCache` along with another callback's fit; with None it does nothing.

    Args:
        cache: `PrefixCache`, or None.
        callback: `keras.callbacks.Callback` whose fit it is.
        keeps_cuts: Bool, whether features are kept when the cut moves, for a fit that comes back to
            cuts it had before. Defaults to False.
    """

    def __init__(
        self,
        cache: PrefixCache | None,
        callback: keras.callbacks.Callback,
        *,
        keeps_cuts: bool = False,
    ) -> None:
        self._cache = cache
        self._callback = callback
        self._keeps_cuts = keeps_cuts
        self._library: Library | None = None

    def begin(self) -> None:
        """Put the cache into the model's steps, as training begins."""
        if self._cache is not None:
            self._cache.set_params(self._callback.params)
            self._cache.set_model(self._callback.model)
            if self._keeps_cuts and not self._cache.keep and present() is None:
                self._library = self._cache.new_library()
            with contextlib.nullcontext() if self._library is None else shared(self._library):
                self._cache.on_train_begin()

    def begin_epoch(self, epoch: int) -> None:
        """Do what the cache does as an epoch (0-based) begins."""
        if self._cache is not None:
            self._cache.on_epoch_begin(epoch)

    def expect(self, epoch: int | None) -> None:
        """Tell the cache in which epoch the model changes next; None if that is not known."""
        if self._cache is not None:
            self._cache.expect(epoch)

    def end(self) -> None:
        """Remove the cache from the model's steps; a second call does nothing."""
        if self._cache is not None:
            self._cache.on_train_end()
            self._cache = None
        if self._library is not None:
            self._library.clear()
            self._library = None
