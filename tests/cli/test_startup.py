"""Keras is loaded without what it only needs for conveniences."""

import subprocess
import sys
import textwrap
from pathlib import Path


def python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_optional_modules_are_not_loaded_by_keras_or_a_training_and_can_be_imported_afterwards(tmp_path: Path):
    found = python(
        """
        import sys
        from kerasimg.backend import OPTIONAL
        from kerasimg.cli.startup import keras_loaded
        with keras_loaded():
            import keras
            import kerasimg.training.train
        print(keras.ops.zeros(1).shape, sorted({*OPTIONAL, "sklearn", "pandas", "matplotlib"} & set(sys.modules)))
        import matplotlib.figure, sklearn.metrics
        print(sklearn.metrics.accuracy_score([1], [1]))
        """,
        tmp_path,
    )
    assert found.splitlines() == ["(1,) []", "1.0"]


def test_a_module_that_is_hidden_can_be_imported_afterwards(tmp_path: Path):
    found = python(
        """
        import importlib.util, json, sys
        from kerasimg.backend import not_installed
        with not_installed(["pandas", "json"]):
            print(importlib.util.find_spec("pandas"), json.dumps(sys.modules["json"] is json))
            try:
                import pandas
            except ModuleNotFoundError as error:
                print(error.name)
        print(importlib.util.find_spec("pandas") is not None, "pandas" in sys.modules, "json" in sys.modules)
        """,
        tmp_path,
    )
    assert found.splitlines() == ["None true", "pandas", "True False True"]
