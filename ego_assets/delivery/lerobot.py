"""LeRobot v3: many episodes per MP4 and Parquet file, an episode per clip.

LeRobot wants one rate and one picture size per dataset. The dataset below ``lerobot/`` holds the clips of the rate and
size that most steps have; clips of others lie below ``lerobot/other/{rate}hz_{width}x{height}/``, each a dataset too.

``timestamp`` is the step divided by the nominal rate, as the format demands, and finds the picture in the MP4. When a
step really was is in ``observation.timestamp_ns``. ``observation.state`` holds the hands. No action is made up: a
policy takes the states of later steps as its targets through ``delta_timestamps``.

The format is that of the package ``lerobot`` 0.4 (``codebase_version`` v3.0), which is not needed to write it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ego_assets.delivery.clip_source import DeliveredClip, Step, differing_clips
from ego_assets.delivery.definition import SPLITS, DeliveryDefinition
from ego_assets.delivery.hand_values import NOT_VISIBLE, hand_values
from ego_assets.delivery.journal import Journal
from ego_assets.schema.documents import json_document
from ego_assets.schema.hands import HAND_SIDES, HAND_STATES
from ego_assets.schema.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

FOLDER = "lerobot"
CODEBASE_VERSION = "v3.0"
VIDEO_KEY = "observation.images.ego"
#: Task of a step whose activity nobody named.
UNKNOWN_TASK = "unknown"

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FILES_PER_CHUNK = 1000

#: Most bytes of JPEG that go into one MP4, which comes out at about a quarter: LeRobot's files have 200 MB.
_JPEG_BYTES_PER_FILE = 800_000_000
#: Longest MP4: readers keep times as 32-bit floats, which beyond this differ by more than LeRobot tolerates (0.1 ms).
_LONGEST_FILE_S = 1000.0
#: Frames from one keyframe to the next: training reads single pictures.
_GOP_FRAMES = 5
_CRF = 20
#: Ticks a second of the MP4: whole for every rate up to 240.
_TICKS_PER_S = 14400
#: Every so many pictures count for the statistics.
_STATISTICS_STRIDE = 5


def _state_names() -> list[str]:
    names = []
    for side in HAND_SIDES:
        names += [f"{side}_visible", *(f"{side}_{state.replace('-', '_')}" for state in HAND_STATES)]
        names += [f"{side}_box_{edge}" for edge in ("left", "top", "right", "bottom")]
        names += [f"{side}_wrist_{axis}" for axis in ("x", "y")]
    return names


#: What the numbers of ``observation.state`` are: 0 or 1, and shares of the picture's width and height.
STATE_NAMES = tuple(_state_names())


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What all clips of one dataset have in common."""

    rate_hz: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The clips of one MP4."""

    number: int
    first_episode: int
    first_index: int
    clips: Sequence[DeliveredClip]

    def path(self, pattern: str) -> str:
        chunk, file = divmod(self.number, FILES_PER_CHUNK)
        return pattern.format(chunk_index=chunk, file_index=file, video_key=VIDEO_KEY)


def write(
    folder: Path,
    clips: Sequence[DeliveredClip],
    *,
    definition: DeliveryDefinition,
    journal: Journal,
    progress: ProgressCallback = ignore_progress,
) -> Mapping[str, int]:
    """Write the dataset, or one for each rate and picture size.

    Args:
        folder: The delivery that is being made.
        clips: Its clips.
        definition: Not asked for anything here: splits are those of the clips.
        journal: Knows the files that are finished.
        progress: Hears clips done and in total.

    Returns:
        Number of datasets, episodes and samples.
    """
    kinds: dict[_Kind, list[DeliveredClip]] = {}
    for clip in clips:
        if clip.grid.frame_index.size:
            kinds.setdefault(_kind_of(clip), []).append(clip)
    steps = {kind: sum(int(clip.grid.frame_index.size) for clip in alike) for kind, alike in kinds.items()}
    ordered = sorted(kinds, key=lambda kind: (-steps[kind], kind.rate_hz, kind.width, kind.height))
    done = 0
    for position, kind in enumerate(ordered):
        root = FOLDER if not position else f"{FOLDER}/other/{kind.rate_hz}hz_{kind.width}x{kind.height}"
        before = done

        def heard(inside: int, total: int, before: int = before) -> None:
            progress(before + inside, len(clips))

        _write_dataset(folder, root, kind, kinds[kind], journal, heard)
        done += len(kinds[kind])
    progress(len(clips), len(clips))
    return {"datasets": len(kinds), "episodes": done, "samples": sum(steps.values())}


def check(folder: Path, *, expected_clips: Collection[str]) -> list[str]:
    """Compare the counts of every dataset, and decode the first picture of every MP4.

    Returns:
        What is wrong, in words.
    """
    import av

    problems: list[str] = []
    found: set[str] = set()
    for info_path in sorted((folder / FOLDER).rglob("info.json")):
        root = info_path.parent.parent
        name = root.relative_to(folder).as_posix()
        try:
            info = json.loads(info_path.read_text(encoding="utf-8"))
            episodes = [row for path in sorted(root.glob("meta/episodes/*/*.parquet")) for row in _rows(path)]
            rows = sum(pq.read_metadata(path).num_rows for path in sorted(root.glob("data/*/*.parquet")))
        except (OSError, ValueError, pa.ArrowException) as error:
            problems.append(f"{name} cannot be read: {error}")
            continue
        found |= {row["clip_id"] for row in episodes}
        if (len(episodes), rows) != (info["total_episodes"], info["total_frames"]):
            problems.append(
                f"{name}: expected {info['total_episodes']} episodes and {info['total_frames']} rows, found "
                f"{len(episodes)} and {rows}"
            )
        for path in sorted(root.glob("videos/*/*/*.mp4")):
            try:
                with av.open(str(path)) as container:
                    next(container.decode(video=0))
            except (av.FFmpegError, StopIteration, IndexError) as error:
                problems.append(f"{path.relative_to(folder).as_posix()} cannot be decoded: {error}")
    return problems + differing_clips(expected_clips, found, where=FOLDER)


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path, columns=["clip_id"]).to_pylist()
    return rows


# --- one dataset --------------------------------------------------------------------------------------


def _kind_of(clip: DeliveredClip) -> _Kind:
    import io

    from PIL import Image

    first = next(clip.steps())
    with Image.open(io.BytesIO(clip.files.read(first.rgb))) as image:
        width, height = image.size
    return _Kind(rate_hz=max(1, round(clip.grid.rate_hz)), width=width, height=height)


def _write_dataset(
    folder: Path,
    root: str,
    kind: _Kind,
    clips: Sequence[DeliveredClip],
    journal: Journal,
    progress: ProgressCallback,
) -> None:
    places = (*SPLITS, None)
    # Splits are ranges of episodes.
    ordered = sorted(clips, key=lambda clip: (places.index(clip.split), clip.clip_id))
    tasks = sorted({task for clip in ordered for task in _tasks_of(clip)})
    task_index = {task: number for number, task in enumerate(tasks)}
    done = 0
    for part in _parts(ordered, kind):
        progress(done, len(ordered))
        _write_part(root, part, kind, task_index, journal)
        done += len(part.clips)
    if not journal.has(f"{root}/meta/tasks.parquet"):
        with journal.create_path(f"{root}/meta/tasks.parquet") as path:
            pq.write_table(_task_table(tasks), path)
    documents = {"stats.json": _overall(folder / root), "info.json": _info(kind, ordered, len(tasks))}
    for name, content in documents.items():
        if not journal.has(f"{root}/meta/{name}"):
            with journal.create(f"{root}/meta/{name}") as file:
                file.write(json_document(content))


def _parts(clips: Sequence[DeliveredClip], kind: _Kind) -> Iterator[_Part]:
    """The clips, whole and in order, in groups that make an MP4 of a good size."""
    group: list[DeliveredClip] = []
    number = episode = index = size = steps = 0
    for clip in clips:
        sizes = clip.files.sizes()
        wanted = sum(sizes[step.rgb] for step in clip.steps())
        length = int(clip.grid.frame_index.size)
        too_long = (steps + length) / kind.rate_hz > _LONGEST_FILE_S
        if group and (size + wanted > _JPEG_BYTES_PER_FILE or too_long):
            yield _Part(number=number, first_episode=episode, first_index=index, clips=group)
            number, episode, index = number + 1, episode + len(group), index + steps
            group, size, steps = [], 0, 0
        group.append(clip)
        size, steps = size + wanted, steps + length
    if group:
        yield _Part(number=number, first_episode=episode, first_index=index, clips=group)


def _write_part(root: str, part: _Part, kind: _Kind, task_index: Mapping[str, int], journal: Journal) -> None:
    """An MP4, its rows and its episodes; the episodes are written last and say that the part is finished."""
    from ego_assets.media.encode import VideoWriter

    episodes_path = f"{root}/{part.path(EPISODES_PATH)}"
    if journal.has(episodes_path):
        return
    rows: list[dict[str, Any]] = []
    episodes: list[dict[str, Any]] = []
    with (
        journal.create_path(f"{root}/{part.path(VIDEO_PATH)}") as video_path,
        VideoWriter(
            video_path,
            width=kind.width,
            height=kind.height,
            time_base=Fraction(1, _TICKS_PER_S),
            frame_rate=Fraction(kind.rate_hz),
            crf=_CRF,
            gop=_GOP_FRAMES,
            bframes=False,
        ) as video,
    ):
        for number, clip in enumerate(part.clips):
            first = video.frame_count
            pictures = _PictureStatistics()
            clip_rows = []
            for step in clip.steps():
                frame = _decode(clip.files.read(step.rgb))
                if step.index % _STATISTICS_STRIDE == 0:
                    pictures.add(frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False))
                video.write(frame, pts=round(video.frame_count * _TICKS_PER_S / kind.rate_hz))
                clip_rows.append(
                    {
                        **_values(clip, step, kind),
                        "episode_index": part.first_episode + number,
                        "index": part.first_index + first + step.index,
                        "task_index": task_index[_task_of(clip, step)],
                    }
                )
            rows += clip_rows
            episodes.append(_episode(clip, clip_rows, part, first, kind, pictures))
    with journal.create_path(f"{root}/{part.path(DATA_PATH)}") as path:
        pq.write_table(pa.Table.from_pylist(rows, schema=_DATA_SCHEMA), path)
    with journal.create_path(episodes_path) as path:
        pq.write_table(pa.Table.from_pylist(episodes), path)


def _decode(jpeg: bytes) -> VideoFrame:
    """The picture in the colours in which it was coded."""
    from av.codec import CodecContext
    from av.packet import Packet

    decoder = CodecContext.create("mjpeg", "r")
    frames = [*decoder.decode(Packet(jpeg)), *decoder.decode(None)]
    return frames[0]


# --- rows ---------------------------------------------------------------------------------------------

_DATA_SCHEMA = pa.schema(
    [
        pa.field("observation.state", pa.list_(pa.float32(), len(STATE_NAMES))),
        pa.field("observation.timestamp_ns", pa.int64()),
        pa.field("observation.video_frame", pa.int64()),
        pa.field("observation.caption", pa.string()),
        pa.field("timestamp", pa.float32()),
        pa.field("frame_index", pa.int64()),
        pa.field("episode_index", pa.int64()),
        pa.field("index", pa.int64()),
        pa.field("task_index", pa.int64()),
    ]
)


def _values(clip: DeliveredClip, step: Step, kind: _Kind) -> dict[str, Any]:
    return {
        "observation.state": _state(clip, step),
        "observation.timestamp_ns": step.timestamp_ns,
        "observation.video_frame": step.frame_index,
        "observation.caption": step.caption or "",
        "timestamp": step.index / kind.rate_hz,
        "frame_index": step.index,
    }


def _state(clip: DeliveredClip, step: Step) -> list[float]:
    """The hands as numbers; all zero for a hand that is not visible."""
    record = None if step.hands is None else json.loads(clip.files.read(step.hands))
    values: list[float] = []
    for hand in hand_values(record).values():
        visible = hand.state != NOT_VISIBLE
        values += [float(visible), *(float(hand.state == state) for state in range(len(HAND_STATES)))]
        if not visible or record is None:
            values += [0.0] * 6
            continue
        width, height = record["resolution"]
        left, top, right, bottom = hand.box_xyxy.tolist()
        values += [left / width, top / height, right / width, bottom / height]
        wrist = hand.landmarks_xy[0] / (width, height)
        values += np.nan_to_num(wrist, nan=0.0).tolist()
    return values


def _task_of(clip: DeliveredClip, step: Step) -> str:
    return step.action or clip.row["activity_category"] or UNKNOWN_TASK


def _tasks_of(clip: DeliveredClip) -> Iterable[str]:
    return (_task_of(clip, step) for step in clip.steps())


def _task_table(tasks: Sequence[str]) -> pa.Table:
    """Task and number; the task is the index of the table, as pandas notes it."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": list(tasks)})
    described = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
            | {"metadata": None},
            {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"}
            | {"metadata": None},
        ],
        "pandas_version": "2.2.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(described)})


