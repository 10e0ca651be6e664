"""What the system reports of the CPU."""

import platform

import pytest

from kerasimg import processor

REPORTED = "processor\t: 0\nmodel name\t: AMD EPYC 9654\nflags\t\t: fpu sse {} avx2\n"


@pytest.mark.parametrize(
    ("reported", "name", "bfloat16"),
    [
        (REPORTED.format("avx512_bf16"), "AMD EPYC 9654", True),
        (REPORTED.format("amx_bf16"), "AMD EPYC 9654", True),
        (REPORTED.format("avx512f"), "AMD EPYC 9654", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", platform.machine(), False),
        ("", platform.processor() or platform.machine(), False),
    ],
)
def test_the_name_and_bfloat16_are_read_from_what_linux_reports(
    monkeypatch: pytest.MonkeyPatch, reported: str, name: str, bfloat16: bool
):
    monkeypatch.setattr(processor, "_reported", lambda: reported)
    assert processor.processor_name() == name
    assert processor.has_bfloat16() is bfloat16
