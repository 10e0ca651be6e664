"""Chief and workers over the wire: who is let in, what is checked, who is lost, and how a search ends."""

import json
import socket
import time

import grpc
import pytest

from kerasimg.boundary import LIMITS
from kerasimg.errors import CallError, KerasimgError
from kerasimg.spec.document import Tune
from kerasimg.spec.metrics import Goal
from kerasimg.tuning import ask_tell, protocol
from kerasimg.tuning import chief as chiefs
from kerasimg.tuning import worker as workers
from kerasimg.tuning.journal import Ended, Records
from kerasimg.tuning.oracle import make_oracle
from kerasimg.tuning.space import Dimension, Space

SPACE = Space((Dimension("x", "float", 0.5, low=0.0, high=1.0),))
IDENTITY = {"spec": "a" * 64, "data": "b" * 64, "kerasimg": "1.0", "backend": "tensorflow"}
TOKEN = "correct-horse"
GOOD = {"status": "completed", "score": 0.5, "seconds": 1.0, "curve": [0.5], "best_epoch": 1, "scores": [0.5]}


class Led:
    """A chief that answers, and workers of it."""

    def __init__(self, folder, max_trials=3, address="127.0.0.1:0"):
        self.oracle = make_oracle(SPACE, Goal("val_accuracy", "max"), Tune(tuner="random", max_trials=max_trials), 5)
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.oracle.open(Records(folder), may_come_back=True)
        self.service = chiefs.Service(address)
        self.address = self.service.address_here
        self.clients = []

    def serve(self, search="search-1"):
        self.service.serve(self.oracle, search, TOKEN, IDENTITY, "digest")
        return self

    def worker(self, name="worker-1", token=TOKEN, digest="digest", join=True):
        made = workers.Chief(self.address, token, digest, name)
        self.clients.append(made)
        if join:
            made.join(IDENTITY)
        return made

    def close(self):
        for one in self.clients:
            one.channel.close()
        self.service.close()


@pytest.fixture
def led(tmp_path):
    made = []

    def start(**how):
        made.append(Led(tmp_path / "search", **how))
        return made[-1]

    yield start
    for one in made:
        one.close()


def end(worker, trial, score=0.5):
    worker.end_trial(trial.order.trial, Ended("completed", score, 1.0, [score], 1, None, [score]))


def journal(led):
    return [json.loads(line) for line in (led.folder / "journal.jsonl").read_text().splitlines()]


def state(led):
    """All that a message could change."""
    oracle = led.oracle
    files = {str(path): path.read_bytes() for path in sorted(led.folder.rglob("*")) if path.is_file()}
    return files, dict(oracle.ended), {**oracle.curves}, list(oracle.ongoing_trials), list(oracle.retries)


def test_a_worker_trains_every_trial_and_learns_that_the_search_has_ended(led):
    one = led().serve()
    worker = one.worker()
    trained = []
    while (trial := worker.create_trial("worker-1")).status == "RUNNING":
        trained.append(trial.order.trial)
        assert worker.update_trial(trial.order.trial, {"val_accuracy": 0.5}) is False
        end(worker, trial)
    assert trained == ["0001", "0002", "0003"]
    assert one.oracle.over
    assert {row["host"] for row in one.oracle.table()} == {ask_tell.this_host()}
    assert all(presence.informed for presence in one.service.present())


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"token": "another-token"}, "its token is not that of the search"),
        ({"token": "another-token", "join": False}, "its token is not that of the search"),
        ({"join": False}, "another search is led here now"),
        ({"digest": "other"}, "it has another spec, other data or versions"),
    ],
)
def test_a_caller_that_is_no_worker_of_the_search_gets_nothing(led, facts, reason):
    one = led().serve()
    before = state(one)
    with pytest.raises(CallError, match=reason):
        one.worker(**facts).create_trial("worker-1")
    assert state(one) == before


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"spec": "c"}, "it has another spec, or other values of its params"),
        ({"data": "c"}, "it has other images, labels or classes"),
        ({"kerasimg": "2.0"}, "it has kerasimg 2.0 instead of 1.0"),
        ({"backend": "jax", "jax": "0.9"}, "it has backend jax instead of tensorflow; jax 0.9 instead of none"),
    ],
)
def test_a_worker_that_has_something_else_is_refused_before_a_trial(led, changed, reason):
    one = led().serve()
    before = state(one)
    with pytest.raises(CallError, match=reason):
        one.worker(join=False).join(IDENTITY | changed)
    assert state(one) == before


def test_a_result_of_another_search_is_not_taken_in(led, tmp_path):
    one = led().serve()
    worker = one.worker()
    trial = worker.create_trial("worker-1")
    port = one.service.port
    one.service.close()
    other = Led(tmp_path / "other", address=f"127.0.0.1:{port}").serve(search="search-2")
    try:
        other.worker("worker-2").create_trial("worker-2")
        before = state(other)
        with pytest.raises(CallError, match="another search is led here now"):
            end(worker, trial, score=0.99)
        assert state(other) == before
    finally:
        other.close()


