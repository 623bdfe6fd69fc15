"""Learning-rate curves: the papers' formulas, and what a fit makes of them."""

import keras
import numpy as np
import pytest
from hypothesis import given, strategies as st

import keras_freeze as kf
from keras_freeze.schedules import (
    AfterEpochs,
    AfterSteps,
    Cosine,
    Curve,
    FreezeSchedule,
    OnPlateau,
    Phase,
    SlantedTriangular,
    Warmup,
)

pytestmark = pytest.mark.backend


def values(curve, steps, count):
    return np.array([float(curve.factor(float(step), steps)) for step in range(count)])


# The formulas, written as in the papers.


def slanted_triangular(t, steps, cut_fraction, ratio):
    """Howard and Ruder (2018), equation 3, over the maximal rate."""
    cut = np.floor(steps * cut_fraction)
    p = np.where(t < cut, t / cut, 1 - (t - cut) / (cut * (1 / cut_fraction - 1)))
    return (1 + p * (ratio - 1)) / ratio


@pytest.mark.parametrize(("steps", "cut"), [(10, 0.1), (20, 0.25), (8, 0.5), (100, 0.1)])
@pytest.mark.parametrize("ratio", [2.0, 32.0])
def test_the_slanted_triangle_of_ulmfit(steps, cut, ratio):
    curve = SlantedTriangular(steps, cut_fraction=cut, ratio=ratio)
    expected = slanted_triangular(np.arange(steps + 1), steps, cut, ratio)
    np.testing.assert_allclose(values(curve, steps, steps + 1), expected, rtol=1e-5)
    np.testing.assert_allclose(values(curve, steps, steps + 9)[steps:], 1 / ratio, rtol=1e-5)


def test_the_triangle_has_its_peak_also_where_it_is_short():
    """The paper rounds the cut down, to none at all in a short phase."""
    assert values(SlantedTriangular(), 3, 5).tolist() == pytest.approx(
        [1 / 32, 1, 0.5 + 0.5 / 32, 1 / 32, 1 / 32]
    )
    assert values(SlantedTriangular(), 1, 3).tolist() == pytest.approx([1 / 32, 1, 1 / 32])


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_cosine_of_sgdr(floor):
    """Loshchilov and Hutter (2017), equation 5, with eta_min the floor and eta_max 1."""
    expected = floor + 0.5 * (1 - floor) * (1 + np.cos(np.arange(13) / 12 * np.pi))
    curve = Cosine(floor=floor)
    np.testing.assert_allclose(values(curve, 12, 13), expected, atol=1e-6)
    np.testing.assert_allclose(values(curve, 12, 20)[12:], floor, atol=1e-6)


def test_the_warm_up_of_goyal_and_others():
    """From a k-th of the rate, by as much in each batch, to all of it."""
    np.testing.assert_allclose(values(Warmup(5), 5, 8), [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])
    np.testing.assert_allclose(values(Warmup(1), 1, 3), [1, 1, 1])


@given(
    curve=st.one_of(
        st.builds(Warmup, st.integers(1, 50)),
        st.builds(
            SlantedTriangular,
            st.none(),
            st.floats(0.01, 0.99),
            st.floats(1.01, 100),
        ),
        st.builds(Cosine, st.none(), st.floats(0, 0.99)),
    ),
    steps=st.integers(1, 50),
    step=st.integers(0, 200),
)
def test_a_factor_is_never_above_1_or_below_the_floor(curve, steps, step):
    floor = {Warmup: 0.0, Cosine: getattr(curve, "floor", None)}.get(type(curve))
    lowest = 1 / curve.ratio if floor is None else floor
    factor = float(curve.factor(float(step), curve.steps or steps))
    assert lowest - 1e-6 <= factor <= 1 + 1e-6


# Inside a fit.

ROWS, BATCH, PER_EPOCH, EPOCHS = 24, 4, 6, 2
RATES = {"low": 0.25, "middle": 0.5}
DECAY = 0.1
BASE = 0.05


def gradients(weights, x, y):
    """Return the gradient of the mean cross-entropy for each weight of the plain model."""
    w1, b1, w2, b2, w3, b3 = weights
    low = np.maximum(x @ w1 + b1, 0)
    middle = np.maximum(low @ w2 + b2, 0)
    odds = np.exp(middle @ w3 + b3)
    error = (odds / odds.sum(axis=1, keepdims=True) - np.eye(len(b3))[np.ravel(y)]) / len(x)
    error_middle = error @ w3.T * (middle > 0)
    error_low = error_middle @ w2.T * (low > 0)
    found = []
    for values, errors in ((x, error_low), (low, error_middle), (middle, error)):
        found += [values.T @ errors, errors.sum(axis=0)]
    return found


def sgd(weight, gradient, rate, slots):
    return weight * (1 - DECAY * rate) - rate * gradient


