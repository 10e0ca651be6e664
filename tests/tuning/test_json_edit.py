import json

from hypothesis import given, settings
from hypothesis import strategies as st

from kerasimg.tuning.search_folder import rewrite

TEXT = """{
  "kerasimg": 1,
  "// why": "kept where it stands",
  "params": {"lr": {"$float": [1e-4, 1e-2], "default": 1e-3},  "n": 3},
  "model": [
    {"layer": "Dense",   "units": {"$choice": {"a": {"$int": [1, 3], "default": 2}, "b": 9}, "default": "a"}},
    {"$choice": {"small": {"layer":  "Dense"}, "large": {"layer": "Conv2D", "filters": 3}}, "default": "small"}
  ],
  "expect": {"params": 3}
}
"""


def test_only_what_differs_is_written_anew():
    target = {
        "kerasimg": 1,
        "// why": "kept where it stands",
        "params": {"lr": 0.003, "n": 3},
        "model": [{"layer": "Dense", "units": 2}, {"layer": "Dense"}],
        "card": {"origin": "a search"},
    }
    assert (
        rewrite(TEXT, target)
        == """{
  "kerasimg": 1,
  "// why": "kept where it stands",
  "params": {"lr": 0.003,  "n": 3},
  "model": [
    {"layer": "Dense",   "units": 2},
    {"layer":  "Dense"}
  ],
  "card": {"origin": "a search"}
}
"""
    )


def test_what_is_equal_is_left_to_the_letter():
    assert rewrite(TEXT, json.loads(TEXT)) == TEXT


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=4)


@settings(deadline=None)
@given(OBJECTS, OBJECTS, st.sampled_from([None, 2]))
def test_the_text_means_the_target_whatever_it_meant_before(before, target, indent):
    assert json.loads(rewrite(json.dumps(before, indent=indent), target)) == target
