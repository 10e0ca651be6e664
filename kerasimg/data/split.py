"""The train/validation/test split, and its record.

Parts that the data defines are used as they are. A missing part that is asked for is drawn from the train part, which
includes all images without a part:

- The number of images is the share, rounded, but at least one.
- It is stratified by class (Sainte-Laguë's method), so that every class has its share to within one image. An image
  with several labels counts for the rarest of them; images without a label count as one more class.
- Every class has at least one image left to train on.
- If images belong to groups (`fit.group`), whole groups are drawn, by the seed: see `_draw_groups`.
- The draw depends on a hash of the seed and the image's name, not on the order of the images, and adding an image moves
  few others.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kerasimg import log
from kerasimg.data.groups import group_names, group_numbers, require_apart
from kerasimg.data.index import Items, Labels
from kerasimg.data.items import PART_NAMES, Item, ManyFaults, Part
from kerasimg.data.ledger import Ledger, hexadecimal
from kerasimg.data.parallel import each
from kerasimg.data.readers.image_store import Stacked
from kerasimg.data.source import Source
from kerasimg.errors import DataError, Fault, counted, listed
from kerasimg.spec.document import Group


def split(
    source: Source,
    validation_split: float = 0.15,
    test_split: float = 0.15,
    seed: int = 0,
    group: Group | None = None,
) -> dict[Part, np.ndarray]:
    """Splits a source into parts: ascending indices for each part; a part that is not asked for is absent.

    Args:
        source: the images.
        validation_split: share, in [0, 1), of the images that the data assigns to train or to no part.
        test_split: likewise.
        seed: of the draw.
        group: `fit.group`: whole groups are drawn, so the shares are met as closely as groups allow.

    Raises:
        DataError: if a class has too few images, or a group is in several parts.
    """
    if group is not None:
        require_apart(source, group)
    codes = np.maximum(source.parts, PART_NAMES.index("train"))
    found, firsts = np.unique(codes, return_index=True)
    parts = {PART_NAMES[code]: np.flatnonzero(codes == code) for code in found[np.argsort(firsts)]}
    train = parts.setdefault("train", np.empty(0, np.int64))
    shares: dict[Part, float] = {"test": test_split, "validation": validation_split}
    counts = {part: max(1, round(share * len(train))) for part, share in shares.items() if share and part not in parts}
    faults = []
    groups = group_numbers(source, group) if counts else None
    lots = _lots(source.columns, seed) if counts else np.empty(0)
    for part, count in counts.items():
        if groups is None:
            drawn = _draw(source.columns, parts["train"], count, lots)
        else:
            drawn = _draw_groups(source, parts["train"], count, groups, seed)
        if len(drawn) < (count if groups is None else 1):
            faults.append(_too_few(source, part, shares[part], count, len(drawn)))
        parts[part] = drawn
        parts["train"] = np.setdiff1d(parts["train"], drawn, assume_unique=True)
    faults += _unseen(source, parts)
    if faults:
        raise ManyFaults(faults)
    return {part: parts[part].astype(np.int64) for part in PART_NAMES if part in parts}


def record(
    source: Source,
    parts: Mapping[Part, Iterable[int]],
    threads: int | None = None,
    group: Group | None = None,
) -> dict[str, Any]:
    """The content of data.json: every image with its part, labels, SHA-256, and group if any.

    The hash is that of the file, or of the array's bytes in C order; for files that were read before, the ledger's.
    """
    indices = {part: np.asarray(chosen, np.int64) for part, chosen in parts.items()}
    every = np.concatenate([np.empty(0, np.int64), *indices.values()])
    names = [part for part, chosen in indices.items() for _ in range(len(chosen))]
    images: list[dict[str, Any]] = [
        {"id": item.id, "part": part, "labels": list(item.labels), "sha256": digest}
        for part, item, digest in zip(
            names, source.columns.take(every), content_hashes(source, every, threads), strict=True
        )
    ]
    if group is not None:
        groups = group_names(source, group)
        for image, index in zip(images, every, strict=True):
            image["group"] = groups[index]
    return {
        "where": source.where,
        "task": source.task,
        "classes": list(source.classes),
        "skipped": [one._asdict() for one in source.skipped],
        "images": images,
    }


def warn_of_other_labels(images: Iterable[Mapping[str, Any]]) -> None:
    """Warns of images with the same content and different labels.

    images: as `record` describes them.
    """
    firsts: dict[str, Mapping[str, Any]] = {}
    pairs: dict[str, tuple[str, str]] = {}
    for image in images:
        first = firsts.setdefault(image["sha256"], image)
        if sorted(first["labels"]) != sorted(image["labels"]):
            pairs.setdefault(image["sha256"], (first["id"], image["id"]))
    if pairs:
        named = listed([" = ".join(pair) for pair in pairs.values()], 3)
        log.warning(f"the same image with different labels: {named}; keep one (kerasimg data check lists all)")


def count_trained(recorded: Mapping[str, Any], hashes: Iterable[str]) -> int:
    """Returns how many images, by their SHA-256, were trained on.  recorded: the run's data, as `record` has it."""
    trained = {image["sha256"] for image in recorded["images"] if image["part"] == "train"}
    return sum(digest in trained for digest in hashes)


