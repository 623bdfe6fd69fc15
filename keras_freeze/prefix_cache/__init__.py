"""The prefix cache: the output of frozen layers is computed once for each sample of a fit.

`PrefixCache` is the callback, and `CacheDriver` runs one along with another callback's fit:
the one that `cache_for` says.
"""

from keras_freeze.prefix_cache.callback import PrefixCache
from keras_freeze.prefix_cache.driving import CacheDriver, cache_for

__all__ = ["CacheDriver", "PrefixCache", "cache_for"]
