"""Trials on a few coloured images: the results equal those of `train`, with or without a shared graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kerasimg
from kerasimg.spec import metrics
from kerasimg.training import train as verbs
from kerasimg.tuning.journal import Outcome
from kerasimg.tuning.trials import Trials


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory, images: Any) -> Path:
    """A folder of red, green and blue images, 12 each."""
    return images(tmp_path_factory.mktemp("data") / "colours", {"red": 12, "green": 12, "blue": 12})


@pytest.fixture
def trials(colours: Path, tmp_path: Path, tiny: Any) -> Callable[..., Trials]:
    """trials(section=...) of the tiny spec with these sections."""
    return lambda **sections: Trials(tiny(**sections), colours, folder=tmp_path / "trials")


@pytest.fixture
def trained(colours: Path, tmp_path: Path) -> Callable[..., list[dict[str, float]]]:
    """Returns the metrics of `train` for a spec with these search values."""

    def train(spec: Any, **values: Any) -> list[dict[str, float]]:
        chosen = kerasimg.load(spec, chosen=values, partial=True)
        options: dict[str, Any] = {"verbose": 0}
        return figures(kerasimg.Run(verbs.train(chosen, data=colours, out=tmp_path / "runs", **options)).history)

    return train


def figures(rows: Any) -> list[dict[str, float]]:
    """Returns the row of an epoch without its duration."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def number(low: float, high: float, default: float) -> dict[str, Any]:
    return {"$float": [low, high], "default": default}


