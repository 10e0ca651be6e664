"""Worker processes give the same pixels as threads, survive what ends them, and leave nothing behind."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from kerasimg.data import worker_pool
from kerasimg.data.cache import Cache
from kerasimg.data.loading import Loader
from kerasimg.data.readable import scan
from kerasimg.data.sources import open_source
from kerasimg.data.worker_pool import Memories, worker_count
from kerasimg.errors import CallError, DataError
from kerasimg.spec.document import Image

IMAGE = Image(size=[24, 20])
COUNT = 40
linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="looks at /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty JPEGs and twenty PNGs in two classes."""
    root = tmp_path_factory.mktemp("images")
    draws = np.random.default_rng(0)
    for number in range(COUNT):
        path = root / ("a", "b")[number % 2] / f"{number:02}.{'jpg' if number < 20 else 'png'}"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(draws.integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    yield
    worker_pool.end_workers()


def loader(data: object, cache: Cache | None = None, workers: int = 2, exact: bool = False) -> Loader:
    source = open_source(data)
    return Loader(source, np.arange(len(source)), IMAGE, cache, exact, workers=workers)


def test_workers_load_neither_keras_nor_tensorflow_nor_pydantic():
    program = "import sys, kerasimg.data.decode_worker; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"cv2", "simplejpeg", "PIL", "numpy"} <= set(loaded)
    assert not {"keras", "tensorflow", "jax", "torch", "pydantic", "sklearn", "scipy", "h5py"} & set(loaded)


@pytest.mark.parametrize("exact", [False, True])
def test_workers_give_the_pixels_of_threads(folder: Path, exact: bool):
    positions = np.random.default_rng(1).permutation(COUNT)
    expected = loader(folder, workers=0, exact=exact).load(positions)
    by_workers = loader(folder, exact=exact)
    batches = [by_workers.load(part) for part in (positions[:3], positions[3:36], positions[36:])]
    assert np.array_equal(np.concatenate(batches), expected)


def test_the_bytes_of_a_zip_and_arrays_in_a_list_are_loaded_too(folder: Path, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in sorted(folder.glob("*/*")):
            archive.write(path, path.relative_to(folder).as_posix())
    expected = loader(folder, workers=0).load(np.arange(COUNT))
    assert np.array_equal(loader(tmp_path / "images.zip").load(np.arange(COUNT)), expected)
    files = sorted(map(str, folder.glob("*/*")))
    mixed = ([np.zeros((5, 7, 3), np.uint8), files[0], np.full((9, 3, 3), 200, np.uint8)], [0, 1, 1])
    pixels = loader(mixed).load(np.arange(3))
    assert (pixels[0] == 0).all()
    assert np.array_equal(pixels[1], expected[0])
    assert (pixels[2] == 200).all()


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_the_cache_is_filled_by_workers_and_read_without_them(folder: Path, tmp_path: Path, kind: str):
    cache = Cache(kind, tmp_path)
    first = loader(folder, cache)
    half = first.load(np.arange(20))
    assert first.rows.has(np.arange(COUNT)).tolist() == [True] * 20 + [False] * 20
    whole = first.load(np.arange(COUNT))
    assert np.array_equal(whole[:20], half)
    assert first.rows.complete()
    worker_pool.end_workers()
    assert np.array_equal(loader(folder, cache).load(np.arange(COUNT)), whole)
    assert not worker_pool._pools


def test_an_unreadable_image_is_named_as_by_threads(folder: Path, tmp_path: Path):
    for name in ("a/1.jpg", "b/2.jpg", "b/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((folder / "a" / "00.jpg").read_bytes())
    (tmp_path / "b" / "2.jpg").write_bytes(b"\xff\xd8\xffno")
    messages = []
    for workers in (0, 1):
        with pytest.raises(DataError) as raised:
            loader(tmp_path, workers=workers).load(np.arange(3))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert "b/2.jpg: is truncated or damaged" in messages[0]
    source = open_source(tmp_path)
    cache = Cache("memory")
    assert scan(source, IMAGE, cache=cache, workers=1) == scan(source, IMAGE, workers=0)
    assert scan(source, workers=1) == scan(source, workers=0) != []
    assert cache.rows(source.keys(), IMAGE, exact=False).has(np.arange(3)).tolist() == [True, False, True]


def test_memory_is_used_again_once_no_view_of_a_batch_is_left():
    memories = Memories(2)
    batch, memory = memories.take((4, 5, 5, 3))
    view = batch[2:].reshape(-1)[3:]
    del batch
    assert not memories.free
    del view
    assert list(memories.free) == [memory]
    again, same = memories.take((2, 5, 5, 3))
    assert same is memory
    larger, other = memories.take((9, 5, 5, 3))
    assert other is not memory
    del again, larger, memory, same, other
    gc.collect()
    assert len(memories.free) == 2


@linux
def test_a_killed_worker_is_replaced_and_its_batch_loaded_again(folder: Path):
    by_workers = loader(folder)
    expected = by_workers.load(np.arange(COUNT))
    by_workers.load(np.arange(COUNT))
    killed = [worker.process.pid for worker in worker_pool.worker_pool(2).idle.queue if worker is not None]
    assert killed
    for number in killed:
        os.kill(number, signal.SIGKILL)
    assert np.array_equal(by_workers.load(np.arange(COUNT)), expected)
    left = {worker.process.pid for worker in worker_pool.worker_pool(2).idle.queue if worker is not None}
    assert not left & set(killed)


def test_an_image_that_ends_every_worker_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    # The decoder of this worker ends its process when it gets one of the images.
    program = (
        "import os, sys; sys.path[:] = sys.argv[2:]; from kerasimg.data import decode_worker as worker; "
        "decode = worker.decode_fast; "
        "worker.decode_fast = lambda img, image: os.abort() if img.endswith('06.jpg') else decode(img, image); "
        "worker.main(int(sys.argv[1]))"
    )
    worker_pool.end_workers()
    with monkeypatch.context() as patch:
        patch.setattr(worker_pool, "START", program)
        with pytest.raises(DataError, match=r"a/06\.jpg: cannot be decoded: each process.* ended \(signal 6\)"):
            loader(folder, workers=1).load(np.arange(8))
    worker_pool.end_workers()


PARENT = """
import sys, threading, time, numpy as np
from kerasimg.data.loading import Loader
from kerasimg.data.sources import open_source
from kerasimg.data.worker_pool import worker_pool
from kerasimg.spec.document import Image
source = open_source(sys.argv[1])
loader = Loader(source, np.arange(len(source)), Image(size=[24, 20]), None, workers=2)
loader.load(np.arange(len(source)))
try:
    print(*(worker.process.pid for worker in worker_pool(2).idle.queue if worker is not None), flush=True)
    while True:
        loader.load(np.arange(len(source)))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@linux
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_workers_and_shared_memory_end_with_their_parent(folder: Path, end: signal.Signals):
    before = set(os.listdir("/dev/shm"))
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    workers = [int(word) for word in process.stdout.readline().split()]
    assert workers
    assert all(map(alive, workers))
    process.send_signal(end)
    output, errors = process.communicate(timeout=30)
    assert (output, errors) == ("interrupted\n" if end == signal.SIGINT else "", "")
    limit = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < limit:
        time.sleep(0.02)
    assert not any(map(alive, workers))
    assert set(os.listdir("/dev/shm")) <= before  # memory without a name ends with its processes


@linux
def test_memory_stays_flat_over_ten_epochs(folder: Path):
    by_workers = loader(folder)

    def mapped() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    counts = []
    for _ in range(10):
        for start in range(0, COUNT, 10):
            by_workers.load(np.arange(start, start + 10))
        counts.append(mapped())
    assert counts[-1] <= counts[1]
    (worker, *_) = (one for one in worker_pool.worker_pool(2).idle.queue if one is not None)
    maps = Path(f"/proc/{worker.process.pid}/maps").read_text().count("memfd:kerasimg")
    assert maps <= by_workers.memories.free.maxlen


def test_several_threads_share_the_workers(folder: Path):
    by_workers = loader(folder)
    expected = by_workers.load(np.arange(COUNT))
    outcomes: list[bool] = []

    def load(seed: int) -> None:
        for turn in range(5):
            positions = np.random.default_rng((seed, turn)).integers(0, COUNT, 9)
            outcomes.append(np.array_equal(by_workers.load(positions), expected[positions]))

    threads = [threading.Thread(target=load, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 20


def test_the_rule_for_the_number_of_workers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KERASIMG_WORKERS", raising=False)
    for cores, images, expected in ((1, 10**6, 0), (4, 10**6, 0), (5, 1000, 5), (16, 10**6, 16), (16, 999, 0)):
        monkeypatch.setattr(worker_pool, "cores", lambda cores=cores: cores)
        assert worker_count(None, images) == expected
    monkeypatch.setenv("KERASIMG_WORKERS", "0")
    assert (worker_count(None, 10**6), worker_count(3, 10)) == (0, 3)
    monkeypatch.setenv("KERASIMG_WORKERS", "many")
    with pytest.raises(CallError, match="KERASIMG_WORKERS: expected a number of processes, or 0 for threads"):
        worker_count(None, 10)


def test_enough_batches_are_loaded_at_once_for_all_workers(folder: Path):
    assert loader(folder, workers=0).batches_at_once(32) == 2
    assert loader(folder, workers=16).batches_at_once(32) == 24
    assert loader(folder, workers=16).batches_at_once(1024) == 2
    arrays = (np.zeros((4, 8, 8, 3), np.uint8), np.arange(4))
    assert loader(arrays, workers=16).workers == 0  # pixels in memory are not sent


def test_a_worker_without_work_ends(folder: Path, monkeypatch: pytest.MonkeyPatch):
    program = (
        "import sys; sys.path[:] = sys.argv[2:]; from kerasimg.data import decode_worker as worker; "
        "worker.IDLE_S = worker.POLL_S = 0.1; worker.main(int(sys.argv[1]))"
    )
    worker_pool.end_workers()
    with monkeypatch.context() as patch:
        patch.setattr(worker_pool, "START", program)
        by_workers = loader(folder, workers=1)
        expected = by_workers.load(np.arange(4))
        (worker,) = worker_pool.worker_pool(1).idle.queue
        assert worker.process.wait(timeout=10) == 0
        assert np.array_equal(by_workers.load(np.arange(4)), expected)
    worker_pool.end_workers()
