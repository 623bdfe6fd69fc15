"""Where a model can be cut: behind frozen layers that return the same for a sample each time.

`model_cut.find` walks from the inputs up to where the frozen part ends, and returns a `Frontier`
or, as `NoCut`, why there is none. `determinism` judges each layer and operation on the way, by the
table in `determinism_rules`. `tensor_names` names what is computed up to a cut, so that two models
that compute the same can be told.
"""

from keras_freeze.cuts.determinism_rules import Setting
from keras_freeze.cuts.frontier import Frontier, GraphCut
from keras_freeze.cuts.model_cut import ONLY_GRAPHS, find
from keras_freeze.cuts.reasons import NoCut, Reason
from keras_freeze.cuts.tensor_names import names_of

__all__ = [
    "ONLY_GRAPHS",
    "Frontier",
    "GraphCut",
    "NoCut",
    "Reason",
    "Setting",
    "find",
    "names_of",
]
