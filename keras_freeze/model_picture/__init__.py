"""How a Keras model is put together: its layers, opened, and who owns which weight.

Everything above asks this folder instead of Keras. Nothing here changes a model.
"""
