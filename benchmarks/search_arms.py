"""One arm of a case of `search.py`, in a process of its own: prints its measures and scores."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
import tempfile
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_tuner
import psutil
from prefix_cache_arms import LOSS, Data, batches, images, measured, spent, suffix_of

from keras_freeze import tuning
from keras_freeze.demo import vgg


@dataclasses.dataclass(frozen=True)
class Case:
    """A search, and what it is run on."""

    depths: range
    rates: tuple[float, ...]
    epochs: int = 5
    size: int = 64
    rows: int = 512


CASES = {
    "all-depths": Case(range(6), (1e-3, 1e-4)),
    "deepest": Case(range(3, 6), (1e-3, 5e-4, 2e-4, 1e-4)),
    "memory": Case(range(6), (1e-3, 5e-4, 2e-4, 1e-4, 5e-5), epochs=2, size=32, rows=64),
}


def new_model(case: Case, weights: list[Any], rate: float) -> Any:
    backbone, _ = vgg.backbone(case.size, "none")
    backbone.set_weights(weights)
    model = vgg.classifier(backbone, 15)
    model.compile(keras.optimizers.Adam(rate), LOSS)
    return model


def searched(kind: str, case: Case, weights: list[Any], data: Data) -> dict[str, Any]:
    """Search the whole space; return the scores, and the resident memory after each trial."""

    def build(hp: Any) -> Any:
        model = new_model(case, weights, hp.Choice("rate", case.rates))
        tuning.freeze_depth(hp, model, min=case.depths[0], max=case.depths[-1])
        return model

    # Stock KerasTuner's random search may give up before a small space is used up.
    tuner_class = {"stock": keras_tuner.GridSearch, "keras_freeze": tuning.RandomSearch}[kind]
    resident = []

    class Weighed(tuner_class):  # type: ignore[misc, valid-type]
        def on_trial_end(self, trial: Any) -> None:
            super().on_trial_end(trial)
            resident.append(psutil.Process().memory_info().rss)

    with tempfile.TemporaryDirectory() as folder:
        trials = len(case.depths) * len(case.rates)
        tuner = Weighed(build, "val_loss", max_trials=trials, seed=0, directory=folder)
        x, y, validation = data
        settings = {"epochs": case.epochs, "verbose": 0, "validation_data": batches(validation)}
        with measured():
            tuner.search(batches((x, y)), **settings)
        scores = {
            f"{trial.hyperparameters.get('freeze_depth')}/{trial.hyperparameters.get('rate')}": (
                trial.score
            )
            for trial in tuner.oracle.trials.values()
        }
    return {"scores": scores, "resident_bytes": resident}


def floor(case: Case, weights: list[Any], data: Data) -> dict[str, Any]:
    """Pass all samples once through each frozen part, and train every rest alone."""
    x, y, (xv, yv) = data
    scores = {}
    with measured():
        for depth in case.depths:
            model = new_model(case, weights, case.rates[0])
            cut = model.get_layer(f"block{depth}_pool").output if depth else model.inputs[0]
            features, others = x, xv
            if depth:
                prefix = keras.Model(model.inputs, cut)
                features, others = (prefix.predict(batches(part), verbose=0) for part in (x, xv))
            for rate in case.rates:
                rest = new_model(case, weights, rate)
                if depth:
                    rest = suffix_of(rest, rest.get_layer(f"block{depth}_pool").output)
                    rest.compile(keras.optimizers.Adam(rate), LOSS)
                history = rest.fit(
                    batches((features, y)),
                    epochs=case.epochs,
                    verbose=0,
                    validation_data=batches((others, yv)),
                )
                scores[f"{depth}/{rate}"] = min(history.history["val_loss"])
    return {"scores": scores}


if __name__ == "__main__":
    case, arm = CASES[sys.argv[1]], sys.argv[2]
    keras.utils.set_random_seed(0)
    weights = vgg.backbone(case.size, "none")[0].get_weights()
    data = images(case.size, case.rows)
    found = floor(case, weights, data) if arm == "floor" else searched(arm, case, weights, data)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(json.dumps({**spent, "peak_bytes": peak, **found}))
