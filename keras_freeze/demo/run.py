"""The demo: VGG16 fine-tuned on photographs in five ways, with everything else the same.

Each arm trains as many epochs, with the same seeds and the same group rates: those that
`GradualUnfreeze` has by default. So an arm differs from another only in what is frozen when.
They run at two learning rates: one that did well on validation patches, and three times that.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_freeze import plots
from keras_freeze.callbacks import FreezeScheduler, GradualUnfreeze
from keras_freeze.demo import photographs, vgg
from keras_freeze.reports import Column, Table

PICTURE = "training.png"
MODEL = "gradual.keras"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is trained.

    Attributes:
        size: Int. Height and width of a patch in pixels.
        train: Int. Training patches per class.
        validation: Int. Validation patches per class, evaluated after every epoch.
        test: Int. Test patches per class, evaluated once, at the end.
        epochs: Int.
        batch_size: Int.
        rates: Learning rates of the head: one that did well on validation patches, and three
            times that.
    """

    size: int = 48
    train: int = 6
    validation: int = 8
    test: int = 24
    epochs: int = 12
    batch_size: int = 15
    rates: tuple[float, ...] = (1e-3, 3e-3)

    def load(self, seed: int) -> photographs.PhotographData:
        """Cut as many patches as these settings ask for."""
        return photographs.load(
            seed, train=self.train, validation=self.validation, test=self.test, size=self.size
        )


FULL = Settings()
QUICK = Settings(size=32, train=2, validation=1, test=2, epochs=2, rates=(1e-3,))


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        name: String.
        callback: Function that returns the callback which freezes and unfreezes.
        is_pretrained: Bool. Whether the backbone begins with the pretrained weights.
        at_high_rate: Bool. Whether the rate that is too high is tried as well.
    """

    name: str
    callback: Callable[[], FreezeScheduler]
    is_pretrained: bool = True
    at_high_rate: bool = True


def _fixed(frozen: Sequence[str] | int) -> Callable[[], FreezeScheduler]:
    """Freeze the same from beginning to end, at the rates that `GradualUnfreeze` has."""
    return lambda: FreezeScheduler({0: frozen}, rates="default", backbone=vgg.BLOCKS)


GRADUAL = Arm("GradualUnfreeze()", lambda: GradualUnfreeze(backbone=vgg.BLOCKS))
ARMS = (
    Arm("from scratch", _fixed(0), is_pretrained=False, at_high_rate=False),
    Arm("all at once", _fixed(0)),
    Arm("head only", _fixed(5)),
    Arm("block4 to head", _fixed(("block1", "block2", "block3"))),
    GRADUAL,
)


@dataclasses.dataclass(frozen=True)
class Result:
    """What one training gave.

    Attributes:
        accuracy: Float. Share of the test patches that the trained model names correctly.
        seconds: Float. How long `fit` took, validation after every epoch included.
        history: Mapping from a metric's name to its values, epoch by epoch.
    """

    accuracy: float
    seconds: float
    history: Mapping[str, Sequence[float]]


Results = Mapping[float, Mapping[str, Result]]


def run(
    output: Path, settings: Settings = FULL, *, seed: int = 0, source: str = "auto"
) -> dict[float, dict[str, Result]]:
    """Train every arm at every rate, print what happens, and write picture and model.

    Args:
        output: Path of a folder, made if it is not there.
        settings: `Settings`. Defaults to those of about 5 minutes on 2 cores.
        seed: Int. Seed of patches, first weights and order.
        source: String. Where the pretrained weights come from, as for `vgg.backbone`.

    Returns:
        Dict from learning rate to a dict from the arm's name to its `Result`.
    """
    began = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    backbone, phrase = vgg.backbone(settings.size, source)
    weights = backbone.get_weights()
    data = settings.load(seed)
    print(_introduction(phrase, settings, data))
    results: dict[float, dict[str, Result]] = {rate: {} for rate in settings.rates}
    good_rate = settings.rates[0]
    for rate, arm in itertools.product(settings.rates, ARMS):
        if rate != good_rate and not arm.at_high_rate:
            continue
        print(f"\n{arm.name}, head at {rate:g}")
        model = build(settings.size, weights if arm.is_pretrained else None, seed)
        results[rate][arm.name] = result = train(model, arm, rate, data, settings, seed)
        print(f"Test accuracy {result.accuracy:.3f} after {result.seconds:.0f} s.")
        if arm is GRADUAL and rate == good_rate:
            model.save(output / MODEL)
    _write_picture(output / PICTURE, results)
    print(f"\n{table(results).as_text()}\n")
    print(_conclusion(data, time.perf_counter() - began, output))
    return results


def build(size: int, weights: Sequence[Any] | None, seed: int) -> Any:
    """Build VGG16 with a new head.

    Args:
        size: Int. Height and width of the input.
        weights: Weights of the backbone, as its `get_weights` returns them, or None for random
            ones.
        seed: Int. Seed of all random weights.

    Returns:
        A `keras.Model` that shares nothing with any other.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    backbone, _ = vgg.backbone(size, source="none")
    if weights is not None:
        backbone.set_weights(weights)
    return vgg.classifier(backbone, len(photographs.CLASSES), seed)


