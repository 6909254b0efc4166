"""What messages of a queue say, without a queue."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.upload_queue import ObjectCreated, UnreadableNotification, parse_notification


def record(
    key: str = "raw/a.mp4", *, event: str = "ObjectCreated:Put", bucket: str = "drop"
) -> dict[str, Any]:
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventName": event,
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 3, "eTag": "abc"}},
    }


def body(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": list(records)})


def test_the_objects_of_an_event() -> None:
    assert parse_notification(body(record(), record("b.mp4", bucket="other"))) == (
        ObjectCreated(bucket="drop", key="raw/a.mp4"),
        ObjectCreated(bucket="other", key="b.mp4"),
    )


@pytest.mark.parametrize(
    ("encoded", "key"),
    [
        ("raw/a+b%2Bc.mp4", "raw/a b+c.mp4"),
        ("raw/%E5%8F%B0.mp4", "raw/台.mp4"),
        ("a%252F.mp4", "a%2F.mp4"),
        ("a%3Fb%23c.mp4", "a?b#c.mp4"),
    ],
)
def test_keys_are_decoded_once(encoded: str, key: str) -> None:
    [found] = parse_notification(body(record(encoded)))
    assert found.key == key


@pytest.mark.parametrize(
    ("event", "counts"),
    [
        ("ObjectCreated:Put", True),
        ("ObjectCreated:CompleteMultipartUpload", True),
        ("s3:ObjectCreated:Copy", True),
        ("ObjectRemoved:Delete", False),
        ("s3:ObjectRemoved:Delete", False),
        ("ObjectRestore:Completed", False),
    ],
)
def test_only_new_objects_count(event: str, counts: bool) -> None:
    assert len(parse_notification(body(record(event=event)))) == counts


def test_an_event_inside_the_envelope_of_sns() -> None:
    wrapped = json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:x", "Message": body(record())})
    assert parse_notification(wrapped) == (ObjectCreated(bucket="drop", key="raw/a.mp4"),)


def test_the_test_event_says_nothing() -> None:
    test = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "drop"})
    assert parse_notification(test) == ()
    assert parse_notification(json.dumps({"Type": "Notification", "Message": test})) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "3",
        "{}",
        '{"Records": {}}',
        '{"Records": [3]}',
        '{"Records": [{}]}',
        '{"Records": [{"eventName": "ObjectCreated:Put"}]}',
        '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": 1}, "object": {"key": "a"}}}]}',
        '{"Type": "Notification", "Message": "hello"}',
        "[" * 100_000,
    ],
)
def test_what_is_no_notification(text: str) -> None:
    with pytest.raises(UnreadableNotification):
        parse_notification(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["Records", "s3", "bucket", "object", "key", "name", "eventName", "Type", "Message"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_read_or_refused(value: object) -> None:
    with contextlib.suppress(UnreadableNotification):
        parse_notification(json.dumps(value))
