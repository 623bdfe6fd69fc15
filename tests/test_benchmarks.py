import importlib
import itertools
import json
import keyword
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_freeze import layer_groups
from keras_freeze.demo import sequences, vgg
from keras_freeze.schedules import SlantedTriangular


@pytest.fixture
def script(monkeypatch):
    """Import a script as it imports its neighbours: by their names."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module


class TestMemory:
    def test_cuts_begin_with_nothing_and_end_before_the_last_layer(self, script):
        models = script("memory_models")
        model = models.mlp(2)
        assert models.weighted_layers(model) == [f"dense{n}" for n in ("", "_1", "_2", "_3")]
        assert models.cuts(model, 3) == [0, 2, 4]
        assert models.cuts(model) == [0, 1, 2, 3, 4]


class TestSnippets:
    def test_words_are_split_and_other_signs_stand_alone(self, script):
        source = "parse_headers(HTTPMessage, 42)\n"
        expected = ["parse", "_", "headers", "(", "http", "message", ",", "42", ")", "\n"]
        assert script("snippets").pieces(source) == expected

    def test_the_most_frequent_pieces_have_numbers_and_the_others_share_0(self, script):
        snippets = script("snippets")
        numbers = snippets.vocabulary(["a", "b", "b", "c", "c", "c"], size=2)
        assert snippets.encode(["c", "b", "a"], numbers).tolist() == [1, 2, 0]

    def test_every_module_belongs_to_one_part(self, script):
        modules = [(f"module{n}", 100 * n) for n in range(8)]
        dealt = script("snippets").deal(modules)
        assert sorted(name for names in dealt.values() for name in names) == [
            name for name, _ in modules
        ]
        assert all(dealt[part] for part in ("train", "validation", "test"))

    @pytest.mark.parametrize(
        ("source", "place", "kind"),
        [
            ("import os\n", "os", "import"),
            ('def f(a):\n    """Read."""\n', "a", "definition"),
            ('def f(a):\n    """Read."""\n', "Read", "docstring"),
            ("if x:\n    f(1)\n", "x", "condition"),
            ("if x:\n    f(1)\n", "1", "call"),
            ("if x:\n    pass\nelif y:\n    pass\n", "y", "condition"),
            ("for x in f(2):\n    pass\n", "2", "loop"),
            ("for x in f(2):\n    pass\n", "pass", None),
            ("def f():\n    return 1  # one\n", "1", "return"),
            ("def f():\n    return 1  # one\n", "one", "comment"),
            ("raise E(3)\n", "3", "raise"),
            ("x += 4\n", "4", "assignment"),
            ("class A:\n    x = 5\n", "A", None),
            ("class A:\n    x = 5\n", "5", "assignment"),
        ],
    )
    def test_every_piece_is_in_the_innermost_statement(self, script, source, place, kind):
        snippets = script("snippets")
        of_piece = snippets.kinds(source)
        found = of_piece[snippets.pieces(source).index(place.lower())]
        assert (list(snippets.KINDS)[found] if found >= 0 else None) == kind

    def test_a_snippet_ends_within_a_statement_and_shows_how_it_begins(self, script):
        snippets = script("snippets")
        of_piece = np.array([0] * 62 + [1] * 6 + [-1] * 6)
        ends = snippets.breaks(of_piece)
        assert ends.tolist() == [65, 66, 67]
        assert all((of_piece[end - snippets.SEEN : end + 1] == 1).all() for end in ends)

    @pytest.mark.slow
    def test_the_packages_are_not_in_the_text_for_pretraining(self, script):
        snippets = script("snippets")
        pretraining = "\0".join(snippets.pretraining_text())
        for part in snippets.PARTS:
            for source in snippets.sources(part):
                if len(beginning := snippets.pieces(source)[:200]) == 200:
                    assert "\0".join(beginning) not in pretraining

    def test_no_module_is_in_two_parts(self, script):
        snippets = script("snippets")
        parts = [set(snippets.sources(part)) - {""} for part in snippets.PARTS]
        assert all(one.isdisjoint(other) for one, other in itertools.combinations(parts, 2))


class TestUlmfit:
    GROUPS = ("embedding", "lstm_1", "head")

    def row(self, ulmfit, rate, seed, validation):
        row = {"stage": "tune", "arm": "gradual", "head_rate": rate, "seed": seed}
        return {**row, "validation_accuracy": validation}

    def test_the_chosen_rate_is_the_best_on_average_over_the_tuning_seeds(self, script):
        ulmfit = script("ulmfit")
        low, high = ulmfit.HEAD_RATES[0], ulmfit.HEAD_RATES[-1]
        rows = [
            self.row(ulmfit, rate, seed, 0.4 + 0.1 * (rate == high) - 0.05 * (rate == low))
            for rate in ulmfit.HEAD_RATES
            for seed in ulmfit.TUNING_SEEDS
        ]
        rows.append(self.row(ulmfit, low, seed=0, validation=0.9))  # not a tuning seed
        assert ulmfit.chosen_rate("gradual", rows) == high

    def test_no_seed_serves_both_stages(self, script):
        ulmfit = script("ulmfit")
        assert not set(ulmfit.TUNING_SEEDS) & set(ulmfit.SEEDS)
        assert len(ulmfit.SEEDS) == 10

    def test_arms_have_names_of_their_own_and_callbacks(self, script):
        ulmfit = script("ulmfit")
        assert len({arm.name for arm in ulmfit.ARMS}) == len(ulmfit.ARMS)
        for arm in ulmfit.ARMS:
            assert arm.callback(self.GROUPS).verbose == 0

    def test_every_phase_of_the_whole_recipe_has_a_triangle_and_group_rates(self, script):
        arms = {arm.name: arm for arm in script("ulmfit").ARMS}
        schedule = arms["gradual, group rates, triangles"].callback(self.GROUPS).schedule
        assert [phase.frozen for phase in schedule.phases] == [
            ("embedding", "lstm_1"),
            ("embedding",),
            (),
        ]
        assert all(phase.curve == SlantedTriangular() for phase in schedule.phases)
        assert all(phase.rates == "default" for phase in schedule.phases)


def test_runs_are_appended_and_read_again(script, tmp_path, capsys):
    runs = script("runs")
    file = tmp_path / "results" / "some.jsonl"
    assert runs.read(file) == []
    for seed in range(2):
        runs.append(file, {"seed": seed})
    assert runs.read(file) == [{"seed": 0}, {"seed": 1}]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == runs.read(file)


def test_an_interval_is_that_of_students_t(script):
    runs = script("runs")
    assert runs.interval([0.1, 0.2, 0.3]) == "0.200 ± 0.248"  # 4.303 * 0.1 / sqrt(3)
    assert runs.interval([0.1, 0.2, 0.3], "+") == "+0.200 ± 0.248"
    assert runs.interval([0.5]) == "0.500"


class TestPrefixCache:
    def row(self, arm, n, seconds):
        return {"case": "lstm", "arm": arm, "round": n, "seconds": seconds, "peak_bytes": 2**20}

    def test_ratios_are_taken_round_by_round(self, script):
        times = {"plain": [10.0, 30.0, 20.0], "cache": [2.0, 3.0, 8.0], "floor": [1.0, 3.0, 5.0]}
        rows = [self.row(arm, n, t) for arm, own in times.items() for n, t in enumerate(own)]
        found = script("prefix_cache").medians(rows, "lstm")
        assert found["cache"] == {
            "seconds": 3.0,
            "peak_mb": 1.0,
            "rounds": 3,
            "to_plain": 0.2,
            "to_floor": 1.6,
        }

    def test_every_case_is_described_and_begins_with_what_it_is_compared_with(self, script):
        prefix_cache = script("prefix_cache")
        assert prefix_cache.WHAT.keys() == prefix_cache.CASES.keys()
        assert {arms[0] for arms in prefix_cache.CASES.values()} == {"plain"}

    def test_the_floor_trains_the_rest_of_the_model(self, script):
        arms = script("prefix_cache_arms")
        model = arms.keras.Sequential(
            [
                arms.keras.Input((4,)),
                arms.layers.Dense(3, name="low"),
                arms.layers.Dense(2, name="middle"),
                arms.layers.Dense(2, name="head"),
            ]
        )
        rest = arms.suffix_of(model, model.get_layer("low").output)
        assert [layer.name for layer in rest.layers[1:]] == ["middle", "head"]
        x = np.ones((5, 4), "float32")
        whole = arms.keras.Model(model.inputs, model.get_layer("low").output)
        np.testing.assert_allclose(
            rest.predict(whole.predict(x, verbose=0), verbose=0), model.predict(x, verbose=0)
        )


class TestPhotographs:
    def test_arms_are_compared_seed_by_seed(self, script):
        photographs = script("photographs")
        rows = [
            {"arm": arm, "seed": seed, "accuracy": base + 0.1 * seed, "fit_s": 4.0 + seed}
            for arm, base in [("all at once", 0.3), ("head only", 0.2)]
            for seed in range(2)
        ]
        header, _, reference, other = photographs.table(rows).splitlines()
        assert [cell.strip() for cell in header.split("|")[1:3]] == ["arm", "test accuracy"]
        assert reference == "| all at once | 0.350 ± 0.635 |  | 1.00 | 4.5 |"
        assert other == "| head only | 0.250 ± 0.635 | -0.100 ± 0.000 | 1.00 | 4.5 |"

    def test_every_arm_trains_as_it_is_called(self, script):
        arms = script("photographs").ARMS
        assert list(arms) == [
            "from scratch",
            "all at once",
            "head only",
            "GradualUnfreeze()",
            "block5 to head",
        ]
        model = script("photographs").demo.build(32, None, 0)
        model.compile("sgd", "sparse_categorical_crossentropy")
        x, y = np.zeros((2, 32, 32, 3), "float32"), np.zeros(2)
        model.fit(x, y, epochs=1, verbose=0, callbacks=[arms["block5 to head"].callback()])
        trained = {v.path.split("/")[0].split("_")[0] for v in model.trainable_variables}
        assert trained == {"block5", "scale", "hidden", "classes"}


class TestAdaptiveTasks:
    def test_samples_are_dealt_by_class_and_none_twice(self, script):
        tasks = script("adaptive_tasks")
        samples = {0: np.arange(20), 1: np.arange(100, 130)}
        data = tasks.dealt(samples, (3, 4, 5), seed=1)
        parts = (data.train, data.validation, data.test)
        assert [len(part.x) for part in parts] == [6, 8, 10]
        assert all(((part.x >= 100) == part.y).all() for part in parts)
        assert len({*np.concatenate([part.x for part in parts])}) == 24
        again = tasks.dealt(samples, (3, 4, 5), seed=1)
        assert np.array_equal(again.test.x, data.test.x)

    def test_a_letter_has_the_role_of_its_token(self, script):
        tasks = script("adaptive_tasks")
        source = 'def f(a):  # so\n    """It."""\n    b = a.c\n    return g("x", é)\n'
        found = [None if role < 0 else tasks.ROLES[role] for role in tasks._roles(source)]
        roles = {letter: found[source.index(letter)] for letter in "fosIbcrgxé"}
        assert roles["f"] == "keyword"  # the last letter of "def" comes first
        assert found[source.index("f(")] == "definition"
        assert roles["s"] == roles["o"] == "comment"
        assert roles["I"] == "documentation"
        assert found[source.index("b =")] == "target"
        assert roles["c"] == "attribute"
        assert roles["r"] == "keyword"
        assert roles["g"] == "call"
        assert roles["x"] == "string"
        assert roles["é"] == "name"
        assert found[source.index(" ")] is None
        assert found[source.index('"x')] is None

    def test_snippets_have_a_letter_of_their_role_in_the_middle(self, script):
        tasks = script("adaptive_tasks")
        data = tasks.TASKS["roles"].load(0)
        assert data.train.x.shape == (24 * len(tasks.ROLES), tasks.LENGTH)
        assert np.bincount(data.test.y).tolist() == [100] * len(tasks.ROLES)
        letters = [number for number in data.test.x[:, tasks.LENGTH // 2] if number]
        alphabet = sequences.ALPHABET
        assert all(alphabet[number - 1].isalpha() for number in letters)
        keywords = data.test.x[data.test.y == tasks.ROLES.index("keyword"), tasks.LENGTH // 2]
        assert {alphabet[number - 1] for number in keywords} <= set("".join(keyword.kwlist))

    def test_the_encoder_puts_out_a_vector_for_each_character(self, script):
        tasks = script("adaptive_tasks")
        model = tasks.encoder()
        assert model.output_shape == (None, tasks.LENGTH, tasks.WIDTH)
        whole = keras.Model(model.input, keras.layers.Dense(2)(model.output))
        task = tasks.TASKS["roles"]
        assert len(layer_groups(whole, backbone=task.backbone)) == task.groups


class TestAdaptive:
    def rows(self, adaptive, **machine):
        """A seed in which depth 3 has the best validation loss, and another with depth 4."""
        rows = []
        for seed, best in ((0, 3), (1, 4)):
            for n, (name, rate) in enumerate(adaptive.runs_of(adaptive.TASKS["photographs"])):
                loss = 1.0 if name == f"depth {best}" else 2.0 + n
                row = {"task": "photographs", "arm": name, "rate": rate, "seed": seed}
                row |= {"accuracy": 0.01 * n, "val_loss": loss, "cpu_s": 10.0}
                rows.append({**row, "machine": machine})
        return rows

    def test_a_choice_costs_the_time_of_all_and_has_the_accuracy_of_the_best_by_validation(
        self, script
    ):
        adaptive = script("adaptive")
        rows, task = self.rows(adaptive), adaptive.TASKS["photographs"]
        found = adaptive.by_run(rows, task)
        for seed, best in ((0, "depth 3"), (1, "depth 4")):
            chosen = found[adaptive.SWEEP, task.rates[1]][seed]
            assert chosen["accuracy"] == found[best, task.rates[1]][seed]["accuracy"]
            assert chosen["cpu_s"] == 10.0 * 6
            rate = found[adaptive.ALL, 0.0][seed]
            assert rate["accuracy"] == 0.0  # of the middle rate, which comes first
            assert rate["cpu_s"] == 10.0 * 3

    def test_the_table_compares_seed_by_seed(self, script):
        adaptive = script("adaptive")
        lines = adaptive.table(self.rows(adaptive), "photographs").splitlines()
        runs = adaptive.runs_of(adaptive.TASKS["photographs"])
        assert len(lines) == 2 + len(runs) + 1 + len(adaptive.MAIN)  # the sweep, the best rates
        race = next(line for line in lines if line.startswith(f"| {adaptive.AUTO} | 0.0003 |"))
        accuracy = 0.01 * runs.index((adaptive.AUTO, 3e-4))
        assert f"| {accuracy:.3f} ± 0.000 | +{accuracy:.3f} ± 0.000 |" in race
        assert race.endswith("| 1.00 |")

    def test_accuracy_is_that_with_an_accelerator_and_time_that_without(self, script):
        adaptive = script("adaptive")
        fast = [
            {**row, "accuracy": 0.9, "cpu_s": 1.0 + row["seed"]}
            for row in self.rows(adaptive, accelerator="one")
        ]
        both = adaptive.table([*fast, *self.rows(adaptive)], "photographs").splitlines()
        assert all("| 0.900 ± 0.000 |" in line for line in both[2:])
        assert sum(line.endswith("| 1.00 |") for line in both) == len(both) - 2 - 1 - 4
        alone = adaptive.table(fast, "photographs").splitlines()
        assert all(line.endswith("|  |") for line in alone[2:])


class TestRecording:
    @pytest.mark.slow
    def test_no_arm_freezes_anything(self, script):
        recording = script("recording")
        model = vgg.classifier(vgg.backbone(32, "none")[0], 3)
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
        x, y = np.random.default_rng(0).normal(size=(2, 32, 32, 3)), np.array([0, 1])
        for name, make in recording.ARMS.items():
            depths = Depths()
            model.fit(x, y, epochs=3, verbose=0, callbacks=[make(), depths])
            assert depths.trainable == [len(model.trainable_weights)] * 3, name

    def test_ratios_are_those_of_a_round(self, script):
        recording = script("recording")
        took = {"steps_s": 1.0, "processor_s": 2.0}
        times = {name: [dict(took), dict(took)] for name in recording.ARMS}
        times["AutoFreeze()"] = [{"steps_s": 1.5, "processor_s": 2.0}] * 2
        shown = recording.table({"model": "VGG16", "steps": 10, "times": times})
        columns = [list(column.cells) for column in shown.columns]
        row = columns[0].index("AutoFreeze()")
        assert [column[row] for column in columns[1:]] == [
            "150.0 ms",
            "1.5000",
            "200.0 ms",
            "1.0000",
        ]


class Depths(keras.callbacks.Callback):
    """Notes how many weights train at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.trainable = []

    def on_epoch_end(self, epoch, logs=None):
        self.trainable.append(len(self.model.trainable_weights))


class TestScale:
    def test_the_page_has_what_the_runs_say(self, script):
        scale = script("scale")
        page = (Path(__file__).parents[1] / "docs" / "scale.md").read_text()
        for table in scale.table(scale.runs.read(scale.RESULTS)).split("\n\n"):
            assert table in page

    def test_costs_of_rows_and_bytes_are_found_again(self, script):
        costs = {size: 2e-6 + 3e-10 * size for size in (10, 1000, 100_000)}
        row, byte = script("scale").per_row(costs)
        assert (row, byte) == pytest.approx((2e-6, 3e-10))
