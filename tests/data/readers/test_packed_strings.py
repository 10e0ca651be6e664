import numpy as np
import pytest

from kerasimg.data.readers.packed_strings import Extras, Growing, Paths, Texts, readable


@pytest.mark.parametrize("texts", [[], [""], ["a", "", "žluť", "\0", "\ud800"], ["x" * 1000] * 3])
def test_texts_are_what_they_were(texts: list[str]):
    found = Texts.of(texts)
    assert list(found) == texts
    assert len(found) == len(texts)
    assert list(found.raws(np.arange(len(texts))[::-1])) == [found.raw(row) for row in range(len(texts))][::-1]
    assert found.is_utf_8() == ("\ud800" not in texts)


def test_paths_that_zero_bytes_separate_are_read_as_text_that_can_be_printed():
    paths = Paths.joined(b"a/1.png\0a/\xe9.png\0b/2.png")
    assert list(paths) == ["a/1.png", "a/\\udce9.png", "b/2.png"]
    assert paths.raw(1) == b"a/\xe9.png"
    assert readable("a\udce9") == "a\\udce9"


def test_extras_are_parsed_when_they_are_asked_for():
    growing = Growing()
    growing.add('{"age": [1, null]}')
    growing.add("no JSON")
    extras = Extras(growing.texts())
    assert extras[0] == {"age": [1, None]}
    with pytest.raises(ValueError, match="Expecting value"):
        extras[1]
