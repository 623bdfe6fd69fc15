"""What every tuner of this package does with a trial."""

from __future__ import annotations

import contextlib
import json
import math
import os
import traceback
import warnings
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import keras_tuner
from keras_tuner.src.engine import base_tuner, tuner_utils

from keras_freeze.backup import archive
from keras_freeze.callbacks.freeze_scheduler import FreezeScheduler
from keras_freeze.engine import snapshot
from keras_freeze.prefix_cache import PrefixCache
from keras_freeze.prefix_cache.feature_library import Library, shared
from keras_freeze.tuning import memory, results, trial_record
from keras_freeze.tuning.files import replacing
from keras_freeze.tuning.fresh_weights import FreshWeights
from keras_freeze.tuning.recorder import BestState, Recorder
from keras_freeze.tuning.trial_cache import TrialCache
from keras_freeze.tuning.trial_record import FAILED, TrialRecord

BEST = "best.npz"
END = "end_{}.npz"  # of each execution
_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "unable to allocate",
    "resource_exhausted",
    "resourceexhausted",
    "oom when",
)
# So often the process may be killed in a trial before that is taken to be the trial's fault.
MOST_KILLED = 3


class FreezeTuner(keras_tuner.Tuner):
    """A tuner that begins each trial with fresh weights and writes down what trained when.

    Args:
        oracle: `keras_tuner.Oracle`.
        hypermodel: As for `keras_tuner.Tuner`.
        cache: Bool, whether trials share the outputs of layers that they freeze at the same
            weights, and compute each once; or a `PrefixCache`, of which each trial gets a copy
            and all have the limits (`max_bytes`, `directory`). Unless it has `mode="inference"`,
            the results are the same. Defaults to True.
        settings: Mapping of what else must be the same for a search that goes on.
        overwrite: As for `keras_tuner.Tuner`; refused on a worker.
        **kwargs: As for `keras_tuner.Tuner`.

    Raises:
        ValueError: if a worker is told to overwrite, which would delete the others' files; if the
            folder holds another search: of another kind, model or objective.
    """

    #: Int, the epochs of the whole training where a trial may be a part of it.
    total_epochs: int | None = None

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        hypermodel: Any = None,
        *,
        cache: bool | PrefixCache = True,
        settings: Mapping[str, Any] = MappingProxyType({}),
        overwrite: bool = False,
        **kwargs: Any,
    ) -> None:
        if overwrite and self.is_worker:
            raise ValueError(
                f"{type(self).__name__}(overwrite=...) must not be True on a worker. Received: "
                f"overwrite=True in {os.environ['KERASTUNER_TUNER_ID']!r}, which would delete what "
                "the chief and the other workers have written. Pass it on the chief alone, or "
                "delete the folder first."
            )
        self._fresh = FreshWeights()
        self._built: weakref.WeakSet[keras.Model] = weakref.WeakSet()
        self._most_parameters: int | None = kwargs.pop("max_model_size", None)
        self._cache = cache
        self._limits = cache if isinstance(cache, PrefixCache) else PrefixCache(verbose=0)
        #: What trials share in a search.
        self.library = Library(self._limits.max_bytes, self._limits.directory)
        #: Int, the training of the present trial, where it has several.
        self.execution = 0
        #: What the search is about, which must be the same where it goes on.
        self.about = {
            "search": type(oracle).__name__.removesuffix("Oracle"),
            "objective": oracle.objective.name,
            "direction": oracle.objective.direction,
            "executions_per_trial": str(kwargs.get("executions_per_trial", 1)),
            **{name: str(value) for name, value in settings.items()},
        }
        folder = Path(kwargs.get("directory") or ".")
        folder /= kwargs.get("project_name") or "untitled_project"  # as KerasTuner has it
        if not overwrite:
            self._refuse_another_search(folder)
        with _as_on_this_stack():
            super().__init__(oracle, hypermodel, overwrite=overwrite, **kwargs)
        self._refuse_another_search(folder)
        with replacing(Path(self.project_dir) / results.FILE) as file:
            Path(file).write_text(json.dumps(self.about))

    @property
    def is_worker(self) -> bool:
        """Bool, whether this process trains for a chief elsewhere."""
        return bool(self._is_worker())

    def _refuse_another_search(self, folder: Path) -> None:
        """Refuse to go on with another search, whose trials would be taken for those of this."""
        present = results.about(folder) if (folder / results.FILE).exists() else self.about
        for name, value in self.about.items():
            if present.get(name) != value:
                raise ValueError(
                    f"{type(self).__name__}(project_name=...) must name a folder without another "
                    f"search. Received: {str(folder)!r}, which holds one with {name} "
                    f"{present.get(name)} instead of {value}. Pass another project_name=, or "
                    "overwrite=True to delete what it holds."
                )

    def _populate_initial_space(self) -> None:
        super()._populate_initial_space()
        self._describe_model()

    def save(self) -> None:
        """Write the tuner's and the oracle's state, each whole or not at all."""
        if not self.is_worker:
            self.oracle.save()
        with replacing(self._get_tuner_fname()) as file:
            super(base_tuner.BaseTuner, self).save(file)

    def reload(self) -> None:
        """Take up the state of a search, and see what its build function asks for."""
        super().reload()
        self._describe_model()

    def _describe_model(self) -> None:
        model = self.hypermodel.build(self.oracle.get_space()) if self.hypermodel else None
        if isinstance(model, keras.Model):  # KerasTuner refuses anything else later
            self._built.add(model)
            self._fresh.begin(model)  # what later builds have in common with it is put back
            count = sum(math.prod(variable.shape) for variable in model.weights)
            self.about["model"] = f"{len(model.weights)} weights, {count:,} numbers"

    # The trial.

    def on_trial_begin(self, trial: Any) -> None:
        """Begin a trial; from now on a search that is killed goes on where it was."""
        super().on_trial_begin(trial)
        self.save()

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Search, as `keras_tuner.Tuner.search`: the arguments are those of `fit`.

        Raises:
            RuntimeError: if every trial has failed, or too many have in a row.
            keras_tuner.errors.FatalValueError: if the search can't go on, such as for an
                objective that is not logged.
        """
        sharing = shared(self.library) if self._cache else contextlib.nullcontext()
        try:
            with _as_on_this_stack(), sharing:
                super().search(*fit_args, **fit_kwargs)
        finally:
            self.library.clear()
        found = self.rows()
        if found and not self.is_worker and all(row["status"] == FAILED for row in found):
            raise RuntimeError(self._why_nothing_is_there(found))

    def _why_nothing_is_there(self, found: list[dict[str, Any]]) -> str:
        failures = [failure for row in found for failure in row["failures"]]
        last = f" The last failure: {failures[-1]}" if failures else ""
        return (
            f"{type(self).__name__}: of {len(found)} trials in {str(self.project_dir)!r} none is "
            f"complete. Pass overwrite=True to try all of them again.{last}"
        )

    def run_trial(self, trial: Any, *fit_args: Any, **fit_kwargs: Any) -> list[Any]:
        """Train the model of a trial, once or several times, and write down what happened.

        Args:
            trial: `keras_tuner.engine.trial.Trial`.
            *fit_args: Of `fit`.
            **fit_kwargs: Of `fit`.

        Returns:
            List of what `HyperModel.fit` returned.

        Raises:
            keras_tuner.errors.FailedTrialError: if there is not enough memory, which another
                attempt would not have either.
        """
        folder = Path(self.get_trial_dir(trial.trial_id))
        record = self._begun(trial, folder)
        best = BestState()
        try:
            if record.killed >= MOST_KILLED:
                raise keras_tuner.errors.FailedTrialError(
                    f"The process has been killed {record.killed} times in this trial. It may "
                    "take more memory than there is."
                )
            with memory.let_go():
                returned = self._train(trial, record, best, folder, fit_args, fit_kwargs)
            ends = {END.format(n): state for n, state in enumerate(best.ends)}
            for name, state in {BEST: best.state, **ends}.items():
                (folder / name).unlink(missing_ok=True)  # of an earlier attempt
                if state is not None:
                    with replacing(folder / name) as unfinished, open(unfinished, "wb") as file:
                        archive.write(file, state)
            self._note_what_is_returned(trial, record, returned)
        except Exception as error:
            record.failures.append("".join(traceback.format_exception_only(error)).strip())
            record.is_running = False
            record.save(folder)
            signs = (sign in str(error).lower() for sign in _OUT_OF_MEMORY)
            if isinstance(error, MemoryError) or any(signs):
                raise keras_tuner.errors.FailedTrialError(str(error)) from error
            raise
        except BaseException:  # an interrupt, which is not the trial's fault
            record.is_running = False
            record.save(folder)
            raise
        record.is_running = False
        record.save(folder)
        return returned

    def _begun(self, trial: Any, folder: Path) -> TrialRecord:
        """Return the record of an attempt that begins, with what is known of earlier ones."""
        before = trial_record.read(folder) or TrialRecord(trial.trial_id)
        record = TrialRecord(
            trial.trial_id,
            dict(trial.hyperparameters.values),
            failures=before.failures,
            killed=before.killed + before.is_running,
            is_running=True,
        )
        record.save(folder)
        return record

    def _train(
        self,
        trial: Any,
        record: TrialRecord,
        best: BestState,
        folder: Path,
        fit_args: tuple[Any, ...],
        fit_kwargs: Mapping[str, Any],
    ) -> list[Any]:
        returned = []
        for execution in range(self.executions_per_trial):
            self.execution = execution
            callbacks = self._deepcopy_callbacks(list(fit_kwargs.get("callbacks") or []))
            self._configure_tensorboard_dir(callbacks, trial, execution)
            objective = self.oracle.objective
            callbacks.append(tuner_utils.TunerCallback(self, trial))
            if self._cache:
                callbacks.append(TrialCache(self._limits))
            recorder = Recorder(
                record, folder, best, objective, self.total_epochs, self.check_schedule
            )
            callbacks.append(recorder)
            kwargs = {**self.fit_kwargs_of(trial, fit_kwargs), "callbacks": callbacks}
            returned.append(self._build_and_fit_model(trial, *fit_args, **kwargs))
            record.values = dict(trial.hyperparameters.values)  # with those asked for in `fit`
        return returned

    def fit_kwargs_of(self, trial: Any, fit_kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of `fit` for the present execution of a trial."""
        return fit_kwargs

    def _note_what_is_returned(self, trial: Any, record: TrialRecord, returned: list[Any]) -> None:
        """Score executions by what `HyperModel.fit` returned, and say it if that is no number."""
        objective = self.oracle.objective
        for execution, one in zip(record.executions, returned, strict=True):
            try:
                metrics = tuner_utils.convert_to_metrics_dict(one, objective)
            except KeyError as error:
                raise keras_tuner.errors.FatalValueError(
                    f"{type(self).__name__}(objective=...) must be among the logs of fit. "
                    f"Received: {objective.name!r}, but the logs are "
                    f"{', '.join(execution.history)}. Pass validation_data= to search, or compile "
                    "the model with that metric."
                ) from error
            score = metrics.get(objective.name)
            execution.score = float(objective.get_value(metrics) if score is None else score)
        if math.isnan(record.score or 0.0):
            trial.message = f"{objective.name} is not a number (NaN)"
            record.failures.append(trial.message)

    def check_schedule(self, callback: FreezeScheduler, model: keras.Model) -> None:
        """Called with the schedule of a trial before it begins, to refuse or report it."""

    def _configure_tensorboard_dir(self, callbacks: Any, trial: Any, execution: int = 0) -> None:
        # Keras's tuner imports tensorboard whether or not it is used.
        if any(type(callback).__name__ == "TensorBoard" for callback in callbacks):
            super()._configure_tensorboard_dir(callbacks, trial, execution)

    def _build_hypermodel(self, hp: Any) -> keras.Model:
        self._fresh.restore()
        model = super()._build_hypermodel(hp)
        if not isinstance(model, keras.Model):
            return model  # which KerasTuner refuses
        if model in self._built:
            raise keras_tuner.errors.FatalValueError(
                "The build function of a search must return a new model each time. Received: the "
                f"same model twice ({model.name!r}), whose optimizer goes on from trial to trial. "
                "Build it in the function; it may share a backbone with the others."
            )
        self._built.add(model)
        self._fresh.begin(model)
        self._check_size(model)
        return model

    def _check_size(self, model: keras.Model) -> None:
        # KerasTuner counts trainable weights only.
        limit = self._most_parameters
        if limit is not None and model.built and model.count_params() > limit:
            raise keras_tuner.errors.FailedTrialError(
                f"The model has {model.count_params():,} parameters, more than "
                f"max_model_size={limit:,}."
            )

    # What came out.

    def get_best_models(self, num_models: int = 1) -> list[keras.Model]:
        """Return the models of the best trials, as they were at their best epochs.

        Args:
            num_models: Int, how many.

        Returns:
            List of `keras.Model`, the best first.

        Raises:
            ValueError: if no trial is complete.
        """
        trials = self.oracle.get_best_trials(num_models)
        if not trials:
            raise ValueError(self._why_nothing_is_there(self.rows()))
        models = [self.load_model(trial) for trial in trials[::-1]][::-1]
        if len(models) > 1 and any(self._fresh.shares(model) for model in models):
            warnings.warn(
                f"{type(self).__name__}.get_best_models({num_models}) returns models that share "
                "layers, so that only the first has its own weights. Build all layers in the build "
                "function, or ask for one model.",
                stacklevel=2,
            )
        return models

    def load_model(self, trial: Any) -> keras.Model:
        """Return the model of a trial as it was at its best epoch.

        Its weights, what trains, the modes of its BatchNorm layers and its optimizer's state are
        those of that epoch.

        Raises:
            ValueError: if none was kept.
        """
        return self._restored(self._try_build(trial.hyperparameters), trial.trial_id, BEST)

    def _restored(self, model: keras.Model, trial_id: str, name: str) -> keras.Model:
        if not model.built:
            config = Path(self._get_build_config_fname(trial_id)).read_text()
            model.build_from_config(json.loads(config))
        kept = Path(self.get_trial_dir(trial_id)) / name
        if not kept.exists():
            raise ValueError(
                f"Trial {trial_id!r} must have kept its model. Received: no {name} in its folder. "
                "HyperModel.fit must pass the callbacks that it gets on to fit, and the model must "
                "be compiled."
            )
        with kept.open("rb") as file:
            snapshot.restore_all(model, archive.read(file), None)
        return model

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict for each trial; see `results_frame`."""
        return results.rows(self.project_dir)

    def results_frame(self) -> Any:
        """Return a row for each trial, as a pandas frame; as a list of dicts without pandas."""
        return results.frame(self.project_dir)

    def results_summary(self, num_trials: int = 10) -> None:
        """Print the best trials: depth, counts, score with its spread, time.

        Args:
            num_trials: Int, how many.
        """
        direction = self.oracle.objective.direction
        print(results.summary(self.project_dir, self.oracle.objective.name, direction, num_trials))


@contextlib.contextmanager
def _as_on_this_stack() -> Iterator[None]:
    """Silence what KerasTuner says of itself on present versions of Python and its libraries."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"keras_tuner\.")
        # Of the Gaussian process, on a space with few values.
        warnings.filterwarnings("ignore", module=r"sklearn\.gaussian_process\.")
        yield