def train(
    model: Any,
    arm: Arm,
    rate: float,
    data: photographs.PhotographData,
    settings: Settings,
    seed: int,
) -> Result:
    """Fine-tune a model in one way, and test it.

    Args:
        model: `keras.Model`, not compiled. It is trained in place.
        arm: `Arm`. What is frozen when.
        rate: Float. The learning rate of the head; other groups train at the default multiples.
        data: `photographs.PhotographData`.
        settings: `Settings`.
        seed: Int. Seed of the order in which the patches come.

    Returns:
        A `Result`.
    """
    keras.utils.set_random_seed(seed)
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    began = time.perf_counter()
    history = model.fit(
        data.train.x,
        data.train.y,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        validation_data=(data.validation.x, data.validation.y),
        callbacks=[arm.callback()],
        verbose=0,
    )
    seconds = time.perf_counter() - began
    scores = model.evaluate(data.test.x, data.test.y, verbose=0, return_dict=True)
    return Result(scores["accuracy"], seconds, history.history)


def table(results: Results) -> Table:
    """Lay out what was measured, one row per arm.

    Args:
        results: Mapping from learning rate to a mapping from the arm's name to its `Result`.

    Returns:
        A `Table`.
    """
    title = "Test accuracy by the head's learning rate; mean time of a fit"
    numbers = (*(f"rate {rate:g}" for rate in results), "time", "trained at the end")
    rows = []
    for name in dict.fromkeys(name for arms in results.values() for name in arms):
        own = [arms.get(name) for arms in results.values()]
        done = [result for result in own if result is not None]
        accuracies = ["-" if result is None else f"{result.accuracy:.3f}" for result in own]
        seconds = sum(result.seconds for result in done) / len(done)
        params = done[-1].history["trainable_params"][-1]
        rows.append((name, *accuracies, f"{seconds:.1f} s", f"{params:,}"))
    columns = (Column("arm"), *(Column(name, align="right") for name in numbers))
    return Table(title, columns, tuple(rows))


def _introduction(phrase: str, settings: Settings, data: photographs.PhotographData) -> str:
    return (
        f"VGG16 learns which of {len(photographs.CLASSES)} photographs a grey patch of "
        f"{settings.size} x {settings.size} pixels was cut from.\n"
        f"Pretrained weights: {phrase}.\n"
        f"{len(data.train.y)} training and {len(data.validation.y)} validation patches from the "
        f"left halves of the photographs, {len(data.test.y)} test patches from the right halves.\n"
        f"Every arm trains for {settings.epochs} epochs, with the same seed and group rates."
    )


def _conclusion(data: photographs.PhotographData, seconds: float, output: Path) -> str:
    patches = len(data.test.y)
    chance = 1 / len(photographs.CLASSES)
    margin = 1.96 * (2 * 0.25 / patches) ** 0.5  # of two shares near a half
    return (
        f"Chance level: {chance:.3f}. With one seed and {patches} test patches, arms that differ "
        f"by less than about {margin:.2f} are not significantly different.\n"
        f"{seconds / 60:.1f} minutes in total. Saved: {output / PICTURE}, {output / MODEL}"
    )


def _write_picture(file: Path, results: Results) -> None:
    columns = {
        f"head at {rate:g}": {name: result.history for name, result in arms.items()}
        for rate, arms in results.items()
    }
    plots.comparison(columns).savefig(file, dpi=120)
