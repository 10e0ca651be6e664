"""Images per second from files to batches: kerasimg, the usual alternatives, and the bare decoder as the ceiling.

    python benchmarks/pipeline.py [--quick] [--rounds 3] [--torch-python PYTHON] [--json OUT.json]
    python benchmarks/pipeline.py --workers 0,1,2,4,8,16 [--quick] [--json OUT.json]

Two data sets: 2,000 JPEGs of 500x375 of about 50 KB, generated with the statistics of photographs (1/f noise in
luminance and colour, objects with edges) and resized to 224x224; and the 2,000 PNGs of Fashion-MNIST that ship, at
28x28. Augmentation is the tutorial's: rotation by up to 20 degrees, shifts by up to 0.2, horizontal flip.

The contenders take turns. A turn is one pass over the images after an untimed warm-up that compiles everything
(kerasimg's turns are epochs of one long run, like those of ImageDataGenerator); it starts when the batches that the
previous turn prefetched are done. The script prints medians over the rounds with minimum and maximum, and the minimum
CPU time of all threads per image. Files are in the page cache by then. `--torch-python` names a Python with torch and
PIL (also: environment variable TORCH_PYTHON); without it the DataLoader is skipped. Exit code 1 if kerasimg's pixels
differ from the reference decoder by more than stated.

With `--workers`, the 224x224 images are loaded by these numbers of worker processes (0: threads) instead: images per
second of the first epoch and from the cache, with and without augmentation, and of the loader alone with the CPU time
of the parent for an image, all its threads together. That time is an upper bound of how long an image holds the
parent's interpreter lock, so its inverse is the rate beyond which more workers cannot help. Where py-spy is installed,
it samples for ten seconds how often a thread of the parent holds the lock; printed is that time for an image.
`PyDataset` with processes and, where it is installed, `grain` load the same batches with the same decoder.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import PIL.Image

BATCH = 32
DEGREES, SHIFT = 20, 0.2
SAMPLES, SAMPLED_S = 500, 10
"""Samples a second of the profiler, and its seconds."""
READY = 8
"""Batches that may be ready or on their way."""
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
Contender = Callable[[], float]
"""One pass: images a second."""


def photograph(draws: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns a generated uint8 image with the spectrum of photographs (Field 1987) and edges."""
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(down, across)
    frequency[0, 0] = 1

    def noise(power: float) -> np.ndarray:
        parts = draws.standard_normal((2, *frequency.shape))
        field = np.fft.irfft2((parts[0] + 1j * parts[1]) / frequency**power, (height, width))
        return (field - field.mean()) / field.std()

    light, red, blue = 120 + 42 * noise(1.25), 18 * noise(1.6), 18 * noise(1.6)
    image = np.stack([light + red, light - 0.3 * red + 0.4 * blue, light - blue], axis=-1)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(10):
        middle, sides = draws.uniform(0, (height, width)), draws.uniform(0.03, 0.25, 2) * min(height, width)
        turn = draws.uniform(0, np.pi)
        along = (columns - middle[1]) * np.cos(turn) + (rows - middle[0]) * np.sin(turn)
        beside = (rows - middle[0]) * np.cos(turn) - (columns - middle[1]) * np.sin(turn)
        inside = (along / sides[0]) ** 2 + (beside / sides[1]) ** 2 < 1
        if draws.random() < 0.5:
            inside = (np.abs(along) < sides[0]) & (np.abs(beside) < sides[1])
        if inside.any():
            image[inside] = draws.uniform(20, 235, 3) + 0.35 * (image[inside] - image[inside].mean(axis=0))
    return np.clip(image, 0, 255).astype(np.uint8)


def make_photographs(root: Path, count: int) -> None:
    """Writes `count` JPEGs of 500x375 in two classes, ten crops from each larger image."""
    draws = np.random.default_rng(0)
    sizes = []
    for number in range(count):
        if number % 10 == 0:
            large = photograph(draws, 500, 700)
        top, left = draws.integers(0, 125), draws.integers(0, 200)
        cut = large[top : top + 375, left : left + 500]
        path = root / ("cat", "dog")[number % 2] / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(cut[:, :: 1 if number % 4 < 2 else -1]).save(path, quality=86)
        sizes.append(path.stat().st_size)
    print(f"{count:,} JPEGs of 500x375, {np.mean(sizes) / 1000:.0f} KB in the mean\n", flush=True)


