"""What a training brought: the report of a fit that a callback has made.

`notes` and `samples` are what has to be kept while it runs, `report` makes the report of them and
of what the schedule did. Nothing here changes a model.
"""

from keras_freeze.training_reports.notes import TrainingNotes as TrainingNotes
from keras_freeze.training_reports.report import (
    TrainingReport as TrainingReport,
    training_report as training_report,
)
from keras_freeze.training_reports.samples import WeightSamples as WeightSamples

__all__: list[str] = []
