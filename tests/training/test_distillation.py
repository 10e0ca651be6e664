import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasimg
from kerasimg.api import Run
from kerasimg.errors import SpecError, WeightsError
from kerasimg.models.classifier import Classifier
from kerasimg.run_folder import RunFolder
from kerasimg.spec.document import Teacher
from kerasimg.training import checkpoint, checkpoint_callbacks
from kerasimg.training import train as verbs
from kerasimg.training.distillation import with_teacher

Train = Callable[..., Run]


class Killed(BaseException):
    """An exception that no code catches."""


def model(activation: str | None, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((2, 2, 1))
    return keras.Model(pixels, keras.layers.Dense(3, activation=activation)(keras.layers.Flatten()(pixels)))


def student_of(run: Run, **fit: Any) -> dict[str, Any]:
    return {"fit": {"batch_size": 8, "stages": [{"epochs": 2}], "teacher": {"run": str(run.folder)}, **fit}}


@pytest.mark.parametrize("activation", ["softmax", None])
def test_the_loss_equals_that_of_the_paper(activation: str | None):
    teacher, student = model("softmax", 1), model(activation, 2)
    distiller = with_teacher(student, teacher, Teacher(run="", temperature=2.0, alpha=1.0))
    x = np.random.default_rng(0).uniform(size=(5, 2, 2, 1)).astype("float32")
    loss = distiller.distillation_losses[0]
    result = float(keras.ops.convert_to_numpy(loss.compute_loss(teacher(x), student(x))))
    p = np.log(keras.ops.convert_to_numpy(teacher(x))) / 2
    q = keras.ops.convert_to_numpy(student(x))
    q = (np.log(q) if activation else q) / 2
    p, q = (np.exp(item) / np.exp(item).sum(1, keepdims=True) for item in (p, q))
    assert result == pytest.approx(4 * (p * np.log(p / q)).sum(1).mean(), rel=1e-4)


def test_a_student_learns_from_the_teacher_alone(train: Train, tiny: Any, run: Run, colours: Any, tmp_path: Path):
    spec = tiny(**student_of(run, teacher={"run": str(run.folder), "alpha": 1.0}, stages=[{"epochs": 8}]))
    student = train(spec, data=colours, out=tmp_path)
    first, last = student.history[0], student.history[-1]
    assert last["distillation_loss"] < first["distillation_loss"]
    assert student.model.count_params() == run.model.count_params()
    assert Classifier.open(student).classes == Classifier.open(run).classes


def test_the_teacher_does_not_change(train: Train, tiny: Any, run: Run, colours: Any, tmp_path: Path):
    before = run.model.get_weights()
    train(tiny(**student_of(run)), data=colours, out=tmp_path)
    assert all(np.array_equal(old, new) for old, new in zip(before, run.model.get_weights(), strict=True))


@pytest.mark.parametrize("place", [2, 5, 7])
def test_an_interrupted_run_with_a_teacher_is_resumed_to_the_same_result(
    train: Train, tiny: Any, run: Run, colours: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
):
    fit = student_of(run, stages=[{"epochs": 1}, {"epochs": 2}])
    spec = tiny(**fit, compile={"optimizer": "Adam", "steps_per_execution": 1})
    whole = train(spec, data=colours, out=tmp_path / "whole")
    write, times = checkpoint.write, iter(range(1, 1000))

    def end(*arguments: Any) -> None:
        write(*arguments)
        if next(times) == place:
            raise Killed

    monkeypatch.setattr(checkpoint_callbacks, "WITHIN_EPOCH_S", 0.0)
    monkeypatch.setattr(checkpoint_callbacks, "SHARE", 1e9)
    monkeypatch.setattr(checkpoint, "write", end)
    with pytest.raises(Killed):
        train(spec, data=colours, out=tmp_path / "cut")
    monkeypatch.undo()
    cut = Run(verbs.resume(tmp_path / "cut" / "tiny-1", verbose=0))
    assert all(np.array_equal(a, b) for a, b in zip(whole.model.get_weights(), cut.model.get_weights(), strict=True))
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in item.history] for item in (whole, cut)]
    assert rows[0] == rows[1]


def test_a_run_is_not_resumed_with_a_changed_teacher(train: Train, tiny: Any, run: Run, colours: Any, tmp_path: Path):
    student = train(tiny(**student_of(run)), data=colours, out=tmp_path)
    noted = json.loads((student.folder / "training.json").read_text())
    RunFolder.of(student).write_training({**noted, "finished": None, "teacher": "0" * 64})
    with pytest.raises(WeightsError, match="is not the one that the run began with"):
        verbs.resume(student, verbose=0)


@pytest.mark.parametrize("place", ["/etc", "../runs/x", "a/../../x"])
def test_a_spec_file_may_not_name_a_teacher_elsewhere_on_the_machine(
    train: Train, tiny: Any, run: Run, colours: Any, tmp_path: Path, place: str
):
    file = tmp_path / "student.json"
    file.write_text(json.dumps(tiny(fit={"teacher": {"run": place}})))
    with pytest.raises(SpecError, match=r"student\.json: fit\.teacher\.run: .*outside of its folder.*--set fit\.teach"):
        train(str(file), data=colours, out=tmp_path / "runs")


def test_a_caller_may_name_any_teacher(train: Train, tiny: Any, run: Run, colours: Any, tmp_path: Path):
    file = tmp_path / "student.json"
    file.write_text(json.dumps(tiny(**student_of(run))))
    spec = kerasimg.load(str(file), num_classes=3, overrides={"fit.teacher.run": str(run.folder)})
    assert train(spec, data=colours, out=tmp_path).finished


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"class_weight": "balanced"}, "cannot go with class_weight or sample_weight"),
        ({"features": "cached", "views": 1}, 'cannot go with features: "cached"'),
        ({"teacher": {"run": "gone"}}, "no trained model 'gone/model.keras'|no trained model 'gone'"),
    ],
)
def test_settings_that_exclude_a_teacher_are_refused(
    train: Train, tiny: Any, run: Run, colours: Any, tmp_path: Path, sections: dict[str, Any], message: str
):
    with pytest.raises(SpecError, match=message):
        train(tiny(**student_of(run, **sections)), data=colours, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_teacher_of_other_images_or_classes_is_refused(
    train: Train, tiny: Any, run: Run, colours: Any, images: Any, tmp_path: Path
):
    with pytest.raises(SpecError, match=r"sees images with image\.size \[8, 8\], and the student with \[16, 16\]"):
        train(tiny(image={"size": [16, 16]}, **student_of(run)), data=colours, out=tmp_path / "runs")
    other = images(tmp_path / "other", {"red": 8, "grey": 8, "blue": 8})
    with pytest.raises(SpecError, match="knows the classes blue, green, red, and the data has blue, grey, red"):
        train(tiny(**student_of(run)), data=other, out=tmp_path / "runs")
