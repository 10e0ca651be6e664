import json

from hypothesis import given, settings
from hypothesis import strategies as st

from kerasimg.tuning.search_folder import rewrite

TEXT = """{
  "kerasimg": 1,
  "// why": "stays in its place",
  "params": {"lr": {"$float": [1e-4, 1e-2], "default": 1e-3},  "n": 3},
  "model": [
    {"layer": "Dense",   "units": {"$choice": {"a": {"$int": [1, 3], "default": 2}, "b": 9}, "default": "a"}},
    {"$choice": {"small": {"layer":  "Dense"}, "large": {"layer": "Conv2D", "filters": 3}}, "default": "small"}
  ],
  "expect": {"params": 3}
}
"""


def test_only_differences_are_rewritten():
    target = {
        "kerasimg": 1,
        "// why": "stays in its place",
        "params": {"lr": 0.003, "n": 3},
        "model": [{"layer": "Dense", "units": 2}, {"layer": "Dense"}],
        "card": {"origin": "a search"},
    }
    assert (
        rewrite(TEXT, target)
        == """{
  "kerasimg": 1,
  "// why": "stays in its place",
  "params": {"lr": 0.003,  "n": 3},
  "model": [
    {"layer": "Dense",   "units": 2},
    {"layer":  "Dense"}
  ],
  "card": {"origin": "a search"}
}
"""
    )


def test_an_equal_document_is_left_unchanged():
    assert rewrite(TEXT, json.loads(TEXT)) == TEXT


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=4)


@settings(deadline=None)
@given(OBJECTS, OBJECTS, st.sampled_from([None, 2]))
def test_the_new_text_parses_to_the_target(before, target, indent):
    assert json.loads(rewrite(json.dumps(before, indent=indent), target)) == target
