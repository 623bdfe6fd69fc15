"""Frozen layers are computed once: see `PrefixCache`."""

from keras_freeze.prefix_cache.callback import PrefixCache

__all__ = ["PrefixCache"]
