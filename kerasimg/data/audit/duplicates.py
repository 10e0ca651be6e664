"""The same image twice: the same bytes, the same pixels, or copies that were resized, recompressed, rotated or greyed.

Near copies are found on thumbnails of 16 x 16 in colour. Each is a vector: less its mean, of length 1, so that
brightness and contrast do not count. A pair is near when the vectors are less apart than 0.28 of how far each is from
the images around it (its fifth neighbour among 2,000 drawn ones, copies not counted), and never more than 0.316,
a correlation of 0.95. Measured by what surrounds it, a shirt among 6,000 shirts must be much more alike than a photo
among photos; `docs/data-check.md` has the figures that the numbers come from.

Each image is compared in all eight orientations. If the data has both grey and coloured images, those are compared with
one another by their luminance, too.

Neighbours are looked up in a k-d tree of the 16 leading principal components. A projection makes no distance greater,
so a pair that is near in full is near there, and no pair is lost; only of an image with more than 32 such neighbours
the rest is not looked at. Time grows about as N log N, memory by 1.1 KB an image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from kerasimg.data.audit.survey import Survey
from kerasimg.data.bands import several_bands
from kerasimg.data.image_files import BadImage, read_image
from kerasimg.data.items import Item
from kerasimg.data.parallel import cores

FARTHEST = 0.316
"""Distance of two unit vectors beyond which they are no copies: a correlation of 0.95."""
SURE = 0.04
"""Distance below which they are copies whatever surrounds them: a correlation of 0.9992."""
RATIO = 0.28
"""Distance of copies by the distance to what surrounds them, at most."""
SURROUNDING = 2000
"""Images drawn to measure what surrounds an image."""
NEIGHBOUR = 5
"""Which of them says how far away its surroundings are."""
GAIN = 1.6
"""Contrasts of copies differ at most by this factor."""
OFFSET = 60.0
"""Mean values (0-255) of copies differ at most by so much."""
FLAT = 3.0
"""Thumbnails with a standard deviation (0-255) below this say too little to be compared."""
GREY = 8
"""Difference of the channels (0-255) up to which every pixel of a grey thumbnail stays."""
COMPONENTS = 16
NEIGHBOURS = 32
CHUNK = 4096
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue, ITU-R 601-2."""

Vectors = Callable[[np.ndarray], np.ndarray]

ORIENTATIONS: dict[str, Vectors] = {
    "": lambda thumbs: thumbs,
    "mirrored": lambda thumbs: thumbs[:, :, ::-1],
    "rotated by 90 degrees": lambda thumbs: np.rot90(thumbs, 1, (1, 2)),
    "rotated by 180 degrees": lambda thumbs: thumbs[:, ::-1, ::-1],
    "rotated by 270 degrees": lambda thumbs: np.rot90(thumbs, 3, (1, 2)),
    "mirrored upside down": lambda thumbs: thumbs[:, ::-1],
    "mirrored, rotated by 90 degrees": lambda thumbs: np.rot90(thumbs[:, :, ::-1], 1, (1, 2)),
    "mirrored, rotated by 270 degrees": lambda thumbs: np.rot90(thumbs[:, :, ::-1], 3, (1, 2)),
}
"""What was done to the first image of a pair -> the same done to thumbnails, (N, 16, 16, ...). Counterclockwise."""
CHANGES = (*ORIENTATIONS, *(f"{name}, one is grey" if name else "one is grey" for name in ORIENTATIONS))
"""How the images of a pair differ, besides size, quality and light."""


class NearPairs(NamedTuple):
    """Pairs of images that are copies but not the same."""

    first: np.ndarray
    """(P,) int64, less than `second`."""
    second: np.ndarray
    distance: np.ndarray
    """(P,) float32: of the unit vectors; the correlation is 1 - distance² / 2."""
    change: np.ndarray
    """(P,) int64: place in CHANGES."""


