"""How layer groups are found: a call graph, cut into atoms, joined into named segments.

`graph` reads the model, `atoms` cuts it where a single tensor crosses, `labels` and `kinds` tell
what a piece is, `segments` joins pieces as a person would, `automatic` adds the head and the
order, `given` takes a user's own division. `keras_freeze.groups` is what the rest asks.
"""