def test_a_chief_that_comes_back_gets_the_result_of_the_worker_that_went_on(led, tmp_path):
    one = led().serve()
    worker = one.worker()
    trial = worker.create_trial("worker-1")
    port = one.service.port
    one.service.close()
    again = Led(tmp_path / "search", address=f"127.0.0.1:{port}").serve()
    try:
        end(worker, trial)
        assert again.oracle.ended["0001"].score == 0.5
    finally:
        again.close()


BAD = {
    "no such trial": ("End", {"trial": "0099", "ended": GOOD}),
    "no such trial in an epoch": ("Epoch", {"trial": "0099", "step": 0, "value": 0.5}),
    "no such trial that is alive": ("Alive", {"trial": "0099"}),
    "a trial by path": ("End", {"trial": "../../etc", "ended": GOOD}),
    "no score": ("End", {"trial": "0001", "ended": GOOD | {"score": None}}),
    "a score that is no number": ("End", {"trial": "0001", "ended": GOOD | {"score": "NaN"}}),
    "a score without end": ("End", {"trial": "0001", "ended": GOOD | {"score": "Infinity"}}),
    "a status of its own": ("End", {"trial": "0001", "ended": GOOD | {"status": "great"}}),
    "too many epochs": ("End", {"trial": "0001", "ended": GOOD | {"curve": [0.5] * 6}}),
    "too many rows": ("End", {"trial": "0001", "ended": GOOD | {"rows": [{"loss": 1.0}] * 6}}),
    "an epoch that is not there": ("End", {"trial": "0001", "ended": GOOD | {"best_epoch": 6}}),
    "an epoch before the first": ("Epoch", {"trial": "0001", "step": -1, "value": 0.5}),
    "time that runs back": ("End", {"trial": "0001", "ended": GOOD | {"seconds": -1}}),
    "a text as a row": ("End", {"trial": "0001", "ended": GOOD | {"rows": [{"loss": "=cmd()"}]}}),
    "an argument more": ("End", {"trial": "0001", "ended": GOOD, "host": "elsewhere"}),
    "a list": ("End", []),
}


