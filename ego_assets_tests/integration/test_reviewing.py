"""A person looks at a blurred clip, records what was missed, and closes the item: what follows from it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from ego_assets.assets.recall_check import evaluate
from ego_assets.cli import app
from ego_assets.commands.parsing import (
    parse_box,
    parse_false,
    parse_frames,
    parse_kind,
    parse_missed,
    parse_range,
)
from ego_assets.media.timeline import read_timeline
from ego_assets.planning import LayerPlan, plan_clip
from ego_assets.privacy.report import tracks_table
from ego_assets.privacy.tracking import Track
from ego_assets.project import Project
from ego_assets.recall import collection_recall, delivery_recall
from ego_assets.reviewing import (
    REACH_FRAMES,
    ReviewRefused,
    page_folder,
    record_review,
    remove_review_pages,
    resolve_review,
    settle_privacy_status,
    write_review_page,
)
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import Clip
from ego_assets.schema.corrections import (
    CORRECTIONS_INPUT,
    KIND_WORDS,
    PII_KINDS,
    Correction,
    corrections_version,
)
from ego_assets.schema.vocabulary import PrivacyStatus, ReviewKind, ReviewRisk, VaultPurpose
from ego_assets.settings import Settings, load_settings
from ego_assets_tests.clips import write_clip
from resources.corrections import CorrectionLog
from resources.database import Database, ReviewItemError
from resources.frame_reviews import FrameReviewLog
from resources.incidents import IncidentLog
from resources.storage import ArtifactStore

CLIP = "3b241101-e2bb-4255-8caf-4136c566a962"
SAMPLE = [4, 25, 33]
FRAMES = 45


class Desk:
    """A clip with a blurred video of which one face is tracked, and the reviewer who looks at it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.sample = SAMPLE
        self.database: Database = project.database
        self.store: ArtifactStore = project.store
        self.database.add_clip(Clip(clip_id=CLIP, source_name="clip.mp4", width=192, height=108))

    def render(self, *, second_face: bool = False) -> ArtifactDocument:
        """What the privacy layer does, with the orders of the moment; a second track may lie over the first."""
        orders = CorrectionLog(self.database).of_clip(CLIP)
        with self.store.stage(CLIP, "blurred_video") as staged:
            video = write_clip(staged.path("video.mp4"), frames=FRAMES, seed=len(orders))
            stamps = read_timeline(video).timestamps_ns
            frames = np.arange(20, 40, dtype=np.int64)
            face = Track(
                track_id=1,
                kind="faces",
                frame_indices=frames,
                boxes_xyxy=np.tile(np.array([10, 10, 40, 50], np.float32), (frames.size, 1)),
                scores=np.ones(frames.size, np.float32),
                observed=np.isin(frames, [22, 38]),
            )
            tracks = [face, replace(face, track_id=2)] if second_face else [face]
            pyarrow.parquet.write_table(tracks_table(tracks, stamps), staged.path("tracks.parquet"))
            inputs = {CORRECTIONS_INPUT: corrections_version(orders)} if orders else {}
            document = staged.commit(config={"box_margin": 0.2}, inputs=inputs, counts={"frames": FRAMES})
        self.database.record_artifact(document, uri=self.store.uri(document))
        self.database.update_clip(CLIP, privacy_status=PrivacyStatus.BLURRED)
        self.item = self.ask(ReviewKind.RANDOM_AUDIT, ReviewRisk.NORMAL, details={"frames": self.sample})
        return document

    def ask(self, kind: ReviewKind, risk: ReviewRisk, **options: Any) -> int:
        return self.database.add_review_item(
            CLIP, layer="blurred_video", kind=kind, risk=risk, reason="Look.", **options
        )

    def record(self, *missed: str, reviewer: str = "ann", **options: Any) -> Any:
        options.setdefault("item_id", self.item)
        return record_review(
            database=self.database,
            store=self.store,
            reviewer=reviewer,
            missed=[parse_missed(text) for text in missed],
            **options,
        )

    def resolve(self, item: int | None = None) -> None:
        resolve_review(
            item or self.item,
            note="Looked.",
            database=self.database,
            store=self.store,
            reports=self.project.settings.reports,
            actor="ann",
        )

    def open(self, **options: Any) -> Path:
        return write_review_page(
            self.item,
            database=self.database,
            store=self.store,
            reports=self.project.settings.reports,
            actor="ann",
            **options,
        )

    def deliver(self, document: ArtifactDocument) -> int:
        return self.database.add_delivery(
            name="dataset",
            version=f"v{len(self.database.deliveries()) + 1:04d}",
            uri="somewhere",
            definition={},
            bytes=1,
            clips={CLIP: {"blurred_video": document.data_version}},
        )

    @property
    def status(self) -> PrivacyStatus:
        return self.database.clip(CLIP).privacy_status

    @property
    def orders(self) -> list[Any]:
        return CorrectionLog(self.database).of_clip(CLIP)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("EGO_DATA_DIR", str(tmp_path / "data"))
    load_settings.cache_clear()
    yield Desk(Project(Settings(data_dir=tmp_path / "data", free_disk_reserve_bytes=0)))
    load_settings.cache_clear()


