"""The second demo: how deep to freeze VGG16 for the photographs, by training at every depth."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_freeze import plots
from keras_freeze.demo import photographs, vgg
from keras_freeze.demo.run import FULL, Settings
from keras_freeze.tuning import DepthSweep, results

PICTURE = "search.png"
EXECUTIONS = 3


def run(
    output: Path,
    settings: Settings = FULL,
    *,
    seed: int = 0,
    source: str = "auto",
    executions: int | None = None,
) -> list[dict[str, Any]]:
    """Train at every depth, print what happens, and draw it.

    Args:
        output: Path of a folder, made if it is not there.
        settings: `Settings` of the first demo, whose first rate is used.
        seed: Int. Seed of patches, first weights and order.
        source: String. Where the pretrained weights come from, as for `vgg.backbone`.
        executions: Int, trainings at each depth. Defaults to 3.

    Returns:
        List of dict, a row for each depth.
    """
    began = time.perf_counter()
    executions = executions or EXECUTIONS
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(seed)
    data = settings.load(seed)
    build, phrase = builder(settings, seed, source, executions)
    print(
        f"Search: how deep to freeze VGG16, which learns from which of "
        f"{len(photographs.CLASSES)} photographs a patch was cut.\n"
        f"Pretrained weights: {phrase}.\n"
        f"Trainings at each depth: {executions}, of {settings.epochs} epochs each."
    )
    sweep = _ReportingSweep(
        build,
        "val_accuracy",
        executions_per_trial=executions,
        directory=output,
        project_name="depths",
        overwrite=True,
    )
    sweep.search(
        data.train.x,
        data.train.y,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        validation_data=(data.validation.x, data.validation.y),
        verbose=0,
    )
    sweep.results_summary()
    plots.search(sweep).savefig(output / PICTURE, dpi=120)
    (model,) = sweep.get_best_models()
    scores = model.evaluate(data.test.x, data.test.y, verbose=0, return_dict=True)
    best = results.best_first(sweep.rows(), "max")[0]
    print(
        f"Best depth: {best['freeze_depth']}, with validation accuracy {best['score']:.3f}; "
        f"test accuracy of its best model {scores['accuracy']:.3f} ({len(data.test.y)} patches).\n"
        f"{(time.perf_counter() - began) / 60:.1f} minutes in total. Saved: {output / PICTURE}"
    )
    return sweep.rows()


class _ReportingSweep(DepthSweep):
    """A sweep that prints a line for each depth, instead of KerasTuner's output."""

    def on_trial_end(self, trial: Any) -> None:
        super().on_trial_end(trial)
        row = next(row for row in self.rows() if row["trial_id"] == trial.trial_id)
        score = "failed" if row["score"] is None else f"validation accuracy {row['score']:.3f}"
        print(f"depth {row['freeze_depth']}: {score}, {row['seconds']:.0f} s of training")


def builder(
    settings: Settings, seed: int, source: str, executions: int
) -> tuple[Callable[[], Any], str]:
    """Return a build function, and a phrase that says where its weights are from.

    Each depth sees the same heads: as many as it has executions.
    """
    backbone, phrase = vgg.backbone(settings.size, source)
    weights = backbone.get_weights()
    heads = itertools.cycle(range(executions))

    def build() -> Any:
        fresh, _ = vgg.backbone(settings.size, source="none")
        fresh.set_weights(weights)
        model = vgg.classifier(fresh, len(photographs.CLASSES), seed + next(heads))
        optimizer = keras.optimizers.Adam(settings.rates[0])
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    return build, phrase
