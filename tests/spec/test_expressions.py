import math

import pytest

from kerasimg.spec.expressions import (
    FUNCTIONS,
    MAX_LENGTH,
    UNKNOWN,
    ExpressionError,
    evaluate,
    is_expression,
    parse,
    round8,
)


def value(text, **names):
    return evaluate(parse(text), names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=1 + 2 * 3", 7), ("=7 // 2", 3), ("=7 / 2", 3.5), ("=-7 % 3", 2), ("=+4", 4), ("=1 < 2 < 3", True),
        ("=1 < 2 > 3", False), ("=1 == 1.0", True), ("='a' + 'b'", "ab"), ("='a' < 'b'", True), ("='a' == 1", False),
        ("=True and 3", 3), ("=0 or 'x'", "x"), ("=not 0", True), ("=1 if False else 2", 2), ("=None", None),
        ("=min(3, 1, 2)", 1), ("=max(1, 2.5)", 2.5), ("=round(2.5)", 2), ("=round(2.345, 2)", 2.35), ("=int(2.9)", 2),
        ("=ceil(2.1)", 3), ("=floor(-2.1)", -3), ("=round8(24.1)", 24), ("=  1 + 1 ", 2), ("=1e-3", 0.001),
        ("=0x10", 16), ("=2 ** 3", 8), ("=4 ** 0.5", 2.0), ("=2 ** -1", 0.5),
    ],
)  # fmt: skip
def test_an_expression_has_the_value_that_python_gives_it(text, expected):
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_a_list_has_items_a_length_and_a_sum():
    names = {"depths": [2, 4, 8], "i": 1}
    assert value("=depths[i]", **names) == 4
    assert value("=depths[i + 1] * 2", **names) == 16
    assert value("=len(depths)", **names) == 3
    assert value("=sum(depths)", **names) == 14
    assert value("=max(depths)", **names) == 8
    assert value("=depths[-1]", **names) == 8
    assert value("=depths[1:]", **names) == value("=depths[1:3]", **names) == [4, 8]
    assert value("=depths[:-1]", **names) == [2, 4]
    assert value("=rows[i][0]", rows=[[1], [5]], **names) == 5
    assert value("=[3, 'a', i]", **names) == [3, "a", 1]
    assert value("=i in [1, 2] and 4 not in depths[:i]", **names) is True
    assert value("=size in depths", size=UNKNOWN, **names) is UNKNOWN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=depths[3]", "has no item 3; the list has 3, numbered from 0"),
        ("=depths[-4]", "has no item -4; the list has 3, numbered from 0"),
        ("=depths[1:'a']", "takes neighbouring items of a list by their numbers, not [1:'a'] of [2, 4, 8]"),
        ("=2 in 3", "in takes a list, not 3"),
        ("=[depths, depths]", "a list in an expression holds numbers and strings, not lists"),
        ("=depths[True]", "takes an item of a list by its number, not true of [2, 4, 8]"),
        ("=width[0]", "takes an item of a list by its number, not 0 of 1.5"),
        ("=depths + 1", "+ does not take [2, 4, 8]"),
        ("='a' * 2", '* does not take "a" and 2'),
        ("='a' <= 'b'", '<= does not take "a" and "b"'),
        ("=1 / 0", "division by zero"),
        ("=2 ** 1000000", "** takes exponents up to 100, not 1000000"),
        ("=(-2) ** 0.5", "** takes no root of -2"),
        ("=0 ** -1", "division by zero"),
        ("=widht", "unknown name 'widht'; did you mean 'width'? (known: depths, width)"),
        ("=mim(1)", f"no function 'mim'; did you mean 'min'? (known: {', '.join(FUNCTIONS)})"),
        ("=min(1, default=2)", "min takes no named arguments"),
        ("=10 * 1000000000000000", "gives a number beyond 10^15"),
        ("=1 +", "not an expression: invalid syntax"),
        ("=" + "1" * MAX_LENGTH, f"longer than {MAX_LENGTH} characters"),
        ("=" + "+".join("1" * 150), "more than 200 terms"),
    ],
)
def test_an_expression_without_a_value_says_why(text, message):
    with pytest.raises(ExpressionError) as caught:
        value(text, depths=[2, 4, 8], width=1.5)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=x + 1", UNKNOWN), ("=x == x", UNKNOWN), ("=not x", UNKNOWN), ("=1 if x else 2", UNKNOWN),
        ("=max(x, 3)", UNKNOWN), ("=x and False", False), ("=False and x", False), ("=x or 5", 5),
        ("=True and x", UNKNOWN), ("=2 if 1 else x", 2), ("=2 < 1 < x", False),
        ("=s[x]", UNKNOWN), ("=len(t)", 2), ("=sum(t)", UNKNOWN), ("=t[0]", 1),
    ],
)  # fmt: skip
def test_what_depends_on_an_unknown_is_unknown_unless_something_else_decides_it(text, expected):
    assert value(text, x=UNKNOWN, s=[1], t=[1, UNKNOWN]) == expected


def test_the_names_of_an_expression_are_its_variables_not_its_functions():
    assert parse("=round8(c * alpha) if min(i, 2) else 'c2'").names == {"c", "alpha", "i"}


def test_only_a_string_that_begins_with_an_equals_sign_is_an_expression():
    assert [item for item in ("=1", "=", " =1", "relu", "", 1, None, ["=1"]) if is_expression(item)] == ["=1", "="]


@pytest.mark.parametrize("channels", range(1, 400, 7))
def test_round8_is_the_nearest_multiple_of_8_and_never_below_nine_tenths(channels):
    found = round8(channels)
    assert found % 8 == 0
    assert found >= max(8, 0.9 * channels)
    assert found - channels < 12


@pytest.mark.parametrize(
    ("width", "expected"),
    [(0.35, [16, 8, 8, 16, 24, 32, 56]), (1.4, [48, 24, 32, 48, 88, 136, 224])],
)
def test_round8_gives_the_channels_of_mobilenet_v2(width, expected):
    # The widths that keras.applications.MobileNetV2 has at 0.35 and at 1.4.
    assert [round8(channels * width) for channels in (32, 16, 24, 32, 64, 96, 160)] == expected


def test_no_result_is_a_number_that_json_has_not():
    for text in ("=1e308 * 10", "=1e400"):
        with pytest.raises(ExpressionError):
            value(text)
    assert math.isfinite(value("=1 / 3"))
