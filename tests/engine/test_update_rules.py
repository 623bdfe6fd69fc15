"""Cohorts against stock optimizers, one per cohort, fed the same gradients."""

import itertools
import pathlib
import re

import keras
import numpy as np
import optimizer_table
import pytest

import keras_freeze as kf
from keras_freeze.engine import optimizer_state, update_rules
from keras_freeze.keras_internals import optimizers
from keras_freeze.schedules import AfterSteps, FreezeSchedule, Phase

pytestmark = pytest.mark.backend
SHAPES = {"early": [(3, 4), (4,)], "late": [(4, 2), (2,)]}


def make_variables(kind):
    rng = np.random.default_rng(len(kind))
    return [
        keras.Variable(rng.normal(size=s).astype("float32"), name=f"{kind}_{n}", dtype="float32")
        for n, s in zip(("kernel", "bias"), SHAPES[kind], strict=True)
    ]


def gradients(step, kind):
    rng = np.random.default_rng([step, len(kind)])
    return [keras.ops.convert_to_tensor(rng.normal(size=s), "float32") for s in SHAPES[kind]]


def train_apart(factory, start, steps, late_rate=1.0):
    """Train each kind by an optimizer of its own; the late one begins at `start`."""
    early, late = make_variables("early"), make_variables("late")
    first, second = factory(), factory()
    if late_rate != 1.0:
        second.learning_rate = float(second.learning_rate) * late_rate
    for step in range(steps):
        first.apply(gradients(step, "early"), early)
        if step >= start:
            second.apply(gradients(step, "late"), late)
    return early + late


def assign(optimizer, variables, joined, rates, pace=None):
    rules = update_rules.new_rules(optimizer, variables, joined, rates, pace)
    update_rules.set_rules(optimizer, variables, rules)


def train_together(factory, start, steps, late_rate=1.0):
    """Train both by one optimizer that the late variables join at `start`."""
    early, late = make_variables("early"), make_variables("late")
    optimizer = factory()
    for step in range(steps):
        if step == start:
            if start:
                optimizer_state.carry_over(optimizer, early + late)
            else:
                optimizer.build(early + late)
            joined = {id(v) for v in late} if start else set()
            rates = {id(v): late_rate for v in late}
            for leaf in optimizer_state.leaf_optimizers(optimizer):
                own = optimizers.built_variables(leaf)
                new = [v for v in own if id(v) in joined]
                assign(leaf, own, new, rates)
        if step < start:
            optimizer.apply(gradients(step, "early"), early)
        else:
            optimizer.apply(gradients(step, "early") + gradients(step, "late"), early + late)
    return early + late


def assert_same(left, right, rtol):
    for a, b in zip(left, right, strict=True):
        a, b = optimizer_state.to_host(a), optimizer_state.to_host(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def constant_loss_scale():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))


# A cohort of these equals a fresh one too, as it begins where a window of accumulated
# gradients does; wrappers hand over to the optimizers inside.
JOINERS = [
    *optimizer_table.PER_VARIABLE,
    "adam-accumulation",
    "adam-callable",
    "adamw-excluded",
    "loss-scale-constant",
    "multi-map",
    "multi-callable",
]


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("name", optimizer_table.cases(JOINERS))
def test_a_newly_unfrozen_variable_is_updated_as_by_a_fresh_optimizer(name):
    if name == "loss-scale-constant" and keras.backend.backend() == "jax":
        pytest.skip("Keras's own LossScaleOptimizer can't `apply` outside of a step on JAX")
    factory = optimizer_table.ALL.get(name) or constant_loss_scale
    apart = train_apart(factory, start=6, steps=20)
    assert_same(train_together(factory, start=6, steps=20), apart, rtol=2e-6)


ACCUMULATING = {
    "adam": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
    "clipped": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3, clipnorm=0.01),
    "decaying": lambda: keras.optimizers.AdamW(
        0.01, gradient_accumulation_steps=3, weight_decay=0.1
    ),
    "nadam": lambda: keras.optimizers.Nadam(0.01, gradient_accumulation_steps=3),
}


@pytest.mark.parametrize("name", ACCUMULATING)
@pytest.mark.parametrize("start", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (8, 9))])
@pytest.mark.at_commit("7-nadam")
@pytest.mark.slow_on_jax
def test_one_that_joins_within_an_accumulation_waits_for_a_whole_one(name, start):
    factory = ACCUMULATING[name]
    apart = train_apart(factory, start=9, steps=20)
    assert_same(train_together(factory, start=start, steps=20), apart, rtol=2e-6)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.slow_on_jax