def adamw(weight, gradient, rate, slots):
    m, v, t = slots.get("m", 0.0), slots.get("v", 0.0), slots.get("t", 0) + 1
    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    slots.update(m=m, v=v, t=t)
    step = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return weight * (1 - DECAY * rate) - step * m / (np.sqrt(v) + 1e-7)


OPTIMIZERS = {
    "sgd": (sgd, lambda: keras.optimizers.SGD(BASE, weight_decay=DECAY)),
    "adamw": (adamw, lambda: keras.optimizers.AdamW(BASE, weight_decay=DECAY)),
}


def by_hand(build, data_for, update, rates):
    """Train with numpy; `rates` has for each batch the learning rate of each layer that trains."""
    model = build()
    x, y = data_for(model, rows=ROWS)
    weights, layers = model.get_weights(), [v.path.split("/")[-2] for v in model.weights]
    slots = [{} for _ in weights]
    for number, rate in enumerate(rates):
        rows = slice(number % PER_EPOCH * BATCH, number % PER_EPOCH * BATCH + BATCH)
        found = gradients(weights, x[rows], y[rows])
        for n, layer in enumerate(layers):
            if layer in rate:
                weights[n] = update(weights[n], found[n], rate[layer], slots[n])
    return weights


def in_a_fit(build, data_for, optimizer, schedule, stride=1, **settings):
    model = build()
    model.compile(optimizer, "sparse_categorical_crossentropy", steps_per_execution=stride)
    x, y = data_for(model, rows=ROWS)
    callback = kf.FreezeScheduler(schedule, verbose=0, **settings)
    history = model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[callback],
    )
    return model.get_weights(), history.history


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def warm(step, steps):
    return min((step + 1) / steps, 1)


def cosine(step, steps):
    return 0.5 * (1 + np.cos(min(step / steps, 1) * np.pi))


def planned(cut):
    """Return the rates by hand: `low` unfreezes after `cut` batches, with a warm-up."""
    rates = []
    for batch in range(PER_EPOCH * EPOCHS):
        factor = BASE * (cosine(batch, 5) if batch < cut else warm(batch - cut, 4))
        low = {"low": 0.25 * factor} if batch >= cut else {}
        rates.append({"middle": 0.5 * factor, "head": factor, **low})
    return rates


SCHEDULE = FreezeSchedule(
    [
        Phase("low", rates=RATES, until=AfterSteps(5), curve=Cosine()),
        Phase(rates=RATES, curve=Warmup(4)),
    ]
)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rates_are_group_rate_times_curve_batch_by_batch(name, stride, plain, data_for):
    if stride > 1 and keras.backend.backend() == "torch":
        pytest.skip("Keras has no steps_per_execution on torch")
    update, optimizer = OPTIMIZERS[name]
    found, _ = in_a_fit(plain, data_for, optimizer(), SCHEDULE, stride)
    expected = by_hand(plain, data_for, update, planned(cut=5 if stride == 1 else 6))
    assert_same(found, expected)
    unscheduled = by_hand(plain, data_for, update, [dict.fromkeys(("low", "middle", "head"), BASE)])
    assert np.abs(found[0] - unscheduled[0]).max() > 1e-3


class Halving(Curve):
    """A custom curve."""

    steps = None

    def factor(self, step, steps):
        return keras.ops.power(0.5, step / steps)


ALL = ("low", "middle", "head")
LENGTHS = {  # a schedule, and the factor of each batch
    "a count of epochs": (
        [Phase(until=1, curve=Cosine()), Phase()],
        [*(cosine(n, 6) for n in range(6)), *[1] * 6],
    ),
    "a count of steps": (
        [Phase(until=AfterSteps(4), curve=Cosine()), Phase()],
        [*(cosine(n, 4) for n in range(4)), *[1] * 8],
    ),
    "epochs that begin in mid-epoch": (
        [Phase(until=AfterSteps(2)), Phase(until=AfterEpochs(1), curve=Cosine()), Phase()],
        [1, 1, *(cosine(n, 4) for n in range(4)), *[1] * 6],
    ),
    "the latest end": (
        [Phase(until=OnPlateau("loss") | 1, curve=Cosine()), Phase()],
        [*(cosine(n, 6) for n in range(6)), *[1] * 6],
    ),
    "the rest of the training": (
        [Phase(until=AfterSteps(4)), Phase(curve=Cosine())],
        [*[1] * 4, *(cosine(n, 8) for n in range(8))],
    ),
    "its own": (
        [Phase(curve=Cosine(3))],
        [*(cosine(n, 3) for n in range(3)), *[0] * 9],
    ),
    "each phase again": (
        [Phase(until=AfterSteps(3), curve=Warmup(3)), Phase(curve=Warmup(3))],
        [1 / 3, 2 / 3, 1, 1 / 3, 2 / 3, *[1] * 7],
    ),
    "a curve of one's own": ([Phase(curve=Halving())], [0.5 ** (n / 12) for n in range(12)]),
}


