"""Notifications of new uploads from an SQS queue, as S3 sends them itself or through SNS.

The queue delivers at least once and in any order, so a notification only says where to look. One that cannot be read
stays in the queue until somebody decides: the queue's own dead-letter policy, or the watch after several receipts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from ego_assets.schema.buckets import BucketAccess
from ego_assets.schema.errors import ConfigurationError, TransientError

#: A received notification is hidden for this long: many times what lies between two ticks, so that it is removed by
#: the receipt of this delivery and not of a later one.
HIDDEN_S = 900
#: Most that SQS hands out, and removes, at once.
BATCH = 10
#: What SQS answers when asking again is of no use.
_CONFIGURATION_CODES = {
    "AccessDenied",
    "AccessDeniedException",
    "AWS.SimpleQueueService.NonExistentQueue",
    "ExpiredToken",
    "InvalidAddress",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "QueueDoesNotExist",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}


class UnreadableNotification(ValueError):
    """A message is no notification of an S3 bucket; the text says why."""


@dataclass(frozen=True, kw_only=True)
class ObjectCreated:
    """An object that a notification says was written.

    Attributes:
        bucket: Name of its bucket.
        key: Its key in the bucket.
    """

    bucket: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Message:
    """One delivery of a message.

    Attributes:
        message_id: Its id in the queue.
        receipt: What removes or hides it.
        receive_count: How often it was delivered, this time included.
        body: Its text.
    """

    message_id: str
    receipt: str
    receive_count: int
    body: str


def parse_notification(body: str) -> tuple[ObjectCreated, ...]:
    """The objects that a message says were written: none for a test event or for other kinds of events.

    Takes S3 event notifications (structure 2.x) as S3 writes them, and inside the envelope of SNS.

    Raises:
        UnreadableNotification: It is no such message.
    """
    event = _object(body, "the message")
    if event.get("Type") == "Notification" and isinstance(event.get("Message"), str):
        event = _object(event["Message"], "the message inside the SNS envelope")
    if event.get("Event") == "s3:TestEvent":
        return ()
    records = event.get("Records")
    if not isinstance(records, list):
        raise UnreadableNotification("it has no list of Records, which every S3 event notification has")
    return tuple(found for record in records if (found := _created(record)) is not None)


def _object(text: str, what: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableNotification(f"{what} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UnreadableNotification(f"{what} is no JSON object")
    return value


def _created(record: object) -> ObjectCreated | None:
    try:
        if not str(record["eventName"]).removeprefix("s3:").startswith("ObjectCreated:"):  # type: ignore[index]
            return None
        bucket, key = record["s3"]["bucket"]["name"], record["s3"]["object"]["key"]  # type: ignore[index]
    except (KeyError, TypeError):
        raise UnreadableNotification("one of its Records names no event, bucket or object") from None
    if not isinstance(bucket, str) or not isinstance(key, str):
        raise UnreadableNotification("one of its Records names no bucket or object")
    # Keys are encoded as in the query of a URL: a blank is written as a plus.
    return ObjectCreated(bucket=bucket, key=unquote_plus(key))


class UploadQueue:
    """An SQS queue that hears of new objects.

    Args:
        url: Its address.
        access: Credentials, region and, for another service than Amazon's, its address.
    """

    def __init__(self, url: str, access: BucketAccess) -> None:
        self.url = url
        self._access = access
        self._opened: Any = None
        self._has_dead_letters: bool | None = None

    def receive(self, *, wait_s: int = 0) -> list[Message]:
        """Up to :data:`BATCH` messages, hidden from others for :data:`HIDDEN_S`.

        Args:
            wait_s: How long to wait for the first one.

        Raises:
            TransientError: The queue does not answer.
            ConfigurationError: There is no such queue, or it may not be read.
        """
        with self._translated():
            answer = self._client.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=BATCH,
                VisibilityTimeout=HIDDEN_S,
                WaitTimeSeconds=wait_s,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
        return [
            Message(
                message_id=message["MessageId"],
                receipt=message["ReceiptHandle"],
                receive_count=int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
                body=message["Body"],
            )
            for message in answer.get("Messages", ())
        ]

    def remove(self, receipts: Sequence[str]) -> None:
        """Remove messages; one whose receipt is no longer valid stays and is delivered again.

        Raises:
            TransientError: The queue does not answer.
            ConfigurationError: It may not be written.
        """
        for start in range(0, len(receipts), BATCH):
            entries = [
                {"Id": str(number), "ReceiptHandle": receipt}
                for number, receipt in enumerate(receipts[start : start + BATCH])
            ]
            with self._translated():
                self._client.delete_message_batch(QueueUrl=self.url, Entries=entries)

    def hide(self, receipt: str, *, seconds: int) -> None:
        """Have a message delivered again after this time.

        Raises:
            TransientError: The queue does not answer.
            ConfigurationError: It may not be written.
        """
        with self._translated():
            self._client.change_message_visibility(
                QueueUrl=self.url, ReceiptHandle=receipt, VisibilityTimeout=seconds
            )

    def has_dead_letters(self) -> bool:
        """Whether the queue itself moves messages elsewhere that nobody can use.

        Where the credentials may not ask, it is taken to do nothing of that kind.

        Raises:
            TransientError: The queue does not answer.
        """
        if self._has_dead_letters is None:
            try:
                with self._translated():
                    answer = self._client.get_queue_attributes(
                        QueueUrl=self.url, AttributeNames=["RedrivePolicy"]
                    )
            except ConfigurationError:
                self._has_dead_letters = False
            else:
                self._has_dead_letters = bool(answer.get("Attributes", {}).get("RedrivePolicy"))
        return self._has_dead_letters

    @property
    def _client(self) -> Any:
        if self._opened is None:
            import boto3  # type: ignore[import-untyped]
            from botocore.config import Config  # type: ignore[import-untyped]

            access = self._access
            session = boto3.session.Session(
                aws_access_key_id=access.access_key_id or None,
                aws_secret_access_key=access.secret_access_key or None,
                profile_name=access.aws_profile or None,
                region_name=access.region or _region_of(self.url),
            )
            self._opened = session.client(
                "sqs",
                endpoint_url=access.endpoint_url or None,
                config=Config(
                    retries={"total_max_attempts": access.max_attempts, "mode": "standard"},
                    connect_timeout=min(access.timeout_s, 10.0),
                    read_timeout=access.timeout_s,
                ),
            )
        return self._opened

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the client raises into the platform's errors; no credential is part of a message."""
        from botocore.exceptions import (  # type: ignore[import-untyped]
            BotoCoreError,
            ClientError,
            ConnectionError,
            HTTPClientError,
        )
        from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _CONFIGURATION_CODES:
                raise ConfigurationError(
                    f"The queue {self.url} refuses requests ({code}). Check EGO_UPLOADS_QUEUE_URL, the credentials of "
                    "EGO_UPLOADS_* and what they may do: docs/collection.md lists it."
                ) from None
            raise TransientError(f"The queue {self.url} answered {code or 'with an error'}.") from None
        except (HTTPClientError, ConnectionError, ResponseParserError) as error:
            raise TransientError(f"The queue {self.url} does not answer ({type(error).__name__}).") from None
        except BotoCoreError as error:
            raise ConfigurationError(
                f"The queue {self.url} cannot be asked ({type(error).__name__}: {error}). Check "
                "EGO_UPLOADS_QUEUE_URL and the credentials of EGO_UPLOADS_*."
            ) from None


def _region_of(url: str) -> str:
    """Region in the address of a queue, ``https://sqs.REGION.amazonaws.com/...``; a usual one for other services."""
    host = (urlsplit(url).hostname or "").split(".")
    return host[1] if len(host) > 3 and host[0] == "sqs" else "us-east-1"
