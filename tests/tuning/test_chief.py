"""Chief and workers over gRPC: access, validation of messages, lost workers, and the end of a search."""

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
from kerasimg.tuning.protocol import address_of
from kerasimg.tuning.samplers import make_sampler
from kerasimg.tuning.space import Dimension, Space

SPACE = Space((Dimension("x", "float", 0.5, low=0.0, high=1.0),))
IDENTITY = {"spec": "a" * 64, "data": "b" * 64, "kerasimg": "1.0", "backend": "tensorflow"}
TOKEN = "correct-horse"
GOOD = {"status": "completed", "score": 0.5, "seconds": 1.0, "curve": [0.5], "best_epoch": 1, "scores": [0.5]}


class Led:
    """A running chief, and clients of it."""

    def __init__(self, folder, max_trials=3, address="127.0.0.1:0"):
        self.oracle = make_sampler(SPACE, Goal("val_accuracy", "max"), Tune(tuner="random", max_trials=max_trials), 5)
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
        for client in self.clients:
            client.channel.close()
        self.service.close()


@pytest.fixture
def led(tmp_path):
    made = []

    def start(**options):
        made.append(Led(tmp_path / "search", **options))
        return made[-1]

    yield start
    for leader in made:
        leader.close()


def end(worker, trial, score=0.5):
    worker.end_trial(trial.order.trial, Ended("completed", score, 1.0, [score], 1, None, [score]))


def journal(led):
    return [json.loads(line) for line in (led.folder / "journal.jsonl").read_text().splitlines()]


def state(led):
    """The state that a message could change."""
    oracle = led.oracle
    files = {str(path): path.read_bytes() for path in sorted(led.folder.rglob("*")) if path.is_file()}
    return files, dict(oracle.ended), {**oracle.curves}, list(oracle.ongoing_trials), list(oracle.retries)


def test_a_worker_trains_every_trial_and_learns_that_the_search_has_ended(led):
    leader = led().serve()
    worker = leader.worker()
    trained = []
    while (trial := worker.create_trial("worker-1")).status == "RUNNING":
        trained.append(trial.order.trial)
        assert worker.update_trial(trial.order.trial, {"val_accuracy": 0.5}) is False
        end(worker, trial)
    assert trained == ["0001", "0002", "0003"]
    assert leader.oracle.over
    assert {row["host"] for row in leader.oracle.table()} == {ask_tell.this_host()}
    assert all(presence.informed for presence in leader.service.present())


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"token": "another-token"}, "its token is not that of the search"),
        ({"token": "another-token", "join": False}, "its token is not that of the search"),
        ({"join": False}, "another search is led here now"),
        ({"digest": "other"}, "it has another spec, other data or versions"),
    ],
)
def test_a_caller_that_is_not_a_worker_of_the_search_is_refused(led, facts, reason):
    leader = led().serve()
    before = state(leader)
    with pytest.raises(CallError, match=reason):
        leader.worker(**facts).create_trial("worker-1")
    assert state(leader) == before


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"spec": "c"}, "it has another spec, or other values of its params"),
        ({"data": "c"}, "it has other images, labels or classes"),
        ({"kerasimg": "2.0"}, "it has kerasimg 2.0 instead of 1.0"),
        ({"backend": "jax", "jax": "0.9"}, "it has backend jax instead of tensorflow; jax 0.9 instead of none"),
    ],
)
def test_a_worker_with_another_spec_or_data_is_refused_before_a_trial(led, changed, reason):
    leader = led().serve()
    before = state(leader)
    with pytest.raises(CallError, match=reason):
        leader.worker(join=False).join(IDENTITY | changed)
    assert state(leader) == before


def test_a_result_of_another_search_is_refused(led, tmp_path):
    leader = led().serve()
    worker = leader.worker()
    trial = worker.create_trial("worker-1")
    port = leader.service.port
    leader.service.close()
    other = Led(tmp_path / "other", address=f"127.0.0.1:{port}").serve(search="search-2")
    try:
        other.worker("worker-2").create_trial("worker-2")
        before = state(other)
        with pytest.raises(CallError, match="another search is led here now"):
            end(worker, trial, score=0.99)
        assert state(other) == before
    finally:
        other.close()


def test_a_restarted_chief_gets_the_result_of_a_worker_that_continued(led, tmp_path):
    leader = led().serve()
    worker = leader.worker()
    trial = worker.create_trial("worker-1")
    port = leader.service.port
    leader.service.close()
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
    "an epoch after the last": ("Epoch", {"trial": "0001", "step": 5, "value": 0.5}),
    "time that runs back": ("End", {"trial": "0001", "ended": GOOD | {"seconds": -1}}),
    "a text as a row": ("End", {"trial": "0001", "ended": GOOD | {"rows": [{"loss": "=cmd()"}]}}),
    "an argument more": ("End", {"trial": "0001", "ended": GOOD, "host": "elsewhere"}),
    "a list": ("End", []),
    "true as an epoch": ("Epoch", {"trial": "0001", "step": True, "value": 0.5}),
    "true as a value": ("Epoch", {"trial": "0001", "step": 0, "value": True}),
    "a number as text": ("End", {"trial": "0001", "ended": GOOD | {"seconds": "2"}}),
}


