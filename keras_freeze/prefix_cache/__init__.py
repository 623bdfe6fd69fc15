"""Frozen layers are computed once: see `PrefixCache`."""

from keras_freeze.prefix_cache.callback import PrefixCache
from keras_freeze.prefix_cache.driving import CacheDriver

__all__ = ["CacheDriver", "PrefixCache"]
