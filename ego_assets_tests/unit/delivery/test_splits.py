"""Splits by collector."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.delivery.definition import SPLITS, DeliveryDefinition, SplitShares
from ego_assets.delivery.splits import assign_splits
from ego_assets.schema.errors import ConfigurationError

COLLECTORS = st.dictionaries(st.text("abc", min_size=1, max_size=4), st.floats(0.1, 1000), max_size=20)


@given(COLLECTORS, st.integers(0, 3))
def test_everybody_has_one_split_and_the_seed_decides(collectors: dict[str, float], seed: int) -> None:
    shares = SplitShares(train=0.8, validation=0.1, test=0.1)
    found = assign_splits(collectors, shares, seed=seed)
    assert found.keys() == collectors.keys()
    assert set(found.values()) <= set(SPLITS)
    assert assign_splits(dict(reversed(list(collectors.items()))), shares, seed=seed) == found


def test_shares_are_met_where_there_are_enough_collectors() -> None:
    collectors = {f"c{number:03d}": 10.0 + number % 7 for number in range(200)}
    found = assign_splits(collectors, SplitShares(train=0.9, validation=0.05, test=0.05))
    total_s = sum(collectors.values())
    for split, share in zip(SPLITS, (0.9, 0.05, 0.05), strict=True):
        part_s = sum(collectors[name] for name, place in found.items() if place == split)
        assert part_s / total_s == pytest.approx(share, abs=0.01)


def test_a_split_without_a_share_stays_empty() -> None:
    found = assign_splits({"a": 1.0, "b": 1.0, "c": 5.0}, SplitShares.parse("0.5/0/0.5"))
    assert set(found.values()) == {"train", "test"}


@given(COLLECTORS, COLLECTORS)
def test_who_was_placed_stays_there(first: dict[str, float], added: dict[str, float]) -> None:
    shares = SplitShares.parse("0.6/0.2/0.2")
    before = assign_splits(first, shares)
    after = assign_splits({**added, **first}, shares, before=before)
    assert {name: after[name] for name in first} == before


def test_a_test_person_stays_one_when_the_test_share_is_dropped() -> None:
    before = assign_splits({"a": 9.0, "b": 1.0}, SplitShares.parse("0.9/0/0.1"))
    assert before == {"a": "train", "b": "test"}
    after = assign_splits({"a": 9.0, "b": 1.0, "c": 5.0}, SplitShares.parse("1"), before=before)
    assert after == {"a": "train", "b": "test", "c": "train"}


@pytest.mark.parametrize("text", ["", "1/2", "0.5/0.6", "0.9/0.05/0.05/0", "a/b", "-0.5/1.5", "nan/1"])
def test_wrong_shares_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="split"):
        SplitShares.parse(text)


def test_a_definition_survives_being_stored() -> None:
    definition = DeliveryDefinition(
        name="kitchen-v1",
        where="quality >= 0.8",
        formats=("folder", "hf"),
        split=SplitShares.parse("0.9/0.1"),
    )
    assert DeliveryDefinition.from_dict(definition.to_dict()) == definition
    renamed = DeliveryDefinition.from_dict({**definition.to_dict(), "name": "other"})
    assert renamed.digest == definition.digest
    assert DeliveryDefinition(name="kitchen-v1").digest != definition.digest


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": ""}, "name"),
        ({"formats": ("tfrecord",)}, "webdataset"),
        ({"formats": ()}, "formats"),
        ({"formats": ("hf", "hf")}, "each once"),
        ({"shard_bytes": 10}, "shard_bytes"),
    ],
)
def test_wrong_definitions_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        DeliveryDefinition(**wrong)  # type: ignore[arg-type]
