"""What must hold after a fault, and what must hold at every moment: the same questions for tests and benchmark."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ego_assets.schema.errors import ArtifactCorrupted, ArtifactMissing, EgoAssetsError
from ego_assets.schema.vocabulary import VaultPurpose
from ego_assets_tests.faults.material import sha256_of
from resources.audit import AuditLog

if TYPE_CHECKING:
    from ego_assets.project import Project

#: Data version by name of the upload and layer; "" where the layer is given up.
Versions = Mapping[tuple[str, str], str]


@dataclass
class Findings:
    """What does not hold; nothing but empty lists is right.

    Attributes:
        lost: Clips that are neither complete nor flagged, and uploads that are nowhere.
        half_written: Artifacts or deliveries that could be read and do not match their digests.
        originals_changed: Originals whose content is another one.
        leftovers: Temporary files that housekeeping leaves.
        inconsistent: Database and store that contradict each other.
        flagged: Clips that are flagged, which is allowed, and are not in an undisturbed run.
    """

    lost: list[str] = field(default_factory=list)
    half_written: list[str] = field(default_factory=list)
    originals_changed: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    inconsistent: list[str] = field(default_factory=list)
    flagged: list[str] = field(default_factory=list)

    @property
    def violations(self) -> list[str]:
        """Everything that may not be."""
        kinds = ("lost", "half_written", "originals_changed", "leftovers", "inconsistent")
        return [f"{kind}: {text}" for kind in kinds for text in getattr(self, kind)]


def versions_of(project: Project, *, on_damage: str | None = None) -> dict[tuple[str, str], str]:
    """The committed data versions, which the same work gives again; ``on_damage`` for pointers that are damaged."""
    versions = {}
    for clip in project.database.clips():
        states = {state.layer: str(state.state) for state in project.database.layer_states(clip.clip_id)}
        for spec in project.specs:
            try:
                document = project.store.document(clip.clip_id, spec.name)
            except ArtifactCorrupted:
                if on_damage is None:
                    raise
                versions[clip.source_name, spec.name] = on_damage
                continue
            committed = document is not None and states.get(spec.name) == "committed"
            versions[clip.source_name, spec.name] = document.data_version if document and committed else ""
    return versions


def pointers_of(project: Project) -> dict[str, bytes]:
    """The pointers as they lie in the store, with the time of the commit in them."""
    return {
        f"{document.clip_id}/{document.layer}": document.to_json().encode()
        for document in project.store.documents()
    }


def examine(project: Project, *, originals: Mapping[str, str], reference: Versions) -> Findings:
    """Ask everything that must hold when a run without a fault has ended after one.

    Args:
        project: The project.
        originals: Digests of the uploads by name.
        reference: Data versions of an undisturbed run.
    """
    findings = Findings()
    check_readable(project, findings)
    check_clips(project, originals, reference, findings)
    check_originals(project, originals, findings)
    check_database(project, findings)
    return findings


def check_readable(project: Project, findings: Findings) -> None:
    """Every pointer names files that match their digests, and so does every delivery."""
    for clip in project.database.clips():
        for spec in project.specs:
            try:
                document = project.store.document(clip.clip_id, spec.name)
                if document is not None:
                    project.store.verify(document)
            except ArtifactCorrupted as error:
                findings.half_written.append(str(error))
    for folder in deliveries_below(project.settings.deliveries):
        findings.half_written += wrong_in_delivery(folder)


def deliveries_below(root: Path) -> list[Path]:
    """All versions of deliveries that can be seen."""
    return sorted(root.glob("*/v[0-9]*"))


def wrong_in_delivery(folder: Path) -> list[str]:
    """What a consumer would find wrong in a version of a delivery."""
    import pyarrow.parquet as pq

    wrong = []
    try:
        rows = pq.read_table(folder / "manifest.parquet").to_pylist()
        packages = json.loads((folder / "delivery.json").read_text())["packages"]
        if {row["clip_id"] for row in rows} != set(packages):
            wrong.append(f"{folder.name}: delivery.json and the manifest name other clips")
        for row in rows:
            archive = folder / row["package_path"]
            if sha256_of(archive) != row["package_sha256"]:
                wrong.append(f"{folder.name}: {archive.name} does not match its digest")
                continue
            with tarfile.open(archive) as tar:
                for member in tar.getmembers():
                    if member.isfile():
                        packed = tar.extractfile(member)
                        assert packed is not None
                        if (folder / member.name).read_bytes() != packed.read():
                            wrong.append(f"{folder.name}: {member.name} differs from the archive")
        for name in ("egodata.py", "README.md"):
            if not (folder / name).read_bytes():
                wrong.append(f"{folder.name}: {name} is empty")
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        wrong.append(f"{folder.name}: {type(error).__name__}: {error}")
    return wrong


def check_clips(
    project: Project, originals: Mapping[str, str], reference: Versions, findings: Findings
) -> None:
    """Every upload is a clip that is complete or flagged, and nothing is pending."""
    clips = {clip.source_name: clip for clip in project.database.clips()}
    versions = versions_of(project)
    for name in originals:
        clip = clips.get(name)
        if clip is None:
            findings.lost.append(f"{name} is no clip")
            continue
        [plan] = project.plans([clip])
        if plan.pending:
            findings.lost.append(f"{name}: pending for ever: {', '.join(plan.pending)}")
        expected = {layer: version for (named, layer), version in reference.items() if named == name}
        actual = {layer: versions[name, layer] for layer in expected}
        if actual == expected:
            continue
        differing = [layer for layer in expected if actual[layer] != expected[layer]]
        reviews = project.database.review_items("open", clip.clip_id)
        described = f"{name}: {', '.join(differing)}: " + " ".join(
            [plan.reason, *(f"{item.layer}: {item.reason}" for item in reviews)]
        )
        if clip.failed or clip.held or reviews:
            findings.flagged.append(described)
        else:
            findings.lost.append(f"{described}: neither complete nor flagged")
    if set(clips) - set(originals):
        findings.inconsistent.append(f"clips that nobody uploaded: {sorted(set(clips) - set(originals))}")
    if not findings.lost and not project.delivery_is_current():
        findings.lost.append("the delivery is not that of the present versions")


def check_originals(project: Project, originals: Mapping[str, str], findings: Findings) -> None:
    """Every original is in the vault with its content; while none is there, the upload is where it was."""
    clips = {clip.source_name: clip for clip in project.database.clips()}
    for name, expected in originals.items():
        upload = project.settings.uploads / name
        places = []
        if upload.exists():
            places.append("upload folder")
            if sha256_of(upload) != expected:
                findings.originals_changed.append(f"{name} in the upload folder")
        if name in clips:
            with contextlib.suppress(ArtifactMissing):
                digest = hashlib.sha256()
                with project.vault.open(
                    clips[name].clip_id, purpose=VaultPurpose.INGEST, actor="faults"
                ) as original:
                    while block := original.read(1 << 20):
                        digest.update(block)
                places.append("vault")
                if digest.hexdigest() != expected:
                    findings.originals_changed.append(f"{name} in the vault")
        if not places:
            findings.lost.append(f"{name} is neither in the upload folder nor in the vault")


def check_database(project: Project, findings: Findings) -> None:
    """Gates, states and the index of artifacts agree with the store, and rebuilding the index changes nothing."""
    database = project.database
    stored = {(d.clip_id, d.layer): d.data_version for d in project.store.documents()}
    indexed = {(a.clip_id, a.layer): a.data_version for a in database.artifacts()}
    if stored != indexed:
        findings.inconsistent.append(
            f"store and index differ in {sorted(set(stored.items()) ^ set(indexed.items()))}"
        )
    states = {(s.clip_id, s.layer): str(s.state) for s in database.layer_states()}
    for key, version in stored.items():
        judged = {gate.data_version for gate in database.gates(*key)}
        if states.get(key) in ("committed", "blocked") and judged != {version}:
            findings.inconsistent.append(f"{key}: version {version[:16]} was not judged, {judged} were")
        if key not in states:
            findings.inconsistent.append(f"{key} has no state")
    for key, state in states.items():
        if state == "committed" and key not in stored:
            findings.inconsistent.append(f"{key} is committed and not in the store")
    if not AuditLog(database).verify().intact:
        findings.inconsistent.append(f"the audit log: {AuditLog(database).verify().findings}")
    project.reindex()
    again = {(a.clip_id, a.layer): a.data_version for a in database.artifacts()}
    if again != stored:
        findings.inconsistent.append("the index differs after reindex")


def check_leftovers(project: Project, findings: Findings) -> None:
    """Nothing temporary outlives housekeeping, which looks at things only when they are old enough."""
    root = project.settings.root
    patterns = (
        "store/.staging/*", "running/*", "vault/**/.incoming-*", "deliveries/*/.staging-*", "reports/.*",
        "dagster_home/.command_line.*", "**/*.tmp",
    )  # fmt: skip
    found = {path for pattern in patterns for path in root.glob(pattern)}
    found |= set((root.parent / "tmp").glob("*"))
    findings.leftovers += sorted(str(path.relative_to(root.parent)) for path in found)


class Reader(threading.Thread):
    """A consumer that reads whatever is committed while the faults happen."""

    def __init__(self, project: Project, *, interval_s: float) -> None:
        super().__init__(daemon=True)
        self._project = project
        self._interval_s = interval_s
        self._end = threading.Event()
        self._seen: dict[str, object] = {}
        #: What it could read that was wrong.
        self.wrong: list[str] = []
        #: How many versions and deliveries it has read.
        self.reads = 0

    def run(self) -> None:
        while not self._end.wait(self._interval_s):
            self._look()
        self._look()

    def _look(self) -> None:
        store = self._project.store
        try:
            for document in store.documents():
                key = f"{document.clip_id}/{document.layer}"
                if self._seen.get(key) != document:
                    store.verify(document)
                    self._seen[key] = document
                    self.reads += 1
        except ArtifactCorrupted as error:
            self.wrong.append(str(error))
        except EgoAssetsError:
            # The store is out of reach: nothing is read.
            return
        for folder in deliveries_below(self._project.settings.deliveries):
            if folder.name not in self._seen:
                found = wrong_in_delivery(folder)
                # A version that was never recorded may be taken away while it is looked at.
                if folder.exists():
                    self.wrong += found
                    self._seen[folder.name] = True
                    self.reads += 1

    def stop(self) -> None:
        self._end.set()
        self.join()


@contextlib.contextmanager
def reading(project: Project, *, interval_s: float | None) -> Iterator[Reader]:
    """Read all the time while the ``with`` lasts; with no interval not at all."""
    reader = Reader(project, interval_s=interval_s or 0.02)
    if interval_s is not None:
        reader.start()
    try:
        yield reader
    finally:
        if interval_s is not None:
            reader.stop()
