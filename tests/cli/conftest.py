import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from kerasimg import cli


class Said(NamedTuple):
    """What a command said: its exit code, what it printed, what it complained of."""

    code: Any
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """say("run", "report", run) runs the command line in this process."""

    def run(*arguments: Any) -> Said:
        monkeypatch.setattr(sys, "argv", ["kerasimg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return Said(caught.value.code, *capfd.readouterr())

    return run
