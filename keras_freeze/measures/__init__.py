"""What can be measured of a model's layer groups: their outputs, and how much they change.

`similarity` compares representations and is pure; `group_outputs` gets those of a model's groups,
and `layer_outputs` lets a function see what layers return. `gauges` look at a model in training,
once in an interval, and say how much each group has changed since they last did; `gradient_rates`
turns what was recorded of gradients into rates. Nothing here decides anything or changes a weight.
"""

from keras_freeze.measures.gauges import (
    Gauge as Gauge,
    Look as Look,
    WeightChange as WeightChange,
    gauge_for as gauge_for,
    measured_weights as measured_weights,
)
from keras_freeze.measures.gradient_rates import (
    rates_by_norms as rates_by_norms,
    relative_norms as relative_norms,
)
from keras_freeze.measures.group_outputs import (
    group_features as group_features,
    group_outputs as group_outputs,
)
from keras_freeze.measures.layer_outputs import (
    fixed_batch as fixed_batch,
    infer as infer,
    watched as watched,
)
from keras_freeze.measures.similarity import (
    NotMeasurableError as NotMeasurableError,
    cka as cka,
    svcca as svcca,
)

__all__: list[str] = []