def trained_words(count: int, images: int) -> str:
    """Returns a warning: that many of the evaluated images were trained on.  images: number of these."""
    return (
        f"{count:,} of {counted(images, 'image')} {'was' if count == 1 else 'were'} trained on (the same content, by "
        "SHA-256), and a model does better on those than on new ones; use other images (where a data set has copies, "
        "kerasimg data check --fix-list keeps one of each)"
    )


def fingerprint(item: Item) -> str:
    """SHA-256 of the image's file, or of its pixels if it is an array."""
    image = item.image
    if isinstance(image, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    with open(image, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hashes(source: Source, indices: np.ndarray, threads: int | None = None) -> list[str]:
    """SHA-256 of each image, see `fingerprint`; for files that were read before, the ledger's."""
    chosen = source.columns.take(indices)
    if isinstance(chosen.images, Stacked):  # their content keys cost as much as the hash
        return list(each(fingerprint, chosen, threads))
    known = Ledger.open().find(chosen.keys())
    hashes = hexadecimal(known.sha256)
    # An unreadable image has no valid hash.
    missing = np.flatnonzero(~known.known | (known.reasons != ""))
    for place, found in zip(missing, each(_fingerprint_if_readable, chosen.take(missing), threads), strict=True):
        hashes[place] = found
    return hashes


def _fingerprint_if_readable(item: Item) -> str:
    """The fingerprint of an image; "" if its file cannot be read, which the decoder reports."""
    try:
        return fingerprint(item)
    except (OSError, DataError):
        return ""


def _draw(items: Items, pool: np.ndarray, count: int, lots: np.ndarray) -> np.ndarray:
    """Draw at most `count` images of the pool, stratified by class; each class has one or more left."""
    pool = pool[np.argsort(lots[pool])]
    labels = items.labels.take(pool)
    groups = _groups(labels)
    # Sainte-Laguë: the k-th image of a class of n is ranked (k + 1/2) / n.
    sizes = np.bincount(groups)
    in_groups = np.argsort(groups, kind="stable")
    places = np.empty(len(pool), np.int64)
    places[in_groups] = np.arange(len(pool)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    turns = np.lexsort((lots[pool], (places + 0.5) / sizes[groups]))
    if labels.starts is None:
        # The last image of each class stays in the pool.
        drawn = turns[(places < sizes[groups] - 1)[turns]][:count]
    else:
        drawn = _draw_sparing(labels, turns, count)
    return np.sort(pool[drawn])


def _draw_groups(source: Source, pool: np.ndarray, count: int, groups: np.ndarray, seed: int) -> np.ndarray:
    """Draw whole groups of the pool: about `count` images, stratified by class; each class has some left.

    Groups are visited in an order drawn from the seed. A group is taken if no class exceeds its share; in a second
    round, if it brings the classes closer to their shares, by the sum of (wanted - taken)^2 / all over the classes.
    """
    from scipy.sparse import csr_array  # 0.2 s, and most data has no groups

    labels = source.columns.labels.take(pool)
    of_groups = csr_array(
        (np.ones(len(labels.codes)), (groups[pool][labels.owners()], labels.codes)),
        shape=(int(groups.max()) + 1, len(labels.names)),
    )
    totals = np.maximum(of_groups.sum(axis=0), 1)
    missing = totals * (count / len(pool))
    left = of_groups.sum(axis=0)
    order = np.unique(groups[pool])
    np.random.default_rng(seed).shuffle(order)
    taken: dict[int, None] = {}
    best: tuple[float, int] | None = None
    # First groups with which no class exceeds its share, then those that reduce the distance.
    for is_exact, number in itertools.product((True, False), order.tolist()):
        row = slice(of_groups.indptr[number], of_groups.indptr[number + 1])
        classes, held = of_groups.indices[row], of_groups.data[row]
        if number in taken or (left[classes] <= held).any() or len(order) - len(taken) < 2:
            continue
        gain = float(((2 * missing[classes] - held) * held / totals[classes]).sum())
        if (held <= missing[classes]).all() if is_exact else gain > 0:
            taken[number] = None
            missing[classes] -= held
            left[classes] -= held
        elif best is None or gain > best[0]:
            best = gain, number
    if not taken and best is not None:
        taken[best[1]] = None
    return np.sort(pool[np.isin(groups[pool], list(taken))])


def _lots(items: Items, seed: int) -> np.ndarray:
    """(N,) int64: the rank of each image by a hash of the seed and its name."""
    head, blake2b = f"{seed}:".encode(), hashlib.blake2b
    digests = b"".join([blake2b(head + name, digest_size=16).digest() for name in items.encoded_ids()])
    high, low = np.frombuffer(digests, ">u8").reshape(-1, 2).T.astype(np.uint64)
    places = np.empty(len(items), np.int64)
    places[np.lexsort((low, high))] = np.arange(len(items))
    return places


def _groups(labels: Labels) -> np.ndarray:
    """(N,): the label that each image counts for: its rarest, and the first by name of equally rare ones."""
    if labels.starts is None:
        return labels.codes
    frequency = labels.counts()
    by_rarity = sorted(range(len(labels.names)), key=lambda code: (frequency[code], labels.names[code]))
    ranks = np.empty(len(by_rarity), np.int64)
    ranks[by_rarity] = np.arange(len(by_rarity))
    groups = np.full(len(labels.starts) - 1, len(ranks))  # of those without a label
    np.minimum.at(groups, labels.owners(), ranks[labels.codes])
    return groups


def _draw_sparing(labels: Labels, turns: np.ndarray, count: int) -> np.ndarray:
    """Take at most `count` images, in order, such that each of their labels has an image left."""
    frequency = labels.counts().tolist()
    starts = np.arange(len(labels.codes) + 1) if labels.starts is None else labels.starts
    drawn: list[int] = []
    for row in turns.tolist():
        if len(drawn) == count:
            break
        codes = labels.codes[starts[row] : starts[row + 1]].tolist()
        if all(frequency[code] > 1 for code in codes):
            drawn.append(row)
            for code in codes:
                frequency[code] -= 1
    return np.array(drawn, np.int64)


def _too_few(source: Source, part: Part, share: float, count: int, spare: int) -> Fault:
    return Fault(
        source.where,
        f"{part}_split",
        f"{share:g} asks for {count} of the images, but only {spare} can be taken, since every class needs one "
        f"to train on; add images to the smallest classes, or do without: --set fit.{part}_split=0"
        + (', and stages with "keep": "last"' if part == "validation" else ""),
    )


def _unseen(source: Source, parts: Mapping[Part, np.ndarray]) -> list[Fault]:
    """Classes with images in another part but none to train on."""
    labels = source.columns.labels
    trained: set[str] = set()
    others: dict[str, Part] = {}
    for part, indices in parts.items():
        found = {labels.names[code] for code in np.unique(labels.take(indices).codes)}
        others |= dict.fromkeys(found, part)
        if part == "train":
            trained = found
    return [
        Fault(
            source.where,
            f"class '{name}'",
            f"has images in the {others[name]} part, but none to train on; add some to the train part, or remove those",
        )
        for name in source.classes
        if name in others and name not in trained
    ]
