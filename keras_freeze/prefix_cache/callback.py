"""`PrefixCache`: compute frozen layers once, not in every epoch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from keras_freeze.base_callback import BaseCallback
from keras_freeze.checks import ArgumentError, ArgumentTypeError, is_int
from keras_freeze.features import (
    KeptFeatures,
    KeptLibrary,
    Library,
    contents_of,
    network_file_system,
    present,
    remove_database,
    store_maker,
)
from keras_freeze.keras_internals.processes import is_first
from keras_freeze.prefix_cache.planning import Options
from keras_freeze.prefix_cache.replicas import is_spread
from keras_freeze.prefix_cache.session import CacheRun
from keras_freeze.prefix_cache.summary import Statistics
from keras_freeze.prefix_cache.wrapped_steps import Installation
from keras_freeze.reports import readable_bytes

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
    before the next step (with TensorFlow on a GPU, and on torch where they are written through
    `.data`: before the next epoch). Now and then, in 2 % of the time, samples are computed again
    and compared.

    Args:
        max_bytes: Int, the most bytes of memory to use; further features go to files that are
            mapped into memory. Defaults to a quarter of the free memory.
        directory: Folder for these files, made if it isn't there; they are removed when the fit
            ends. Defaults to the system's folder for temporary files.
        keep: Bool, whether features stay in `directory` for further fits, of this process and of
            others, on any model that begins with the same computation: the same frozen weights
            and operations, backend and versions. Several processes may use the folder at once;
            each row is computed by one of them. `max_bytes` is then that of the folder, a
            quarter of the free space by default; what has not been used longest makes room.
            A kept feature was computed in another batch, so its last bits may differ. Defaults to
            False.
        mode: `"training"` (default) does not change the training. `"inference"` calls frozen
            layers in inference mode, so that backbones with dropout inside can be cached. This
            changes the training: the frozen part has no dropout.
        custom_step: Bool, whether a `train_step`, `test_step` or `compute_loss` of the model's own
            is cut too. By True you state that they call the model on the batch as it came, with
            the model's own weights, and need no gradient of the input or of frozen weights.
            Defaults to False.
        views: Int, how many augmented views of each sample are kept where the first layers of the
            model are random, such as `RandomFlip`. The first visits of a sample are augmented
            anew, later ones use these views in turn, in an order that is drawn for each pass. This
            changes the training, which sees so many views instead of endlessly many. Where they
            don't fit into `max_bytes`, and no `directory` takes the rest (with `keep=True` it
            doesn't), there are fewer. Defaults to None: such a model is not cut.
        look_ahead: Int, batches whose features are computed together the first time, on
            TensorFlow: small batches then take less time, such as half for ResNet50 at 64 x 64 in
            batches of 32 on two cores. Batches are read that much earlier, and the last bits of
            features are those of the larger batch. Defaults to 1.
        on_device: Bool, whether features stay in the memory of the device that computes them, such
            as a GPU, up to `max_bytes`, which has to be given; further ones go to the host, and
            from there to `directory`. Not with `keep`, `views` or several devices. Defaults to
            False: the host keeps all of them, and those of a batch are copied to the device when
            they are needed.
        precision: `"bfloat16"` to compute the layers before the cut in it where they would be in
            float32, from the first that multiplies its input by weights on: what prepares inputs,
            such as `Rescaling`, stays. This changes the training: features have 8 significant bits
            instead of 24. They take half the memory (not on
            torch), and less time on hardware that multiplies bfloat16 faster; on other, more.
            Defaults to None, as the model computes.
        auto: Bool, whether to leave the model whole where a cut would not save time. Defaults to
            True.
        verbose: 0 or 1, whether to print what is cached or why nothing is, and a summary at the
            end. Defaults to 1.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is invalid; in `fit`, if `mode="inference"` can't be had, or if
            a step is seen to do otherwise than `custom_step=True` states.

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
    _own_library: Library | None = None

    def __init__(
        self,
        max_bytes: int | None = None,
        directory: str | os.PathLike[str] | None = None,
        *,
        keep: bool = False,
        mode: Mode = "training",
        custom_step: bool = False,
        views: int | None = None,
        look_ahead: int = 1,
        on_device: bool = False,
        precision: Literal["bfloat16"] | None = None,
        auto: bool = True,
        verbose: int = 1,
    ):
        super().__init__()
        owner = "PrefixCache"
        if max_bytes is not None and not is_int(max_bytes):
            raise ArgumentTypeError(owner, "max_bytes", "be an int", value=max_bytes)
        if max_bytes is not None and max_bytes < 0:
            raise ArgumentError(owner, "max_bytes", "not be negative", value=max_bytes)
        bools = {"keep": keep, "custom_step": custom_step, "on_device": on_device, "auto": auto}
        for name, value in bools.items():
            if not isinstance(value, bool):
                raise ArgumentTypeError(owner, name, "be a bool", value=value)
        if directory is not None and not isinstance(directory, (str, os.PathLike)):
            raise ArgumentTypeError(owner, "directory", "be a path", value=directory)
        if keep and directory is None:
            advice = "Pass a folder on a disk of this host."
            raise ArgumentError(owner, "directory", "be given with keep=True", advice=advice)
        if views is not None and not is_int(views):
            raise ArgumentTypeError(owner, "views", "be an int", value=views)
        if views is not None and views < 1:
            raise ArgumentError(owner, "views", "be at least 1", value=views)
        if not is_int(look_ahead):
            raise ArgumentTypeError(owner, "look_ahead", "be an int", value=look_ahead)
        if look_ahead < 1:
            raise ArgumentError(owner, "look_ahead", "be at least 1", value=look_ahead)
        if on_device and max_bytes is None:
            advice = "Pass the bytes of the device's memory that features may take."
            raise ArgumentError(owner, "max_bytes", "be given with on_device=True", advice=advice)
        for name, given in {"keep": keep or None, "views": views}.items():
            if on_device and given is not None:
                raise ArgumentError(owner, name, "be left out with on_device=True", value=given)
        if precision not in (None, "bfloat16"):
            raise ArgumentError(owner, "precision", 'be None or "bfloat16"', value=precision)
        if mode not in ("training", "inference"):
            raise ArgumentError(owner, "mode", 'be "training" or "inference"', value=mode)
        if views is not None and mode == "inference":
            raise ArgumentError(owner, "views", 'be None with mode="inference"', value=views)
        if verbose not in (0, 1):
            raise ArgumentError(owner, "verbose", "be 0 or 1", value=verbose)
        self.max_bytes = max_bytes
        self.directory = directory
        self.keep = keep
        self.mode = mode
        self.custom_step = custom_step
        self.views = views
        self.look_ahead = look_ahead
        self.on_device = on_device
        self.precision = precision
        self.auto = auto
        self.verbose = verbose
        self.statistics = Statistics()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Put the cache into the model's steps."""
        self._remove()
        self._next_transition = self.params["epochs"]
        if self._folder is not None:
            with _explained("", self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
        if self.on_device and is_spread(self.model):
            raise ArgumentError(
                "PrefixCache",
                "on_device",
                "be False where the model is spread over devices",
                value=self.on_device,
                advice="Leave it out: features stay on the host, once for all devices.",
            )
        max_bytes = 0 if self.keep else self.max_bytes
        options = Options(
            inference=self.mode == "inference",
            auto=self.auto,
            custom_step=self.custom_step,
            steps=self.params.get("steps"),
            epochs_left=self._epochs_left,
            views=self.views,
            max_bytes=self.max_bytes if self.keep or self.directory is None else None,
            library=self._library(),
            look_ahead=self.look_ahead,
            lowers=self.precision is not None,
        )
        new_store = store_maker(max_bytes, self._folder, self.on_device)
        run = CacheRun(self.model, options, new_store, self._say)
        self._run, self.statistics = run, run.statistics
        if run.is_possible():
            self._installation = Installation(self.model, run)

    def new_library(self) -> Library:
        """Return what trainings share that have these settings, such as the trials of a search.

        Raises:
            ValueError: if features are to be kept in a folder where they can't be.
        """
        if self.keep and self._folder is not None:
            return _kept_library(self._folder, self.max_bytes)
        return Library(self.max_bytes, self._folder, on_device=self.on_device)

    @property
    def _folder(self) -> Path | None:
        return None if self.directory is None else Path(self.directory).expanduser()

    def _library(self) -> Library | None:
        library = present()
        if library is not None and library.suits(self.max_bytes, self._folder, self.on_device):
            return library
        self._own_library = self.new_library() if self.keep else None
        return self._own_library

    @staticmethod
    def contents(directory: str | os.PathLike[str]) -> KeptFeatures:
        """Return what `keep=True` keeps in a folder, as a table.

        Args:
            directory: The folder.

        Returns:
            `KeptFeatures`: `print` shows it, and its `shelves` are data.

        Raises:
            ValueError: if the folder can't be read.
        """
        with _explained("contents", directory):
            return contents_of(directory)

    @staticmethod
    def clear(directory: str | os.PathLike[str]) -> None:
        """Remove what `keep=True` keeps in a folder, and nothing else there.

        Args:
            directory: The folder. One without kept features is left as it is.

        Raises:
            ValueError: if the folder can't be written.
        """
        with _explained("clear", directory):
            remove_database(directory)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record that an epoch begins."""
        self._epoch = epoch
        if self._run is not None:
            self._run.begin("train")

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Remove the cache from the model's steps, and print a summary."""
        if self._run is not None and self.statistics.hits:
            self._say(f"cache: {self._summary()}.")
        self._remove()

    @property
    def state(self) -> str:
        """What is cached at present in a fit, and how much was looked up; "" before the first."""
        run = self._run
        present = "" if run is None else run.describe()
        done = str(self.statistics) if self.statistics.hits else ""
        return "; ".join(text for text in (present, done) if text)

    def _summary(self) -> str:
        """Return what was done; with `keep=True` also what the folder holds now."""
        if self._own_library is not None and self._folder is not None:
            with contextlib.suppress(OSError):
                shelves = contents_of(self._folder).shelves
                size = readable_bytes(sum(shelf.nbytes for shelf in shelves))
                return self.statistics.text(f"{size} in {self.directory}")
        return str(self.statistics)

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
        if self._own_library is not None:
            self._own_library.clear()
        self._installation = self._run = self._own_library = None

    def _say(self, text: str) -> None:
        if self.verbose and is_first():
            print(text)


def _kept_library(directory: str | os.PathLike[str], max_bytes: int | None) -> Library:
    network = network_file_system(directory)
    if network is not None:
        raise ArgumentError(
            "PrefixCache",
            "directory",
            "be on a disk of this host with keep=True, since several hosts can't map a file of a "
            "network at once",
            received=f"{os.fspath(directory)!r}, on {network}",
            advice="Give each host a folder on a disk of its own, such as its temporary folder.",
        )
    with _explained("", directory):
        return KeptLibrary(directory, max_bytes)


@contextlib.contextmanager
def _explained(method: str, directory: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArgumentError(
            f"PrefixCache.{method}" if method else "PrefixCache",
            "directory",
            "be a folder that can be read and written, with space for features",
            received=f"{os.fspath(directory)!r}, where that is not so: {error}",
        ) from error