NO_ADDRESSES = ["host", ":80", "h:99999", "h:-1", "h:\u0663", "a b:80", "h:80\n", "h/x:80", "[h]:80"]


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_an_address_that_is_not_host_and_port_is_refused(text):
    with pytest.raises(CallError, match="expected HOST:PORT"):
        address_of(text)
    with pytest.raises(CallError, match=r"an IPv6 address has brackets: \[::1\]:80"):
        address_of("::1:80")


def test_names_and_addresses_of_both_kinds_are_split():
    for host in ("localhost", "gpu-1.lab_2", "10.0.0.1", "[::1]", "[fe80::1%eth0]"):
        assert address_of(f"{host}:8000") == (host, "8000")


@pytest.mark.parametrize("case", BAD)
def test_an_invalid_message_changes_nothing(case, led):
    leader = led().serve()
    worker = leader.worker()
    worker.create_trial("worker-1")
    before = state(leader)
    method, message = BAD[case]
    with pytest.raises(grpc.RpcError) as caught:
        worker._call(method, json.dumps(message).encode())
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert state(leader) == before
    assert leader.service.failure is None
    end(worker, worker.create_trial("worker-1"))  # the search continues
    assert leader.oracle.ended["0001"].score == 0.5


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[" * 100_000, b'{"trial": "0001", "trial": "0002"}', b"NaN"])
def test_bytes_that_are_not_a_message_are_refused(content, led):
    leader = led().serve()
    worker = leader.worker()
    for method in protocol.REQUESTS:
        with pytest.raises(grpc.RpcError) as caught:
            worker._call(method, content)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert leader.service.failure is None


def test_a_message_that_is_too_large_is_refused_and_a_long_training_is_sent_without_its_epochs(led):
    leader = led(max_trials=1).serve()
    worker = leader.worker()
    trial = worker.create_trial("worker-1")
    with pytest.raises(grpc.RpcError) as caught:
        worker._call("End", b" " * (LIMITS["grpc_message_bytes"].value + 1))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    rows = [{f"figure {number} of a training": 0.5 for number in range(100_000)}]
    ended = Ended("completed", 0.5, 1.0, [0.5], 1, None, [0.5], rows)
    worker.end_trial(trial.order.trial, ended)
    assert leader.oracle.ended["0001"].rows == []
    assert leader.oracle.ended["0001"].score == 0.5


def test_nan_and_infinite_metrics_reach_the_chief(led):
    leader = led().serve()
    worker = leader.worker()
    trial = worker.create_trial("worker-1")
    ended = Ended("failed", None, 1.0, [float("nan")], None, "the loss became NaN", [], [{"loss": float("inf")}])
    worker.end_trial(trial.order.trial, ended)
    assert leader.oracle.ended["0001"].rows == [{"loss": float("inf")}]


def test_an_error_of_the_chief_ends_the_chief(led, monkeypatch):
    leader = led().serve()
    worker = leader.worker()
    monkeypatch.setattr(workers, "PATIENCE_S", 0.5)

    def fill(event):
        raise OSError(28, "full")

    monkeypatch.setattr(leader.oracle.records, "append", fill)
    with pytest.raises(KerasimgError, match="no chief at"):  # a worker waits for the chief to be resumed
        worker.create_trial("worker-1")
    with pytest.raises(OSError, match="full"):
        chiefs.lead(leader.oracle, 0, leader.service, [], elsewhere=True)


def test_a_worker_reports_a_missing_chief_within_seconds(listen, monkeypatch):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setattr(workers, "PATIENCE_S", 4.0)
        messages = []
        listen(messages.append)
        started = time.monotonic()
        leader = workers.Chief(address, TOKEN, "digest", "worker-1")
        with pytest.raises(KerasimgError, match=f"no chief at {address} for 4 s"):
            leader.join(IDENTITY)
        leader.channel.close()
    assert messages == [f"no chief at {address} yet; it is waited for, at most 4 s"]
    assert time.monotonic() - started < 20


def test_another_server_is_distinguished_from_a_missing_chief(led):
    leader = led()
    leader.service.server.start()  # a server of gRPC that serves something else
    with pytest.raises(CallError, match="is no chief of this version of kerasimg"):
        leader.worker()


def test_a_lost_worker_is_named_and_its_trial_goes_to_another(led, listen, monkeypatch):
    messages = []
    listen(messages.append)
    monkeypatch.setattr(ask_tell, "SILENCE_S", 0.2)
    leader = led(max_trials=1).serve()
    monkeypatch.setattr(workers, "this_host", lambda: "far-away")
    first = leader.worker("worker-1")
    first.create_trial("worker-1")
    monkeypatch.setattr(workers, "this_host", lambda: "nearby")
    second = leader.worker("worker-2")
    time.sleep(0.3)
    trial = second.create_trial("worker-2")
    assert trial.order.trial == "0001"
    assert "nothing was heard of trial 0001 on far-away for 0 s: it is handed out again" in messages
    end(second, trial)
    assert [(lost.trial, lost.host) for lost in leader.oracle.lost] == [("0001", "far-away")]
    assert leader.oracle.table()[0]["host"] == "nearby"
    assert [(event["event"], event.get("host")) for event in journal(leader)] == [
        ("begin", None),
        ("lost", "far-away"),
        ("end", "nearby"),
    ]
    again = make_sampler(SPACE, leader.oracle.goal, leader.oracle.tune, 5)
    again.open(Records(leader.folder))
    assert again.table() == leader.oracle.table()
    assert again.lost == leader.oracle.lost


def test_a_worker_that_leaves_gives_its_trial_back_at_once(led):
    leader = led().serve()
    first, second = leader.worker("worker-1"), leader.worker("worker-2")
    with first.present():
        assert first.create_trial("worker-1").order.trial == "0001"
    assert second.create_trial("worker-2").order.trial == "0001"


def test_a_result_without_one_of_several_objectives_changes_nothing(led):
    leader = led().serve()
    leader.oracle.goals = (leader.oracle.goal, Goal("bytes", "min"))
    worker = leader.worker()
    trial = worker.create_trial("worker-1")
    before = state(leader)
    with pytest.raises(KerasimgError, match="trial 0001: the result has no figure bytes"):
        end(worker, trial)
    assert state(leader) == before
    worker.end_trial("0001", Ended("completed", 0.5, 1.0, [0.5], 1, None, [0.5], figures={"bytes": 9.0}))
    assert leader.oracle.best == "0001"


def test_a_request_that_is_in_work_when_its_worker_leaves_does_not_end_the_chief(led, monkeypatch):
    leader = led(max_trials=1).serve()
    worker, same = leader.worker(), leader.worker()
    end(worker, worker.create_trial("worker-1"))
    create = leader.oracle.create_trial

    def leave_first(*arguments):
        with same.present():
            pass
        return create(*arguments)

    monkeypatch.setattr(leader.oracle, "create_trial", leave_first)
    assert worker.create_trial("worker-1").status == "STOPPED"
    assert leader.service.failure is None
    assert leader.service.present() == []


def test_the_epochs_after_a_restart_of_the_chief_keep_their_places(led):
    leader = led().serve()
    worker = leader.worker()
    worker.create_trial("worker-1")
    for step, value in ((2, 0.3), (3, 0.4)):
        worker.update_trial("0001", {"val_accuracy": value}, step)
    assert leader.oracle.curves["0001"] == [0.3, 0.3, 0.3, 0.4]


def test_a_chief_reports_that_all_workers_are_gone_and_ends(led, listen, monkeypatch):
    messages = []
    listen(messages.append)
    monkeypatch.setattr(chiefs, "PATIENCE_S", 0.5)
    leader = led().serve()
    worker = leader.worker()
    attendance = chiefs._Attendance(leader.service)
    with worker.present():
        worker.create_trial("worker-1")
        attendance.look(False, 0)
    time.sleep(0.2)
    attendance.look(False, 0)
    time.sleep(0.5)
    with pytest.raises(KerasimgError, match="no worker has been there for 0 s") as caught:
        attendance.look(False, 0)
    assert ask_tell.this_host() in str(caught.value)
    assert any(line.startswith("no worker is left") for line in messages)


def test_a_hopeless_search_ends_although_a_worker_was_lost(led, monkeypatch):
    monkeypatch.setattr(ask_tell, "SILENCE_S", 0.3)
    monkeypatch.setattr(chiefs, "LINGER_S", 0.1)
    monkeypatch.setattr(chiefs, "LINGER_MOST_S", 0.2)
    leader = led(max_trials=50).serve()
    lost, worker = leader.worker("worker-1"), leader.worker("worker-2")
    lost.create_trial("worker-1")
    failed = Ended("failed", None, 1.0, [], None, "nothing works")
    for _ in range(ask_tell.FAILURES_TO_GIVE_UP):
        trial = worker.create_trial("worker-2")
        worker.end_trial(trial.order.trial, failed)
    assert worker.create_trial("worker-2").status == "STOPPED"
    started = time.monotonic()
    chiefs.lead(leader.oracle, 0, leader.service, [], elsewhere=True)
    assert time.monotonic() - started < 10
    assert len(leader.oracle.ended) == ask_tell.FAILURES_TO_GIVE_UP


def test_a_token_is_readable_only_by_its_owner_and_created_if_none_is_given(tmp_path, monkeypatch):
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


def test_a_port_in_use_leaves_no_folder(led, searched, few, tmp_path):
    from kerasimg.tuning import search as searches

    leader = led().serve()
    with pytest.raises(CallError, match="cannot be listened at: the port is taken"):
        searches.tune(
            searched({}), data=few, out=tmp_path / "runs", chief=f"127.0.0.1:{leader.service.port}", workers=0
        )
    assert not (tmp_path / "runs").exists()