DROPPING = [
    {"layer": "Flatten"},
    {"layer": "Dropout", "name": "drop", "rate": number(0.0, 0.9, 0.3)},
    {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
]
RATE = number(0.001, 1.0, 0.3)
SPECS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "learning rate": (
        {"compile": {"optimizer": {"type": "Adam", "learning_rate": RATE}}},
        [{"compile.optimizer.learning_rate": rate} for rate in (0.3, 0.01)],
    ),
    "dropout": ({"model": DROPPING}, [{"model.drop.rate": rate} for rate in (0.3, 0.7, 0.05)]),
    "weight decay": (
        {"compile": {"optimizer": {"type": "AdamW", "weight_decay": number(0.001, 0.5, 0.1)}}},
        [{"compile.optimizer.weight_decay": decay} for decay in (0.1, 0.4)],
    ),
    "batch size": (
        {"fit": {"batch_size": {"$choice": [4, 8, 16], "default": 8}, "stages": [{"epochs": 2}]}},
        [{"fit.batch_size": size} for size in (8, 4, 16)],
    ),
    "stages": (
        {
            "model": DROPPING,
            "fit": {
                "batch_size": 8,
                "stages": [
                    {"epochs": 3, "keep": "best", "early_stopping": {"patience": 1, "min_delta": 0.1}},
                    {"epochs": 2, "learning_rate": RATE, "keep": "best", "monitor": "val_accuracy"},
                ],
            },
        },
        [{"fit.stages.1.learning_rate": rate} for rate in (0.3, 0.01)],
    ),
    "moving average": (
        {"model": DROPPING, "fit": {"batch_size": 8, "ema": 0.5, "stages": [{"epochs": 2}, {"epochs": 1}]}},
        [{"model.drop.rate": rate} for rate in (0.3, 0.6)],
    ),
    "schedule": (
        {
            "compile": {"optimizer": {"type": "Adam", "learning_rate": RATE}},
            "fit": {"batch_size": 8, "stages": [{"epochs": 3, "warmup_epochs": 1, "decay": "cosine"}]},
        },
        [{"compile.optimizer.learning_rate": rate} for rate in (0.3, 0.01)],
    ),
    "augmentation": (
        {
            "augment": [
                {"layer": "RandomFlip", "mode": "horizontal"},
                {"layer": "RandomTranslation", "height_factor": 0.3, "width_factor": 0.3},
            ],
            "compile": {"optimizer": {"type": "Adam", "learning_rate": RATE}},
        },
        [{"compile.optimizer.learning_rate": rate} for rate in (0.3, 0.01)],
    ),
    "frozen": (
        {
            "model": [
                {"layer": "Conv2D", "name": "base", "filters": 4, "kernel_size": 3, "trainable": False},
                {"layer": "BatchNormalization", "name": "normal", "trainable": False},
                {"layer": "Flatten"},
                {"layer": "Dropout", "name": "drop", "rate": number(0.1, 0.9, 0.3)},
                {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
            ],
            "fit": {"batch_size": 8, "stages": [{"epochs": 2}, {"epochs": 1, "unfreeze": {"base": 0}}]},
        },
        [{"model.drop.rate": rate} for rate in (0.3, 0.6)],
    ),
    "head on a frozen trunk": (
        {
            "model": [
                {"layer": "Conv2D", "name": "base", "filters": 4, "kernel_size": 3, "trainable": False},
                {"layer": "GlobalAveragePooling2D"},
                {"layer": "Dense", "name": "hidden", "units": {"$choice": [4, 8], "default": 4}, "activation": "relu"},
                {"layer": "Dropout", "name": "drop", "rate": number(0.0, 0.9, 0.3)},
                {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
            ],
            "fit": {
                "batch_size": 8,
                "features": "cached",
                "stages": [{"epochs": 2}, {"epochs": 1, "learning_rate": 0.1}],
            },
        },
        [{"model.hidden.units": units, "model.drop.rate": rate} for units, rate in ((4, 0.3), (8, 0.3), (8, 0.5))],
    ),
    "classes that count": (
        {"fit": {"batch_size": 8, "class_weight": "balanced", "stages": [{"epochs": 2}]}},
        [{}],
    ),
}

NEW = [{"model.hidden.units": 8, "model.drop.rate": 0.3}]
"""Values that need a graph that no earlier trial has."""


@pytest.mark.parametrize("name", SPECS)
def test_a_trial_equals_train_bit_for_bit(name: str, trials: Any, trained: Any, tiny: Any) -> None:
    sections, tried = SPECS[name]
    runner = trials(**sections)
    outcomes: list[Outcome] = []
    for index, values in enumerate([*tried, tried[0]]):
        outcomes.append(runner.run(values, trial_id=str(index)))
        assert outcomes[-1].status == "completed", outcomes[-1].reason
        assert outcomes[-1].details["shared"] is (index > 0 and values not in NEW)
    last = len(tried) - 1
    assert figures(outcomes[last].logs) == trained(tiny(**sections), **tried[last])
    assert figures(outcomes[-1].logs) == figures(outcomes[0].logs)


def test_a_trial_with_another_seed_equals_train_with_it(trials: Any, trained: Any, tiny: Any) -> None:
    runner = trials(model=DROPPING)
    runner.run({}, trial_id="0")
    outcome = runner.run({}, trial_id="1", seed=3)
    assert outcome.details["shared"]
    assert figures(outcome.logs) == trained(
        tiny(model=DROPPING, fit={"batch_size": 8, "stages": [{"epochs": 3}], "seed": 3})
    )


@pytest.mark.parametrize("name", ["stages", "dropout", "moving average", "head on a frozen trunk"])
def test_a_trial_continues_from_its_saved_state_as_if_it_had_not_ended(name: str, trials: Any) -> None:
    sections, tried = SPECS[name]
    whole = trials(**sections).run(tried[0], trial_id="whole")
    first = trials(**sections)
    part = first.run(tried[0], trial_id="part", epochs=1, keep_state=True)
    assert (first.folder / "part" / "state.ckpt").is_file()
    first.run(tried[-1], trial_id="another")
    rest = first.run(tried[0], trial_id="rest", first_epoch=1, resume_from="part")
    assert figures(part.logs) + figures(rest.logs) == figures(whole.logs)
    assert figures([rest.best]) == figures([whole.best])


def test_a_trial_whose_graph_was_prefetched_equals_train(trials: Any, trained: Any, tiny: Any) -> None:
    hidden = {"layer": "Dense", "name": "hidden", "units": {"$choice": [4, 8], "default": 4}, "activation": "relu"}
    model = [{"layer": "Flatten"}, hidden, *DROPPING[1:]]
    runner, ahead = trials(model=model), {"model.hidden.units": 8}
    runner.expect(ahead)
    runner.run({}, trial_id="0")
    assert len(runner._models) == 2
    outcome = runner.run(ahead, trial_id="1")
    assert outcome.details["shared"] is False
    assert figures(outcome.logs) == trained(tiny(model=model), **ahead)


def test_an_error_in_the_preparation_of_a_trial_is_reported_when_it_runs(trials: Any) -> None:
    model = [
        {"layer": "Flatten"},
        {"layer": "Dense", "name": "hidden", "units": {"$choice": [4, 10**12], "default": 4}},
        {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
    ]
    runner = trials(model=model)
    runner.expect({"model.hidden.units": 10**12})
    assert runner.run({}, trial_id="0").status == "completed"
    assert "the limit is" in runner.run({"model.hidden.units": 10**12}, trial_id="1").reason


def test_a_trial_without_a_saved_state_is_trained_from_scratch(trials: Any) -> None:
    runner = trials()
    whole, rest = runner.run({}, trial_id="0"), runner.run({}, trial_id="1", first_epoch=2)
    assert figures(rest.logs) == figures(whole.logs)[2:]


def test_after_epoch_ends_a_trial(trials: Any) -> None:
    seen: list[int] = []
    outcome = trials().run({}, trial_id="0", after_epoch=lambda epoch, row: bool(seen.append(epoch)) or epoch == 1)
    assert (outcome.status, seen, len(outcome.logs)) == ("stopped", [0, 1], 2)


def test_a_bad_trial_fails_with_its_reason_and_the_next_one_works(trials: Any) -> None:
    widths = {"$choice": [4, 10**12], "default": 4}
    steep = {"$choice": [0.1, 1e30], "default": 0.1}
    model = [
        {"layer": "Flatten"},
        {"layer": "Dense", "name": "hidden", "units": widths},
        {"layer": "Dense", "name": "classes", "units": "=num_classes", "activation": "softmax"},
    ]
    runner = trials(model=model, compile={"optimizer": {"type": "SGD", "learning_rate": steep}})
    large = runner.run({"model.hidden.units": 10**12}, trial_id="0")
    assert large.status == "infeasible"
    assert "parameters, and the limit is 1,000,000,000" in (large.reason or "")
    assert large.seconds < 1
    unknown = runner.run({"model.hidden.width": 4}, trial_id="1")
    assert unknown.status == "infeasible"
    assert "no search value 'model.hidden.width'" in (unknown.reason or "")
    diverged = runner.run({"compile.optimizer.learning_rate": 1e30}, trial_id="2")
    assert diverged.status == "failed"
    assert "the loss became NaN or infinite in stage 1, epoch" in (diverged.reason or "")
    assert runner.run({}, trial_id="3").status == "completed"


def test_ctrl_c_is_not_a_failure_of_a_trial(trials: Any) -> None:
    def interrupt(epoch: int, row: Any) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trials().run({}, trial_id="0", after_epoch=interrupt)


@pytest.mark.parametrize("name", ["learning rate", "head on a frozen trunk"])
def test_only_the_weights_of_the_best_trial_are_saved(name: str, trials: Any, tiny: Any, colours: Path) -> None:
    sections, tried = SPECS[name]
    runner = trials(**sections)
    outcomes = [runner.run(values, trial_id=str(index), epochs=1) for index, values in enumerate(tried)]
    best = max(range(len(tried)), key=lambda index: outcomes[index].best["val_accuracy"])
    files = list(runner.folder.rglob("*.weights.h5"))
    assert files == [outcomes[best].weights]
    model = kerasimg.build(kerasimg.load(tiny(**sections), chosen=tried[best], num_classes=3), weights=files[0])
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    part = runner._split(runner.spec)["validation"]
    pixels = runner._tables._all_pixels(runner.spec.image).numpy()[part].astype("float32")
    accuracy = model.evaluate(pixels, runner.source.label_ids(part), verbose=0)[1]
    assert accuracy == pytest.approx(outcomes[best].best["val_accuracy"])


@pytest.mark.parametrize("fit", [{"ema": 0.5}, {"callbacks": ["WarmupCosine"]}], ids=["shared graph", "model.fit"])
def test_a_stopped_trial_saves_the_weights_of_its_best_epoch(
    colours: Path, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: dict[str, Any]
) -> None:
    # The loss falls, so its largest value, that of the first epoch, is the best one here, which `check` would refuse.
    monkeypatch.setattr(metrics, "direction_fault", lambda *_: None)
    stage = {"epochs": 4, "keep": "best", "monitor": "loss", "mode": "max"}
    spec = tiny(fit={"batch_size": 8, "stages": [stage], **fit})

    def weights(name: str, **options: Any) -> list[Any]:
        outcome = Trials(spec, colours, folder=tmp_path / name).run({}, trial_id="0", **options)
        assert outcome.weights is not None
        return kerasimg.build(spec, num_classes=3, weights=outcome.weights).get_weights()

    whole = weights("whole")
    stopped = weights("stopped", after_epoch=lambda epoch, row: epoch == 2)
    assert all((item == other).all() for item, other in zip(stopped, whole, strict=True))


def test_a_callback_that_acts_on_steps_is_called_at_each_step(trials: Any, trained: Any, tiny: Any) -> None:
    warmup = {"type": "WarmupCosine", "warmup_epochs": 1.0}
    fit = {"batch_size": 8, "stages": [{"epochs": 2}], "callbacks": [warmup]}
    outcome = trials(fit=fit).run({}, trial_id="0")
    assert (outcome.status, outcome.details["shared"]) == ("completed", False)
    assert figures(outcome.logs) == trained(tiny(fit=fit))
