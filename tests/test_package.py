"""The installed package: the wheel in a tox environment, otherwise the checkout."""

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path

import pytest

import kerasimg
from kerasimg import catalog
from kerasimg.data.readers.folders import SAMPLE

CHECKOUT = Path(__file__).parents[1]


def python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="only a test environment installs the wheel")
def test_the_tests_run_against_the_wheel_not_the_checkout():
    assert not Path(kerasimg.__file__).is_relative_to(CHECKOUT / "kerasimg")
    assert Path(kerasimg.__file__).parent / "zoo" == catalog.ZOO


def test_the_version_is_the_installed_one():
    assert kerasimg.__version__ == version("kerasimg")
    assert re.fullmatch(r"\d+\.\d+\.\d+", kerasimg.__version__)


def test_every_name_of_the_package_resolves():
    assert set(kerasimg.__all__) <= set(dir(kerasimg))
    attributes = {name: getattr(kerasimg, name) for name in kerasimg.__all__}
    assert {name for name, thing in attributes.items() if callable(thing)} == set(kerasimg.__all__) - {"__version__"}


def test_an_unknown_attribute_is_named():
    with pytest.raises(AttributeError, match="module 'kerasimg' has no attribute 'trian'"):
        kerasimg.trian  # noqa: B018


def test_the_zoo_ships_with_its_schema():
    assert {"mobilenet", "simple_cnn", "branched"} <= set(catalog.zoo_names())
    assert (catalog.ZOO / catalog.SCHEMA).is_file()


def test_the_zoo_is_found_from_an_empty_folder(tmp_path: Path):
    code = "import kerasimg; print(kerasimg.load('zoo/mobilenet.json').name, kerasimg.load('simple_cnn').file)"
    assert python(code, tmp_path) == "mobilenet zoo/simple_cnn.json"


def test_the_sample_ships_with_its_licence():
    assert len(list(SAMPLE.glob("train/*/*.png"))) == 2000
    assert len(list(SAMPLE.glob("test/*/*.png"))) == 500
    assert "Zalando" in (SAMPLE / "LICENSE").read_text(encoding="utf-8")


def test_the_package_is_marked_as_typed():
    assert files("kerasimg").joinpath("py.typed").is_file()


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="kerasimg")
    assert command.value == "kerasimg.__main__:main"
    assert command.load().__module__ == "kerasimg.__main__"


def test_importing_the_package_loads_only_itself(tmp_path: Path):
    code = (
        "import sys; before = set(sys.modules); import kerasimg; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    assert python(code, tmp_path) == "kerasimg"


def test_all_errors_have_one_base_class_and_an_exit_code():
    errors = [kerasimg.SpecError, kerasimg.DataError, kerasimg.WeightsError, kerasimg.CallError, kerasimg.GateError]
    assert all(issubclass(error, kerasimg.KerasimgError) for error in errors)
    assert [error.exit_code for error in errors] == [2, 3, 1, 2, 4]