def _episode(
    clip: DeliveredClip,
    rows: Sequence[Mapping[str, Any]],
    part: _Part,
    first: int,
    kind: _Kind,
    pictures: _PictureStatistics,
) -> dict[str, Any]:
    chunk, file = divmod(part.number, FILES_PER_CHUNK)
    length = len(rows)
    statistics = {VIDEO_KEY: pictures.result()}
    for field in _DATA_SCHEMA:
        if not pa.types.is_string(field.type):
            values = np.array([row[field.name] for row in rows], np.float64).reshape(length, -1)
            statistics[field.name] = _statistics(values)
    return {
        "episode_index": part.first_episode + part.clips.index(clip),
        "clip_id": clip.clip_id,
        "split": clip.split,
        "tasks": sorted({_task_of(clip, step) for step in clip.steps()}),
        "length": length,
        "data/chunk_index": chunk,
        "data/file_index": file,
        "dataset_from_index": part.first_index + first,
        "dataset_to_index": part.first_index + first + length,
        f"videos/{VIDEO_KEY}/chunk_index": chunk,
        f"videos/{VIDEO_KEY}/file_index": file,
        f"videos/{VIDEO_KEY}/from_timestamp": first / kind.rate_hz,
        f"videos/{VIDEO_KEY}/to_timestamp": (first + length) / kind.rate_hz,
        "meta/episodes/chunk_index": chunk,
        "meta/episodes/file_index": file,
        **{
            f"stats/{name}/{measure}": value
            for name, measures in statistics.items()
            for measure, value in measures.items()
        },
    }