def test_a_clip_is_reviewed_once_its_whole_sample_was_looked_at(desk: Desk) -> None:
    desk.render()
    with pytest.raises(ReviewRefused, match=r"3 frame.s. .* the first is 4"):
        desk.resolve()
    assert desk.record(frames=[4, 25]).remaining_frames == 1
    with pytest.raises(ReviewRefused, match="the first is 33"):
        desk.resolve()
    assert desk.record().remaining_frames == 0 and desk.status is PrivacyStatus.BLURRED
    desk.resolve()
    assert desk.status is PrivacyStatus.REVIEWED
    assert not desk.database.clip(CLIP).needs_review and desk.orders == []
    with pytest.raises(ReviewRefused, match="closed by ann"):
        desk.record()
    actions = [entry.action for entry in desk.database.audit_log(CLIP)]
    assert actions == ["review.record", "review.record", "review.resolve"]


def test_an_open_item_about_personal_data_keeps_the_clip_from_being_reviewed(desk: Desk) -> None:
    desk.render()
    other = desk.ask(ReviewKind.PII_DENSITY, ReviewRisk.HIGH)
    desk.record()
    desk.resolve()
    assert desk.status is PrivacyStatus.BLURRED
    desk.resolve(other)
    assert desk.status is PrivacyStatus.REVIEWED


def test_what_was_missed_is_covered_by_the_next_rendering_and_looked_at_again(desk: Desk) -> None:
    first = desk.render()
    recorded = desk.record("25:plate:100,50,160,90", "4-6:face:1,2,30,40")
    assert recorded.missed == 2 and not recorded.incident_commands
    orders = {order.kind: order for order in desk.orders}
    plate, face = orders["plates"], orders["faces"]
    assert (plate.first_frame, plate.last_frame) == (6, 32), "up to the frames in which nothing was missed"
    assert 25 - plate.first_frame <= REACH_FRAMES and plate.box_xyxy == (100, 50, 160, 90)
    assert (face.first_frame, face.last_frame, face.origin) == (4, 6, f"review:{desk.item}")
    [item] = desk.database.review_items("open", CLIP)
    assert item.risk is ReviewRisk.HIGH, "the clip is held back until it is corrected"
    assert item.details["frames"] == SAMPLE
    plan = plan_clip(CLIP, desk.project.specs, database=desk.database, store=desk.store)
    assert plan.layers["blurred_video"] is LayerPlan.PENDING
    with pytest.raises(ReviewRefused, match="rendered anew"):
        desk.resolve()

    second = desk.render()
    assert second.data_version != first.data_version
    with pytest.raises(ReviewRefused, match="rendered anew since version"):
        desk.record(version=first.version_id)
    before = collection_recall(desk.database)["plates"]
    assert (before.covered, before.missed) == (0, 1), "what was found counts until somebody has looked again"
    desk.record(version=second.version_id)
    desk.resolve()
    assert desk.status is PrivacyStatus.REVIEWED
    assert collection_recall(desk.database)["faces"].missed == 0


def test_the_same_finding_orders_nothing_twice_and_a_withdrawn_one_stays_covered(desk: Desk) -> None:
    desk.render()
    assert len(desk.record("4-6:face:1,2,30,40").corrections) == 1
    assert desk.record("4-6:face:1,2,30,40").corrections == ()
    desk.record()
    assert len(desk.orders) == 1
    assert collection_recall(desk.database)["faces"].missed == 0


