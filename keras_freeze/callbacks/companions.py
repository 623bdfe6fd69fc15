"""What a schedule asks of the callbacks that stand beside it in `fit`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import keras

from keras_freeze.backup.backup_and_restore import BackupAndRestore
from keras_freeze.callbacks.schedule_run import Run
from keras_freeze.prefix_cache import PrefixCache


def refuse_stock_backup(owner: str, siblings: Iterable[Any]) -> None:
    """Raise a `ValueError` if Keras's own `BackupAndRestore` stands beside a schedule."""
    for other in siblings:
        stock = keras.callbacks.BackupAndRestore
        if isinstance(other, stock) and not isinstance(other, BackupAndRestore):
            raise ValueError(
                f"fit(callbacks=...) must not hold keras.callbacks.BackupAndRestore beside "
                f"{owner}. Received: {type(other).__name__}"
                f"({str(other.backup_dir)!r}), which loads the optimizer before the flags are set "
                "and knows no phases. Use keras_freeze.BackupAndRestore with the same arguments."
            )


def warn_of_early_stopping(owner: str, run: Run, siblings: Iterable[Any]) -> None:
    """Warn if an `EarlyStopping` may end training before the last phase begins."""
    reached = [m.epoch for m in run.moments() if m is not None and m.epoch < run.epochs]
    for callback in siblings:
        if isinstance(callback, keras.callbacks.EarlyStopping) and reached:
            watched_from = max(callback.start_from_epoch, run.epoch)
            earliest = watched_from + max(callback.patience, 1)
            if earliest < reached[-1]:
                warnings.warn(
                    f"EarlyStopping may end training at epoch {earliest}, before the last "
                    f"phase of {owner} begins at epoch {reached[-1]}. Pass "
                    f"start_from_epoch={reached[-1]} to EarlyStopping to let it begin.",
                    stacklevel=2,
                )


def cache_for(
    owner: str, cache: bool | str | PrefixCache, siblings: Iterable[Any], verbose: int
) -> PrefixCache | None:
    """Return the cache that a schedule runs along with it, None if there is to be none.

    Raises:
        ValueError: if one is asked for, and another stands in the list of callbacks.
    """
    if any(isinstance(other, PrefixCache) for other in siblings):
        if isinstance(cache, PrefixCache) or cache is True:
            raise ValueError(
                f"{owner}(cache=...) must be left out beside a PrefixCache in the list of "
                f"callbacks. Received: cache={cache!r}."
            )
        return None
    if isinstance(cache, PrefixCache):
        return cache
    return PrefixCache(auto=cache == "auto", verbose=verbose) if cache else None
