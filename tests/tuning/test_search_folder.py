"""A folder is for one search."""

import keras
import pytest
from small_searches import FIT, Untrained, X, Y, build, build_with_depth, project, random_search

from keras_freeze import tuning
from keras_freeze.tuning import results


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


SLOW_GAPS = [pytest.param(number, True, marks=pytest.mark.slow) for number in (0, 2)]


def torn(file):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    return file


def depths(tuner):
    return sorted(row["freeze_depth"] for row in tuner.rows())


def sweep(folder, **options):
    return tuning.DepthSweep(Untrained(lambda hp: build()), **options, **project(folder))


class TestTornFiles:
    @pytest.fixture
    def finished(self, tmp_path):
        sweep(tmp_path).search(verbose=0)
        return tmp_path / "search"

    @pytest.mark.parametrize(
        ("name", "advice"),
        [
            ("oracle.json", "Delete it: the search continues from what its trials have written"),
            ("trial_0001/trial.json", "or delete the trial's folder: it counts as failed then"),
            ("keras_freeze_search.json", "or pass overwrite=True to delete the search"),
            ("tuner0.json", "Replace what is in it by {}"),
        ],
    )
    @pytest.mark.parametrize(
        "damage",
        [
            torn,
            pytest.param(lambda file: file.write_bytes(b"\xff\xfe{"), marks=pytest.mark.slow),
            pytest.param(lambda file: file.write_text("null"), marks=pytest.mark.slow),
        ],
    )
    def test_one_is_named_with_what_to_do(self, name, advice, damage, finished, tmp_path):
        damage(finished / name)
        before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
        with pytest.raises(ValueError, match=rf"{name} is cut off or damaged .*{advice}"):
            sweep(tmp_path)
        assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before

    def test_without_its_state_a_search_goes_on(self, finished, tmp_path):
        (finished / "oracle.json").unlink()
        again = sweep(tmp_path)
        again.search(verbose=0)
        assert depths(again) == [0, 1, 2]
        assert len(again.oracle.get_best_trials(9)) == 3

    def test_a_random_search_without_its_state_tries_nothing_twice(self, tmp_path):
        def make():
            return random_search(Untrained(build_with_depth), tmp_path, max_trials=9)

        first = make()
        first.search(verbose=0)
        torn(tmp_path / "search" / "oracle.json").unlink()
        again = make()
        again.search(verbose=0)
        assert again.rows() == first.rows()
        assert depths(again) == [0, 1, 2]

    def test_hyperband_can_not_go_on_without_its_state(self, tmp_path):
        def make():
            hypermodel = Untrained(build_with_depth)
            return tuning.Hyperband(hypermodel, "val_loss", 4, 2, seed=0, **project(tmp_path))

        make().search(verbose=0)
        torn(tmp_path / "search" / "oracle.json")
        for _ in range(2):
            with pytest.raises(ValueError, match="this kind of search can't go on"):
                make()
            (tmp_path / "search" / "oracle.json").unlink(missing_ok=True)
        assert results.rows(tmp_path / "search")

    @pytest.mark.parametrize(("number", "has_state"), [(1, True), (1, False), *SLOW_GAPS])
    def test_a_deleted_trial_takes_no_other_with_it(self, number, has_state, finished, tmp_path):
        found = {row["trial_id"]: row for row in results.rows(finished)}
        gone = f"000{number}"
        for file in (finished / f"trial_{gone}").iterdir():
            file.unlink()
        (finished / f"trial_{gone}").rmdir()
        if not has_state:
            (finished / "oracle.json").unlink()
        again = sweep(tmp_path)
        again.search(verbose=0)
        assert depths(again) == [0, 1, 2]
        rows = {row["trial_id"]: row for row in again.rows()}
        kept = found.keys() - {gone}
        assert {i: rows[i] for i in kept} == {i: found[i] for i in kept}
        assert rows.keys() - kept == {"0003"}

    def test_a_trial_without_its_file_has_failed(self, finished, tmp_path):
        (finished / "trial_0001" / "trial.json").unlink()
        again = sweep(tmp_path)
        again.search(verbose=0)
        status = {row["trial_id"]: row["status"] for row in again.rows()}
        assert status["0001"] == "FAILED"
        assert len(again.oracle.get_best_trials(9)) == 3

    def test_a_record_is_named_and_the_search_goes_on_without_it(self, finished, tmp_path):
        file = torn(finished / "trial_0001" / "keras_freeze.json")
        message = r"trial_0001.keras_freeze\.json is cut off.*Delete it"
        with pytest.raises(ValueError, match=message):
            results.rows(finished)
        file.unlink()
        assert depths(sweep(tmp_path)) == [0, 2]

    def test_a_torn_record_is_not_in_the_way_of_another_attempt(self, tmp_path):
        class Interrupted(Untrained):
            def fit(self, hp, model, *args, **kwargs):
                raise KeyboardInterrupt

        tuner = random_search(Interrupted(build_with_depth), tmp_path)
        with pytest.raises(KeyboardInterrupt):
            tuner.search(verbose=0)
        torn(next((tmp_path / "search").glob("trial_*/keras_freeze.json")))
        again = random_search(Untrained(build_with_depth), tmp_path)
        again.search(verbose=0)
        assert [row["status"] for row in again.rows()] == ["COMPLETED"]

    def test_a_best_model_is_named_and_others_can_be_loaded(self, tmp_path):
        tuner = random_search(build_with_depth, tmp_path, max_trials=2)
        tuner.search(X, Y, **FIT)
        best, second = tuner.oracle.get_best_trials(2)
        torn(tmp_path / "search" / f"trial_{best.trial_id}" / "best.npz")
        message = rf"model of trial '{best.trial_id}' can't be read from .*best\.npz: .*load_model"
        with pytest.raises(ValueError, match=message):
            tuner.get_best_models()
        assert isinstance(tuner.load_model(second), keras.Model)


@pytest.mark.parametrize("kind", ["DepthSweep", "RandomSearch"])
def test_a_model_is_no_function(kind, tmp_path):
    message = rf"{kind}\(.*=...\) must be a function that builds a model.*{kind}\(build\)"
    with pytest.raises(TypeError, match=message):
        getattr(tuning, kind)(build(), "val_loss", **project(tmp_path))
