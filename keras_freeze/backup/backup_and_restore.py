"""`BackupAndRestore`: training resumes after an interruption as if there had been none."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import xxhash

from keras_freeze.backup import callback_state
from keras_freeze.backup.archive import BackupFolder, read
from keras_freeze.backup.callback_state import Restorable
from keras_freeze.base_callback import BaseCallback
from keras_freeze.checks import ArgumentError, first_few
from keras_freeze.engine import snapshot
from keras_freeze.keras_internals import random_state, trainer
from keras_freeze.keras_internals.callback_list import move_to_end, sibling_callbacks
from keras_freeze.keras_internals.host_arrays import to_host
from keras_freeze.keras_internals.optimizers import learning_rate
from keras_freeze.keras_internals.processes import is_alike, is_first
from keras_freeze.model_picture import every_layer, is_built, own_optimizers

#: The form of the files, which changes when an older version can't be read any more.
FORMAT = 1

_LAMBDA = "__lambda__"  # the class of a function without a name, as Keras serializes it
# What a layer may hold that Keras keeps track of.
_TRACKED = (keras.Variable, keras.random.SeedGenerator, keras.metrics.Metric)
_IN_WORDS = {
    "model_config": "model (its settings)",
    "optimizer_config": "optimizer (its settings)",
    "steps_per_epoch": "number of steps in an epoch (batch_size=, or the data)",
}

# The numbers that Keras counts up from model to model in one process.
_COUNTED = re.compile(r"_\d+(?=/|\"|$)")


class BackupAndRestore(BaseCallback, keras.callbacks.BackupAndRestore):
    """Back up all state of a training at the end of each epoch; start again from there.

    Run the same script again after an interruption, a SIGKILL or a power cut: `fit` resumes
    with the epoch that had not ended, and ends with the weights, optimizer state and history
    of a run that was never interrupted, to the last bit on the TensorFlow CPU backend without
    a prefix cache (`cache=False`). That holds for data that depend only on the number of the
    epoch: `shuffle=False`, or a pipeline that is reseeded for each epoch.

    Beyond Keras's own callback it keeps the phase of a freeze schedule and what its trigger
    has counted, the flags of every layer and variable, BatchNormalization modes, group rates
    and step counts, the best epoch of the phase, the history so far, metrics that are not reset,
    and the random generators of the model, of Keras, NumPy, Python and torch. It keeps the counters
    of other callbacks too: of `EarlyStopping`, `ReduceLROnPlateau` and `ModelCheckpoint`, and of
    your own where they are plain data, variables or random generators. What can't be kept is named
    in a warning. It may stand anywhere in the list. Use one folder for each `fit` of a script.

    A backup is written whole or not at all. The last two are kept: if the last can't be read,
    the one before is used, with a warning. The files hold no code.

    Args:
        backup_dir: Str or path of the folder for the backups, on persistent storage.
        save_freq: `"epoch"`, the only value: in the middle of an epoch Keras can't resume the data
            iterator.
        double_checkpoint: Bool, as in Keras; two backups are always kept. Defaults to True.
        delete_checkpoint: Bool, whether to remove the backups when training has ended. Defaults
            to True.

    Raises:
        ValueError: if an argument is invalid; before the first epoch of a fit, if the folder can't
            be written to, if the model could not be restored, if the backups can't be read, or if
            they were made by another script: another model, loss, optimizer, schedule or division
            into groups.

    Example:
        >>> import numpy as np, tempfile, keras_freeze as kf
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x, y = np.ones((8, 4)), np.ones((8, 1))
        >>> backup = kf.BackupAndRestore(tempfile.mkdtemp())
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[backup])
        >>> len(history.history["loss"])
        2
    """

    #: Nothing is done between batches, so Keras need not wait for this callback there.
    async_safe = True
    rank_at_end = 2  # see `callback_list.move_to_end`
    _beside: Sequence[keras.callbacks.Callback] = ()
    _at_start: Sequence[dict[str, Any]] = ()
    _warned: frozenset[tuple[int, str]] = frozenset()

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str = "epoch",
        double_checkpoint: bool = True,
        delete_checkpoint: bool = True,
    ):
        if save_freq != "epoch":
            raise ArgumentError(
                "BackupAndRestore",
                "save_freq",
                'be "epoch"',
                value=save_freq,
                advice="In the middle of an epoch the data iterator can't be resumed.",
            )
        if "://" in str(backup_dir):
            raise ArgumentError(
                "BackupAndRestore",
                "backup_dir",
                "be a folder of a mounted file system, where a file can be replaced at once",
                value=backup_dir,
            )
        super().__init__(
            os.fspath(backup_dir) if backup_dir else "",
            save_freq,
            double_checkpoint,
            delete_checkpoint,
        )

    def set_model(self, model: keras.Model) -> None:
        """Store the model, and move behind the other callbacks to see what they have done."""
        super().set_model(model)
        move_to_end(self)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Restore the last backup, if there is one."""
        self._beside = sibling_callbacks(self)
        self._at_start = [callback_state.before(callback) for callback in self._beside]
        self._warned = frozenset()
        if not is_built(self.model):
            raise ValueError(
                "BackupAndRestore must get a built model. Received: "
                f"model={self.model.name!r}, which is not. Call it on one batch before fit."
            )
        self._warn_of_csv_loggers()
        self._check_optimizers()
        found = self._newest()
        if not is_alike(-1 if found is None else found[1].get("epoch", -1)):
            raise _wrong_folder(
                "be one folder for all processes that train the model",
                f"{self.backup_dir!r}, in which processes find other backups",
                "Put it on a file system that all of them share.",
            )
        if found is not None:
            self._restore(*found)
        self._check_that_it_can_be_kept()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Remove the traces of the restart, for later fits."""
        trainer.begin_fit_at(trainer.model_of(self), None)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Write a backup."""
        callbacks = {
            name: self._state_of(n) for n, name in enumerate(callback_state.names(self._beside))
        }
        state = {**self._state(epoch + 1), "callbacks": callbacks}  # for which all are needed
        if is_first():
            self._folder.write(epoch + 1, state)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Remove the backups, unless they are to be kept."""
        trainer.begin_fit_at(trainer.model_of(self), None)
        if self.delete_checkpoint and is_first():
            self._folder.clear()
        self._beside, self._at_start = (), ()

    def _state(self, epoch: int) -> dict[str, Any]:
        """Return the state of a training before an epoch, but for that of its callbacks."""
        model = self.model
        return {
            "format": FORMAT,
            "epoch": epoch,
            "epochs": self.params["epochs"],
            "stop_training": bool(model.stop_training),
            "script": self._script(),
            "model": snapshot.capture_all(model),
            "metrics": [to_host(v) for v in _metrics_variables(model)],
            "random": random_state.capture(),
        }

    def _check_optimizers(self) -> None:
        model = self.model
        own = own_optimizers(model)
        if model.optimizer is None or own:
            of_its_own = f"optimizers of its own ({', '.join(own)})" if own else "no optimizer"
            raise ArgumentError(
                "BackupAndRestore",
                "model",
                "train with the optimizer that it is compiled with, and no other: the state of "
                "others is in no file that could be restored",
                received=f"{model.name!r}, with {of_its_own}",
                advice="Keep checkpoints of such a model yourself.",
            )

    def _check_that_it_can_be_kept(self) -> None:
        """Raise before the first epoch, not after hours of training."""
        self._warn_of_lost_state()
        state = self._state(0)
        try:
            if is_first():
                self._folder.check(state)
        except OSError as error:
            raise ArgumentError(
                "BackupAndRestore",
                "backup_dir",
                "be a folder that can be written to, with space for two backups",
                received=f"{self.backup_dir!r}, where one can't be written: {error}",
            ) from error
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"BackupAndRestore can't keep model {self.model.name!r}, so it could not be "
                f"restored: {error} Leave the callback out, or keep checkpoints yourself."
            ) from error

    def _warn_of_lost_state(self) -> None:
        lost = [
            f"{layer.name}.{name} ({type(value).__name__})"
            for layer in every_layer(self.model)
            for name, value in vars(layer).items()
            if callback_state.has_state(value) and not isinstance(value, _TRACKED)
        ]
        if lost:
            warnings.warn(
                f"BackupAndRestore can't keep {first_few(lost)}: what is no Keras variable is as "
                "new on resume. Use a Keras variable (`self.add_weight`) or a "
                "keras.random.SeedGenerator.",
                stacklevel=2,
            )

    @property
    def _folder(self) -> BackupFolder:
        return BackupFolder(Path(self.backup_dir))

    def _newest(self) -> tuple[Path, Any] | None:
        files = self._folder.files()
        for path in files:
            try:
                return path, read(path)
            except ValueError as error:
                warnings.warn(
                    f"BackupAndRestore: backup {path.name} can't be used: {error}. "
                    "The one before it is tried.",
                    stacklevel=2,
                )
        if files:
            names = ", ".join(path.name for path in files)
            raise _wrong_folder(
                "hold a backup that can be read",
                f"backup_dir={self.backup_dir!r}, where {names} can't be",
                "Delete the folder to start over.",
            )
        return None

    def _warn_of_csv_loggers(self) -> None:
        for callback in self._beside:
            if isinstance(callback, keras.callbacks.CSVLogger) and not callback.append:
                warnings.warn(
                    f"BackupAndRestore: CSVLogger({callback.filename!r}) starts its file over when "
                    "the script is run again. Pass append=True to keep what it has logged.",
                    stacklevel=2,
                )

    def _restore(self, path: Path, state: Mapping[str, Any]) -> None:
        own = self._script()
        if state.get("format") != FORMAT:
            raise _wrong_folder(
                "hold backups of this version of keras_freeze",
                f"{path}, in format {state.get('format')} instead of {FORMAT}",
                "Resume with the version that wrote it, or delete the folder.",
            )
        for part, value in own.items():
            before = state["script"].get(part, value)  # earlier versions knew fewer parts
            if before != value:
                difference = _difference(before, value)
                raise _wrong_folder(
                    "hold backups of the same script",
                    f"{path}, made with another {_IN_WORDS.get(part, part)}: {difference}",
                    "Restore the script as it was, or delete the folder to start over.",
                )
        epochs = self.params["epochs"]
        before = max(state["epoch"], state.get("epochs", 0))
        if before > epochs:
            raise _wrong_folder(
                "hold backups of this fit",
                f"{path}, of a fit of {before} epochs, for one of {epochs}",
                "Give each fit of a script a folder of its own.",
            )
        pairs = self._pairs(path, state["callbacks"])
        for callback, kept in pairs:
            if isinstance(callback, Restorable):
                callback.check_training_state(kept)
        for callback, kept in pairs:
            if isinstance(callback, Restorable):
                callback.set_training_state(kept)
            else:
                callback_state.restore(callback, kept)
        curves = [getattr(callback, "present_curve", None) for callback in self._beside]
        curve = next((curve for curve in curves if curve is not None), None)
        compiled = learning_rate(self.model.optimizer)
        snapshot.restore_all(self.model, state["model"], curve)
        kept = learning_rate(self.model.optimizer)
        if kept != compiled and None not in (kept, compiled) and is_first():
            print(
                f"BackupAndRestore: the learning rate is {kept:.1e}, from the backup, not "
                f"{compiled:.1e} as compiled."
            )
        self._restore_metrics(state.get("metrics"))
        if "random" in state:  # earlier versions kept the model's own alone
            random_state.restore(state["random"])
        begin = epochs if state["stop_training"] else state["epoch"]
        trainer.begin_fit_at(self.model, begin)
        what = "training was complete" if begin == epochs else f"resuming with epoch {begin + 1}"
        if is_first():
            print(f"BackupAndRestore: {what}, from {path.name}.")

    def _restore_metrics(self, kept: Sequence[Any] | None) -> None:
        if kept is None:
            return
        variables = _metrics_variables(self.model)
        if [array.shape for array in kept] != [tuple(v.shape) for v in variables]:
            warnings.warn(
                "BackupAndRestore: the backup was made with other metrics. What they count over "
                "the whole training begins anew.",
                stacklevel=2,
            )
            return
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)

    def _pairs(
        self, path: Path, states: Mapping[str, Any]
    ) -> list[tuple[keras.callbacks.Callback, Any]]:
        """Return the callbacks that a backup has a state for, each with that."""
        own = dict(zip(callback_state.names(self._beside), self._beside, strict=True))
        needed = {name for name, callback in own.items() if isinstance(callback, Restorable)}
        needed |= {name for name, kept in states.items() if callback_state.IS_OWN in kept}
        for name in sorted(needed):
            if (name in own) != (name in states):
                where = "is new" if name in own else "is missing"
                raise _wrong_folder(
                    "hold backups of the same script",
                    f"{path}, but {name.partition('#')[0]} {where} in fit(callbacks=...)",
                    "Restore the script as it was, or delete the folder to start over.",
                )
        return [(own[name], kept) for name, kept in states.items() if name in own]

    def _script(self) -> dict[str, Any]:
        """Return what must be the same in the script that restores a backup."""
        model = self.model
        return {
            "model": [
                [_COUNTED.sub("", v.path), list(v.shape), str(v.dtype)] for v in model.weights
            ],
            "model_config": _config(model),
            "optimizer": type(model.optimizer).__name__,
            "optimizer_config": _config(model.optimizer),
            "loss": _loss(model),
            "steps_per_epoch": self.params.get("steps"),
        }

    def _state_of(self, number: int) -> dict[str, Any]:
        callback = self._beside[number]
        if isinstance(callback, Restorable):
            return {callback_state.IS_OWN: True, **callback.training_state()}
        kept, lost = callback_state.changed(callback, self._at_start[number])
        for name in lost:
            if (number, name) not in self._warned:
                self._warned |= {(number, name)}
                warnings.warn(
                    f"BackupAndRestore can't keep {name!r} of {type(callback).__name__}, which is "
                    "no plain data of its own: it is reset on resume. Give the callback methods "
                    "training_state, check_training_state and set_training_state to keep it.",
                    stacklevel=2,
                )
        return kept


def _metrics_variables(model: keras.Model) -> list[keras.Variable]:
    return [v for metric in trainer.lasting_metrics(model) for v in metric.variables]


def _wrong_folder(rule: str, received: str, advice: str) -> ArgumentError:
    return ArgumentError("BackupAndRestore", "backup_dir", rule, received=received, advice=advice)


def _config(of: Any) -> str | None:
    """Return a fingerprint of a model's or optimizer's settings, None if it can't be had."""
    try:
        config = _constant(of.get_config())
        text = json.dumps(config, sort_keys=True, default=keras.saving.serialize_keras_object)
    except Exception:  # a subclassed model or a callable need not have any
        return None
    return xxhash.xxh3_128_hexdigest(_COUNTED.sub("", text).encode())


