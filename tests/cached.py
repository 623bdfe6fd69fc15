"""Fit a model with and without a prefix cache, and compare everything that comes out."""

import dataclasses

import keras
import numpy as np

import keras_freeze as kf
from keras_freeze.engine import optimizer_state

BACKEND = keras.backend.backend()


@dataclasses.dataclass
class Outcome:
    """What a fit left behind."""

    history: dict
    weights: list
    optimizer: list
    predictions: list
    evaluation: dict
    model: keras.Model
    callbacks: list


def fit(build, data, *callbacks, optimizer="adam", compile_options=(), evaluate=False, **settings):
    """Build a model, train it, and return all that can be compared.

    The model is called once afterwards. Only where asked for is it evaluated and asked to predict
    as well, with the functions that Keras traces for that: equal weights imply the rest.
    """
    keras.utils.set_random_seed(7)
    model = build()
    # `accuracy` only where every output is a class.
    loss = (
        ["mse" if t.shape[-1] == 1 else "sparse_categorical_crossentropy" for t in model.outputs]
        if getattr(model, "outputs", None)
        else ["sparse_categorical_crossentropy"]
    )
    options = {"loss": loss if len(loss) > 1 else loss[0], **dict(compile_options)}
    model.compile(optimizer, **options)
    if isinstance(data, tuple):
        x, y, *_ = data
        settings = {"batch_size": 8, "validation_data": (x, y), **settings}
        history = model.fit(x, y, verbose=0, callbacks=list(callbacks), **settings)
    else:
        x = settings.pop("probe")
        history = model.fit(data, verbose=0, callbacks=list(callbacks), **settings)
    outputs = model(keras.tree.map_structure(lambda rows: rows[:8], x), training=False)
    predictions = [keras.ops.convert_to_numpy(tensor) for tensor in keras.tree.flatten(outputs)]
    evaluation = {}
    if evaluate:
        predictions += keras.tree.flatten(model.predict(x, batch_size=8, verbose=0))
        evaluation = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    return Outcome(
        history.history,
        [optimizer_state.to_host(v) for v in model.weights],
        [optimizer_state.to_host(v) for v in model.optimizer.variables],
        predictions,
        evaluation,
        model,
        list(callbacks),
    )


def assert_same(left, right, exact=BACKEND == "tensorflow"):
    """Compare two outcomes: to the last bit, or up to the rounding of floats."""

    def compare(a, b):
        if exact:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(
                np.asarray(a, "float64"), np.asarray(b, "float64"), rtol=2e-3, atol=2e-5
            )

    assert left.history.keys() == right.history.keys()
    for name in left.history:
        compare(left.history[name], right.history[name])
    for name in ("weights", "optimizer", "predictions"):
        for a, b in zip(getattr(left, name), getattr(right, name), strict=True):
            compare(a, b)
    for name in left.evaluation:
        compare(left.evaluation[name], right.evaluation[name])


def compare(build, data, *others, expect_hits=True, cache=None, epochs=3, **settings):
    """Fit with and without a cache; `others` are made anew for each. Returns the statistics."""
    cache = cache or kf.PrefixCache(auto=False, verbose=0)
    plain = fit(build, data, *(other() for other in others), epochs=epochs, **settings)
    cached = fit(build, data, *(other() for other in others), cache, epochs=epochs, **settings)
    assert_same(cached, plain)
    assert (cache.statistics.hits > 0) == expect_hits, cache.statistics
    return cache.statistics
