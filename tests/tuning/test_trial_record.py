"""What a trial did, in its file: what trained when, how well, at which epochs."""

import json
from pathlib import Path


def test_the_file_is_plain_json(swept):
    files = sorted(Path(swept.project_dir).glob("trial_*/keras_freeze.json"))
    assert sorted(json.loads(file.read_text())["freeze_depth"] for file in files) == [0, 1, 2]
