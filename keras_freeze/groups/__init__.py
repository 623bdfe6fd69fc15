"""Layer groups: *where*. A model as an ordered tuple of parts, from input to head.

`call_graph` reads the model, `atoms` cuts it where a single tensor crosses, `labels` and `kinds`
tell what a piece is, `segments` joins pieces as a person would, `automatic` adds the head and the
order, `user_defined` takes a division of the user's own. `division` is the front door.
"""

from keras_freeze.groups.division import layer_groups, picture_of, with_groups
from keras_freeze.groups.user_defined import Groups
from keras_freeze.model_picture import LayerGroup

__all__ = ["Groups", "LayerGroup", "layer_groups", "picture_of", "with_groups"]
