import json

from kerasimg.tuning.journal import Ended, Order, Records


def test_an_incomplete_line_is_removed(tmp_path):
    records = Records(tmp_path)
    records.append({"event": "begin", "trial": "0001"})
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"event": "end", "tri')
    assert records.events() == [{"event": "begin", "trial": "0001"}]
    records.append({"event": "end", "trial": "0001"})
    assert [event["event"] for event in records.events()] == ["begin", "end"]


def test_a_trial_is_read_back_as_written(tmp_path):
    records = Records(tmp_path)
    row = {"stage": 1.0, "epoch": 1.0, "loss": 0.1 + 0.2, "val_accuracy": 1 / 3}
    ended = Ended("completed", 1 / 3, 0.25, [1 / 3], 1, None, [1 / 3], [row])
    records.write_order(Order("0001", {"lr": 0.1}))
    records.write_ended("0001", ended)
    assert records.read_ended("0001") == ended
    assert sorted(path.name for path in (tmp_path / "trials" / "0001").iterdir()) == [
        "history.csv",
        "outcome.json",
        "values.json",
    ]
    assert json.loads((tmp_path / "trials" / "0001" / "values.json").read_text())["values"] == {"lr": 0.1}
    assert records.read_ended("0002") is None
