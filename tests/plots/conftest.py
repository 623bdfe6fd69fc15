"""What every test of pictures shares."""

import pytest


@pytest.fixture(autouse=True)
def closed():
    """Close the figures that a test leaves open in pyplot, which warns of more than twenty."""
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
