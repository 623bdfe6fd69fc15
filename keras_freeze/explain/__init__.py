"""What the layers of a model have learned: what they see, what they look for, what has changed.

`activations` returns what a layer puts out, `heatmap` where an input decides about an output,
`activation_maximisation` images that filters respond to, and `similarity` how far layer groups have
moved from a pretrained model, as a table; `plots` draws the others. Nothing here changes a model:
weights, seeds, optimizer, flags and the states of layers stay as they are.

`observation` watches one call of a model and finds layers in it; what is computed of arrays alone
is in `maps` and `ascent`, and the others put both together.
"""

from keras_freeze.explain.heat_map import HeatMap, heatmap
from keras_freeze.explain.inputs import positions_in as positions_in
from keras_freeze.explain.layer_activations import activations
from keras_freeze.explain.maximisation import FilterImages, activation_maximisation
from keras_freeze.explain.similarity import SimilarGroup, Similarity, similarity

__all__ = [
    "FilterImages",
    "HeatMap",
    "SimilarGroup",
    "Similarity",
    "activation_maximisation",
    "activations",
    "heatmap",
    "similarity",
]