def quiet() -> None:
    """Waits until this process is idle, at most 10 seconds."""
    for _ in range(100):
        started = time.process_time()
        time.sleep(0.1)
        if time.process_time() - started < 0.02:
            return


def rate(things: Iterable[Any], count: int) -> float:
    start = time.perf_counter()
    done = 0
    for batch in things:
        done += len(batch[0])
        if done >= count:
            break
    return done / (time.perf_counter() - start)


def image_data_generator(root: Path, size: int, count: int) -> Contender:
    import tensorflow as tf

    made = tf.keras.preprocessing.image.ImageDataGenerator(
        rotation_range=DEGREES, width_shift_range=SHIFT, height_shift_range=SHIFT, horizontal_flip=True
    )
    options = {"target_size": (size, size), "batch_size": BATCH, "class_mode": "sparse", "interpolation": "bilinear"}
    with open(os.devnull, "w") as silence:
        shown, sys.stdout = sys.stdout, silence
        flow = made.flow_from_directory(str(root), **options)
        sys.stdout = shown
    return lambda: rate(flow, count)


def keras_layers(root: Path, size: int, count: int, augmented: bool) -> Contender:
    import keras
    import tensorflow as tf

    with open(os.devnull, "w") as silence:
        shown, sys.stdout = sys.stdout, silence
        dataset = keras.utils.image_dataset_from_directory(str(root), image_size=(size, size), batch_size=BATCH)
        sys.stdout = shown
    if augmented:
        turn = keras.layers.RandomRotation(DEGREES / 360)
        layers = [keras.layers.RandomFlip("horizontal"), turn, keras.layers.RandomTranslation(SHIFT, SHIFT)]

        def augment(images: Any, labels: Any) -> Any:
            for layer in layers:
                images = layer(images, training=True)
            return images, labels

        dataset = dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    return lambda: rate(dataset, count)


def torch_loader(python: str, root: Path, size: int) -> Contender:
    def run() -> float:
        words = [python, __file__, "--torch-worker", str(root), "--size", str(size)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])

    return run


def torch_worker(root: Path, size: int) -> None:
    """Runs in the other Python: prints images per second of the second pass of a DataLoader with PIL."""
    import torch

    class Images(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.paths = sorted(root.glob("*/*.*"))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> Any:
            with PIL.Image.open(self.paths[index]) as opened:
                image = opened.convert("RGB").resize((size, size), PIL.Image.Resampling.BILINEAR)
            numbers = torch.rand(4).tolist()
            if numbers[0] < 0.5:
                image = image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
            shift = tuple(int((2 * number - 1) * SHIFT * size) for number in numbers[1:3])
            turn = (2 * numbers[3] - 1) * DEGREES
            image = image.rotate(turn, PIL.Image.Resampling.BILINEAR, translate=shift)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1), index % 2

    loader = torch.utils.data.DataLoader(
        Images(), BATCH, shuffle=True, num_workers=CORES, persistent_workers=True, prefetch_factor=4
    )
    for batch in loader:
        del batch
    print(rate(loader, len(loader.dataset)))


def ceiling(root: Path, count: int) -> Contender:
    """Runs the bare decoder on files in memory, on all cores, without resizing."""
    contents = [path.read_bytes() for path in sorted(root.glob("*/*.*"))[:count]]
    if contents[0].startswith(b"\xff\xd8"):
        import simplejpeg

        def decode(content: bytes) -> Any:
            return simplejpeg.decode_jpeg(content, "RGB")

    else:

        def decode(content: bytes) -> Any:
            with PIL.Image.open(io.BytesIO(content)) as opened:
                return opened.convert("RGB")

    def chunk(start: int) -> int:
        return len([decode(content) is None for content in contents[start : start + 16]])

    def run() -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(CORES) as pool:
            done = sum(pool.map(chunk, range(0, len(contents), 16)))
        return done / (time.perf_counter() - start)

    return run


