"""report.html of a search: the best trial, the importance of each value, parallel coordinates, every trial."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from kerasimg import log
from kerasimg.errors import counted
from kerasimg.files import write_text
from kerasimg.reporting import charts as drawing
from kerasimg.reporting.report import render
from kerasimg.run_folder import REPORT
from kerasimg.spec.metrics import Goal
from kerasimg.tuning.ask_tell import UNKNOWN_HOST
from kerasimg.tuning.front import front
from kerasimg.tuning.journal import FRONT
from kerasimg.tuning.search_folder import Task
from kerasimg.tuning.space import Dimension, Space

LINES = 300
"""Trials that are drawn in parallel coordinates; of more, the best."""
GAP = 128
"""Between two axes."""
NAMED_OPTIONS = 12
"""Options of a choice that are named on its axis."""


def write_search_page(task: Task, oracle: Any) -> None:
    """Writes the page of a search into its folder. A failure is logged and does not cost the search."""
    try:
        write_text(task.folder / REPORT, render("search.html.j2", _content(task, oracle)))
    except Exception as error:
        log.info(f"the report could not be written ({type(error).__name__}: {error})")


def _content(task: Task, oracle: Any) -> dict[str, Any]:
    trials = sorted(oracle.ended)
    worked = [trial for trial in trials if oracle.ended[trial].worked]
    scores = [oracle.ended[trial].score for trial in worked]
    values = [dict(oracle.orders[trial].values) for trial in worked]
    epochs = [oracle.orders[trial].first_epoch + len(oracle.ended[trial].curve) for trial in worked]
    found = importance(task.space, values, scores, epochs)
    best = oracle.best
    counts = dict.fromkeys(("completed", "stopped", "infeasible", "failed"), 0)
    for trial in trials:
        counts[oracle.ended[trial].status] += 1
    return {
        "name": task.folder.resolve().name,
        "spec": task.spec,
        "goal": task.goal,
        "tune": task.spec.tune,
        "size": task.space.size,
        "dimensions": task.space.dimensions,
        "counts": counts,
        "best": best,
        "best_score": oracle.ended[best].score if best else None,
        "best_values": {name: json.dumps(value) for name, value in oracle.orders[best].values.items()} if best else {},
        "seconds": sum(oracle.ended[trial].seconds for trial in trials),
        "progress": _progress(oracle, worked),
        "front": [_front_row(oracle, trial) for trial in oracle.front] if len(task.goals) > 1 else [],
        "front_charts": _front_charts(task, oracle, worked) if len(task.goals) > 1 else [],
        "goals": task.goals,
        "warm": len(task.call.get("warm_start", ())),
        "coordinates": coordinates(task.space, values, scores, task.goal) if worked else None,
        "coordinates_width": _width(task.space),
        "importance": found,
        "fewest": FEWEST,
        "columns": [one.name for one in task.space.dimensions],
        "rows": [_row(oracle, trial) for trial in sorted(trials, key=lambda one: _rank(oracle, one))],
        "version": version("kerasimg"),
        "hosts": _hosts(oracle),
    }


def _hosts(oracle: Any) -> list[dict[str, Any]]:
    """For each machine the trials that it trained, and those in which a worker on it was lost; none for only one."""
    trained = [oracle.hosts.get(trial, UNKNOWN_HOST) for trial in oracle.ended]
    lost = [one.host for one in oracle.lost]
    names = sorted({*trained, *lost})
    if len(names) < 2 and not lost:
        return []
    return [
        {
            "name": name,
            "trained": trained.count(name),
            "lost": ", ".join(str(int(one.trial)) for one in oracle.lost if one.host == name),
        }
        for name in names
    ]


def _rank(oracle: Any, trial: str) -> tuple[bool, float, str]:
    score = oracle.trials[trial].score
    sign = 1 if oracle.goal.direction == "min" else -1
    return score is None, 0.0 if score is None else sign * score, trial


def _row(oracle: Any, trial: str) -> dict[str, Any]:
    ended, order = oracle.ended[trial], oracle.orders[trial]
    return {
        "trial": int(trial),
        "status": ended.status,
        "score": ended.score,
        "epochs": order.first_epoch + len(ended.curve),
        "seconds": ended.seconds,
        "values": {name: json.dumps(value, ensure_ascii=False) for name, value in order.values.items()},
        "reason": ended.reason,
    }


def _front_row(oracle: Any, trial: str) -> dict[str, Any]:
    return {**_row(oracle, trial), "figures": oracle.figures(trial), "file": f"{FRONT}/{trial}.json"}


def _front_charts(task: Task, oracle: Any, worked: Sequence[str]) -> list[Markup]:
    """The first objective against each of the others: every trial, and the front as a line."""
    first, *others = task.goals
    return [
        front_chart(first, other, [oracle.figures(trial) for trial in worked], worked, oracle.front) for other in others
    ]


def front_chart(
    up_goal: Goal, across_goal: Goal, rows: Sequence[Mapping[str, float]], names: Sequence[str], chosen: Sequence[str]
) -> Markup:
    """A chart of one figure of each trial against another; the line is the front of these two.

    rows: figures of the trials.  names: of the trials.  chosen: those on the front of all, which are drawn strong.
    """
    figure, against = up_goal.figure, across_goal.figure
    points = {name: (row[against], row[figure]) for name, row in zip(names, rows, strict=True)}
    across, up = [x for x, _ in points.values()], [y for _, y in points.values()]
    x = drawing.Axis(against, min(across), max(across), drawing.ticks(min(across), max(across)))
    y = drawing.Axis(figure, min(up), max(up), drawing.ticks(min(up), max(up)))
    about = f"{counted(len(points), 'trial')}, {len(chosen)} of them on the front."
    both = front((up_goal, across_goal), dict(zip(names, rows, strict=True)))
    strong = sorted(points[name] for name in both)
    dots = [drawing.Line(name, "faint", [at]) for name, at in points.items() if name not in chosen]
    dots += [drawing.Line(name, "second", [points[name]]) for name in chosen]
    return drawing.chart(f"{figure} against {against}", about, [drawing.Line("front", "second", strong), *dots], x, y)


def _progress(oracle: Any, worked: Sequence[str]) -> Markup | None:
    """The score of each trial, in the order in which they ended, and the best so far."""
    if len(worked) < 2:
        return None
    ordered = sorted(worked, key=lambda trial: oracle.times[trial])
    best: list[tuple[float, float]] = []
    each: list[tuple[float, float]] = []
    for number, trial in enumerate(ordered, 1):
        score = oracle.ended[trial].score
        each.append((number, score))
        best.append((number, score if not best or oracle.goal.better(score, best[-1][1]) else best[-1][1]))
    low, high = min(score for _, score in each), max(score for _, score in each)
    y = drawing.Axis(oracle.goal.figure, low, high, drawing.ticks(low, high))
    x = drawing.Axis("trials ended", 1, len(ordered), drawing.ticks(1, len(ordered), whole=True))
    lines = [drawing.Line("each trial", "faint", each), drawing.Line("best so far", "second", best)]
    about = f"The best {oracle.goal.figure} went from {best[0][1]:.4g} to {best[-1][1]:.4g} in "
    about += f"{counted(len(ordered), 'trial')}."
    return drawing.chart("Best so far", about, lines, x, y)


def coordinates(space: Space, trials: Sequence[Mapping[str, Any]], scores: Sequence[float], goal: Goal) -> Markup:
    """Parallel coordinates: an upright axis for each value and for the score, a line for each trial.

    trials: the values of each.  The best third of the lines is drawn strong. A value that does not count in a trial
    leaves a gap in its line.
    """
    gap, top, tall, left = GAP, 26, 250, 60
    axes = len(space.dimensions)
    width, height = _width(space), top + tall + 40
    order = sorted(range(len(scores)), key=lambda index: scores[index], reverse=goal.direction == "max")[:LINES]
    low, high = min(scores), max(scores)
    parts: list[str] = []
    for rank, index in reversed(list(enumerate(order))):
        heights = [place(one, trials[index].get(one.name)) for one in space.dimensions]
        heights.append((scores[index] - low) / ((high - low) or 1))
        style = "second" if rank < max(1, len(order) // 3) else "faint"
        for piece in _pieces(heights):
            line = drawing.Line("", style, [])
            parts.append(drawing.polyline(line, [(left + gap * at, top + tall * (1 - up)) for at, up in piece]))
    for number, dimension in enumerate(space.dimensions):
        parts += _axis(left + gap * number, top, tall, dimension)
    at = left + gap * axes
    parts.append(drawing.tag("line", x1=at, x2=at, y1=top, y2=top + tall, cls="bound"))
    parts += [
        drawing.label(at + 6, top + 4, f"{high:.4g}", "start"),
        drawing.label(at + 6, top + tall, f"{low:.4g}", "start"),
    ]
    parts.append(drawing.label(at, height - 14, goal.figure, "middle", "axis"))
    about = f"{counted(len(order), 'trial')} over {counted(axes, 'value')}; the best third is drawn strong."
    return drawing.svg("Parallel coordinates", about, width, height, parts)


def _width(space: Space) -> int:
    return 60 + GAP * len(space.dimensions) + 90


def _pieces(heights: Sequence[float]) -> list[list[tuple[int, float]]]:
    """A line, parted where a value is missing."""
    pieces: list[list[tuple[int, float]]] = [[]]
    for at, height in enumerate(heights):
        if height != height:
            pieces.append([])
        else:
            pieces[-1].append((at, height))
    return [piece for piece in pieces if piece]


def _axis(at: float, top: float, tall: float, dimension: Dimension) -> list[str]:
    parts = [drawing.tag("line", x1=at, x2=at, y1=top, y2=top + tall, cls="bound")]
    parts.append(drawing.label(at, top + tall + 26, drawing.shortened(dimension.name, 18), "middle", "axis"))
    if dimension.kind != "choice":
        for value, up in ((dimension.high, 1.0), (dimension.low, 0.0)):
            parts.append(drawing.label(at + 5, top + tall * (1 - up) + (4 if up else 0), f"{value:g}", "start"))
    elif len(dimension.options) <= NAMED_OPTIONS:
        for option in dimension.options:
            text = drawing.shortened(str(option), 12)
            parts.append(drawing.label(at + 5, top + tall * (1 - place(dimension, option)) + 4, text, "start"))
    return parts


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
    """The place of a value in its range, 0 to 1."""
    if value is None and None not in dimension.options:
        return missing
    if dimension.kind == "choice":
        texts = [json.dumps(option) for option in dimension.options]
        return texts.index(json.dumps(value)) / max(1, len(texts) - 1)
    low, high, at = dimension.low, dimension.high, float(value)
    if dimension.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low)
