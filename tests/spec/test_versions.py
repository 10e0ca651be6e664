import pytest

from kerasimg.errors import SpecError
from kerasimg.spec.document import FORMAT_VERSION
from kerasimg.spec.versions import MIGRATIONS, upgrade


def test_a_document_of_today_is_left_as_it_is():
    document = {"kerasimg": FORMAT_VERSION, "model": []}
    assert upgrade(document, "spec.json") is document


def test_an_older_document_goes_through_each_migration_in_turn():
    migrations = {
        1: lambda document: {**document, "seen": [1]},
        2: lambda document: {**document, "seen": [*document["seen"], 2]},
    }
    made = upgrade({"kerasimg": 1}, "spec.json", migrations=migrations, current=3)
    assert made == {"kerasimg": 3, "seen": [1, 2]}


def test_every_version_before_today_s_has_a_migration():
    assert sorted(MIGRATIONS) == list(range(1, FORMAT_VERSION))


@pytest.mark.parametrize("version", [None, 0, -1, "1", 1.0, True, [1], FORMAT_VERSION + 1, 10**15])
def test_a_version_that_cannot_be_read_is_refused_by_the_file_s_name(version):
    with pytest.raises(SpecError, match=r"^spec\.json: kerasimg: "):
        upgrade({"kerasimg": version}, "spec.json")
