"""TrivialAugment, RandAugment, AugMix: each image has its own choice of many changes, and only that is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from keras import ops, tree

from kerasimg.data.augmentation.backend import BACKEND
from kerasimg.data.augmentation.colour import PHOTOMETRIC, clipped
from kerasimg.data.augmentation.draws import below, beta, uniform
from kerasimg.data.augmentation.geometry import GEOMETRIC, Size, Warp
from kerasimg.data.augmentation.operations import Operation
from kerasimg.data.augmentation.warp import Move, Outside, warp
from kerasimg.layers.one_change import CHANGES, GEOMETRY, Strengths

PARTS: Final = (
    ("random_shear", "RandomShear"),
    ("random_translation", "RandomTranslation"),
    ("random_rotation", "RandomRotation"),
    ("random_brightness", "RandomBrightness"),
    ("random_color_degeneration", "RandomColorDegeneration"),
    ("random_contrast", "RandomContrast"),
    ("random_sharpness", "RandomSharpness"),
    ("random_posterization", "RandomPosterization"),
    ("solarization", "Solarization"),
    ("auto_contrast", "AutoContrast"),
    ("equalization", "Equalization"),
)
"""What Keras' RandAugment and AugMix choose from: where they keep the layer, and its class."""
OF_ALL: Final = ("random_brightness", "random_color_degeneration", "random_contrast", "random_sharpness")
"""Those that AugMix has with `all_ops` only."""


class Policy(Operation):
    """Something that is done to each image several times, with new draws each time: `draw_once`, `once`."""

    alone = costly = True

    def __init__(self, name: str, numbers: int, times: int):
        self.name, self.times, self.numbers = name, times, numbers * times

    def draw(self, words: Any) -> tuple[Any, ...]:
        """What is drawn for all times: (N, times, ...)."""
        drawn = [self.draw_once(some) for some in ops.split(words, self.times, axis=1)]
        return tree.map_structure(lambda *rows: ops.stack(rows, axis=1), *drawn)

    def apply(self, image: Any, drawn: tuple[Any, ...]) -> Any:
        """The image after all of it."""

        def again(turn: Any, image: Any) -> Any:
            return self.once(image, tree.map_structure(lambda row: row[turn], drawn))

        return ops.fori_loop(0, self.times, again, ops.cast(image, "float32"))

    def draw_once(self, words: Any) -> tuple[Any, ...]:
        """What is drawn for one time."""
        raise NotImplementedError

    def once(self, image: Any, drawn: tuple[Any, ...]) -> Any:
        """Change an image, (H, W, C) float32."""
        raise NotImplementedError


class Choice(Policy):
    """One of several operations, all equally likely, for each image and time."""

    def __init__(self, name: str, options: Sequence[Operation], times: int):
        super().__init__(name, 1 + sum(option.numbers for option in options), times)
        self.options = options

    def draw_once(self, words: Any) -> tuple[Any, ...]:
        """Which, and what each would draw."""
        drawn, start = [], 1
        for option in self.options:
            drawn.append(option.draw(words[:, start : start + option.numbers]))
            start += option.numbers
        return below(words[:, 0], len(self.options)), drawn

    def once(self, image: Any, drawn: tuple[Any, ...]) -> Any:
        """The image, changed in the chosen way."""
        chosen, each = drawn
        return BACKEND.switch(
            chosen, [partial(option.apply, image, given) for option, given in zip(self.options, each, strict=True)]
        )


def keras_rand_augment(layer: Any, size: Size) -> list[Operation]:
    """Keras' RandAugment as a choice for each image instead of each batch, with new draws for each step."""
    return [Choice("RandAugment", _options(layer, size, PARTS), layer.num_ops)]


class Nothing(Operation):
    """An image as it is."""

    def apply(self, image: Any, drawn: tuple[Any, ...]) -> Any:
        """The same."""
        return image


