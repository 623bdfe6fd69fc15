"""Pictures of trainings and of searches. matplotlib is imported when a picture is drawn."""

from keras_freeze.plots.searches import search
from keras_freeze.plots.trainings import comparison, training, transitions

__all__ = ["comparison", "search", "training", "transitions"]
