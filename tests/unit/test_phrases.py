"""Lines of text and the phrases in them."""

import pytest

from napari_zeroseg.phrases import split_phrases


@pytest.mark.parametrize(
    ("line", "phrases"),
    [
        ("lung, heart", ["lung", "heart"]),
        ("  lung  ", ["lung"]),
        ("", []),
        (" , ,, ", []),
        ('""', []),
        ('"left, lower lobe", heart', ["left, lower lobe", "heart"]),
        ("“left, lower lobe”,heart", ["left, lower lobe", "heart"]),
        ('"lung"', ["lung"]),
        ("lung, Lung,  lung , LUNG", ["lung"]),
        ("black   shade,black shade", ["black shade"]),
        ("the patient's lung, heart", ["the patient's lung", "heart"]),
        ('a 19" rack, a desk', ['a 19" rack', "a desk"]),
        ('"open, heart', ['"open', "heart"]),
        ('"a" b, c', ['"a" b', "c"]),
        ("lung\nheart\r\n", ["lung", "heart"]),
        ("肺，心脏", ["肺", "心脏"]),
        ("мозг, 🧠", ["мозг", "🧠"]),
    ],
)
def test_split(line, phrases):
    assert split_phrases(line) == phrases


def test_many():
    assert len(split_phrases(", ".join(f"thing {number}" for number in range(500)))) == 500


def test_nothing_but_spaces_is_quick():
    assert split_phrases(" " * 20_000) == []
    assert split_phrases('"' * 5_000) == ['"' * 5_000]
