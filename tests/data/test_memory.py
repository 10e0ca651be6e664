from pathlib import Path

import pytest

from kerasimg.data import memory


def test_free_memory_is_what_a_control_group_leaves(monkeypatch: pytest.MonkeyPatch):
    files = {
        "/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   4096 kB\n",
        "/sys/fs/cgroup/memory.max": "3000000",
        "/sys/fs/cgroup/memory.current": "1000000",
    }

    def read(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    assert memory.free_bytes() == 2_000_000
    files["/sys/fs/cgroup/memory.max"] = "max"
    assert memory.free_bytes() == 4096 * 1024
    files["/sys/fs/cgroup/memory.max"] = "5"
    assert memory.free_bytes() == 0


def test_where_the_system_does_not_say_a_constant_holds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_available", lambda: None)
    monkeypatch.setattr(memory, "_control_group", lambda *_: None)
    assert memory.free_bytes() == memory.ASSUMED
