"""A small search as a script of its own, for tests that kill it: `searching.py FOLDER`."""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_freeze import tuning

EPOCHS = 2
STEPS = 4
LIMITS = ("worker_timeout_s", "chief_timeout_s")


class Slow(keras.callbacks.Callback):
    """Record that a training has begun, and take time over it."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_begin(self, logs=None):
        depth = sum(not v.trainable for v in self.model.weights) // 2
        crash = self.folder / f"crash-{depth}"
        if crash.exists():  # once
            crash.unlink()
            os.abort()
        with (self.folder / "begun.txt").open("a") as file:
            file.write(f"{os.environ.get('KERASTUNER_TUNER_ID', 'alone')} {depth}\n")

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(float(os.environ.get("SLOW", "0")))


def build():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, name="low", kernel_initializer="ones"),
            keras.layers.Dense(5, name="middle", kernel_initializer="ones"),
            keras.layers.Dense(1, name="head", kernel_initializer="ones"),
        ]
    )
    model.compile("sgd", "mse")
    return model


def build_with_rate(hp):
    model = build()
    tuning.freeze_depth(hp, model)
    model.optimizer.learning_rate = hp.Float("rate", 1e-3, 1e-1, sampling="log")
    return model


def main(folder):
    x, y = np.ones((4 * STEPS, 4)) / 100, np.zeros(4 * STEPS)
    own = {name: float(os.environ[name]) for name in LIMITS if name in os.environ}
    own |= {"directory": folder, "project_name": "search", "isolate": "ISOLATE" in os.environ}
    trials = int(os.environ.get("TRIALS", "0"))
    if trials:
        search = tuning.RandomSearch(
            build_with_rate, "val_loss", max_trials=trials, max_retries_per_trial=0, **own
        )
    else:
        search = tuning.DepthSweep(build, **own)
    search.search(
        x,
        y,
        validation_data=(x, y),
        epochs=EPOCHS,
        batch_size=4,
        verbose=0,
        callbacks=[Slow(folder)],
    )
    return search


if __name__ == "__main__":
    main(Path(sys.argv[1]))
