"""Features that stay on the device give the same training as features on the host."""

import cached
import keras
import pytest
from cached import frozen, images

import keras_freeze as kf

pytestmark = [
    pytest.mark.backend,
    pytest.mark.filterwarnings("ignore:.*flags of single variables"),
]


def on_device(max_bytes=2**20, **options):
    return kf.PrefixCache(max_bytes, on_device=True, auto=False, verbose=0, **options)


@pytest.mark.at_commit("nested")
def test_a_cut_gives_the_same(any_model, data_for):
    build = frozen(any_model, len(kf.layer_groups(any_model())) - 1)
    data = data_for(any_model(), rows=20)
    statistics = cached.compare(build, data, cache=on_device(), validate=True)
    assert statistics.misses == 40 and statistics.hits == 80


@pytest.mark.parametrize(
    "rows", [pytest.param(0, marks=pytest.mark.slow), 7, pytest.param(19, marks=pytest.mark.slow)]
)
def test_what_does_not_fit_goes_to_the_host(batch_norm, rows):
    row_bytes = 4 * 4 * 4 * 4  # behind the first block
    cache = on_device(rows * row_bytes)
    statistics = cached.compare(frozen(batch_norm, 1), images(), cache=cache)
    assert (statistics.misses, statistics.hits) == (20, 40)
    assert statistics.nbytes == 20 * row_bytes


@pytest.mark.slow
def test_depths_that_race_share_them(batch_norm):
    caches = [kf.PrefixCache(auto=False, verbose=0), on_device()]
    data = images(24)
    one, other = (
        cached.fit(
            batch_norm,
            data,
            kf.GradualUnfreeze("auto", cache=cache, verbose=0),
            epochs=12,
            validate=True,
        )
        for cache in caches
    )
    cached.assert_same(other, one, exact=False)
    assert caches[1].statistics.hits == caches[0].statistics.hits > 0


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of tf.distribute")
def test_it_is_refused_under_a_strategy(batch_norm):
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = frozen(batch_norm, 1)()
        model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"on_device=.*spread over devices"):
        model.fit(*images(), verbose=0, callbacks=[on_device()])


def test_it_is_refused_where_batches_are_spread(batch_norm):
    model = frozen(batch_norm, 1)()
    model.compile("sgd", "sparse_categorical_crossentropy")
    if keras.backend.backend() != "jax":
        pytest.skip("keras.distribution")
    devices = keras.distribution.list_devices("cpu")
    distribution = keras.distribution.DataParallel(devices=devices)
    with distribution.scope(), pytest.raises(ValueError, match=r"on_device=.*spread over devices"):
        model.fit(*images(), verbose=0, callbacks=[on_device()])
