"""Which learning rate to compile with: a range test of each phase of a schedule.

`finder` trains a few steps at rates that rise, and leaves the model as it was; `range_test` holds
what was measured and reads the suggestions from it.
"""

from keras_freeze.learning_rates.finder import find_learning_rate
from keras_freeze.learning_rates.range_test import LearningRateRange, RangeTest

__all__ = ["LearningRateRange", "RangeTest", "find_learning_rate"]
