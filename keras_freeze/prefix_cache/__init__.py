"""The prefix cache: the output of frozen layers is computed once for each sample of a fit.

`PrefixCache` is the callback, and `CacheDriver` runs one along with another callback's fit.
"""

from keras_freeze.prefix_cache.callback import PrefixCache
from keras_freeze.prefix_cache.driving import CacheDriver

__all__ = ["CacheDriver", "PrefixCache"]
