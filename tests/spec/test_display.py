from html.parser import HTMLParser

import pytest

import kerasimg
from kerasimg import catalog


class Balanced(HTMLParser):
    """Checks that every tag is closed, and gathers the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick", "onload"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("name", catalog.zoo_names())
def test_every_spec_of_the_zoo_shows_as_a_table(name: str):
    spec = kerasimg.load(name, partial=True)
    shown = Balanced(spec._repr_html_())
    assert shown.words.startswith(spec.name)
    assert "script" not in shown.tags


def test_a_line_says_what_it_is():
    assert repr(kerasimg.load("mobilenet")) == "Spec mobilenet: 4 nodes, 2 search values (zoo/mobilenet.json)"


def test_nothing_in_a_spec_is_taken_for_html():
    document = {"kerasimg": 1, "about": "<script>x</script>", "model": [{"layer": "Flatten"}]}
    shown = Balanced(kerasimg.load(document)._repr_html_())
    assert (shown.tags.isdisjoint({"script"}), "<script>x</script>" in shown.words) == (True, True)