def _loss(model: keras.Model) -> str | None:
    """Return a fingerprint of what a model was compiled to minimize, None if it can't be had."""
    try:
        config = model.get_compile_config()
        parts = {name: config[name] for name in ("loss", "loss_weights")}
        text = json.dumps(parts, sort_keys=True)
        return None if _LAMBDA in text else xxhash.xxh3_128_hexdigest(text.encode())
    except Exception:  # `compile` is the user's own, or the loss can't be serialized
        return None


def _constant(config: Any) -> Any:
    """Leave out what changes: learning rates, flags, torch modules with weights, places of code."""
    if isinstance(config, dict):
        if config.get("class_name") == _LAMBDA:  # with the line and the file that it stands in
            return _LAMBDA
        changing = ["learning_rate", "trainable"]
        changing += ["module"] if isinstance(config.get("module"), str) and "name" in config else []
        return {key: _constant(value) for key, value in config.items() if key not in changing}
    if isinstance(config, (list, tuple)):
        return [_constant(item) for item in config]
    return config


def _difference(before: Any, now: Any) -> str:
    if isinstance(before, list) and isinstance(now, list):
        gone = [item for item in before if item not in now]
        new = [item for item in now if item not in before]
        return f"{gone[:3]} then, {new[:3]} now" if gone or new else "in another order"
    return f"{before!r} then, {now!r} now"