def test_it_waits_in_a_fit_too(jit, plain, data_for):
    def fit(step):
        model = plain()
        optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=3)
        loss = "sparse_categorical_crossentropy"
        model.compile(optimizer, loss, jit_compile=jit and keras.backend.backend() != "torch")
        x, y = data_for(model, rows=24)
        before = Phase(["low", "middle"], until=AfterSteps(step))
        schedule = FreezeSchedule([before, Phase()])
        noted = []

        class Note(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                noted.append(optimizer_state.to_host(self.model.get_layer("low").kernel))

        callbacks = [kf.FreezeScheduler(schedule, backbone=["low", "middle"], verbose=0), Note()]
        settings = {"epochs": 2, "batch_size": 4, "shuffle": False, "verbose": 0}
        model.fit(x, y, callbacks=callbacks, **settings)
        return noted

    moved = [bool((a != b).any()) for a, b in itertools.pairwise(fit(4))]
    # It joins before the fifth of twelve steps; windows end with the 6th, 9th and 12th.
    assert [n + 2 for n, did in enumerate(moved) if did] == [9, 12]


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("name", optimizer_table.cases(optimizer_table.PER_VARIABLE))
@pytest.mark.at_commit("adam-clipnorm", "schedule-free-adamw", "adafactor", "sgd-momentum")
def test_a_multiplier_equals_an_optimizer_of_its_own_at_that_rate(name):
    factory = optimizer_table.PER_VARIABLE[name]
    apart = train_apart(factory, start=0, steps=12, late_rate=0.1)
    assert_same(train_together(factory, start=0, steps=12, late_rate=0.1), apart, rtol=2e-6)


def test_nadams_product_is_the_whole_runs_after_a_late_cohort_has_gone():
    early, late = make_variables("early"), make_variables("late")
    optimizer, plain = keras.optimizers.Nadam(0.01), keras.optimizers.Nadam(0.01)
    reference = make_variables("early")
    for step in range(12):
        plain.apply(gradients(step, "early"), reference)
        if step in (4, 8):
            variables = early + (late if step == 4 else [])
            optimizer_state.carry_over(optimizer, variables)
            assign(optimizer, variables, late if step == 4 else [], None)
        extra = (gradients(step, "late"), late) if 4 <= step < 8 else ([], [])
        if step == 0:
            optimizer.build(early)
        optimizer.apply(gradients(step, "early") + extra[0], early + extra[1])
    assert_same(early, reference, rtol=2e-6)


@keras.saving.register_keras_serializable("keras_freeze_tests")
class ScheduleWithABase(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, base):
        self.base = base

    def __call__(self, step):
        return self.base / (1.0 + keras.ops.cast(step, "float32"))


def test_a_schedule_of_the_users_stays_what_it_is():
    schedule = ScheduleWithABase(0.1)
    variables = make_variables("early")
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.1)
    optimizer.build(variables)
    assign(optimizer, variables, [], {id(variables[0]): 0.5})
    optimizer.apply(gradients(0, "early"), variables)
    assert optimizer._learning_rate is schedule


def test_without_its_own_step_count_a_newly_unfrozen_variable_overshoots():
    """The figure of the design note: up to 6.6 learning rates a step, late in a run."""
    optimizer, late = keras.optimizers.Adam(1.0, epsilon=1e-12), keras.Variable(np.zeros(1))
    early = keras.Variable(np.zeros(1))
    one = [keras.ops.ones(1)]
    optimizer.apply(one, [early])
    optimizer.iterations.assign(5000)
    optimizer_state.carry_over(optimizer, [early, late])
    steps = []
    for _ in range(30):
        before = optimizer_state.to_host(late)
        optimizer.apply(one * 2, [early, late])
        steps.append(abs(float((optimizer_state.to_host(late) - before)[0])))
    assert max(steps) == pytest.approx(6.6, abs=0.1)
    assert int(np.argmax(steps)) + 1 == 12


def test_the_documented_table_has_every_optimizer_of_keras():
    text = (pathlib.Path(__file__).parents[2] / "docs" / "optimizers.md").read_text()
    rows = re.findall(r"^\| (\w+) \|", text, re.MULTILINE)
    optimizers = {
        name
        for name, value in vars(keras.optimizers).items()
        if isinstance(value, type) and issubclass(value, keras.optimizers.Optimizer)
    }
    assert set(rows) - {"optimizer"} == optimizers - {"Optimizer"}
    tested = {type(factory()).__name__ for factory in optimizer_table.ALL.values()}
    assert tested == optimizers - {"Optimizer"}
