"""Two finished searches for all tests that only look at one, and less for KerasTuner to collect."""

import gc
import sys
import warnings

import pytest
import small_searches
from small_searches import FIT, X, Y

from keras_freeze import tuning


@pytest.fixture(scope="module", autouse=True)
def little_to_collect():
    """Leave earlier objects out of garbage collections; KerasTuner makes two per trial."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """Return a `DepthSweep` that has trained twice at each depth, traced as users' models are."""

    def build():
        return small_searches.build(traced=True)

    folder = small_searches.project(tmp_path_factory.mktemp("swept"))
    sweep = tuning.DepthSweep(build, executions_per_trial=2, **folder)
    sweep.search(X, Y, **FIT)
    return sweep


@pytest.fixture(scope="session")
def searched(tmp_path_factory):
    """Return a `RandomSearch` of three trials, in which nothing warned nor needed tensorboard."""
    folder = small_searches.project(tmp_path_factory.mktemp("searched"))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setitem(sys.modules, "tensorboard", None)
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "__array__ implementation")  # Keras's and NumPy's
        tuner = tuning.RandomSearch(
            small_searches.build_with_depth, "val_loss", max_trials=3, seed=0, **folder
        )
        tuner.search(X, Y, **FIT)
    return tuner
