"""Random models and schedules, trained by `FreezeScheduler` and by phases written in plain Keras.

`python tests/fuzz.py --seconds 600 --first 1000` tries case after case and prints what differs.
Each case is made from its number alone. What is compared: losses, validation losses and counts in
every epoch, weights and optimizer slots at the end; to the last bit on TensorFlow's CPU, elsewhere
within 1e-6 of each value's scale.
"""

import argparse
import dataclasses
import itertools
import os
import random
import sys
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import optimizer_table
from keras import layers
from pretrained_models import as_if_trained

import keras_freeze as kf
from keras_freeze.engine import optimizer_state
from keras_freeze.keras_internals import optimizers
from keras_freeze.schedules import FreezeSchedule, Phase

EPOCHS = 4
EXACT = keras.backend.backend() == "tensorflow"
SHAPES = ("plain", "nested", "adapted", "unet", "siamese", "two heads", "shared")
MODES = ("frozen", "follow", "statistics", "train")
OPTIMIZERS = (
    *("sgd", "sgd-momentum", "adam", "adamw", "rmsprop", "adagrad", "lion", "adamax"),
    *("adam-clipvalue", "adam-amsgrad", "sgd-nesterov", "nadam"),
)


class OwnStep(keras.Model):
    """Trains by a step of its own, which does what Keras's does."""

    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is drawn for a number."""

    shape: str
    stages: tuple[tuple[str, ...], ...]
    lora: bool
    own_step: bool
    optimizer: str
    rates: float | None
    phases: tuple[tuple[int, object, str, str], ...]  # epoch, frozen groups, weights, mode


def draw(number):
    rng = random.Random(number)
    kinds = ("dense", "norm", "layer_norm", "regularized", "residual", "dropout")
    stages = []
    for _ in range(rng.randint(1, 3)):
        stages.append(("dense", *rng.sample(kinds, rng.randint(0, 2))))
    begins = [0, *sorted(rng.sample(range(1, EPOCHS), rng.randint(0, 3)))]
    phases = []
    for begin in begins:
        some = rng.sample(range(len(stages)), rng.randint(0, len(stages)))
        frozen = rng.choice([rng.randint(0, len(stages)), tuple(sorted(some))])
        weights = rng.choice(["all", "all", "all", "kernel", "bias"])
        phases.append((begin, frozen, weights, rng.choice(MODES)))
    return Case(
        rng.choice(SHAPES),
        tuple(stages),
        rng.random() < 0.15,
        rng.random() < 0.2,
        rng.choice(OPTIMIZERS),
        rng.choice([None, None, 2.0, 4.0]),
        tuple(phases),
    )


def stage(x, number, parts):
    for n, part in enumerate(parts):
        name = f"stage{number}_{n}"
        if part == "dense":
            x = layers.Dense(5, activation="tanh", name=f"{name}_dense")(x)
        elif part == "norm":
            x = layers.BatchNormalization(name=f"{name}_bn")(x)
        elif part == "layer_norm":
            x = layers.LayerNormalization(name=f"{name}_ln")(x)
        elif part == "regularized":
            l2 = keras.regularizers.L2(0.1)
            x = layers.Dense(5, kernel_regularizer=l2, name=f"{name}_dense")(x)
        elif part == "residual":
            x = x + layers.Dense(5, activation="relu", name=f"{name}_dense")(x)
        else:
            x = layers.Dropout(0.2, seed=number, name=f"{name}_dropout")(x)
    return x


def new_part(x, name):
    x = layers.Dense(5, name=f"{name}_dense")(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def build(case):
    """Return a model and the names of its pretrained layers with weights."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    inputs = x = keras.Input((5,), name="features")
    outputs = []
    for number, parts in enumerate(case.stages):
        x = stage(x, number, parts)
        outputs.append(x)
    backbone = as_if_trained(keras.Model(inputs, x, name="backbone"))
    pretrained = [layer.name for layer in backbone.layers if layer.weights]
    if case.lora:
        backbone.get_layer("stage0_0_dense").enable_lora(2)
    cls = OwnStep if case.own_step else keras.Model
    head = layers.Dense(1, name="out")
    if case.shape == "plain":
        model = cls(inputs, head(x))
    elif case.shape == "nested":
        outer = keras.Input((5,))
        model = cls(outer, head(new_part(backbone(outer), "neck")))
    elif case.shape == "adapted":
        outer = keras.Input((5,))
        model = cls(outer, head(backbone(new_part(outer, "adapter"))))
    elif case.shape == "unet":
        up = x
        for number, skip in enumerate(reversed(outputs[:-1])):
            up = new_part(layers.Concatenate()([up, skip]), f"up{number}")
        model = cls(inputs, head(up))
    elif case.shape == "siamese":
        left, right = keras.Input((5,)), keras.Input((5,))
        model = cls([left, right], head(layers.Subtract()([backbone(left), backbone(right)])))
    elif case.shape == "two heads":
        model = cls(inputs, [head(x), layers.Dense(2, name="other")(new_part(x, "neck"))])
    else:
        shared = layers.Dense(5, name="shared_dense")
        model = cls(inputs, head(shared(layers.ReLU()(shared(x)))))
    return model, pretrained


