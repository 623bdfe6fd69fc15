"""Pictures of trainings, searches, rankings, decisions, learning rates and what layers learned.

matplotlib is imported when a picture is drawn.
"""

from keras_freeze.plots.adaptive import decisions
from keras_freeze.plots.heat_maps import heatmap
from keras_freeze.plots.layers import activations, filters
from keras_freeze.plots.learning_rates import learning_rates
from keras_freeze.plots.rankings import ranking
from keras_freeze.plots.searches import search
from keras_freeze.plots.trainings import comparison, training, transitions

__all__ = [
    "activations",
    "comparison",
    "decisions",
    "filters",
    "heatmap",
    "learning_rates",
    "ranking",
    "search",
    "training",
    "transitions",
]
