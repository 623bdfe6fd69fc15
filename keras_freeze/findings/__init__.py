"""What will probably spoil a training: a model, its data or its rates that don't fit each other.

`structure` looks at a `Setup` alone, `inputs` and `labels` at a batch of data as well;
`preprocessing` knows what the backbones of `keras.applications` expect. Nothing here changes a
model, and what is not known is left alone: a false alarm costs more than a finding brings.
"""

from keras_freeze.findings.finding import Finding, Findings
from keras_freeze.findings.inputs import has_known_range, is_called_plainly, of_inputs, of_text
from keras_freeze.findings.labels import has_loss_of_numbers, of_task, task_of
from keras_freeze.findings.setup import Setup, by_flags, constant_rate
from keras_freeze.findings.structure import of_pretrained_part, of_structure

__all__ = [
    "Finding",
    "Findings",
    "Setup",
    "by_flags",
    "constant_rate",
    "has_known_range",
    "has_loss_of_numbers",
    "is_called_plainly",
    "of_inputs",
    "of_pretrained_part",
    "of_structure",
    "of_task",
    "of_text",
    "task_of",
]
