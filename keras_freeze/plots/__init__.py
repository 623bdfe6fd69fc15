"""Pictures of models, schedules, trainings, searches, decisions, rates and what layers learned.

matplotlib is imported when a picture is drawn.
"""

from keras_freeze.plots.adaptive import decisions
from keras_freeze.plots.group_curves import gradients, weight_change
from keras_freeze.plots.heat_maps import heatmap
from keras_freeze.plots.layers import activations, filters
from keras_freeze.plots.learning_rates import learning_rates
from keras_freeze.plots.models import model
from keras_freeze.plots.rankings import ranking
from keras_freeze.plots.schedules import schedule
from keras_freeze.plots.searches import search
from keras_freeze.plots.trainings import comparison, training, transitions

__all__ = [
    "activations",
    "comparison",
    "decisions",
    "filters",
    "gradients",
    "heatmap",
    "learning_rates",
    "model",
    "ranking",
    "schedule",
    "search",
    "training",
    "transitions",
    "weight_change",
]