# --- statistics ---------------------------------------------------------------------------------------


def _statistics(values: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Least, greatest, mean, deviation and number of ``[N, D]`` values."""
    return {
        "min": values.min(axis=0).tolist(),
        "max": values.max(axis=0).tolist(),
        "mean": values.mean(axis=0).tolist(),
        "std": values.std(axis=0).tolist(),
        "count": [len(values)],
    }


class _PictureStatistics:
    """The same of the colours of pictures, each 0-1; ``[3, 1, 1]``."""

    def __init__(self) -> None:
        self._least, self._greatest = np.full(3, np.inf), np.full(3, -np.inf)
        self._sum, self._squares = np.zeros(3), np.zeros(3)
        self._pixels = self._pictures = 0

    def add(self, picture: npt.NDArray[np.uint8]) -> None:
        pixels = picture.reshape(-1, 3)
        values = pixels / 255.0
        self._least = np.minimum(self._least, values.min(axis=0))
        self._greatest = np.maximum(self._greatest, values.max(axis=0))
        self._sum += values.sum(axis=0)
        self._squares += (values**2).sum(axis=0)
        self._pixels += len(values)
        self._pictures += 1

    def result(self) -> dict[str, Any]:
        mean = self._sum / self._pixels
        deviation = np.sqrt(np.maximum(self._squares / self._pixels - mean**2, 0))
        found = {"min": self._least, "max": self._greatest, "mean": mean, "std": deviation}
        return {
            **{name: value.reshape(3, 1, 1).tolist() for name, value in found.items()},
            "count": [self._pictures],
        }


def _overall(root: Path) -> dict[str, Any]:
    """Statistics over all episodes, from those of each."""
    merged: dict[str, dict[str, Any]] = {}
    for path in sorted(root.glob("meta/episodes/*/*.parquet")):
        for row in pq.read_table(path).to_pylist():
            names = {key.split("/")[1] for key in row if key.startswith("stats/")}
            for name in names:
                one = {
                    measure: np.array(row[f"stats/{name}/{measure}"], np.float64)
                    for measure in ("min", "max", "mean", "std", "count")
                }
                merged[name] = _merge(merged[name], one) if name in merged else one
    return {
        name: {
            measure: [int(value[0])] if measure == "count" else value.tolist()
            for measure, value in measures.items()
        }
        for name, measures in merged.items()
    }


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Statistics of two groups together (Chan, Golub and LeVeque 1979)."""
    counts = first["count"], second["count"]
    total = counts[0] + counts[1]
    delta = second["mean"] - first["mean"]
    mean = first["mean"] + delta * counts[1] / total
    squares = first["std"] ** 2 * counts[0] + second["std"] ** 2 * counts[1]
    squares = squares + delta**2 * counts[0] * counts[1] / total
    return {
        "min": np.minimum(first["min"], second["min"]),
        "max": np.maximum(first["max"], second["max"]),
        "mean": mean,
        "std": np.sqrt(squares / total),
        "count": total,
    }


# --- info ---------------------------------------------------------------------------------------------


def _info(kind: _Kind, clips: Sequence[DeliveredClip], tasks: int) -> dict[str, Any]:
    per_split = Counter(clip.split or "train" for clip in clips)
    splits, first = {}, 0
    for split in SPLITS:
        if per_split[split]:
            splits[split] = f"{first}:{first + per_split[split]}"
            first += per_split[split]
    number = {"shape": [1], "names": None}
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": "human_egocentric",
        "total_episodes": len(clips),
        "total_frames": sum(int(clip.grid.frame_index.size) for clip in clips),
        "total_tasks": tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": kind.rate_hz,
        "splits": splits,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": {
            VIDEO_KEY: {
                "dtype": "video",
                "shape": [kind.height, kind.width, 3],
                "names": ["height", "width", "channels"],
                "info": {
                    "video.height": kind.height,
                    "video.width": kind.width,
                    "video.codec": "h264",
                    "video.pix_fmt": "yuv420p",
                    "video.is_depth_map": False,
                    "video.fps": kind.rate_hz,
                    "video.channels": 3,
                    "has_audio": False,
                },
            },
            "observation.state": {
                "dtype": "float32",
                "shape": [len(STATE_NAMES)],
                "names": list(STATE_NAMES),
            },
            "observation.timestamp_ns": {"dtype": "int64", **number},
            "observation.video_frame": {"dtype": "int64", **number},
            "observation.caption": {"dtype": "string", **number},
            "timestamp": {"dtype": "float32", **number},
            "frame_index": {"dtype": "int64", **number},
            "episode_index": {"dtype": "int64", **number},
            "index": {"dtype": "int64", **number},
            "task_index": {"dtype": "int64", **number},
        },
    }