@pytest.mark.parametrize("case", LENGTHS)
@pytest.mark.at_commit(
    "a count of steps", "epochs that begin in mid-epoch", "each phase again", "a curve of one's own"
)
def test_a_curve_is_as_long_as_its_phase(case, plain, data_for):
    phases, factors = LENGTHS[case]
    found, _ = in_a_fit(plain, data_for, OPTIMIZERS["sgd"][1](), FreezeSchedule(phases))
    rates = [dict.fromkeys(ALL, BASE * factor) for factor in factors]
    assert_same(found, by_hand(plain, data_for, sgd, rates))


@pytest.mark.parametrize("rate", ["schedule", "callable"])
def test_a_curve_multiplies_any_kind_of_learning_rate(rate, plain, data_for):
    rates = {
        "schedule": keras.optimizers.schedules.PiecewiseConstantDecay([3], [BASE, BASE / 2]),
        "callable": lambda: BASE,
    }
    optimizer = keras.optimizers.SGD(rates[rate], weight_decay=DECAY)
    found, _ = in_a_fit(plain, data_for, optimizer, FreezeSchedule([Phase(curve=Cosine())]))
    halved = 0.5 if rate == "schedule" else 1
    by_batch = [BASE * cosine(n, 12) * (halved if n > 3 else 1) for n in range(12)]
    expected = by_hand(plain, data_for, sgd, [dict.fromkeys(ALL, r) for r in by_batch])
    assert_same(found, expected)


@pytest.mark.parametrize("is_saved", [False, True], ids=["in this process", "in another"])
def test_a_curve_continues_in_the_fit_that_continues(is_saved, plain, data_for, tmp_path):
    """Of a fit in two parts, with the length of the whole given."""
    schedule = FreezeSchedule([Phase(until=AfterSteps(3)), Phase(curve=Cosine())])
    whole, _ = in_a_fit(plain, data_for, keras.optimizers.SGD(BASE), schedule)
    model = plain()
    model.compile(keras.optimizers.SGD(BASE), "sparse_categorical_crossentropy")
    x, y = data_for(model, rows=ROWS)
    for epoch in range(EPOCHS):
        callback = kf.FreezeScheduler(schedule, total_epochs=EPOCHS, verbose=0)
        model.fit(
            x,
            y,
            batch_size=BATCH,
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,
            verbose=0,
            callbacks=[callback],
        )
        if is_saved:
            model.save(tmp_path / "part.keras")
            model = keras.models.load_model(tmp_path / "part.keras")
    for a, b in zip(model.get_weights(), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_a_curve_ends_with_the_fit(plain, data_for):
    model = plain()
    model.compile(keras.optimizers.SGD(BASE), "sparse_categorical_crossentropy")
    x, y = data_for(model, rows=BATCH)
    callback = kf.FreezeScheduler(FreezeSchedule([Phase(curve=Cosine(1))]), verbose=0)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[callback])
    before = model.get_weights()
    model.fit(x, y, verbose=0)
    found = gradients(before, x, y)
    assert_same(model.get_weights(), [w - BASE * g for w, g in zip(before, found, strict=True)])


def test_the_logs_tell_the_rate_that_comes_next(plain, data_for):
    """As Keras does for a learning-rate schedule: the rate at the end of the epoch."""
    schedule = FreezeSchedule(
        [Phase("low", rates=RATES, until=1, curve=Cosine(9)), Phase(rates=RATES, curve=Warmup(20))]
    )
    optimizer = OPTIMIZERS["sgd"][1]()
    _, history = in_a_fit(plain, data_for, optimizer, schedule, log_details=True)
    factors = np.array([cosine(6, 9), 7 / 20])
    assert history["learning_rate/head"] == pytest.approx(BASE * factors)
    assert history["learning_rate/middle"] == pytest.approx(BASE * factors * 0.5)
    assert history["learning_rate/low"] == pytest.approx(BASE * factors * 0.25 * [0, 1])


def test_a_curve_needs_a_length(plain, data_for):
    schedule = FreezeSchedule([Phase("low", until=OnPlateau("loss"), curve=Cosine()), Phase()])
    message = (
        r"^Cosine\(steps=\.\.\.\) must be given where the length of the phase isn't known "
        r"beforehand\. Received: Cosine\(steps=None, floor=0\.0\) in a phase until OnPlateau.*, "
        r"with 6 steps an epoch\. Give a number of batches\."
    )
    with pytest.raises(ValueError, match=message):
        in_a_fit(plain, data_for, keras.optimizers.SGD(BASE), schedule)
