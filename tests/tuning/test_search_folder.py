"""A folder is for one search."""

import keras
import pytest
from small_searches import build, build_with_depth, project, random_search

from keras_freeze import tuning


def test_a_folder_with_another_search(tmp_path):
    tuning.DepthSweep(build, **project(tmp_path))

    def wider():
        model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(9) for _ in "abc")])
        model.compile("sgd", "mse")
        return model

    for other, said in (
        ({"objective": "val_accuracy"}, "one with objective val_loss instead of val_accuracy"),
        ({"executions_per_trial": 2}, "one with executions_per_trial 1 instead of 2"),
        ({"max": 1}, "one with max None instead of 1"),
        ({"build": wider}, "one with model 6 weights, 83 numbers instead of 6 weights, 225"),
    ):
        with pytest.raises(ValueError, match=f"a folder without another search.*{said}"):
            tuning.DepthSweep(**{"build": build, **other}, **project(tmp_path))
    with pytest.raises(ValueError, match="one with search DepthSweep instead of RandomSearch"):
        random_search(build_with_depth, tmp_path)
    tuning.DepthSweep(build, **project(tmp_path))
    random_search(build_with_depth, tmp_path, overwrite=True)
