"""Reports: how many parameters train, by layer group or layer, and tables to show them.

A report is a value, taken at one moment, and reads the model only. `tables` renders every table
of the package, as text and as HTML.
"""

from keras_freeze.reports.parameters import (
    ParameterReport,
    ReportRow,
    parameter_counts,
    parameter_report,
    readable_bytes,
)
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
