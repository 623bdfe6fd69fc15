"""What all pictures have in common."""

import matplotlib
import pytest

from keras_freeze.plots.style import styled


@pytest.fixture
def as_before():
    was = matplotlib.is_interactive()
    yield
    matplotlib.interactive(was)


@pytest.mark.parametrize("chosen", [True, False])
def test_what_a_backend_chooses_as_it_is_loaded_stays(chosen, as_before):
    matplotlib.interactive(not chosen)
    with styled():
        matplotlib.interactive(chosen)
    assert matplotlib.is_interactive() is chosen


def test_the_style_ends_with_the_figure():
    before = matplotlib.rcParams["axes.grid.axis"]
    with styled():
        assert matplotlib.rcParams["axes.grid.axis"] == "y" != before
    assert matplotlib.rcParams["axes.grid.axis"] == before
