"""The prefix cache: the output of frozen layers is computed once for each sample of a fit.

`PrefixCache` is the callback, and `CacheDriver` runs one along with another callback's fit.
Trainings inside `shared(Library())`, such as the trials of a search, use each other's features.
"""

from keras_freeze.prefix_cache.callback import PrefixCache
from keras_freeze.prefix_cache.driving import CacheDriver
from keras_freeze.prefix_cache.feature_library import Library, shared

__all__ = ["CacheDriver", "Library", "PrefixCache", "shared"]
