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


def test_what_keras_does_without_is_not_loaded_and_is_there_afterwards(tmp_path: Path):
    found = python(
        """
        import sys
        from kerasimg.cli.start import SPARED, keras_loaded
        with keras_loaded():
            import keras
        print(keras.ops.zeros(1).shape, sorted(SPARED.intersection(sys.modules)))
        import matplotlib.figure, sklearn.metrics
        print(sklearn.metrics.accuracy_score([1], [1]))
        """,
        tmp_path,
    )
    assert found.splitlines() == ["(1,) []", "1.0"]


def test_nothing_that_a_training_imports_brings_scikit_learn_along(tmp_path: Path):
    found = python(
        """
        import sys
        from kerasimg.cli.start import keras_loaded
        with keras_loaded():
            import kerasimg.training.train
        print([name for name in ("sklearn", "pandas", "matplotlib") if name in sys.modules])
        """,
        tmp_path,
    )
    assert found == "[]"


def test_whoever_asks_for_a_module_that_is_kept_away_is_answered_as_pytorch_is(tmp_path: Path):
    found = python(
        """
        import importlib.util, sys, threading
        from kerasimg.cli.start import _Spared
        sys.meta_path.insert(0, _Spared(threading.get_ident()))
        print(importlib.util.find_spec("pandas").origin)
        try:
            import pandas.core
        except ModuleNotFoundError as error:
            print(error.name)
        """,
        tmp_path,
    )
    assert found.splitlines() == ["None", "pandas"]
