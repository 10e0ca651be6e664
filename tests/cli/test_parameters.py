"""A command and the public function that it calls have the same parameters, with the same defaults."""

import inspect
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

import kerasimg
from kerasimg.cli import data, deploy, run, spec, train, use

FUNCTIONS: dict[Callable[..., None], str] = {
    train.import_checkpoint: "import_checkpoint",
    train.studio: "open_studio",
    train.train: "train",
    train.tune: "tune",
    train.auto: "auto",
    use.evaluate: "evaluate",
    use.predict: "predict",
    use.explain: "explain",
    deploy.export: "export",
    deploy.serve: "serve",
    spec.build: "build",
    spec.lr_find: "find_learning_rate",
    run.report: "report",
    run.compare: "compare",
    run.calibrate: "calibrate",
    run.flips: "flips",
    run.thresholds: "choose_thresholds",
    run.sets: "prediction_sets",
    run.known: "known",
    run.learn: "learn",
    run.add: "add_class",
    run.robustness: "robustness",
    run.embed: "embed",
    run.similar: "similar",
    run.label_errors: "label_errors",
    run.measure: "measure",
    run.shrink: "shrink",
    run.verify: "verify",
    run.pack: "pack",
    run.unpack: "unpack",
    run.push: "push",
    run.pull: "pull",
    data.check: "check_data",
    data.label_errors: "cross_val_predict",
}

FORMS = {
    "spec": "ref",
    "params": "assign",
    "more_params": "assign",
    "overrides": "assign",
    "limits": "limit",
    "options": "option",
    "settings": "timeout",
    "api_key": "api_key_file",
}
"""Parameter of a function -> the parameter of a command that gives it."""
LEFT_OUT = {
    "train": {"report"},
    "tune": {"report", "limits"},
    "find_learning_rate": {"cache", "limits"},
    "compare": {"resamples", "seed"},
    "check_data": {"threads"},
}
"""Parameters of functions that their commands do not have."""


def default_of(parameter: inspect.Parameter) -> Any:
    values = parameter.default if isinstance(parameter.default, list) else [parameter.default]
    values = [value.value if isinstance(value, Enum) else value for value in values]
    return values[0] if len(values) == 1 else values or None


@pytest.mark.parametrize("command", FUNCTIONS, ids=list(FUNCTIONS.values()))
def test_a_command_has_the_parameters_of_its_function_and_no_other_defaults(command: Callable[..., None]):
    name = FUNCTIONS[command]
    options = inspect.signature(command).parameters
    function = inspect.signature(getattr(kerasimg, name)).parameters
    missing = {each for each in function if each not in options and FORMS.get(each) not in options}
    assert missing - {"verbose"} == LEFT_OUT.get(name, set())
    for shared in options.keys() & function.keys():
        # None: the option was not given, and the function's default holds.
        assert default_of(options[shared]) in (None, inspect.Parameter.empty, function[shared].default), shared
