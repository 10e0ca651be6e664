"""An alarm for images that become unlike the training images, with a guaranteed rate of false alarms.

A conformal test martingale (Vovk, Nouretdinov, Gammerman 2003; Vovk et al. 2021, arXiv:2102.10439): a capital of 1
bets against the hypothesis that the images of the requests and those that set the limit of `kerasimg.known` come from
the same source, in any order. Under it, no bet wins on average, so that the capital ever reaches 1 / RATE with a
probability of at most RATE (Ville's inequality), however long the server runs.

The p-values of a model all compare with the same n images. As they share them, they are not independent: a capital
that bets on them grows without end if those n happen to be a little unusual. Therefore each image is also compared
with the images of the requests before it. Of the n images, a p-value only says between which two of them an image is,
so an image falls into one of n + 1 cells; with c earlier images in each, the probability of a cell is (1 + c) / (n +
1 + t) after t images (Pólya's urn), exactly. The place in the order of the cells, random within its cell, is uniform
between 0 and 1 and independent of the others. On it the capital bets.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

RATE = 0.01
"""The largest probability of a false alarm during the life of a server."""
POWERS = np.array([1.0, 0.6, 0.3])
"""The bets: power k multiplies the capital by k u^(k - 1), whose mean is 1; small u are unusual images. 1: no bet."""
JUMP = 0.01
"""Share of the capital that is spread over the bets before each image, so that a late change is found, too."""


class ShiftAlarm:
    """Watches the p-values of a server's images.

    Args:
        images: number n of images that set the limit of the rule.
        rate: largest probability of a false alarm.
        random: of the places within cells.
    """

    def __init__(self, images: int, rate: float = RATE, random: np.random.Generator | None = None) -> None:
        self.limit = 1 / rate
        self.images = 0
        """Number of images so far."""
        self.capital = 1.0
        """The evidence against the hypothesis that nothing has changed."""
        self.raised_at: int | None = None
        """Number of images when the alarm was raised; None: it was not. It stays raised."""
        self._cells = np.ones(images + 1, np.int64)
        self._bets = np.full(len(POWERS), 1 / len(POWERS))
        self._random = np.random.default_rng() if random is None else random

    def add(self, p_values: Iterable[float]) -> bool:
        """Takes the p-values of further images in their order; returns whether they raise the alarm."""
        before = self.raised_at
        for p in p_values:
            self._bet(self._place(float(p)))
            if self.raised_at is None and self.capital >= self.limit:
                self.raised_at = self.images
        return before is None and self.raised_at is not None

    def _place(self, p: float) -> float:
        """Returns the image's place among all so far, uniform between 0 and 1 if nothing has changed."""
        cells = self._cells
        cell = min(max(round(p * len(cells)), 1), len(cells)) - 1
        place = (cells[:cell].sum() + self._random.random() * cells[cell]) / (len(cells) + self.images)
        cells[cell] += 1
        self.images += 1
        return float(place)

    def _bet(self, place: float) -> None:
        bets = (1 - JUMP) * self._bets + JUMP * self._bets.mean()
        self._bets = bets * POWERS * max(place, 1e-12) ** (POWERS - 1)
        self.capital = float(self._bets.sum())
        if self.capital > 1e100:  # the alarm was raised long ago; the numbers stay finite
            self._bets /= self.capital
            self.capital = 1e100
