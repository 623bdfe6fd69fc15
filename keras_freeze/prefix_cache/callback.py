"""`PrefixCache`: compute frozen layers once, not in every epoch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import keras

from keras_freeze.checks import call_of, is_int
from keras_freeze.prefix_cache import feature_library, lines
from keras_freeze.prefix_cache.feature_store import Budget, RowStore
from keras_freeze.prefix_cache.session import CacheRun
from keras_freeze.prefix_cache.statistics import Statistics
from keras_freeze.prefix_cache.wrapped_steps import Installation

Mode = Literal["training", "inference"]


class PrefixCache(keras.callbacks.Callback):
    """Compute the output of frozen layers once for each sample, and look it up afterwards.

    While the layers from the input up to a cut are frozen and deterministic, every epoch
    computes the same numbers again, in training and in validation. With this callback a fit
    gives the same results in less time. Samples are told apart by their bytes, so data may be
    shuffled, batched and weighted as you like; only random augmentation makes it useless, which
    is noticed in the second epoch.

    A layer that can't be judged, such as a custom one, and one that acts at random while it
    trains, such as a `Dropout`, end the part that is cached. Weights before the cut that are
    changed by something else are noticed before the next step (on a GPU, and on torch where they
    are written through `.data`: before the next epoch); and in each epoch some samples are
    computed again and compared.

    Args:
        max_bytes: Int, the most bytes of memory to use; further features go to files that are
            mapped into memory. Defaults to a quarter of the memory that is free.
        directory: Folder for these files, which are gone when the fit ends. Defaults to the
            system's folder for temporary files.
        mode: `"training"` (default) leaves what is trained as it is. `"inference"` calls frozen
            layers as at inference, so that backbones with dropout inside can be cached. This
            changes the training: nothing is dropped in the frozen part.
        auto: Bool, whether to leave the model alone where caching would not pay. Defaults to
            True.
        verbose: 0 or 1, whether to print a line when a cut is made and one at the end. Defaults
            to 1.

    Raises:
        TypeError: if `max_bytes` is not an int.
        ValueError: if an argument is invalid; in `fit`, if the frozen layers can't be run as at
            inference where that was asked for.

    Example:
        >>> import numpy as np, keras_freeze as kf
        >>> model = keras.Sequential(
        ...     [keras.Input((9,)), keras.layers.Dense(8, name="low"), keras.layers.Dense(1)]
        ... )
        >>> model.compile("sgd", "mse")
        >>> change = kf.freeze(model, layers=["low"])
        >>> x, y = np.ones((8, 9), "float32"), np.ones((8, 1))
        >>> history = model.fit(x, y, epochs=3, verbose=0, callbacks=[PrefixCache(auto=False)])
        ... # doctest: +ELLIPSIS
        cache: up to 8 samples at low, 256.00 B; skips 90 % of the forward pass.
        cache: 67 % of 24 samples were looked up; at most 32.00 B kept...

    Reference:
        - [Liu et al., 2021](https://arxiv.org/abs/2102.01386): AutoFreeze, which caches the
          activations of frozen layers.
    """

    def __init__(
        self,
        max_bytes: int | None = None,
        directory: str | os.PathLike[str] | None = None,
        *,
        mode: Mode = "training",
        auto: bool = True,
        verbose: int = 1,
    ):
        super().__init__()
        if max_bytes is not None and not is_int(max_bytes):
            raise TypeError(
                f"PrefixCache(max_bytes=...) must be an int. Received: max_bytes={max_bytes!r}."
            )
        if max_bytes is not None and max_bytes < 0:
            raise ValueError(
                f"PrefixCache(max_bytes=...) must not be negative. Received: max_bytes={max_bytes}."
            )
        if mode not in ("training", "inference"):
            raise ValueError(
                f'PrefixCache(mode=...) must be "training" or "inference". Received: mode={mode!r}.'
            )
        if verbose not in (0, 1):
            raise ValueError(
                f"PrefixCache(verbose=...) must be 0 or 1. Received: verbose={verbose!r}."
            )
        self.max_bytes = max_bytes
        self.directory = directory
        self.mode = mode
        self.auto = auto
        self.verbose = verbose
        self.statistics = Statistics()
        self._epoch = 0
        self._next_transition: int | None = None
        self._run: CacheRun | None = None
        self._installation: Installation | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Put the cache into the model's steps."""
        self._remove()
        self._next_transition = self.params["epochs"]
        budget = Budget(self.max_bytes)
        shared = feature_library.present()
        if shared is not None and not shared.suits(self.max_bytes, self.directory):
            shared = None
        self._run = CacheRun(
            self.model,
            inference=self.mode == "inference",
            auto=self.auto,
            new_store=lambda: RowStore(budget, self.directory),
            steps=self.params.get("steps"),
            epochs_left=self._epochs_left,
            say=self._say,
            library=shared,
        )
        self.statistics = self._run.statistics
        if self._run.is_possible():
            self._installation = Installation(self.model, self._run)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Take note that samples should come again."""
        self._epoch = epoch
        if self._run is not None:
            self._run.begin("train")

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Take the cache out of the model, and say what it gave."""
        if self._run is not None and self.statistics.hits:
            self._say(lines.of_fit(self.statistics))
        self._remove()

    def expect(self, epoch: int | None) -> None:
        """Take note when the model will change next, so that nothing is kept in vain.

        Args:
            epoch: Int, 0-based; None if that is not known.
        """
        self._next_transition = epoch

    def _epochs_left(self) -> int | None:
        end = self.params.get("epochs")
        return (
            None if self._next_transition is None else min(end, self._next_transition) - self._epoch
        )

    def _remove(self) -> None:
        if self._installation is not None:
            self._installation.remove()
        self._installation = self._run = None

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text)

    def __repr__(self) -> str:
        return call_of(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model and the running fit out of copies: they belong to the original."""
        return {**vars(self), "_model": None, "_run": None, "_installation": None, "params": None}
