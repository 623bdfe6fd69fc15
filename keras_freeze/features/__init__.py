"""Where features are kept: rows of arrays by a key, in memory, in files, and beyond a process.

A `store.RowStore` is one fit's, or one shelf of a `library.Library`, which lasts as long as the
trainings that share it; a `kept_library.KeptLibrary` is a folder for all processes of a host. Both
libraries have the same methods, and so have their stores.
"""

from keras_freeze.features.kept_database import (
    bytes_on_disk,
    network_file_system,
    remove_database,
)
from keras_freeze.features.kept_library import KeptFeatures, KeptLibrary, KeptStore, contents_of
from keras_freeze.features.library import Library, Shelf, present, shared
from keras_freeze.features.store import Budget, RowStore, Store

__all__ = [
    "Budget",
    "KeptFeatures",
    "KeptLibrary",
    "KeptStore",
    "Library",
    "RowStore",
    "Shelf",
    "Store",
    "bytes_on_disk",
    "contents_of",
    "network_file_system",
    "present",
    "remove_database",
    "shared",
]