@pytest.mark.parametrize("case", BAD)
def test_a_message_that_is_wrong_changes_nothing(case, led):
    one = led().serve()
    worker = one.worker()
    worker.create_trial("worker-1")
    before = state(one)
    method, message = BAD[case]
    with pytest.raises(grpc.RpcError) as caught:
        worker._call(method, json.dumps(message).encode())
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert state(one) == before
    assert one.service.failure is None
    end(worker, worker.create_trial("worker-1"))  # the search goes on
    assert one.oracle.ended["0001"].score == 0.5


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[" * 100_000, b'{"trial": "0001", "trial": "0002"}', b"NaN"])
def test_bytes_that_are_no_message_are_refused(content, led):
    one = led().serve()
    worker = one.worker()
    for method in protocol.REQUESTS:
        with pytest.raises(grpc.RpcError) as caught:
            worker._call(method, content)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert one.service.failure is None


def test_a_message_that_is_too_long_is_refused_and_a_long_training_is_sent_without_its_epochs(led):
    one = led(max_trials=1).serve()
    worker = one.worker()
    trial = worker.create_trial("worker-1")
    with pytest.raises(grpc.RpcError) as caught:
        worker._call("End", b" " * (LIMITS["grpc_message_bytes"].value + 1))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    rows = [{f"figure {number} of a training": 0.5 for number in range(100_000)}]
    ended = Ended("completed", 0.5, 1.0, [0.5], 1, None, [0.5], rows)
    worker.end_trial(trial.order.trial, ended)
    assert one.oracle.ended["0001"].rows == []
    assert one.oracle.ended["0001"].score == 0.5


def test_figures_that_are_not_finite_reach_the_chief(led):
    one = led().serve()
    worker = one.worker()
    trial = worker.create_trial("worker-1")
    ended = Ended("failed", None, 1.0, [float("nan")], None, "the loss became NaN", [], [{"loss": float("inf")}])
    worker.end_trial(trial.order.trial, ended)
    assert one.oracle.ended["0001"].rows == [{"loss": float("inf")}]


def test_a_fault_of_the_chief_ends_the_chief(led, monkeypatch):
    one = led().serve()
    worker = one.worker()
    monkeypatch.setattr(workers, "PATIENCE_S", 0.5)

    def fill(event):
        raise OSError(28, "full")

    monkeypatch.setattr(one.oracle.records, "append", fill)
    with pytest.raises(KerasimgError, match="no chief at"):  # a worker waits for the chief to be resumed
        worker.create_trial("worker-1")
    with pytest.raises(OSError, match="full"):
        chiefs.lead(one.oracle, 0, one.service, [], elsewhere=True)


def test_a_worker_says_within_seconds_that_there_is_no_chief(listen, monkeypatch):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setattr(workers, "PATIENCE_S", 4.0)
        said = []
        listen(said.append)
        begun = time.monotonic()
        one = workers.Chief(address, TOKEN, "digest", "worker-1")
        with pytest.raises(KerasimgError, match=f"no chief at {address} for 4 s"):
            one.join(IDENTITY)
        one.channel.close()
    assert said == [f"no chief at {address} yet; it is waited for, at most 4 s"]
    assert time.monotonic() - begun < 20


def test_what_is_no_chief_is_told_from_one_that_is_not_there(led):
    one = led()
    one.service.server.start()  # a server of gRPC that serves something else
    with pytest.raises(CallError, match="is no chief of this version of kerasimg"):
        one.worker()


def test_a_worker_that_is_lost_is_named_and_its_trial_goes_to_another(led, listen, monkeypatch):
    said = []
    listen(said.append)
    monkeypatch.setattr(ask_tell, "SILENCE_S", 0.2)
    one = led(max_trials=1).serve()
    monkeypatch.setattr(workers, "this_host", lambda: "far-away")
    first = one.worker("worker-1")
    first.create_trial("worker-1")
    monkeypatch.setattr(workers, "this_host", lambda: "nearby")
    second = one.worker("worker-2")
    time.sleep(0.3)
    trial = second.create_trial("worker-2")
    assert trial.order.trial == "0001"
    assert "nothing was heard of trial 0001 on far-away for 0 s: it is handed out again" in said
    end(second, trial)
    assert [(lost.trial, lost.host) for lost in one.oracle.lost] == [("0001", "far-away")]
    assert one.oracle.table()[0]["host"] == "nearby"
    assert [(event["event"], event.get("host")) for event in journal(one)] == [
        ("begin", None),
        ("lost", "far-away"),
        ("end", "nearby"),
    ]
    again = make_oracle(SPACE, one.oracle.goal, one.oracle.tune, 5)
    again.open(Records(one.folder))
    assert again.table() == one.oracle.table()
    assert again.lost == one.oracle.lost


def test_a_worker_that_leaves_gives_its_trial_back_at_once(led):
    one = led().serve()
    first, second = one.worker("worker-1"), one.worker("worker-2")
    with first.present():
        assert first.create_trial("worker-1").order.trial == "0001"
    assert second.create_trial("worker-2").order.trial == "0001"


def test_a_chief_says_that_all_workers_are_gone_and_ends(led, listen, monkeypatch):
    said = []
    listen(said.append)
    monkeypatch.setattr(chiefs, "PATIENCE_S", 0.5)
    one = led().serve()
    worker = one.worker()
    attendance = chiefs._Attendance(one.service)
    with worker.present():
        worker.create_trial("worker-1")
        attendance.look(False, 0)
    time.sleep(0.2)
    attendance.look(False, 0)
    time.sleep(0.5)
    with pytest.raises(KerasimgError, match="no worker has been there for 0 s") as caught:
        attendance.look(False, 0)
    assert ask_tell.this_host() in str(caught.value)
    assert any(line.startswith("no worker is left") for line in said)


def test_a_search_without_hope_ends_though_a_worker_was_lost(led, monkeypatch):
    monkeypatch.setattr(ask_tell, "SILENCE_S", 0.3)
    monkeypatch.setattr(chiefs, "LINGER_S", 0.1)
    monkeypatch.setattr(chiefs, "LINGER_MOST_S", 0.2)
    one = led(max_trials=50).serve()
    lost, worker = one.worker("worker-1"), one.worker("worker-2")
    lost.create_trial("worker-1")
    failed = Ended("failed", None, 1.0, [], None, "nothing works")
    for _ in range(ask_tell.FAILURES_TO_GIVE_UP):
        trial = worker.create_trial("worker-2")
        worker.end_trial(trial.order.trial, failed)
    assert worker.create_trial("worker-2").status == "STOPPED"
    begun = time.monotonic()
    chiefs.lead(one.oracle, 0, one.service, [], elsewhere=True)
    assert time.monotonic() - begun < 10
    assert len(one.oracle.ended) == ask_tell.FAILURES_TO_GIVE_UP


def test_a_token_is_kept_for_its_owner_only_and_made_if_none_is_given(tmp_path, monkeypatch):
    made = protocol.token_of(tmp_path)
    assert len(made) == 32
    assert protocol.token_of(tmp_path) == made
    assert (tmp_path / ".token").stat().st_mode & 0o777 == 0o600
    assert protocol.token_of(tmp_path, "another-one") == protocol.token_of(tmp_path) == "another-one"
    monkeypatch.setenv("KERASIMG_TOKEN", "of-the-environment")
    assert protocol.given_token(None) == "of-the-environment"
    assert protocol.given_token("of-the-call") == "of-the-call"
    for bad in ("short", "with a space", "größer-als-ascii", "x" * 256):
        with pytest.raises(CallError, match="8 to 255 printable ASCII"):
            protocol.given_token(bad)


def test_a_port_that_is_taken_leaves_no_folder(led, searched, few, tmp_path):
    from kerasimg.tuning import search as searches

    one = led().serve()
    with pytest.raises(CallError, match="cannot be listened at: the port is taken"):
        searches.tune(searched({}), data=few, out=tmp_path / "runs", chief=f"127.0.0.1:{one.service.port}", workers=0)
    assert not (tmp_path / "runs").exists()
