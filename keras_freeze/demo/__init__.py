"""The real data and models that the demo, the notebooks and the measurements share.

Nothing here is imported by `keras_freeze` itself: the modules need the `demo` extra.
"""
