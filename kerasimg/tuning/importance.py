"""How much each search value had to do with what the trials reached, from a forest that was fitted to them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kerasimg.tuning.space import Dimension, Space

FEWEST = 8
"""Trials below which a forest says nothing."""
EPOCHS = "epochs"
"""Its name in the result, where trials were trained for different times."""
TREES = 300


class Importance(NamedTuple):
    """What a forest found."""

    shares: dict[str, float]
    """Name of a search value -> its share of what the forest explains, the largest first; they sum to 1."""
    explained: float
    """Share of the variance that it explains of trials which it was not fitted to; at 0 or below it says nothing."""


def importance(
    space: Space, trials: Sequence[Mapping[str, Any]], scores: Sequence[float], epochs: Sequence[int]
) -> Importance | None:
    """The importance of each value, by the decrease of impurity (Breiman 2001, doi:10.1023/A:1010933404324).

    trials: the values of each that worked.  scores, epochs: of each.  None where they are too few, or all alike.
    """
    if len(trials) < FEWEST or len(set(scores)) < 2:
        return None
    from sklearn.ensemble import RandomForestRegressor

    columns: list[np.ndarray] = []
    owners: list[str] = []
    for dimension in space.dimensions:
        for column in _columns(dimension, trials):
            columns.append(column)
            owners.append(dimension.name)
    if len(set(epochs)) > 1:
        columns.append(np.array(epochs, float))
        owners.append(EPOCHS)
    forest = RandomForestRegressor(TREES, oob_score=True, random_state=0, min_samples_leaf=2)
    forest.fit(np.stack(columns, axis=1), scores)
    shares: dict[str, float] = dict.fromkeys(owners, 0.0)
    for owner, share in zip(owners, forest.feature_importances_, strict=True):
        shares[owner] += float(share)
    ranked = sorted(shares.items(), key=lambda pair: -pair[1])
    return Importance(dict(ranked), float(forest.oob_score_))


def _columns(dimension: Dimension, trials: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """A value in numbers: in its order, where it has one, else a column per option; -1 where it does not count."""
    numeric = all(isinstance(option, int | float) and not isinstance(option, bool) for option in dimension.options)
    if dimension.kind == "choice" and not numeric:
        texts = [json.dumps(trial.get(dimension.name)) for trial in trials]
        return [np.array([text == json.dumps(option) for text in texts], float) for option in dimension.options]
    return [np.array([place(dimension, trial.get(dimension.name), missing=-1.0) for trial in trials])]


def place(dimension: Dimension, value: Any, missing: float = math.nan) -> float:
    """Where a value stands in its range, 0 to 1."""
    if value is None and None not in dimension.options:
        return missing
    if dimension.kind == "choice":
        texts = [json.dumps(option) for option in dimension.options]
        return texts.index(json.dumps(value)) / max(1, len(texts) - 1)
    low, high, at = dimension.low, dimension.high, float(value)
    if dimension.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low)
