"""One look at the bucket of uploads: which objects are new, which wait, which cannot be accepted.

The uploads sensor calls this at every tick and keeps the cursor. Nothing depends on the cursor being complete: what it
forgot is looked at again, and the metadata database knows what was registered already.

Objects are found by listing or, where there is a queue, by notifications, with a full listing once an hour that finds
what no notification came for. A listing looks at a window: S3 stamps objects with whole seconds of its own clock, and
one that was uploaded in parts with the time at which that began, so the window overlaps the one before by hours, and
what was seen in it is remembered by key, ETag and size.

The listing is that of :class:`resources.buckets.Bucket`. ``dagster_aws.s3.sensor.get_objects`` makes the same requests,
since S3 cannot select by time, but it excludes the very second it is asked to begin with, returns from the first newer
object on, has no limit, and knows neither ``gs://`` nor the retries and messages of the platform's other buckets.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ego_assets.media.uploads import is_ignored_key, is_plain_key
from ego_assets.schema.erasures import ERASED_UPLOAD
from ego_assets.schema.errors import DuplicateUpload, EgoAssetsError, TransientError, UploadRejected
from resources.upload_queue import BATCH, Message, UnreadableNotification, UploadQueue, parse_notification
from resources.uploads import BucketUploads, identity

if TYPE_CHECKING:
    from ego_assets.schema.clip import Clip
    from resources.buckets import ObjectInfo
    from resources.database import Database
    from resources.intake import Intake

ACTOR = "sensor:uploads"

#: How far the window of a listing reaches back behind the newest object: an upload in parts may take that long.
OVERLAP_S = 6 * 3600.0
#: Everything in the bucket is looked at again after this time, for what notifications and windows missed.
FULL_LOOK_S = 3600.0
#: Bounds of one tick and of its cursor: Dagster keeps the cursor of every tick for days.
MAX_SEEN = 300
MAX_LOOKS = 500
MAX_RECEIVES = 5
#: A clock of ours that is behind makes new objects seem to come from the future; S3 refuses requests of a clock that is
#: further off than this ("RequestTimeTooSkewed").
MAX_CLOCK_SKEW_S = 900.0
#: What cannot be handled so often is left until the next full look.
MAX_TRIES = 10
#: An upload that cannot be accepted is moved to the vault by the tick itself, which has a minute: up to this size
#: together. A larger one stays in the bucket with its reason recorded.
MAX_REJECTED_BYTES = 256 << 20
#: A notification that nobody can use is set aside after so many deliveries, this far apart.
MAX_RECEIPTS = 5
UNUSABLE_HIDDEN_S = 30

_FORMAT = 1
#: A place among the objects in the order of their stamps, then of their identities.
_Place = tuple[float, str]
_BEGINNING: _Place = (0.0, "")


@dataclass(kw_only=True)
class BucketCursor:
    """What one look leaves to the next.

    Attributes:
        since: Everything up to here was seen; objects after it and not in ``seen`` are new.
        seen: Identities of objects that were seen after ``since``, with their stamps (seconds since the epoch).
        pending: Keys that were seen and not handled yet, with the number of failures, in the order of handling.
        receipts: Notifications whose keys are in this cursor, or were handled by the tick that wrote it.
        looked_at: When the last full look began, seconds since the epoch.
        looking: Whether the listing is not through yet.
    """

    since: _Place = _BEGINNING
    seen: dict[str, float] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    receipts: list[str] = field(default_factory=list)
    looked_at: float = 0.0
    looking: bool = False

    @classmethod
    def from_text(cls, text: str | None) -> BucketCursor:
        """The cursor of the tick before; a new one where that is empty or not ours."""
        try:
            stored = json.loads(text or "{}")
            if stored.pop("format", None) != _FORMAT:
                return cls()
            return cls(
                since=(float(stored["since"][0]), str(stored["since"][1])),
                seen={str(name): float(stamp) for name, stamp in stored["seen"].items()},
                pending={str(key): int(failures) for key, failures in stored["pending"].items()},
                receipts=[str(receipt) for receipt in stored["receipts"]],
                looked_at=float(stored["looked_at"]),
                looking=bool(stored["looking"]),
            )
        except (ValueError, TypeError, AttributeError, KeyError, IndexError):
            return cls()

    def to_text(self) -> str:
        """The cursor as the sensor keeps it."""
        return json.dumps({"format": _FORMAT, **vars(self)}, ensure_ascii=False, separators=(",", ":"))

    def start_full_look(self, now: float) -> None:
        """Look at everything again, from the oldest object on."""
        self.since, self.seen = _BEGINNING, {}
        self.looked_at, self.looking = now, True

    def notice(
        self, listed: Iterable[ObjectInfo], *, room: int, is_known: Callable[[str], bool]
    ) -> dict[str, ObjectInfo]:
        """Put what is new in a listing into ``pending``, oldest first.

        Args:
            listed: All objects.
            room: How many keys ``pending`` may have.
            is_known: Whether the object with this key is registered and waits already.

        Returns:
            What was put there.
        """
        fresh = sorted(
            (
                (_place(info), info.key, info)
                for info in listed
                if _place(info) > self.since
                and identity(info) not in self.seen
                and not is_ignored_key(info.key)
            ),
        )
        rest: _Place | None = None
        noticed: dict[str, ObjectInfo] = {}
        for looks, ((stamp, name), key, info) in enumerate(fresh):
            if looks == MAX_LOOKS or len(self.pending) + len(noticed) >= room:
                rest = (stamp, name)
                break
            self.seen[name] = stamp
            if key not in self.pending and not is_known(key):
                noticed[key] = info
        # Uploads of the same second keep the order of their names, as the chapters of a recording have it.
        self.pending.update(dict.fromkeys(sorted(noticed), 0))
        self.looking = rest is not None
        if rest is None and self.seen:
            self.since = max(self.since, (max(self.seen.values()) - OVERLAP_S, ""))
        self.forget(rest=rest)
        return noticed

    def remember(self, info: ObjectInfo) -> bool:
        """Note an object that a notification named; false when that very version was seen already."""
        stamp, name = _place(info)
        if name in self.seen:
            return False
        self.seen[name] = stamp
        return True

    def forget(self, *, rest: _Place | None = None) -> None:
        """Keep ``seen`` within the window and its bound; ``rest`` is the first object that was not seen."""
        self.seen = {name: stamp for name, stamp in self.seen.items() if (stamp, name) > self.since}
        excess = len(self.seen) - MAX_SEEN
        if excess > 0:
            places = sorted((stamp, name) for name, stamp in self.seen.items())
            last = places[excess - 1]
            if rest is not None and rest <= last:
                last = _before(rest)
            self.since = max(self.since, last)
            self.seen = {name: stamp for stamp, name in places[excess:]}


def _place(info: ObjectInfo) -> _Place:
    return (info.modified_at.timestamp(), identity(info))


def _before(place: _Place) -> _Place:
    return (place[0], "")


@dataclass(frozen=True, kw_only=True)
class ClipToRun:
    """A clip whose run is to be launched.

    Attributes:
        clip: The clip.
        run_key: Under which key: one run per upload.
        clears: The original is in the vault already, and the run only has to clear the upload away.
    """

    clip: Clip
    run_key: str
    clears: bool = False


@dataclass(frozen=True, kw_only=True)
class BucketLook:
    """What one look found.

    Attributes:
        runs: What is to be launched.
        rejected: How many uploads and notifications were set aside.
        cursor: For the next look; it must not be used unless the runs were asked for.
    """

    runs: list[ClipToRun]
    rejected: int
    cursor: BucketCursor


class BucketWatch:
    """Looks at the bucket of uploads.

    Args:
        uploads: The bucket.
        queue: What hears of new objects; ``None`` to list them.
        intake: The way into the vault.
        database: Where clips are registered.
        quiet_s: An object is left alone for this long, so that its sidecar can follow it.
        at_most: Cap on the runs of one look.
        has_partition: Whether Dagster knows the clip with this id.
        log: Where to log.
        now: The time, seconds since the epoch.
    """

    def __init__(
        self,
        *,
        uploads: BucketUploads,
        queue: UploadQueue | None,
        intake: Intake,
        database: Database,
        quiet_s: float,
        at_most: int,
        has_partition: Callable[[str], bool],
        log: logging.Logger,
        now: Callable[[], float] = lambda: dt.datetime.now(dt.UTC).timestamp(),
    ) -> None:
        self._uploads = uploads
        self._queue = queue
        self._intake = intake
        self._database = database
        self._quiet_s = quiet_s
        self._at_most = at_most
        self._has_partition = has_partition
        self._log = log
        self._now = now
        self._infos: dict[str, ObjectInfo] = {}
        self._rejected = 0
        self._rejected_bytes = 0

    def look(self, cursor: BucketCursor) -> BucketLook:
        """Look once.

        Args:
            cursor: What the look before left; it is changed.

        Raises:
            ConfigurationError: Bucket or queue cannot be used with these settings.
        """
        now = self._now()
        room = 2 * self._at_most + 20
        if not 0 <= now - cursor.looked_at < FULL_LOOK_S and not cursor.looking:
            cursor.start_full_look(now)
        try:
            if self._queue is not None:
                self._hear(self._queue, cursor, room)
            if self._queue is None or cursor.looking:
                self._list(cursor, room)
        except TransientError as error:
            # What was noticed before is handled all the same, and nothing that was not noticed is lost.
            self._log.warning("new uploads have to wait: %s", error)
        return BucketLook(runs=self._handle(cursor, now), rejected=self._rejected, cursor=cursor)

    # --- what is new ----------------------------------------------------------------------------------

    def _list(self, cursor: BucketCursor, room: int) -> None:
        listed = self._uploads.bucket.list()
        self._infos.update(cursor.notice(listed, room=room, is_known=self._waits))

    def _hear(self, queue: UploadQueue, cursor: BucketCursor, room: int) -> None:
        # These are of the tick before, which was committed, or its cursor would not be here.
        queue.remove(cursor.receipts)
        cursor.receipts = []
        for number in range(MAX_RECEIVES):
            if len(cursor.pending) + BATCH > room:
                break
            messages = queue.receive(wait_s=0 if number else 1)
            for message in messages:
                problem = self._read(message, cursor)
                if not problem:
                    cursor.receipts.append(message.receipt)
                elif message.receive_count < MAX_RECEIPTS or queue.has_dead_letters():
                    self._log.warning("notification %s cannot be used: %s", message.message_id, problem)
                    queue.hide(message.receipt, seconds=UNUSABLE_HIDDEN_S)
                else:
                    self._set_aside(queue, message, problem)
            if not messages:
                break
        if not cursor.looking:
            cursor.forget()

    def _read(self, message: Message, cursor: BucketCursor) -> str:
        """Put the keys of a notification into ``pending``; returns why it is of no use, or nothing."""
        problem = ""
        try:
            created = parse_notification(message.body)
        except UnreadableNotification as error:
            return str(error)
        for found in created:
            # A bucket's notifications may tell of other prefixes too; another bucket's have nothing to do here.
            key = self._uploads.key_of(f"s3://{found.bucket}/{found.key}")
            if key is None:
                watched = urlsplit(self._uploads.url).netloc
                if found.bucket != watched:
                    problem = f"it tells of bucket {found.bucket!r}, and {watched!r} is watched"
                continue
            # What cannot be asked for is met, and refused, by the next full look.
            if is_ignored_key(key) or key in cursor.pending or not is_plain_key(key):
                continue
            info = self._uploads.info(key)
            if info is None:
                # Usual after a second delivery: the clip took it.
                if self._database.clip_with_upload(self._uploads.uri(key)) is None:
                    problem = f"it tells of {self._uploads.uri(key)}, which is not there"
            elif cursor.remember(info) and not self._waits(key):
                cursor.pending[key] = 0
                self._infos[key] = info
        return problem

    def _set_aside(self, queue: UploadQueue, message: Message, problem: str) -> None:
        rejection = UploadRejected(
            "notification",
            f"Notification {message.message_id} was delivered {message.receive_count} times and cannot be used: "
            f"{problem}. Where it belongs to an upload, that is found by the hourly listing; otherwise correct what "
            "sends it.",
        )
        try:
            self._intake.reject_content(
                f"notification-{message.message_id}.txt",
                message.body.encode(errors="replace"),
                rejection,
                origin=queue.url,
                actor=ACTOR,
            )
        except OSError as error:
            self._log.warning("notification %s cannot be set aside: %s", message.message_id, error)
            return
        queue.remove([message.receipt])
        self._rejected += 1
        self._log.warning("set aside: %s", rejection)

    def _waits(self, key: str) -> bool:
        """Whether an object is registered, and its run was asked for."""
        # A key is free again once its upload has left it: cameras give the next card's files the same names.
        clip = self._database.clip_with_upload(self._uploads.uri(key))
        return (
            clip is not None
            and not clip.raw_key
            and not clip.duplicate_of
            and self._has_partition(clip.clip_id)
        )

    # --- what is done about it ------------------------------------------------------------------------

    def _handle(self, cursor: BucketCursor, now: float) -> list[ClipToRun]:
        runs: list[ClipToRun] = []
        for key, failures in list(cursor.pending.items()):
            if len(runs) >= self._at_most:
                break
            try:
                info = self._infos.get(key) or self._uploads.info(key)
                if info is not None and not self._is_quiet(info, now):
                    continue
                run = self._accept(info, cursor) if info is not None else None
            except (EgoAssetsError, OSError) as error:
                # One object that cannot be taken now must not hold up the others.
                del cursor.pending[key]
                if failures + 1 < MAX_TRIES:
                    cursor.pending[key] = failures + 1
                self._log.warning("%s has to wait: %s", self._uploads.uri(key), error)
                if isinstance(error, TransientError):
                    break
                continue
            if isinstance(run, _Later):
                continue
            del cursor.pending[key]
            if run is not None and all(run.run_key != other.run_key for other in runs):
                runs.append(run)
        return runs

    def _is_quiet(self, info: ObjectInfo, now: float) -> bool:
        age_s = now - info.modified_at.timestamp()
        return not -MAX_CLOCK_SKEW_S <= age_s < self._quiet_s

    def _accept(self, info: ObjectInfo, cursor: BucketCursor) -> ClipToRun | _Later | None:
        """Register an object; ``None`` when nothing is to be launched."""
        if self._waits(info.key):
            return None
        uri = self._uploads.uri(info.key)
        try:
            clip = self._intake.register(self._uploads.describe(info), upload_uri=uri)
            if clip.duplicate_of:
                raise DuplicateUpload(clip.duplicate_of, clip.source_name)
        except UploadRejected as rejection:
            return self._reject(info, rejection)
        if clip.raw_key:
            # Comparing contents takes as long as the recording is large: nothing for a tick. Where the run does not
            # clear it away, the next full look asks for another one.
            run_key = f"{clip.clip_id} again {identity(info)} {int(cursor.looked_at)}"
            return ClipToRun(clip=clip, run_key=run_key, clears=True)
        return ClipToRun(clip=clip, run_key=clip.clip_id)

    def _reject(self, info: ObjectInfo, rejection: UploadRejected) -> _Later | None:
        uri = self._uploads.uri(info.key)
        if info.bytes > MAX_REJECTED_BYTES or not is_plain_key(info.key):
            self._intake.reject_unread(uri, rejection, actor=ACTOR)
        else:
            if self._rejected_bytes + info.bytes > MAX_REJECTED_BYTES:
                return _Later()
            self._rejected_bytes += info.bytes
            self._intake.reject_object(self._uploads, info, rejection, actor=ACTOR)
        self._rejected += 1
        if rejection.code == ERASED_UPLOAD:
            # Its name would stay in the log of the tick.
            self._log.warning("refused an upload: %s", rejection)
        else:
            self._log.warning("rejected %s (%s): %s", uri, rejection.code, rejection)
        return None


class _Later:
    """The object stays pending: this tick has done enough."""


def summary(look: BucketLook) -> str:
    """What a look found that launched nothing."""
    waiting = f"{len(look.cursor.pending)} upload(s) waiting, {look.rejected} rejected."
    return waiting + " The bucket is still being listed." * look.cursor.looking
