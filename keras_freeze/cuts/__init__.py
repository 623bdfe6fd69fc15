"""Where a model can be cut: behind frozen layers that return the same for a sample each time.

`model_cut.find` walks from the inputs up to where the frozen part ends, and returns a `Frontier`
or, as `NoCut`, why there is none. `determinism` judges each layer and operation on the way, by the
table in `determinism_rules`. Pure: models are read and nothing is computed.
"""

from keras_freeze.cuts.determinism_rules import Setting
from keras_freeze.cuts.frontier import Frontier, GraphCut
from keras_freeze.cuts.model_cut import ONLY_GRAPHS, find
from keras_freeze.cuts.reasons import NoCut, Reason

__all__ = [
    "ONLY_GRAPHS",
    "Frontier",
    "GraphCut",
    "NoCut",
    "Reason",
    "Setting",
    "find",
]
