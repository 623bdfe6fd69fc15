"""`PrefixCache`: compute frozen layers once, not in every epoch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from keras_freeze.base_callback import BaseCallback
from keras_freeze.checks import ArgumentError, ArgumentTypeError, is_int
from keras_freeze.prefix_cache import feature_library
from keras_freeze.prefix_cache.feature_store import Budget, RowStore
from keras_freeze.prefix_cache.planning import Options
from keras_freeze.prefix_cache.session import CacheRun
from keras_freeze.prefix_cache.summary import Statistics
from keras_freeze.prefix_cache.wrapped_steps import Installation

Mode = Literal["training", "inference"]


class PrefixCache(BaseCallback):
    """Compute the output of frozen layers once for each sample, and look it up afterwards.

    While the layers from the input up to a cut are frozen and deterministic, every epoch
    computes the same numbers again, in training and in validation. With this callback a fit
    gives the same results up to rounding in less time. Samples are recognized by their bytes, so
    data may be shuffled, batched and weighted in any way. Where no sample is repeated, as with
    random augmentation in the data, it is disabled in the second epoch.

    Functional and Sequential models are cut if their steps are Keras's own, or with
    `custom_step=True`; the loss and the metrics may be anybody's. The cached part ends at a layer
    that is not known to be deterministic, such as a custom one, or that is stochastic in training
    mode, such as a `Dropout`. If something else changes weights before the cut, this is detected
    before the next step (on a GPU, and on torch where they are written through `.data`: before the
    next epoch). Now and then, in 2 % of the time, samples are computed again and compared.

    Args:
        max_bytes: Int, the most bytes of memory to use; further features go to files that are
            mapped into memory. Defaults to a quarter of the free memory.
        directory: Folder for these files, which are removed when the fit ends. Defaults to the
            system's folder for temporary files.
        mode: `"training"` (default) does not change the training. `"inference"` calls frozen
            layers in inference mode, so that backbones with dropout inside can be cached. This
            changes the training: the frozen part has no dropout.
        custom_step: Bool, whether a `train_step`, `test_step` or `compute_loss` of the model's own
            is cut too. True is your word that they call the model on the batch as it came, with
            the model's own weights, and need no gradient of the input or of frozen weights.
            Defaults to False.
        views: Int, how many augmented views of each sample are kept where the first layers of the
            model are random, such as `RandomFlip`. The first visits of a sample are augmented
            anew, later ones use these views in turn, in an order that is drawn for each pass. This
            changes the training, which sees so many views instead of endlessly many. Where they
            don't fit into `max_bytes`, and there is no `directory`, there are fewer. Defaults to
            None: such a model is not cut.
        auto: Bool, whether to leave the model whole where a cut would not save time. Defaults to
            True.
        verbose: 0 or 1, whether to print what is cached or why nothing is, and a summary at the
            end. Defaults to 1.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is invalid; in `fit`, if `mode="inference"` can't be had, or if
            a step is seen to break the word that `custom_step=True` gives.

    Example:
        >>> import keras, numpy as np, keras_freeze as kf
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

    _epoch = 0
    _next_transition: int | None = None
    _run: CacheRun | None = None
    _installation: Installation | None = None

    def __init__(
        self,
        max_bytes: int | None = None,
        directory: str | os.PathLike[str] | None = None,
        *,
        mode: Mode = "training",
        custom_step: bool = False,
        views: int | None = None,
        auto: bool = True,
        verbose: int = 1,
    ):
        super().__init__()
        owner = "PrefixCache"
        if max_bytes is not None and not is_int(max_bytes):
            raise ArgumentTypeError(owner, "max_bytes", "be an int", value=max_bytes)
        if max_bytes is not None and max_bytes < 0:
            raise ArgumentError(owner, "max_bytes", "not be negative", value=max_bytes)
        for name, value in (("custom_step", custom_step), ("auto", auto)):
            if not isinstance(value, bool):
                raise ArgumentTypeError(owner, name, "be a bool", value=value)
        if directory is not None and not isinstance(directory, (str, os.PathLike)):
            raise ArgumentTypeError(owner, "directory", "be a path", value=directory)
        if views is not None and not is_int(views):
            raise ArgumentTypeError(owner, "views", "be an int", value=views)
        if views is not None and views < 1:
            raise ArgumentError(owner, "views", "be at least 1", value=views)
        if mode not in ("training", "inference"):
            raise ArgumentError(owner, "mode", 'be "training" or "inference"', value=mode)
        if views is not None and mode == "inference":
            raise ArgumentError(owner, "views", 'be None with mode="inference"', value=views)
        if verbose not in (0, 1):
            raise ArgumentError(owner, "verbose", "be 0 or 1", value=verbose)
        self.max_bytes = max_bytes
        self.directory = directory
        self.mode = mode
        self.custom_step = custom_step
        self.views = views
        self.auto = auto
        self.verbose = verbose
        self.statistics = Statistics()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Put the cache into the model's steps."""
        self._remove()
        self._next_transition = self.params["epochs"]
        budget = Budget(self.max_bytes)
        library = feature_library.present()
        if library is not None and not library.suits(self.max_bytes, self.directory):
            library = None
        options = Options(
            inference=self.mode == "inference",
            auto=self.auto,
            custom_step=self.custom_step,
            steps=self.params.get("steps"),
            epochs_left=self._epochs_left,
            views=self.views,
            max_bytes=self.max_bytes if self.directory is None else None,
            library=library,
        )
        run = CacheRun(self.model, options, lambda: RowStore(budget, self.directory), self._say)
        self._run, self.statistics = run, run.statistics
        if run.is_possible():
            self._installation = Installation(self.model, run)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record that samples should be repeated from now on."""
        self._epoch = epoch
        if self._run is not None:
            self._run.begin("train")

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Remove the cache from the model's steps, and print a summary."""
        if self._run is not None and self.statistics.hits:
            self._say(f"cache: {self.statistics}.")
        self._remove()

    def expect(self, epoch: int | None) -> None:
        """Set the epoch in which the model changes next, so that nothing is kept without use.

        Args:
            epoch: Int, 0-based; None if that is not known.
        """
        self._next_transition = epoch

    def _epochs_left(self) -> int | None:
        end = self.params.get("epochs")
        if self._next_transition is None:
            return None
        return min(end, self._next_transition) - self._epoch

    def _remove(self) -> None:
        if self._installation is not None:
            self._installation.remove()
        self._installation = self._run = None

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text)