def ours(
    root: Path, size: int, count: int, augmented: bool, cache: str, workers: int | None = None, passes: int = 1
) -> Contender:
    """Runs kerasimg; cache "off" is a first epoch, "memory" and "disk" are later ones."""
    from kerasimg.data.augment import compile_augment
    from kerasimg.data.cache import Cache
    from kerasimg.data.pipeline import batches
    from kerasimg.data.sources import open_source
    from kerasimg.spec.document import Image

    image = Image(size=[size, size])
    layers: list[tuple[str, dict[str, Any]]] = [
        ("RandomFlip", {"mode": "horizontal"}),
        ("RandomRotation", {"factor": DEGREES / 360}),
        ("RandomTranslation", {"height_factor": SHIFT, "width_factor": SHIFT}),
    ]
    augment = compile_augment(layers if augmented else [], image, 0)
    source = open_source(root)
    image_cache = Cache(cache)
    if cache != "off":
        for _ in batches(source, np.arange(count), image, batch_size=BATCH, cache=image_cache, exact=False):
            pass
    options: dict[str, Any] = {
        "batch_size": BATCH,
        "shuffle": True,
        "exact": False,
        "cache": image_cache,
        "augment": augment,
        "workers": workers,
    }
    endless = iter(batches(source, np.arange(count), image, epochs=None, **options))

    def run() -> float:
        # Without batches that were prefetched during the turns of others.
        for _ in range(READY):
            next(endless)
        return rate(endless, passes * count)

    return run


class Decoded:
    """Decoded images by number, for `grain` and `PyDataset`."""

    def __init__(self, root: Path, size: int) -> None:
        self.paths = [str(path) for path in sorted(root.glob("*/*.*"))]
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        from kerasimg.data.fast_decode import decode_fast
        from kerasimg.spec.document import Image

        return decode_fast(self.paths[index], Image(size=[self.size, self.size]))


def loaded(root: Path, size: int, workers: int) -> Iterator[int]:
    """Yields, without end, the number of images of each batch that a `Loader` has loaded; its workers have started."""
    from kerasimg.data.loading import Loader
    from kerasimg.data.sources import open_source
    from kerasimg.spec.document import Image

    source = open_source(root)
    loader = Loader(source, np.arange(len(source)), Image(size=[size, size]), None, exact=False, workers=workers)
    draws = np.random.default_rng(0)
    order = np.concatenate([draws.permutation(len(source)) for _ in range(max(2, workers))])
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    with ThreadPoolExecutor(loader.batches_at_once(BATCH)) as pool:
        list(pool.map(lambda part: len(loader.load(part)), parts[: 2 * max(1, workers)]))  # starts the workers
        while True:
            yield from pool.map(lambda part: len(loader.load(part)), parts)