def test_what_consumers_hold_is_an_incident(desk: Desk) -> None:
    document = desk.render()
    desk.deliver(document)
    recorded = desk.record("25-27:plate:100,50,160,90")
    assert desk.orders == [] and recorded.corrections == ()
    [command] = recorded.incident_commands
    assert command.startswith(
        f"ego-assets incident open {CLIP} --frames 25-27 --kind plate --box 100,50,160,90"
    )
    with pytest.raises(ReviewRefused, match="Open an incident"):
        desk.resolve()
    [delivery] = desk.database.deliveries()
    assert delivery_recall(desk.database, delivery.id)["plates"].missed == 1

    desk.record("25-27:plate:100,50,160,90", reviewer="ann")
    desk.record(reviewer="ann")
    desk.resolve()
    assert desk.status is PrivacyStatus.REVIEWED, "recorded again without it: a mistake"


def test_an_earlier_delivered_rendering_is_pointed_out(desk: Desk) -> None:
    desk.deliver(desk.render())
    desk.database.resolve_review_item(desk.item, resolution="x", actor="ann")
    CorrectionLog(desk.database).add(desk_order())
    desk.render()
    recorded = desk.record("25:plate:100,50,160,90")
    assert recorded.delivered_before and len(recorded.corrections) == 1 and not recorded.incident_commands


def desk_order() -> Correction:
    return Correction(clip_id=CLIP, kind="faces", first_frame=0, last_frame=2, box_xyxy=(0, 0, 9, 9))


def test_counts_are_those_of_the_artifact_less_what_is_none(desk: Desk) -> None:
    document = desk.render()
    desk.record(false_regions=[parse_false("25:face:1")])
    found = {review.frame_index: review for review in FrameReviewLog(desk.database).reviews()}
    assert {frame: dict(review.covered) for frame, review in found.items()} == {
        4: {},
        25: {"faces": 1},
        33: {"faces": 1},
    }
    assert all(review.sampled and review.data_version == document.data_version for review in found.values())
    recall = collection_recall(desk.database)["faces"]
    assert (recall.covered, recall.missed, recall.frames) == (1, 0, 3)


def test_frames_outside_the_sample_measure_nothing(desk: Desk) -> None:
    desk.render()
    unsure = desk.ask(ReviewKind.PII_LOW_CONFIDENCE, ReviewRisk.NORMAL, details={"frames": [30, 31]})
    desk.record("30:face:60,10,90,50", item_id=unsure)
    desk.record("10:face:60,10,90,50", frames=[4])
    sampled = {review.frame_index: review.sampled for review in FrameReviewLog(desk.database).reviews()}
    assert sampled == {30: False, 31: False, 4: True, 10: False}
    assert collection_recall(desk.database)["faces"].missed == 0
    assert {(order.first_frame, order.last_frame) for order in desk.orders} == {(11, 30), (5, 29)}


@pytest.mark.parametrize("audit_last", [False, True])
def test_a_sampled_frame_measures_recall_whichever_item_it_was_recorded_under(
    desk: Desk, audit_last: bool
) -> None:
    desk.render()
    unsure = desk.ask(ReviewKind.PII_LOW_CONFIDENCE, ReviewRisk.NORMAL, details={"frames": [25, 30]})
    recordings = [{"item_id": desk.item}, {"item_id": unsure}]
    left = []
    for recording in recordings[::-1] if audit_last else recordings:
        left.append(desk.record("25:face:60,10,90,50", **recording).remaining_frames)
        recall = collection_recall(desk.database)["faces"]
        assert recall.missed == 1
    assert (recall.covered, recall.frames, left) == (2, 3, [0, 0])
    sampled = {review.frame_index: review.sampled for review in FrameReviewLog(desk.database).reviews()}
    assert sampled == {4: True, 25: True, 30: False, 33: True}


def test_a_frame_that_was_not_recorded_as_sampled_is_left_to_look_at(desk: Desk) -> None:
    desk.render()
    desk.record()
    log = FrameReviewLog(desk.database)
    log.record([replace(review, sampled=False) for review in log.reviews() if review.frame_index == 25])
    assert [frame for frame in range(FRAMES) if f'id="f{frame}"' in desk.open().read_text()] == [25]
    with pytest.raises(ReviewRefused, match="the first is 25"):
        desk.resolve()
    assert desk.record(frames=[25]).remaining_frames == 0
    desk.resolve()


def test_a_corrected_rendering_is_measured_on_its_own_sample(desk: Desk) -> None:
    desk.render()
    desk.record("25:face:60,10,90,50")
    desk.sample = [7, 12]
    version = desk.render().data_version
    unsure = desk.ask(ReviewKind.PII_LOW_CONFIDENCE, ReviewRisk.NORMAL, details={"frames": [7, 25]})
    desk.record(item_id=unsure)
    found = FrameReviewLog(desk.database).reviews(data_version=version)
    assert {review.frame_index: review.sampled for review in found} == {7: True, 25: False}