class Mixture(Operation):
    """Keras' AugMix (Hendrycks et al. 2020, arXiv:1912.02781), its chains chosen for each image.

    Keras chooses them once, when its graph is made, for all batches to come.
    """

    name = "AugMix"
    alone = costly = True

    def __init__(self, choice: Choice, chains: int, depth: int):
        self.choice, self.chains, self.depth = choice, chains, depth
        self.numbers = choice.numbers + chains + 3

    def draw(self, words: Any) -> tuple[Any, ...]:
        """The changes of all chains; each chain's weight; how much of the image stays."""
        changes, weights, stays = ops.split(words, [self.choice.numbers, self.choice.numbers + self.chains], axis=1)
        # Dirichlet(1, ..., 1); never all zero.
        sizes = -ops.log(1.0 - uniform(weights) + 2.0**-26)
        return self.choice.draw(changes), sizes / ops.sum(sizes, axis=1, keepdims=True), beta(stays, 1.0)

    def apply(self, image: Any, drawn: tuple[Any, ...]) -> Any:
        """The image, mixed with what its chains make of it."""
        changes, weights, stays = drawn
        image = ops.cast(image, "float32")

        def step(number: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
            changed, mixed = state
            changed = self.choice.once(changed, tree.map_structure(lambda row: row[number], changes))
            ends = number % self.depth == self.depth - 1
            mixed = ops.where(ends, mixed + weights[number // self.depth] * changed, mixed)
            return ops.where(ends, image, changed), mixed

        _, mixed = ops.fori_loop(0, self.chains * self.depth, step, (image, ops.zeros_like(image)))
        return clipped(stays * image + (1.0 - stays) * mixed)


def keras_aug_mix(layer: Any, size: Size) -> list[Operation] | None:
    """Keras' AugMix; None where its weights are not all equally likely."""
    if layer.alpha != 1:
        return None
    parts = PARTS if layer.all_ops else [part for part in PARTS if part[0] not in OF_ALL]
    options = [*_options(layer, size, parts), Nothing()]
    return [Mixture(Choice("", options, layer.num_chains * layer.chain_depth), layer.num_chains, layer.chain_depth)]


def _options(layer: Any, size: Size, parts: Sequence[tuple[str, str]]) -> list[Operation]:
    """The operations of the layers inside a layer."""
    options: list[Operation] = []
    for attribute, name in parts:
        part = getattr(layer, attribute)
        if name in GEOMETRIC:
            options.append(Warp(name, GEOMETRIC[name](part, size) or ()))
        else:
            options += PHOTOMETRIC[name](part) or ()
    return options


class Change(Policy):
    """One of the fourteen changes of kerasimg's TrivialAugment and RandAugmentPerImage, by the layer's own code."""

    def __init__(self, name: str, layer: Any, magnitude: Callable[[Any], Any], strengths: Strengths, times: int):
        super().__init__(name, 2, times)
        self.layer, self.magnitude, self.strengths = layer, magnitude, strengths

    def draw_once(self, words: Any) -> tuple[Any, ...]:
        """Which change, and how strongly, in [-1, 1]."""
        return below(words[:, 0], len(CHANGES)), self.magnitude(words[:, 1])

    def once(self, image: Any, drawn: tuple[Any, ...]) -> Any:
        """The image, changed in the chosen way."""
        change, magnitude = drawn
        kinds: dict[str, Callable[..., Any]] = dict.fromkeys(GEOMETRY, self._moved) | {
            "identity": lambda pixels, *_: pixels,
            "sharpness": self._sharpened,
            "equalize": lambda pixels, *_: self._batch(self.layer.equalized, pixels),
            "posterize": self._cut,
            "solarize": self._cut,
        }
        ways = [kinds.get(name, self._recoloured) for name in CHANGES]
        # One branch for each way of computing, not for each change.
        different = list(dict.fromkeys(ways))
        branch = ops.take(ops.convert_to_tensor([different.index(way) for way in ways], "int32"), change, axis=0)
        return BACKEND.switch(branch, [partial(way, image, change, magnitude) for way in different])

    def _moved(self, pixels: Any, change: Any, magnitude: Any) -> Any:
        row = self.layer.matrices(pixels[None], _is(change), magnitude[None], self.strengths)[0]
        height, width, _ = pixels.shape
        outside = Outside("constant", float(self.layer.fill_value), (height, width))
        matrix = ops.concatenate([row, ops.ones(1)], axis=0)
        return warp(pixels, [Move(matrix, outside, projective=False)], (height, width), "bilinear")

    def _sharpened(self, pixels: Any, change: Any, magnitude: Any) -> Any:
        return self._batch(self.layer.sharpened, pixels, 1 + magnitude[None] * self.strengths.blend)

    def _recoloured(self, pixels: Any, change: Any, magnitude: Any) -> Any:
        return self._batch(self.layer.recoloured, pixels, _is(change), 1 + magnitude[None] * self.strengths.blend)

    def _cut(self, pixels: Any, change: Any, magnitude: Any) -> Any:
        return self._batch(self.layer.cut, pixels, _is(change), ops.abs(magnitude[None]), self.strengths)

    def _batch(self, function: Callable[..., Any], pixels: Any, *given: Any) -> Any:
        return function(pixels[None], *given)[0]


def changes(name: str, layer: Any, size: Size) -> list[Operation]:
    """The operations of a TrivialAugment or a RandAugmentPerImage."""
    strengths = layer.strengths(*size)
    if name == "TrivialAugment":
        return [Change(name, layer, lambda word: 2 * uniform(word) - 1, strengths, 1)]

    def magnitude(word: Any) -> Any:
        return ops.where(uniform(word) < 0.5, -layer.magnitude, layer.magnitude)

    return [Change(name, layer, magnitude, strengths, layer.num_ops)]


def _is(change: Any) -> dict[str, Any]:
    """For a batch of one, whether it is each of the changes."""
    return {name: ops.equal(change, index)[None] for index, name in enumerate(CHANGES)}
