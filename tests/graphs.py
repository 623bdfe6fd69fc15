"""Whether TensorFlow optimizes graphs in the tests, and in the processes that they start."""

import os

import keras


def optimize_if_thorough():
    """Optimize graphs in `make test-all` alone: for tiny models it takes longer than to run them.

    What two processes compute is the same to the last bit only where both do, or neither does.
    """
    is_thorough = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
    if keras.backend.backend() == "tensorflow" and not is_thorough:
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