def test_a_finding_is_ordered_once_whatever_else_was_looked_at(desk: Desk) -> None:
    desk.render()
    finding = "25:plate:100,50,160,90"
    [order] = desk.record(finding).corrections
    assert (order.first_frame, order.last_frame) == (6, 32)
    assert desk.record(finding, frames=[25]).corrections == ()
    assert desk.record("20-26:plate:100,50,160,90", frames=[25]).corrections == ()
    # The same place in a frame in which nothing was found before, and further than the order reaches.
    assert len(desk.record("33:plate:100,50,160,90").corrections) == 1
    assert len(desk.record("20-44:plate:100,50,160,90").corrections) == 1
    assert len(desk.orders) == 3


# --- what others do at the same time ------------------------------------------------------------------


def meanwhile(desk: Desk, monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Let somebody else act with a connection of their own, just before the next transaction begins."""
    begin = desk.database.transaction

    def late() -> Any:
        monkeypatch.setattr(desk.database, "transaction", begin)
        act(Database(desk.database.url))
        return begin()

    monkeypatch.setattr(desk.database, "transaction", late)


def test_what_is_delivered_while_a_finding_is_recorded_is_an_incident(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = desk.render().data_version

    def deliver(other: Database) -> None:
        clips = {CLIP: {"blurred_video": version}}
        other.add_delivery(name="dataset", version="v0001", uri="x", definition={}, bytes=1, clips=clips)

    meanwhile(desk, monkeypatch, deliver)
    recorded = desk.record("25:plate:100,50,160,90")
    assert len(recorded.incident_commands) == 1 and desk.orders == []


def test_what_is_closed_or_rendered_meanwhile_is_not_recorded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.render()
    meanwhile(
        desk, monkeypatch, lambda other: other.resolve_review_item(desk.item, resolution="x", actor="bob")
    )
    with pytest.raises(ReviewRefused, match="closed by bob"):
        desk.record("25:plate:100,50,160,90")
    desk.render()
    desk.record("25:plate:100,50,160,90")
    meanwhile(desk, monkeypatch, lambda other: desk.render())
    with pytest.raises(ReviewRefused, match="rendered anew since version"):
        desk.record("4:face:100,50,160,90")
    assert [order.kind for order in desk.orders] == ["plates"]


def test_what_is_ordered_while_an_item_is_closed_keeps_it_open(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.render()
    desk.record()
    meanwhile(desk, monkeypatch, lambda other: CorrectionLog(other).add(desk_order()))
    with pytest.raises(ReviewRefused, match="rendered anew because something was missed"):
        desk.resolve()
    assert desk.database.review_item(desk.item).resolved_at is None


def test_a_clip_with_an_incident_is_not_reviewed(desk: Desk) -> None:
    desk.render()
    leak = desk.database.add_review_item(
        CLIP, layer="incident", kind=ReviewKind.PII_LEAK, risk=ReviewRisk.HIGH, reason="Incident 1."
    )
    desk.record()
    desk.resolve()
    assert desk.status is PrivacyStatus.BLURRED, "the incident's item is open"
    incidents = IncidentLog(desk.database)
    number = incidents.add(
        CLIP,
        kind="faces",
        first_frame=0,
        last_frame=1,
        box_xyxy=None,
        note="seen",
        layers=["blurred_video"],
        background=False,
        actor="ann",
    )
    desk.resolve(leak)
    assert desk.status is PrivacyStatus.BLURRED, "the incident itself is open"
    incidents.record_quarantined(number, versions=(), deliveries=())
    incidents.record_corrected(number)
    incidents.record_purged(number)
    incidents.record_resolved(number, resolution="x", actor="ann")
    status = settle_privacy_status(CLIP, database=desk.database, store=desk.store)
    assert status is PrivacyStatus.REVIEWED


@pytest.mark.parametrize(
    ("missed", "options", "named"),
    [
        ("25:face:100,50,193,90", {}, "outside the picture"),
        ("25:face:-1,50,100,90", {}, "outside the picture"),
        ("25-45:face:1,2,3,4", {}, "no frame 45"),
        ("25:face:1,2,3,4", {"frames": [99]}, "no frame 99"),
        ("25:face:1,2,3,4", {"false_regions": [parse_false("25:face:2")]}, "1 covered region"),
    ],
)
def test_what_cannot_be_is_refused_as_a_whole(
    desk: Desk, missed: str, options: dict[str, Any], named: str
) -> None:
    desk.render()
    with pytest.raises(ReviewRefused, match=named):
        desk.record(missed, **options)
    assert desk.orders == [] and FrameReviewLog(desk.database).reviews() == []


@pytest.mark.parametrize("act", [Desk.record, Desk.resolve, Desk.open])
def test_an_unknown_item_is_named(desk: Desk, act: Any) -> None:
    desk.item = 99
    with pytest.raises(ReviewItemError, match="no review item 99"):
        act(desk)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_range, "9-3"),
        (parse_range, "-3"),
        (parse_range, "1-2-3"),
        (parse_box, "1,2,x,4"),
        (parse_box, "1,2,inf,4"),
        (parse_box, "1,nan,3,4"),
        (parse_kind, "cat"),
        (parse_missed, "25:face:1,2,3"),
        (parse_missed, "25:cat:1,2,3,4"),
        (parse_missed, "25:face:3,2,3,4"),
        (parse_missed, "25-24:face:1,2,3,4"),
        (parse_missed, "face:1,2,3,4"),
        (parse_false, "25:face"),
        (parse_false, "25:face:-1"),
        (parse_frames, "1,x"),
        (parse_frames, "1-2"),
        (parse_frames, ","),
    ],
)
def test_what_cannot_be_read_is_named(parse: Any, text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse(text)


def test_frames_boxes_and_kinds_are_read_alike_everywhere() -> None:
    assert parse_range("120-180") == (120, 180) and parse_range(" 7 ") == (7, None)
    assert parse_frames("40, 12,12") == (12, 40)
    assert parse_box("1, 2.5,3,4") == (1, 2.5, 3, 4)
    for kind, word in KIND_WORDS.items():
        assert {parse_kind(text) for text in (kind, word, f"{word}s", word.upper())} == {kind}
    assert set(KIND_WORDS) == set(PII_KINDS)


def test_a_clip_without_blurred_video_shows_nothing(desk: Desk) -> None:
    desk.item = desk.ask(ReviewKind.PII_LEAK, ReviewRisk.HIGH)
    with pytest.raises(ReviewRefused, match="no blurred video"):
        desk.open()
    assert not desk.project.settings.reports.exists()


def test_a_page_is_written_and_removed_again(desk: Desk, tmp_path: Path) -> None:
    desk.render()
    page = desk.open()
    folder = page_folder(desk.project.settings.reports, CLIP)
    assert page == folder / str(desk.item) / "index.html"
    assert page.parent.stat().st_mode & 0o077 == 0
    text = page.read_text()
    assert all(f'id="f{frame}"' in text for frame in SAMPLE) and text.count('class="frame"') == 3
    assert desk.open() == page, "it is written anew"
    desk.record()
    desk.resolve()
    assert not page.exists()
    elsewhere = tmp_path / "elsewhere"
    desk.render()
    desk.open(out=elsewhere)
    with pytest.raises(ReviewRefused, match="not an empty folder"):
        desk.open(out=elsewhere)
    desk.open()
    remove_review_pages(desk.project.settings.reports, CLIP)
    assert not folder.exists() and (elsewhere / "index.html").exists()


def test_the_page_counts_what_lies_over_each_other_as_the_record_does(desk: Desk) -> None:
    desk.render(second_face=True)
    data = re.search(r"const page = (\{.*\});", desk.open().read_text())
    assert data is not None
    regions = json.loads(data[1])["regions"]["25"]
    assert len(regions) == 2 and all(region["counted"] for region in regions)
    false = len({region["group"] for region in regions})
    assert false == 1
    with pytest.raises(ReviewRefused, match="1 covered region"):
        desk.record(false_regions=[parse_false(f"25:face:{false + 1}")])
    desk.record(false_regions=[parse_false(f"25:face:{false}")])
    assert collection_recall(desk.database)["faces"].covered == 1, "in frame 33"


def test_a_long_sample_is_looked_at_in_portions(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.render()
    monkeypatch.setattr("ego_assets.reviewing.MAX_PAGE_FRAMES", 2)

    def shown() -> list[int]:
        return [frame for frame in range(FRAMES) if f'id="f{frame}"' in desk.open().read_text()]

    assert shown() == [4, 25]
    desk.record(frames=[4, 25])
    assert shown() == [33]
    desk.record(frames=[33])
    assert shown() == [4, 25], "to look again"
    desk.ask(ReviewKind.PII_LOW_CONFIDENCE, ReviewRisk.NORMAL, details={"frames": [10, 11, 12, 13, 99]})
    desk.item = desk.database.review_items("open", CLIP)[-1].id
    page = desk.open().read_text()
    assert [frame for frame in range(FRAMES) if f'id="f{frame}"' in page] == [10, 12]
    assert page.count("a detector was unsure here") == 2


def test_the_checks_say_that_too_little_was_reviewed(desk: Desk) -> None:
    desk.deliver(desk.render())
    for newest_delivery in (True, False):
        result = evaluate(desk.database, newest_delivery=newest_delivery)
        assert not result.passed and str(result.description).startswith("Not evaluated: Nobody")
    desk.record()
    for newest_delivery in (True, False):
        assert "2 face(s) of 1 clip(s)" in str(
            evaluate(desk.database, newest_delivery=newest_delivery).description
        )


# --- command line -------------------------------------------------------------------------------------


def run(*arguments: object) -> Any:
    load_settings.cache_clear()
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_commands_of_a_review(desk: Desk) -> None:
    desk.render()
    for listed in (run("review"), run("review", "list", "--kind", "random_audit")):
        assert f"{desk.item} {CLIP} blurred_video: random_audit (normal risk)" in listed.output
    assert "Nothing is waiting" in run("review", "list", "--kind", "pii_leak").output
    page = json.loads(run("review", "open", desk.item, "--json").stdout)["page"]
    assert Path(page).is_file()
    assert run("review", "record", desk.item, "--missed", "nonsense").exit_code == 2
    recorded = run("review", "record", desk.item, "--missed", "25:face:60,10,90,50", "--false", "25:face:1")
    assert recorded.exit_code == 0
    assert "faces at 60, 10, 90, 50, frames 6-32" in recorded.output
    assert "It is not delivered before." in recorded.output
    assert isinstance(run("review", "resolve", desk.item, "--note", "x").exception, ReviewRefused)
    desk.render()
    assert "Close it" in run("review", "record", desk.item).output
    assert run("review", "resolve", desk.item, "--note", " ").exit_code == 2
    closed = run("review", "resolve", desk.item, "--note", "Fine.", "--json")
    assert json.loads(closed.stdout)["privacy_status"] == "reviewed"
    assert "Nothing is waiting" in run("review", "list").output
    [item] = json.loads(run("review", "list", "--all", "--json").stdout)
    assert item["resolution"] == "Fine."


def test_a_leak_that_consumers_hold_is_an_exit_status(desk: Desk) -> None:
    desk.deliver(desk.render())
    outcome = run("review", "record", desk.item, "--missed", "25:face:60,10,90,50")
    assert outcome.exit_code == 1 and f"ego-assets incident open {CLIP}" in outcome.output


def test_the_audit_says_who_opened_what_when_and_why(desk: Desk, tmp_path: Path) -> None:
    vault = desk.project.vault
    vault.take(CLIP, write_clip(tmp_path / "in.mp4", frames=2), move=False, actor="cli:ingest")
    with vault.open(CLIP, purpose=VaultPurpose.DEIDENTIFY, actor="asset:blurred_video", run_id="run-1"):
        pass
    desk.database.write_audit(actor="cli:ann", action="release", detail='a "quoted", detail')
    rows = json.loads(run("audit", "--clip", CLIP, "--action", "vault.open", "--json").stdout)
    assert [(r["actor"], r["purpose"], r["source_name"], r["run_id"]) for r in rows] == [
        ("asset:blurred_video", "deidentify", "clip.mp4", "run-1")
    ]
    everything = list(csv.DictReader(io.StringIO(run("audit", "--csv").stdout)))
    assert len(everything) == len(desk.database.audit_log()) >= 3
    assert everything[-1]["detail"] == 'a "quoted", detail' and everything[-1]["source_name"] == ""
    assert [row["action"] for row in json.loads(run("audit", "--actor", "ann", "--json").stdout)] == [
        "release"
    ]
    assert json.loads(run("audit", "--since", "2999-01-01", "--json").stdout) == []
    assert len(json.loads(run("audit", "--since", "2020-01-01T10:00", "--json").stdout)) == len(everything)
    assert "deidentify" in run("audit").output
    desk.database.write_audit(actor="cli:ann", action="long", detail="x" * 500)
    assert "x" * 500 not in "".join(run("audit", "--action", "long").output.split())
    assert "x" * 500 in run("audit", "--action", "long", "--json").stdout
    assert "no such entry" in run("audit", "--action", "nothing").output
    assert run("audit", "--since", "yesterday").exit_code == 2
    assert run("audit", "--json", "--csv").exit_code == 2
