"""Where features are kept: rows of arrays by a key, in memory, in files, and beyond a process.

A `store.RowStore` is one fit's, or one shelf of a `library.Library`, which lasts as long as the
trainings that share it; a `device_store.DeviceStore` in its place keeps tensors on a GPU. A
`kept_library.KeptLibrary` is a folder for all processes of a host. Both libraries have the same
methods, and so have all stores.
"""

from keras_freeze.features.device_store import DeviceStore
from keras_freeze.features.kept_database import (
    bytes_on_disk,
    network_file_system,
    remove_database,
)
from keras_freeze.features.kept_library import KeptFeatures, KeptLibrary, KeptStore, contents_of
from keras_freeze.features.library import Library, Shelf, present, shared, store_maker
from keras_freeze.features.store import Budget, RowStore, Store

__all__ = [
    "Budget",
    "DeviceStore",
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
    "store_maker",
]