def same(items: Sequence[Item], seen: Survey) -> list[list[int]]:
    """Groups of images that have the same bytes or the same pixels, each ascending.

    Images with equal thumbnails but different files are decoded in full and compared.
    """
    readable = np.flatnonzero(seen.readable)
    groups: list[list[int]] = []
    for alike in _equal(seen.shown, readable):
        if len(np.unique(seen.digests[alike])) == 1:
            groups.append(alike.tolist())
            continue
        by_pixels: dict[bytes, list[int]] = defaultdict(list)
        for files in _equal(seen.digests, alike, least=1):
            by_pixels[_pixels(items[files[0]])] += files.tolist()
        groups += [sorted(group) for group in by_pixels.values() if len(group) > 1]
    return sorted(groups)


def near(items: Sequence[Item], seen: Survey, groups: Iterable[Sequence[int]]) -> NearPairs:
    """Pairs of copies that are not the same; of each group of the same images only the first is compared."""
    asked = seen.readable
    for group in groups:
        asked[list(group[1:])] = False
    chosen = np.flatnonzero(asked)
    norms = np.concatenate([_spreads(seen.thumbs[part]) for part in _chunks(chosen)] or [np.empty(0, np.float32)])
    chosen = chosen[norms >= FLAT]
    if len(chosen) < 2:
        none = np.empty(0, np.int64)
        return NearPairs(none, none, np.empty(0, np.float32), none)
    found = [_search(seen.thumbs, chosen, unit_vectors)]
    coloured = np.concatenate([_coloured(seen.thumbs[part]) for part in _chunks(chosen)])
    if coloured.any() and not coloured.all():
        first, second, distance, change = _search(seen.thumbs, chosen, grey_vectors)
        mixed = coloured[first] != coloured[second]
        found.append((first[mixed], second[mixed], distance[mixed], change[mixed] + len(ORIENTATIONS)))
    first, second, distance, change = (np.concatenate(column) for column in zip(*found, strict=True))
    pairs = NearPairs(chosen[first], chosen[second], distance, change)
    keep = _alike_in_light(seen.thumbs, pairs)
    return NearPairs(*(column[keep] for column in pairs))


def components(pairs: NearPairs) -> list[list[int]]:
    """Groups of images joined by pairs, each ascending."""
    leader: dict[int, int] = {}

    def find(one: int) -> int:
        while (above := leader.setdefault(one, one)) != one:
            leader[one] = leader[above]
            one = above
        return one

    for first, second in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
        low, high = sorted((find(first), find(second)))
        leader[high] = low
    joined: dict[int, list[int]] = defaultdict(list)
    for one in sorted(leader):
        joined[find(one)].append(one)
    return list(joined.values())


def unit_vectors(thumbs: np.ndarray) -> np.ndarray:
    """Thumbnails, (N, 16, 16, 3), as vectors of mean 0 and length 1: (N, 768) float32; zeros where of one colour."""
    vectors = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return vectors


def _radii(vectors: np.ndarray, around: np.ndarray) -> np.ndarray:
    """How near a copy of each must be: (N,) float32."""
    # Squares, ascending; what is sure to be a copy, or is the image itself, is none of its surroundings.
    squares = 2 - 2 * (vectors @ around.T)
    squares[squares < SURE**2] = 4.0
    place = min(NEIGHBOUR, squares.shape[1]) - 1
    fifth = np.sqrt(np.partition(squares, place, axis=1)[:, place])
    # Among fewer images the fifth is farther away: by n^(-1/d) where they fill d dimensions, and ten is common.
    ratio = RATIO * (len(around) / SURROUNDING) ** 0.1
    return np.maximum(SURE, np.minimum(FARTHEST, ratio * fifth)).astype(np.float32)


def _components(around: np.ndarray) -> np.ndarray:
    """The leading principal components of the vectors, as columns."""
    centred = around - around.mean(axis=0)
    if len(centred) >= centred.shape[1]:
        return np.linalg.eigh(centred.T @ centred)[1][:, : -COMPONENTS - 1 : -1]
    # Of few images the products among them have the same components, and are far fewer.
    values, vectors = np.linalg.eigh(centred @ centred.T)
    wanted = np.flatnonzero(values > 1e-4 * max(values[-1], 1e-12))[: -COMPONENTS - 1 : -1]
    return centred.T @ (vectors[:, wanted] / np.sqrt(values[wanted]))


