"""Recall on planted faults, findings on clean data, and speed of `kerasimg data check`.

    python benchmarks/data_check.py recall --npz fashion_mnist.npz [--clip-art DIR] [--count 4000] [--seed 0] [--labels]
    python benchmarks/data_check.py clean --npz fashion_mnist.npz [--clip-art DIR] [--sheets DIR]
    python benchmarks/data_check.py speed [--count 1000] [--repeat 3]

recall: faults are planted into a clean data set (`--count` training images of Fashion-MNIST as PNG files, split into
train and test; or folders of clip art without duplicates): 30 exact duplicates across splits, 20 near duplicates (7
resized, 7 recompressed, 6 mirrored), 10 swapped labels, 5 truncated files, 5 files of a single colour; also 10
brightened and 10 slightly cropped copies. The script prints how many of each were found, and all other findings.
--labels: also search for the swapped labels with the thumbnail classifier.

clean: the 10,000 test images of Fashion-MNIST, and the clip art, unchanged; --sheets gets pairs of near duplicates
drawn side by side for inspection.

speed: 500 x 375 JPEG files of about 54 KB on all cores, the whole check; the minimum of --repeat runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

from kerasimg.data.audit.data_check import DataCheck, check_data
from kerasimg.data.image_files import BadImage, read_image
from kerasimg.data.parallel import cores

PLANTED = {
    "exact": 30,
    "resized": 7,
    "recompressed": 7,
    "mirrored": 6,
    "brightened": 10,
    "cropped": 10,
    "swapped": 10,
    "truncated": 5,
    "blank": 5,
}

Files = dict[str, list[Path]]


def plant(root: Path, seed: int) -> dict[str, list[str]]:
    """Plants faults in a folder of train/CLASS/FILE and test/CLASS/FILE; returns the ids of bad images by kind."""
    drawn = np.random.default_rng(seed)
    train, test = sorted((root / "train").glob("*/*")), sorted((root / "test").glob("*/*"))
    classes = sorted(path.name for path in (root / "train").iterdir())
    sources = iter(drawn.permutation(len(train)).tolist())
    targets = iter(drawn.permutation(len(test)).tolist())
    planted: dict[str, list[str]] = {kind: [] for kind in PLANTED}

    def note(kind: str, path: Path) -> None:
        planted[kind].append(path.relative_to(root).as_posix())

    for kind, count in PLANTED.items():
        for number in range(count):
            original = train[next(sources)]
            label = original.parent.name
            if kind == "exact":
                copy = root / "test" / label / f"planted_exact_{number}{original.suffix}"
                shutil.copyfile(original, copy)
                note(kind, copy)
            elif kind in CHANGES:
                copy = root / "test" / label / f"planted_{kind}_{number}.{'jpg' if kind == 'recompressed' else 'png'}"
                CHANGES[kind](read_image(str(original)), copy)
                note(kind, copy)
            elif kind == "swapped":
                other = classes[(classes.index(label) + 1 + int(drawn.integers(len(classes) - 1))) % len(classes)]
                moved = root / "train" / other / f"planted_swapped_{number}{original.suffix}"
                original.rename(moved)
                note(kind, moved)
            elif kind == "truncated":
                path = test[next(targets)]
                path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
                note(kind, path)
            else:
                size = read_image(str(original)).size
                path = root / "train" / label / f"planted_blank_{number}.png"
                grey = drawn.normal(60 + 30 * number, 2, (size[1], size[0], 3)).clip(0, 255)
                PIL.Image.fromarray(grey.astype("uint8")).save(path)
                note(kind, path)
    return planted


def resized(image: PIL.Image.Image, path: Path) -> None:
    image.resize((max(8, image.width * 3 // 4), max(8, image.height * 3 // 4)), PIL.Image.Resampling.LANCZOS).save(path)


def recompressed(image: PIL.Image.Image, path: Path) -> None:
    image.save(path, "JPEG", quality=50)


def mirrored(image: PIL.Image.Image, path: Path) -> None:
    PIL.ImageOps.mirror(image).save(path)


def brightened(image: PIL.Image.Image, path: Path) -> None:
    image.point([min(255, round(value * 1.15 + 8)) for value in range(256)] * 3).save(path)


def cropped(image: PIL.Image.Image, path: Path) -> None:
    """Crops 2 % off each side."""
    width, height = image.size
    edge_x, edge_y = max(1, round(width * 0.02)), max(1, round(height * 0.02))
    image.crop((edge_x, edge_y, width - edge_x, height - edge_y)).save(path)


CHANGES: dict[str, Callable[[PIL.Image.Image, Path], None]] = {
    "resized": resized,
    "recompressed": recompressed,
    "mirrored": mirrored,
    "brightened": brightened,
    "cropped": cropped,
}

FOUND_AS = {
    "exact": ("leak", "conflict"),
    "swapped": ("label_suspect",),
    "truncated": ("unreadable",),
    "blank": ("blank",),
}
"""Kind of fault -> kinds of findings that name it; of the others, the copies."""
COPIES = ("near_leak", "near_conflict", "near_duplicate", "leak", "conflict")


def recalled(checked: DataCheck, planted: dict[str, list[str]]) -> dict[str, int]:
    """Counts the planted faults that were found, by kind."""
    named: dict[str, set[str]] = {}
    for one in checked.findings:
        named.setdefault(one.kind, set()).update(checked.source.items[index].id for index in one.images)
    return {
        kind: sum(any(name in named.get(as_kind, ()) for as_kind in FOUND_AS.get(kind, COPIES)) for name in names)
        for kind, names in planted.items()
    }


def unplanted(checked: DataCheck, planted: dict[str, list[str]]) -> dict[str, int]:
    """Counts findings that name no planted image, by kind."""
    ours = {name for names in planted.values() for name in names}
    counts: dict[str, int] = {}
    for one in checked.findings:
        if not any(checked.source.items[index].id in ours for index in one.images):
            counts[one.kind] = counts.get(one.kind, 0) + 1
    return counts


def write_fashion(npz: Path, root: Path, count: int, seed: int) -> None:
    """Writes `count` training images as PNG files, a fifth of them into test/."""
    with np.load(npz) as arrays:
        images, labels = arrays["x_train"], arrays["y_train"]
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    for place, index in enumerate(chosen.tolist()):
        folder = root / ("test" if place % 5 == 0 else "train") / f"class_{labels[index]}"
        folder.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(images[index]).save(folder / f"{index:05}.png")


def write_clip_art(source: Path, root: Path) -> None:
    """Writes the clip art at up to 400 pixels as PNG files without duplicates, a fifth of them into test/."""
    checked = check_data(source)
    left = checked.left_out(near=True)
    left |= {
        index: one.kind for one in checked.findings if one.kind in ("near_conflict", "blank") for index in one.images
    }
    for place, index in enumerate(index for index in range(len(checked.source)) if index not in left):
        item = checked.source.items[index]
        try:
            image = read_image(item.image)
        except BadImage:
            continue
        image.thumbnail((400, 400))
        folder = root / ("test" if place % 5 == 0 else "train") / item.labels[0]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{index:05}.png")


def recall(options: argparse.Namespace) -> None:
    find_labels = None
    if options.labels:
        from kerasimg.evaluation.label_errors import find_label_errors as find_labels
    makers: dict[str, Callable[[Path], None]] = {}
    if options.npz:
        makers["Fashion-MNIST"] = lambda root: write_fashion(options.npz, root, options.count, options.seed)
    if options.clip_art:
        makers["clip art"] = lambda root: write_clip_art(options.clip_art, root)
    for name, make in makers.items():
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            before = check_data(folder)
            planted = plant(Path(folder), options.seed)
            checked = check_data(folder, find_label_errors=find_labels)
        print(f"\n{name}: {len(before.source):,} images before, {len(checked.source):,} after")
        print("  said before:", {kind: row["findings"] for kind, row in before.counts().items()})
        for kind, count in recalled(checked, planted).items():
            print(f"  {kind:12} {count:3} of {PLANTED[kind]}")
        first = [checked.source.items[one.images[0]].id for one in checked.findings if one.kind == "label_suspect"][:50]
        if find_labels:
            print(f"  swapped labels among the 50 most likely: {sum(name in first for name in planted['swapped'])}")
        print("  said of what was not planted:", unplanted(checked, planted))


def clean(options: argparse.Namespace) -> None:
    sets: dict[str, object] = {}
    if options.npz:
        with np.load(options.npz) as arrays:
            sets["Fashion-MNIST test"] = (arrays["x_test"], arrays["y_test"])
    if options.clip_art:
        sets["clip art"] = options.clip_art
    for name, data in sets.items():
        checked = check_data(data)  # type: ignore[arg-type]
        print(f"\n{name}: {len(checked.source):,} images, {checked.seconds:.0f} s")
        for kind, row in checked.counts().items():
            print(f"  {kind:15} {row['findings']:4} findings, {row['images']:4} images")
        if options.sheets:
            draw_pairs(checked, options.sheets / f"{name.replace(' ', '_')}.png")


def draw_pairs(checked: DataCheck, path: Path) -> None:
    near = [one for one in checked.findings if one.kind.startswith("near_")]
    side, columns = 64, 10
    sheet = PIL.Image.new("RGB", (columns * (2 * side + 8), max(1, -(-len(near) // columns)) * (side + 8)), "grey")
    for place, one in enumerate(near):
        for number, index in enumerate(one.images[:2]):
            image = read_image(checked.source.items[index].image).resize((side, side))
            sheet.paste(image, (place % columns * (2 * side + 8) + number * side, place // columns * (side + 8)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def speed(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        drawn = np.random.default_rng(0)
        size_b = 0
        for index in range(options.count):
            path = Path(folder) / f"class_{index % 10}" / f"{index:05}.jpg"
            path.parent.mkdir(exist_ok=True)
            coarse = PIL.Image.fromarray(drawn.integers(0, 256, (60, 80, 3), np.uint8))
            fine = np.asarray(coarse.resize((500, 375), PIL.Image.Resampling.BICUBIC), np.int16)
            noisy = (fine + drawn.integers(-14, 15, fine.shape)).clip(0, 255).astype(np.uint8)
            PIL.Image.fromarray(noisy).save(path, quality=80)
            size_b += os.path.getsize(path)
        print(f"{options.count:,} JPEG files, 500 x 375, {size_b / options.count / 1000:.0f} KB each, {cores()} cores")
        times, busy = [], []
        for _ in range(options.repeat):
            start, start_busy = time.perf_counter(), time.process_time()
            check_data(folder)
            times.append(time.perf_counter() - start)
            busy.append(time.process_time() - start_busy)
        print(f"{options.count / min(times):,.0f} images a second (least of {options.repeat}: {min(times):.2f} s)")
        # On a busy machine CPU time says more than wall time.
        each_ms = 1000 * min(busy) / options.count
        print(f"{each_ms:.2f} ms of a core for an image, {cores() * 1000 / each_ms:,.0f} a second on {cores()} of them")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("recall", "clean", "speed"))
    parser.add_argument("--npz", type=Path)
    parser.add_argument("--clip-art", type=Path)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--labels", action="store_true")
    parser.add_argument("--sheets", type=Path)
    options = parser.parse_args()
    options.count = options.count or (1000 if options.what == "speed" else 4000)
    {"recall": recall, "clean": clean, "speed": speed}[options.what](options)


if __name__ == "__main__":
    main()
