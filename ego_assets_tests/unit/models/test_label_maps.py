"""Label maps in every script: which class of a network a name is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.models.label_maps import LabelMap

CLASSES = st.lists(st.text(min_size=1, max_size=8).filter(str.strip), min_size=1, max_size=8, unique=True)


def rows(classes: dict[str, tuple[str, ...]], known: list[str]) -> dict[str, list[str]]:
    """Activity -> classes of the network that make it."""
    label_map = LabelMap(name="mine", classes=classes)
    table = label_map.matrix(known)
    assert table.shape == (len(known), len(label_map.labels)) and np.all(table.sum(axis=1) == 1)
    return {
        label: [name for name, is_in in zip(known, column, strict=True) if is_in]
        for label, column in zip(label_map.labels, table.T, strict=True)
    }


@pytest.mark.parametrize(
    ("cooking", "cleaning", "walking"),
    [
        ("切菜", "洗碗", "走路"),
        ("готовить", "мыть посуду", "идти"),
        # These differ in marks of vowels alone.
        ("काटना", "काटनी", "काटने"),
        ("🔪", "🧽", "🚶"),
    ],
)
def test_classes_in_any_script_are_told_apart(cooking: str, cleaning: str, walking: str) -> None:
    known = [cooking, cleaning, walking]
    for name in (cooking, f"({cooking})") if cooking[0].isalpha() else (cooking,):
        assert rows({"cooking": (name,)}, known) == {"cooking": [cooking], "other": [cleaning, walking]}
    both = rows({"cooking": (cooking,), "cleaning": (cleaning,)}, known)
    assert both == {"cooking": [cooking], "cleaning": [cleaning], "other": [walking]}


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Making_Tea", "making tea"),
        ("making  tea!", "Making Tea"),
        ("МЫТЬ_ПОСУДУ", "мыть посуду"),
        ("Straße fegen", "STRASSE FEGEN"),
        ("cafe\u0301", "Caf\u00e9"),
        ("切菜\uff08左\uff09", "切菜(左)"),
    ],
)
def test_case_and_punctuation_do_not_matter_in_any_script(name: str, known: str) -> None:
    assert rows({"a": (name,)}, ["x", known]) == {"a": [known], "other": ["x"]}


def test_the_same_spelling_wins_over_a_similar_one() -> None:
    known = ["open door (left)", "open-door left", "C++", "C#"]
    for first, second in (known[:2], known[1::-1], known[2:], known[:1:-1]):
        found = rows({"a": (first,), "b": (second,)}, known)
        assert (found["a"], found["b"]) == ([first], [second])


def test_a_name_that_may_be_several_classes_is_refused() -> None:
    known = ["open door (left)", "walk", "open-door left"]
    with pytest.raises(ValueError, match=r"'Open Door Left' of 'a' may be each of 2 .*output 0.*output 2"):
        rows({"a": ("Open Door Left",)}, known)
    assert rows({"a": ("Walk",)}, known)["a"] == ["walk"], "what is not used does not matter"
    with pytest.raises(ValueError, match="'walk' of 'a' may be each of 2 classes"):
        rows({"a": ("walk",)}, ["walk", "walk"])


def test_a_name_of_symbols_alone_is_no_similar_one() -> None:
    with pytest.raises(ValueError, match=r"names 1 class\(es\).*'!!'; nothing is left of a"):
        rows({"a": ("!!",)}, ["??", "x"])


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_class_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="'a' has an empty class name"):
        LabelMap(name="mine", classes={"a": (name,)})


@pytest.mark.parametrize(
    ("classes", "second"), [({"a": ("Walk",), "b": ("walk!",)}, "b"), ({"a": ("Walk", "walk!")}, "a")]
)
def test_two_spellings_of_one_class_are_refused(classes: dict[str, tuple[str, ...]], second: str) -> None:
    with pytest.raises(ValueError, match=rf"'Walk' of 'a' and 'walk!' of '{second}' are the same .* 'walk'"):
        rows(classes, ["walk", "run"])


@given(CLASSES, st.data())
def test_every_class_can_be_named_by_its_own_spelling(known: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(known), min_size=1, unique=True))
    found = rows({f"activity {number}": (name,) for number, name in enumerate(chosen)}, known)
    assert list(found.values()) == [
        *([name] for name in chosen),
        [name for name in known if name not in chosen],
    ]


@given(CLASSES, st.text(min_size=1, max_size=8).filter(str.strip))
def test_a_name_takes_one_class_or_is_refused(known: list[str], name: str) -> None:
    try:
        found = rows({"a": (name,)}, known)
    except ValueError as error:
        assert name not in known and "label map 'mine'" in str(error)
    else:
        assert len(found["a"]) == 1 and (name not in known or found["a"] == [name])