def data_for(model):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(12, 5)).astype("float32") for _ in model.inputs]
    y = [rng.normal(size=(12, out.shape[-1])).astype("float32") for out in model.outputs]
    return (x if len(x) > 1 else x[0]), (y if len(y) > 1 else y[0])


def compiled(model, optimizer, eager):
    losses = ["mse"] * len(model.outputs)
    model.compile(optimizer, losses if len(losses) > 1 else "mse", run_eagerly=eager)


class ByHand(keras.callbacks.Callback):
    """Sets flags variable by variable, and keeps an optimizer for what began to train together."""

    def __init__(self, case, plan, groups, eager):
        super().__init__()
        self.case, self.plan, self.groups, self.eager = case, plan, groups, eager
        self.parts, self.counts, self.never = {}, [], None

    def on_epoch_begin(self, epoch, logs=None):
        model = self.model
        if self.never is None:
            self.never = {id(v) for v in model.weights if not v.trainable}
        for begin, frozen, weights, mode in self.plan:
            if begin == epoch:
                self.set_flags(model, frozen, weights, mode)
                self.compile(model)
        trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        self.counts.append(trained)

    def set_flags(self, model, frozen, weights, mode):
        last = len(self.groups) - 1
        for number, members in enumerate(self.groups):
            for layer in members:
                is_frozen = number in frozen
                trains = {
                    id(v): not (is_frozen and weights in ("all", v.name)) for v in layer.variables
                }
                if isinstance(layer, layers.BatchNormalization):
                    self.set_norm(layer, trains, mode if number < last else "follow")
                else:
                    layer._trainable = True
                for v in layer.variables:
                    if v.name not in ("moving_mean", "moving_variance"):
                        v.trainable = trains[id(v)] and id(v) not in self.never

    def set_norm(self, layer, trains, mode):
        own = [id(layer.gamma), id(layer.beta)]
        if mode in ("frozen", "train"):
            trains.update(dict.fromkeys(own, mode == "train"))
        layer._trainable = {
            "frozen": False,
            "statistics": False,
            "train": True,
            "follow": any(trains[i] for i in own),
        }[mode]

    def compile(self, model):
        trained = {id(v): v for v in model.trainable_variables}
        self.parts = {i: part for i, part in self.parts.items() if i in trained}
        joined, rate = {}, None
        for number, members in enumerate(self.groups):
            rate = (self.case.rates or 1.0) ** (number - len(self.groups) + 1)
            for layer in members:
                for v in layer.variables:
                    if id(v) in trained and id(v) not in self.parts:
                        joined.setdefault(rate, []).append(v)
        for rate, variables in joined.items():
            part = optimizer_table.ALL[self.case.optimizer]()
            part.learning_rate = float(part.learning_rate) * rate
            part.build(variables)
            self.parts.update({id(v): part for v in variables})
        whole = Parts(self.parts)
        whole.build(model.trainable_variables)
        compiled(model, whole, self.eager)
        model.make_train_function()


class Parts(keras.optimizers.Optimizer):
    """Applies to each variable the optimizer that it began with."""

    def __init__(self, of):
        super().__init__(learning_rate=0.0)
        object.__setattr__(self, "of", of)

    def apply(self, grads, trainable_variables=None):
        for part in dict.fromkeys(self.of.values()):
            own = optimizers.built_variables(part)
            found = {id(v): g for g, v in zip(grads, trainable_variables, strict=True)}
            kept = [v for v in own if id(v) in found and self.of[id(v)] is part]
            if kept:
                part.apply([found[id(v)] for v in kept], kept)


