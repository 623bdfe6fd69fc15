"""Reports: how many parameters train, what a step takes, and tables to show that.

A report is a value, taken at one moment, and reads the model only. `tables` renders every table
of the package, as text and as HTML.
"""

from keras_freeze.reports.memory_lines import in_short as in_short
from keras_freeze.reports.parameters import (
    ParameterReport,
    ReportRow,
    checked_batch_size as checked_batch_size,
    parameter_counts,
    parameter_report,
)
from keras_freeze.reports.sizes import readable_bytes
from keras_freeze.reports.tables import (
    Column as Column,
    ShownAsTable as ShownAsTable,
    Table as Table,
    shortened as shortened,
)

__all__ = [
    "ParameterReport",
    "ReportRow",
    "parameter_counts",
    "parameter_report",
    "readable_bytes",
]
