"""Every private name of Keras, KerasTuner, TensorFlow and torch that the package relies on.

Nothing outside this folder touches one. Each module covers one part of Keras and gives public
functions for what the package needs of it.
"""
