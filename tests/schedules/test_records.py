"""A record as a table and as plain data."""

import json

from keras_freeze.schedules import RecordRow, ScheduleRecord

ROWS = (
    RecordRow(0.0, 0, "", {"head": 0.1}, 18),
    RecordRow(1.5, 1, "after 6 steps", {"low": 0.01, "mid": 0.02, "head": 0.1}, 1162),
)
RECORD = ScheduleRecord("net", ("low", "mid", "head"), ROWS, 4.0)


def test_as_a_table():
    lines = [" ".join(line.split()) for line in str(RECORD).splitlines() if line.strip()]
    assert lines[0] == "net, 4 epochs done"
    assert lines[3] == "0 0 head 18 0.1"
    assert lines[4] == "1.5 1 after 6 steps all groups 1,162 0.1 to 0.01"
    assert "multiple" in str(ScheduleRecord("net", ("head",), ROWS[:1], 1.0, True))
    assert "net, 1 epoch done" in str(ScheduleRecord("net", ("head",), ROWS[:1], 1.0))


def test_as_plain_data():
    data = json.loads(json.dumps(RECORD.to_dict()))
    assert data["rows"][1]["rates"]["mid"] == 0.02
    assert repr(RECORD) == "ScheduleRecord(model='net', epochs=4, rows=2)"