def loader_alone(root: Path, size: int, workers: int, count: int) -> tuple[float, float]:
    """Images per second of `Loader`, and microseconds of the parent's CPU for an image."""
    counts = loaded(root, size, workers)
    next(counts)
    return measured(itertools.islice(counts, max(2, workers) * count // BATCH))


def lock_held(root: Path, size: int, workers: int) -> float:
    """Microseconds for an image in which a thread of this process holds the interpreter lock, sampled by py-spy."""
    words = ["py-spy", "record", "--gil", "--nonblocking", "--rate", str(SAMPLES), "--duration", str(SAMPLED_S)]
    words += ["--format", "raw", "--pid", str(os.getpid()), "--output"]
    counts = loaded(root, size, workers)
    next(counts)
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        profiler = subprocess.Popen([*words, file.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        speed, _ = measured(itertools.takewhile(lambda _: profiler.poll() is None, counts))
        samples = sum(int(line.rsplit(" ", 1)[1]) for line in Path(file.name).read_text().splitlines())
    return 1e6 * samples / (SAMPLES * SAMPLED_S) / speed


def py_dataset(root: Path, size: int, workers: int) -> tuple[float, float]:
    import keras
    from keras.src.trainers.data_adapters.py_dataset_adapter import OrderedEnqueuer

    images = Decoded(root, size)

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return max(2, workers) * len(images) // BATCH

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            places = [(index * BATCH + row) % len(images) for row in range(BATCH)]
            return np.stack([images[place] for place in places]), np.zeros(BATCH)

    enqueuer = OrderedEnqueuer(Batches(workers=workers, use_multiprocessing=True), workers, workers + 2)
    enqueuer.start()
    batches = enqueuer.get()
    for _ in range(2 * workers):
        next(batches)
    count = max(2, workers) * len(images) // BATCH - 2 * workers
    figures = measured(len(next(batches)[0]) for _ in range(count))
    enqueuer.stop()
    return figures


def grain_loader(root: Path, size: int, workers: int) -> tuple[float, float]:
    import grain

    images = Decoded(root, size)
    passes = 4 * workers  # many, since it decodes far ahead
    dataset = grain.MapDataset.source(images).repeat(passes + 1).shuffle(seed=0).batch(BATCH)
    batches = iter(dataset.to_iter_dataset().mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)))
    for _ in range(2 * workers):
        next(batches)
    return measured(len(next(batches)) for _ in range(passes * len(images) // BATCH))


def measured(counts: Iterable[int]) -> tuple[float, float]:
    """Images per second, and microseconds of this process's CPU for an image."""
    start, started = time.perf_counter(), time.process_time()
    images = sum(counts)
    return images / (time.perf_counter() - start), 1e6 * (time.process_time() - started) / images


def by_workers(root: Path, size: int, count: int, numbers: list[int]) -> dict[str, dict[str, float]]:
    """Prints and returns the figures for each number of workers."""
    others: dict[str, Callable[[Path, int, int], tuple[float, float]]] = {"PyDataset": py_dataset}
    if importlib.util.find_spec("grain"):
        others["grain"] = grain_loader
    names = ["first epoch", "first epoch, augmented", "cached", "cached, augmented", "loader alone", "parent, us/image"]
    profiled = shutil.which("py-spy") is not None
    names += ["lock, us/image"] * profiled
    names += [f"{other}{what}" for other in others for what in (", images/s", ", parent us/image")]
    print(f"| workers | {' | '.join(names)} |\n|{' ---: |' * (len(names) + 1)}", flush=True)
    rows = {}
    for workers in numbers:
        turns = max(1, workers // 2)
        figures = [
            ours(root, size, count, augmented, cache, workers, turns)()
            for cache in ("off", "memory")
            for augmented in (False, True)
        ]
        figures += loader_alone(root, size, workers, count)
        figures += [lock_held(root, size, workers)] * profiled
        for other in others.values():
            figures += other(root, size, workers) if workers else (0.0, 0.0)
        rows[str(workers)] = dict(zip(names, figures, strict=True))
        print(f"| {workers or 'threads'} | {' | '.join(f'{figure:,.0f}' for figure in figures)} |", flush=True)
    return rows


def bound(root: Path, size: int) -> bool:
    """Prints the difference between the fast decoder and the reference; returns whether it is within the bound."""
    from kerasimg.data.decode import decode
    from kerasimg.data.fast_decode import LARGEST, MEAN_BOUND, decode_fast, version
    from kerasimg.spec.document import Image

    image = Image(size=[size, size])
    paths = sorted(root.glob("*/*.*"))[::10][:100]
    apart = [np.abs(decode_fast(str(path), image).astype(int) - decode(str(path), image)) for path in paths]
    mean, worst, largest = np.mean(apart), max(one.mean() for one in apart), max(one.max() for one in apart)
    print(
        f"fast decoder ({version()}) against the reference, {len(paths)} images: {mean:.2f} of 255 in the mean, "
        f"{worst:.2f} at most for an image, {largest} for a value"
    )
    return bool(worst < MEAN_BOUND and largest <= LARGEST)


def contenders(root: Path, size: int, count: int, torch_python: str | None, quick: bool) -> Iterator[tuple[str, Any]]:
    yield "ImageDataGenerator, augmented", image_data_generator(root, size, count // 4)
    yield "image_dataset_from_directory, plain", keras_layers(root, size, count, False)
    yield "image_dataset_from_directory, Keras layers", keras_layers(root, size, count // 2, True)
    if torch_python:
        yield "PyTorch DataLoader with PIL, augmented", torch_loader(torch_python, root, size)
    yield "bare decoder, all cores (the ceiling)", ceiling(root, count)
    yield "kerasimg, first epoch, plain", ours(root, size, count, False, "off")
    yield "kerasimg, first epoch, augmented", ours(root, size, count, True, "off")
    yield "kerasimg, memory cache, plain", ours(root, size, count, False, "memory")
    yield "kerasimg, memory cache, augmented", ours(root, size, count, True, "memory")
    yield "kerasimg, disk cache, augmented", ours(root, size, count, True, "disk")


def table(name: str, figures: dict[str, list[float]], work: dict[str, list[float]]) -> None:
    medians = {who: statistics.median(rates) for who, rates in figures.items()}
    first = medians["ImageDataGenerator, augmented"]
    top = medians["bare decoder, all cores (the ceiling)"]
    print(f"\n{name}\n\n| way | images/s | lowest - highest | x ImageDataGenerator | of the ceiling | CPU, ms |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for who, rates in figures.items():
        print(
            f"| {who} | {medians[who]:,.0f} | {min(rates):,.0f} - {max(rates):,.0f} | {medians[who] / first:.1f} | "
            f"{medians[who] / top:.0%} | {'-' if 'PyTorch' in who else f'{min(work[who]):.2f}'} |"
        )


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="400 images of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch-python", default=os.environ.get("TORCH_PYTHON"))
    parser.add_argument("--torch-worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=224, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--workers", type=lambda text: [int(word) for word in text.split(",")])
    options = parser.parse_args()
    if options.torch_worker:
        torch_worker(options.torch_worker, options.size)
        return 0
    from kerasimg.data.readers.folders import SAMPLE

    count = 400 if options.quick else 2000
    results, within_bound = {}, True
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KERASIMG_CACHE"] = str(Path(folder) / "cache")
        photographs = Path(folder) / "photographs"
        make_photographs(photographs, count)
        if options.workers:
            results = by_workers(photographs, 224, count, options.workers)
            if options.json:
                options.json.write_text(json.dumps({"cores": CORES, "workers": results}, indent=2) + "\n")
            return 0
        torch_python = options.torch_python
        if torch_python and subprocess.run([torch_python, "-c", "import torch, PIL, numpy"], check=False).returncode:
            torch_python = None
        if not torch_python:
            print("no Python with torch was named: the DataLoader is left out")
        for name, root, size in [
            ("JPEGs of 500x375 to 224x224", photographs, 224),
            ("Fashion-MNIST PNGs, 28x28", SAMPLE / "train", 28),
        ]:
            within_bound &= bound(root, size)
            here = dict(contenders(root, size, count, torch_python, options.quick))
            for run in here.values():
                run()
            figures: dict[str, list[float]] = {who: [] for who in here}
            work: dict[str, list[float]] = {who: [] for who in here}
            for turn in range(options.rounds):
                for who in list(here) if turn % 2 else list(here)[::-1]:
                    quiet()
                    started, start = time.process_time(), time.perf_counter()
                    figures[who].append(here[who]())
                    images = figures[who][-1] * (time.perf_counter() - start)
                    work[who].append(1000 * (time.process_time() - started) / images)
            table(name, figures, work)
            results[name] = {"images_per_second": figures, "cpu_ms_per_image": work}
    if options.json:
        options.json.write_text(json.dumps({"cores": CORES, "figures": results}, indent=2) + "\n")
    return 0 if within_bound else 1


if __name__ == "__main__":
    sys.exit(main())