def _search(
    thumbs: np.ndarray, chosen: np.ndarray, as_vectors: Vectors
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of places in `chosen` that are near, (P,) each, their distance, and the place of their orientation."""
    from scipy.spatial import cKDTree

    sample = np.sort(np.random.default_rng(0).permutation(len(chosen))[:SURROUNDING])
    around = as_vectors(thumbs[chosen[sample]])
    basis = _components(around)
    radii = np.concatenate([_radii(as_vectors(thumbs[part]), around) for part in _chunks(chosen)])
    tree = cKDTree(np.concatenate([as_vectors(thumbs[part]) @ basis for part in _chunks(chosen)]))
    found = []
    # The tree takes one radius for many queries, so those of similar radius are asked together.
    for asked in np.array_split(np.argsort(radii, kind="stable"), -(-len(chosen) // CHUNK)):
        bound = float(radii[asked].max()) + 1e-5
        for place, turn in enumerate(ORIENTATIONS.values()):
            vectors = as_vectors(turn(thumbs[chosen[asked]]))
            neighbours = min(NEIGHBOURS, len(chosen))
            answers = tree.query(vectors @ basis, neighbours, distance_upper_bound=bound, workers=cores())
            rows, columns = np.nonzero(np.isfinite(answers[0]) & (answers[1] > asked[:, np.newaxis]))
            second = answers[1][rows, columns]
            distance = np.empty(len(rows), np.float32)
            for start in range(0, len(rows), CHUNK):
                part = slice(start, start + CHUNK)
                others = as_vectors(thumbs[chosen[second[part]]])
                distance[part] = np.linalg.norm(vectors[rows[part]] - others, axis=1)
            ok = distance <= np.minimum(radii[asked[rows]], radii[second])
            found.append((asked[rows[ok]], second[ok], distance[ok], np.full(int(ok.sum()), place)))
    first, second, distance, orientation = (np.concatenate(column) for column in zip(*found, strict=True))
    return first, second, distance, orientation


def grey_vectors(thumbs: np.ndarray) -> np.ndarray:
    """As `unit_vectors`, of the luminance: (N, 256)."""
    return unit_vectors(thumbs @ LUMINANCE)


def _coloured(thumbs: np.ndarray) -> np.ndarray:
    """Which thumbnails are not grey: (N,) bool."""
    thumbs = thumbs.astype(np.int16)
    return (thumbs.max(axis=-1) - thumbs.min(axis=-1)).max(axis=(1, 2)) > GREY


def _alike_in_light(thumbs: np.ndarray, pairs: NearPairs) -> np.ndarray:
    """Whether a pair is about as bright and as rich in contrast, once for each pair: (P,) bool."""
    keep = np.zeros(len(pairs.first), bool)
    listed: set[tuple[int, int]] = set()
    for place in np.argsort(pairs.distance, kind="stable").tolist():
        first, second = int(pairs.first[place]), int(pairs.second[place])
        one, other = thumbs[first].astype(np.float32), thumbs[second].astype(np.float32)
        gain = max(one.std(), other.std()) / max(min(one.std(), other.std()), 1e-6)
        if (first, second) not in listed and gain <= GAIN and abs(one.mean() - other.mean()) <= OFFSET:
            listed.add((first, second))
            keep[place] = True
    return keep


def _spreads(thumbs: np.ndarray) -> np.ndarray:
    return thumbs.reshape(len(thumbs), -1).std(axis=1, dtype=np.float32)


def _chunks(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]


def _equal(keys: np.ndarray, among: np.ndarray, least: int = 2) -> list[np.ndarray]:
    """Groups of at least `least` of the indices `among` that have the same key, each ascending."""
    order = among[np.argsort(keys[among], kind="stable")]
    ends = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
    return [group for group in np.split(order, ends) if len(group) >= least]


def _pixels(item: Item) -> bytes:
    try:
        image = read_image(item.image)
    except BadImage:
        if (values := several_bands(item.image)) is not None:
            return repr((values.shape, values.dtype)).encode() + values.tobytes()
        # It has changed since it was read.
        return item.id.encode(errors="backslashreplace")
    return repr(image.size).encode() + image.tobytes()