def fit(model, eager, callback):
    x, y = data_for(model)
    keras.utils.set_random_seed(3)
    settings = {"epochs": EPOCHS, "batch_size": 4, "shuffle": False, "verbose": 0}
    return model.fit(x, y, validation_data=(x, y), callbacks=[callback], **settings).history


def slots_of(optimizer):
    """Return the slots of each variable, by its id."""
    found = {}
    for attribute, slots in optimizers.slots_of(optimizer).items():
        for variable, slot in zip(optimizers.built_variables(optimizer), slots, strict=True):
            if slot is not None:
                value = optimizer_state.to_host(slot)
                found.setdefault(id(variable), {})[attribute] = value
    return found


def differs(a, b):
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    if EXACT:
        return not np.array_equal(a, b, equal_nan=True)
    return not np.allclose(a, b, rtol=0, atol=1e-6 * max(1.0, float(np.abs(b).max(initial=0.0))))


def differences(number, eager=True):
    """Train a case both ways; return what differs, in words."""
    case = draw(number)
    ours, pretrained = build(case)
    groups = kf.layer_groups(ours, backbone=pretrained)
    found = []
    new = {x.name for x in groups[-1].layers if x.weights}
    if new != {x.name for x in weighted(ours)} - set(pretrained):
        found.append(f"the last group has {sorted(new)}")
    plan = planned(case, groups)
    compiled(ours, optimizer_table.ALL[case.optimizer](), eager)
    callback = kf.FreezeScheduler(
        schedule_of(plan, groups), backbone=pretrained, rates=case.rates, cache=False, verbose=0
    )
    history = fit(ours, eager, callback)
    theirs, _ = build(case)
    by_name = {layer.name: layer for layer in weighted(theirs)}
    members = [[by_name[x.name] for x in weighted_in(group.layers)] for group in groups]
    by_hand = ByHand(case, plan, members, eager)
    compiled(theirs, "sgd", eager)
    expected = fit(theirs, eager, by_hand)
    if history["trainable_params"] != by_hand.counts:
        found.append(f"counts {history['trainable_params']}, by hand {by_hand.counts}")
    for name, values in expected.items():
        if differs(history[name], values):
            found.append(f"{name}: {history[name]}, by hand {values}")
    slots = slots_of(ours.optimizer)
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        if differs(optimizer_state.to_host(a), optimizer_state.to_host(b)):
            found.append(f"weight {a.path}")
        if b.trainable:
            other = slots_of(by_hand.parts[id(b)]).get(id(b), {})
            for attribute, value in slots.get(id(a), {}).items():
                if differs(value, other[attribute]):
                    found.append(f"slot {attribute} of {a.path}")
    return found


def weighted(model):
    return weighted_in(kf.model_picture.opened_layers(model))


def weighted_in(members):
    return [layer for layer in members if layer.weights]


def planned(case, groups):
    """Return the phases of a case for the groups that its model has: all can be carried out."""
    plan = []
    for begin, frozen, weights, mode in case.phases:
        numbers = range(frozen) if isinstance(frozen, int) else frozen
        numbers = [number for number in numbers if number < len(groups) - 1]
        names = {variable.name for number in numbers for variable in groups[number].variables}
        plan.append((begin, numbers, weights if weights in names else "all", mode))
    return plan


def schedule_of(plan, groups):
    """Return a plan as a schedule."""
    begins = [begin for begin, *_ in plan]
    lengths = [after - begin for begin, after in itertools.pairwise(begins)]
    return FreezeSchedule(
        [
            Phase([groups[n].name for n in numbers], until=until, weights=weights, batch_norm=mode)
            for (_, numbers, weights, mode), until in zip(plan, [*lengths, None], strict=True)
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to try")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="how many at most")
    options = parser.parse_args()
    end, number, wrong = time.monotonic() + options.seconds, options.first, []
    while time.monotonic() < end and number < options.first + options.cases:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = differences(number, eager=number % 10 != 0)
        if found:
            wrong.append(number)
            print(f"case {number}: {draw(number)}\n  " + "\n  ".join(found))
        number += 1
    print(f"{number - options.first} cases from {options.first} on, {len(wrong)} differ: {wrong}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
