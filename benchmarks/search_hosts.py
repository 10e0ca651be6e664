"""A search over three hosts that is killed and cut: a chief, two workers, and what is done to them.

    python benchmarks/search_hosts.py [--trials 30] [--case NAME] [--loopback]

Each host is a network namespace with its own address, joined by a bridge, where the system lets this process create
them (root on Linux). Elsewhere, and with --loopback, it is an address of the loopback network (127.0.0.2, 127.0.0.3,
...), whose connection cannot be cut. Hosts share no folder: each has its own copy of the images. A table row per case
shows what was done, how many trials began and ended, and the result. The script fails unless, in each case, every trial
ended exactly once (or the stated refusal came), every process ended with the stated exit code, and no result of a
foreign worker was accepted.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image

TOKEN = "a-token-of-the-benchmark"
PORT = 9321
SPEC = {
    "kerasimg": 1,
    "name": "hosts",
    "params": {"num_classes": 3, "lr": {"$float": [1e-4, 1e-1], "log": True, "default": 1e-3}},
    "image": {"size": [16, 16]},
    "model": [
        {"layer": "Conv2D", "filters": 8, "kernel_size": 3, "activation": "relu"},
        {"layer": "GlobalAveragePooling2D"},
        {"layer": "Dense", "units": "=num_classes", "activation": "softmax"},
    ],
    "compile": {"optimizer": {"type": "Adam", "learning_rate": "=lr"}},
    "fit": {"batch_size": 16, "stages": [{"epochs": 8}]},
    "tune": {"tuner": "random"},
}


class Network:
    """Three hosts: `command` starts a process on one, `cut` and `join` disconnect and connect it."""

    def __init__(self, loopback: bool) -> None:
        self.number = os.getpid() % 10_000
        self.bridge = f"kb{self.number}"
        self.names = [f"k{self.number}h{host}" for host in range(3)]
        self.real = not loopback and self._make()

    def _ip(self, *arguments: str) -> bool:
        return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0

    def _make(self) -> bool:
        if shutil.which("ip") is None or not self._ip("link", "add", self.bridge, "type", "bridge"):
            return False
        done = self._ip("link", "set", self.bridge, "up")
        for host, name in enumerate(self.names):
            inner, outer = f"kv{self.number}i{host}", f"kv{self.number}o{host}"
            done = done and self._ip("netns", "add", name)
            done = done and self._ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
            done = done and self._ip("link", "set", outer, "master", self.bridge, "up")
            done = done and self._ip("-n", name, "addr", "add", f"10.77.0.{host + 1}/24", "dev", inner)
            done = done and self._ip("-n", name, "link", "set", inner, "up")
            done = done and self._ip("-n", name, "link", "set", "lo", "up")
        if not done:
            self.close()
        return done

    def address(self, host: int) -> str:
        return f"10.77.0.{host + 1}" if self.real else f"127.0.0.{host + 2}"

    def command(self, host: int) -> list[str]:
        return ["ip", "netns", "exec", self.names[host]] if self.real else []

    def cut(self, host: int) -> None:
        self._ip("link", "set", f"kv{self.number}o{host}", "down")

    def join(self, host: int) -> None:
        self._ip("link", "set", f"kv{self.number}o{host}", "up")

    def close(self) -> None:
        for name in self.names:
            self._ip("netns", "del", name)
        self._ip("link", "del", self.bridge)


class Hosts:
    """The processes of a case, and what they say."""

    def __init__(self, network: Network, folder: Path, trials: int) -> None:
        self.network, self.folder, self.trials = network, folder, trials
        self.search = folder / "runs" / "hosts-tune-1"
        self.started: list[subprocess.Popen[bytes]] = []
        for host in range(3):
            (folder / f"host-{host}").mkdir(parents=True)
            write_images(folder / f"host-{host}" / "images")
            self.write_spec(host, trials)

    def write_spec(self, host: int, trials: int) -> None:
        spec = {**SPEC, "tune": {**SPEC["tune"], "max_trials": trials}}  # type: ignore[dict-item]
        (self.folder / f"host-{host}" / "hosts.json").write_text(json.dumps(spec))

    def start(self, host: int, name: str, *arguments: str, token: str = TOKEN) -> subprocess.Popen[bytes]:
        own = self.folder / f"host-{host}"
        environment = {**os.environ, "KERASIMG_TOKEN": token, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [*self.network.command(host), sys.executable, "-m", "kerasimg", "tune", *arguments]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=own, env=environment, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def chief(self) -> subprocess.Popen[bytes]:
        at = ["--chief", f"{self.network.address(0)}:{PORT}", "--workers", "0"]
        if (self.search / "search.json").is_file():
            return self.start(0, "chief", "--resume", str(self.search), *at)
        return self.start(0, "chief", "hosts.json", "--data", "images", "--out", str(self.search.parent), *at)

    def worker(self, host: int, token: str = TOKEN) -> subprocess.Popen[bytes]:
        at = f"{self.network.address(0)}:{PORT}"
        return self.start(host, f"worker-{host}", "hosts.json", "--data", "images", "--worker", at, token=token)

    def said(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.is_file() else ""

    def events(self, kind: str) -> list[dict]:
        path = self.search / "journal.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.is_file() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def wait(self, reached: Callable[[], bool], what: str, timeout_s: float = 240) -> None:
        end = time.monotonic() + timeout_s
        while not reached():
            if time.monotonic() > end:
                logs = "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in self.folder.glob("*.log"))
                sys.exit(f"{what} was not reached within {timeout_s:.0f} s\n{logs}")
            time.sleep(0.05)

    def wait_for_trials(self, count: int) -> None:
        self.wait(lambda: len(self.events("end")) >= count, f"{count} trials")

    def ends(self, process: subprocess.Popen[bytes], code: int, what: str) -> None:
        self.wait(lambda: process.poll() is not None, f"the end of {what}")
        if process.returncode != code:
            logs = "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in self.folder.glob("*.log"))
            sys.exit(f"{what} ended with code {process.returncode}, expected {code}\n{logs}")

    def check(self) -> None:
        names = [f"{number:04d}" for number in range(1, self.trials + 1)]
        for kind in ("begin", "end"):
            counted = Counter(event["trial"] for event in self.events(kind))
            if counted != Counter(names):
                sys.exit(f"expected each of {self.trials} trials to {kind} once, found {counted}")
        if not (self.search / "best.json").is_file():
            sys.exit("the search has no best.json")

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()


def write_images(folder: Path) -> None:
    noise = np.random.default_rng(0)
    for index, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(30):
            pixels = noise.integers(0, 90, (16, 16, 3))
            pixels[..., index] += 100
            PIL.Image.fromarray(pixels.astype("uint8")).save(folder / name / f"{number:02}.png")


def left_alone(hosts: Hosts) -> str:
    processes = [hosts.chief(), hosts.worker(1), hosts.worker(2)]
    for process, name in zip(processes, ("the chief", "worker 1", "worker 2"), strict=True):
        hosts.ends(process, 0, name)
    hosts.check()
    return "each trial once; all ended with 0"


def workers_first(hosts: Hosts) -> str:
    workers = [hosts.worker(1), hosts.worker(2)]
    hosts.wait(lambda: "no chief at" in hosts.said("worker-1"), "the worker's word that there is no chief")
    hosts.ends(hosts.chief(), 0, "the chief")
    for worker in workers:
        hosts.ends(worker, 0, "a worker")
    hosts.check()
    return "the workers said so and waited; each trial once"


def chief_killed(hosts: Hosts) -> str:
    chief, workers = hosts.chief(), [hosts.worker(1), hosts.worker(2)]
    for count in (hosts.trials // 4, hosts.trials // 2):
        hosts.wait_for_trials(count)
        chief.send_signal(signal.SIGKILL)
        chief.wait()
        chief = hosts.chief()
    hosts.ends(chief, 0, "the chief")
    for worker in workers:
        hosts.ends(worker, 0, "a worker")
    hosts.check()
    return "resumed twice; each trial once; all ended with 0"


def worker_killed(hosts: Hosts) -> str:
    chief, first, second = hosts.chief(), hosts.worker(1), hosts.worker(2)
    hosts.wait_for_trials(hosts.trials // 4)
    first.send_signal(signal.SIGKILL)
    first.wait()
    hosts.ends(chief, 0, "the chief")
    hosts.ends(second, 0, "the other worker")
    hosts.check()
    lost = hosts.events("lost")
    return f"each trial once; lost in the journal: {[event['trial'] for event in lost]}"


def network_cut(hosts: Hosts) -> str:
    chief, first, second = hosts.chief(), hosts.worker(1), hosts.worker(2)
    hosts.wait_for_trials(hosts.trials // 4)
    hosts.network.cut(1)
    time.sleep(15)
    hosts.network.join(1)
    for process in (chief, first, second):
        hosts.ends(process, 0, "a process")
    hosts.check()
    return "15 s without a cable; each trial once; all ended with 0"


def other_search(hosts: Hosts) -> str:
    chief, worker = hosts.chief(), hosts.worker(1)
    hosts.wait_for_trials(2)
    chief.send_signal(signal.SIGKILL)
    chief.wait()
    shutil.move(hosts.search, hosts.folder / "first")
    chief = hosts.chief()  # another search of the same spec, with the same token, on the same port
    hosts.ends(worker, 2, "the worker of the first search")
    other = hosts.worker(2)
    hosts.ends(chief, 0, "the chief")
    hosts.ends(other, 0, "its own worker")
    hosts.check()
    return "the old worker was refused (2); each trial once by its own worker"


def refused(hosts: Hosts) -> str:
    chief = hosts.chief()
    hosts.wait(lambda: (hosts.search / "search.json").is_file(), "the chief's folder")
    hosts.ends(hosts.worker(1, token="another-token"), 2, "a worker with another token")
    image = hosts.folder / "host-1" / "images" / "red" / "00.png"
    image.write_bytes((hosts.folder / "host-1" / "images" / "blue" / "00.png").read_bytes())
    hosts.ends(hosts.worker(1), 2, "a worker with another image")
    hosts.write_spec(1, hosts.trials + 1)
    hosts.ends(hosts.worker(1), 2, "a worker with another spec")
    if hosts.events("begin"):
        sys.exit("a refused worker has cost a trial")
    worker = hosts.worker(2)
    hosts.ends(chief, 0, "the chief")
    hosts.ends(worker, 0, "the right worker")
    hosts.check()
    return "token, image, spec: refused with 2 and no trial started; then each trial once"


def port_taken(hosts: Hosts) -> str:
    if hosts.network.real:
        first = hosts.chief()
        hosts.wait(lambda: (hosts.search / "search.json").is_file(), "the first chief's folder")
    else:
        held = socket.create_server((hosts.network.address(0), PORT))
        first = None
    at = ["--chief", f"{hosts.network.address(0)}:{PORT}", "--workers", "0"]
    second = hosts.start(0, "second", "hosts.json", "--data", "images", "--out", str(hosts.folder / "second"), *at)
    hosts.ends(second, 2, "a chief whose port is taken")
    if (hosts.folder / "second").exists():
        sys.exit("a chief whose port is taken left a folder")
    if first is None:
        held.close()
        return "refused with 2, no folder left"
    worker = hosts.worker(1)
    hosts.ends(first, 0, "the first chief")
    hosts.ends(worker, 0, "its worker")
    hosts.check()
    return "refused with 2, no folder left; the first search: each trial once"


CASES = {
    "left alone": left_alone,
    "workers before the chief": workers_first,
    "chief killed twice, resumed": chief_killed,
    "a worker killed": worker_killed,
    "a worker's network cut": network_cut,
    "chief killed, another search there": other_search,
    "other token, image, spec": refused,
    "the port is taken": port_taken,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--loopback", action="store_true", help="use loopback addresses, not network namespaces")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that processes and namespaces are removed
    network = Network(options.loopback)
    print("hosts: network namespaces" if network.real else "hosts: addresses of the loopback network", flush=True)
    print("| done to the search | trials started | ended | result | seconds |\n| --- | ---: | ---: | --- | ---: |")
    try:
        for name, case in CASES.items():
            if options.case not in (None, name) or (case is network_cut and not network.real):
                continue
            with tempfile.TemporaryDirectory() as temporary:
                hosts = Hosts(network, Path(temporary), options.trials)
                started = time.monotonic()
                try:
                    result = case(hosts)
                finally:
                    hosts.close()
                counts = f"{len(hosts.events('begin'))} | {len(hosts.events('end'))}"
                print(f"| {name} | {counts} | {result} | {time.monotonic() - started:.0f} |", flush=True)
    finally:
        if network.real:
            network.close()


if __name__ == "__main__":
    main()
