"""``captions``: a sentence for every two seconds of a clip."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ego_assets.execution import ClipWork, LayerDraft
from ego_assets.gates.actions import least_score
from ego_assets.gates.captions import (
    GATES,
    LONGEST_WORDS,
    MIN_SIMILARITY,
    SHORTEST_WORDS,
    is_answer,
    judge_caption,
    judge_captions,
)
from ego_assets.schema.artifact import ArtifactDocument
from ego_assets.schema.clip import PRIVACY_LAYER
from ego_assets.schema.documents import json_document
from ego_assets.schema.errors import BackendUnavailable, ConfigurationError, DeviceMemoryExhausted
from ego_assets.schema.layers import DeliveryMember, LayerSpec, RetryPolicySpec

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from ego_assets.labels.captions import Caption, CaptionMoment, CaptionRun, FrameSimilarity
    from ego_assets.labels.prompts import Prompt
    from ego_assets.labels.scene_facts import SceneSources
    from ego_assets.media.sampling import SampledFrames
    from ego_assets.schema.captions import Captioner, CaptionRequest
    from ego_assets.schema.detections import BackendInfo, BgrImage
    from ego_assets.schema.embeddings import Embedder
    from ego_assets.schema.frames import ClipFrame
    from ego_assets.schema.gates import GateOutcome
    from ego_assets.schema.ladder import Rung
    from ego_assets.settings import CaptionSettings
    from resources.captioner import EndpointOptions
    from resources.endpoint import AnswerSpool
    from resources.storage import StagedLayer

ComparedT = TypeVar("ComparedT")

TASK = "captions"
_DOCUMENT, _PICTURE = "captions.json", "captions.jpg"


def deliver(document: ArtifactDocument, read: Callable[[str], bytes]) -> list[DeliveryMember]:
    """The captions lie beside the other layers' folders."""
    return [DeliveryMember(path=_DOCUMENT, layer=document.layer, file=_DOCUMENT)]


SPEC = LayerSpec(
    name="captions",
    group="enrich",
    description=(
        "A sentence for every 2 s (EGO_CAPTION_INTERVAL_S): from a model behind any OpenAI-compatible endpoint "
        "(EGO_CAPTION_BASE_URL), otherwise built from hands, objects, activity and motion and marked as a template."
    ),
    stage=5,
    inputs=(PRIVACY_LAYER,),
    optional_inputs=("hand_object", "masks", "actions"),
    gates=GATES,
    # Collection guide, step 1: twice. Requests are tried again by the client, which knows how long to wait; here a long
    # wait would hold up every clip while an endpoint is down.
    retry=RetryPolicySpec(max_retries=2, delay_s=0.5),
    tasks=(TASK, "embeddings"),
    pool="enrich",
    estimate_bytes=lambda clip, settings: 100_000 + int(400 * clip.estimated_duration_s),
    deliver=deliver,
)


def make(work: ClipWork, staged: StagedLayer) -> LayerDraft:
    """Describe the clip."""
    from ego_assets.curation.score import caption_relevance_part
    from ego_assets.labels.caption_sheet import caption_sheet, shown_places, thumbnail
    from ego_assets.labels.captions import (
        BATCH_SIZE,
        caption_moments,
        captions_document,
        compared_frames,
        write_captions,
    )
    from ego_assets.labels.prompts import shipped_prompts
    from resources.endpoint import forget_answers, unfinished_answers

    settings = work.settings.captions
    # Of this version of the video alone: another one may show something else.
    spool = f"{work.clip.clip_id} {work.input(PRIVACY_LAYER).data_version}"
    rungs, prompts = _ladder(work, unfinished_answers(spool))
    comparison = _comparison(work)
    pictures: dict[int, BgrImage] = {}
    with work.sampled_frames(None) as sampled:
        moments = caption_moments(sampled.timeline, interval_s=settings.interval_s)
        shown = {moments[place].frame_index for place in shown_places(len(moments))}

        def requests() -> Iterator[CaptionRequest]:
            for request in _requests(sampled, moments, _sources(work, sampled)):
                if request.frame.frame_index in shown:
                    pictures[request.frame.frame_index] = thumbnail(request.frame.image)
                yield request

        run = write_captions(
            moments,
            requests(),
            rungs,
            similarity=comparison.cosines if comparison.is_possible else None,
            min_similarity=MIN_SIMILARITY,
            words=(SHORTEST_WORDS, LONGEST_WORDS),
            log=work.log,
            batch_size=max(BATCH_SIZE, settings.concurrency),
        )
        size = sampled.size
        # What the frames of the clip are compared by afterwards is no matter of the captions.
        no_similarity, compared = comparison.why_not, None
        if comparison.is_possible and any(caption.text for caption in run.captions):
            frame_count = sampled.timeline.frame_count
            frames = {
                frame.frame_index: frame for frame in sampled.stream(indices=compared_frames(frame_count))
            }
            compared = comparison.of_frames(frames, run.captions, frame_count=frame_count)

    captions = run.captions
    if not prompts:
        # A profile's backends choose among those that ship.
        prompts = shipped_prompts(
            [caption.prompt for caption in captions] + [str(rung.config.get("prompt", "")) for rung in rungs]
        )
    verdicts = [judge_caption(words=caption.words, similarity=caption.similarity) for caption in captions]
    usage = {**run.usage, "cost_usd": _cost_usd(work, run)}
    document = captions_document(
        captions,
        interval_s=settings.interval_s,
        prompts=prompts,
        usage=usage,
        verdicts=verdicts,
        frame_similarity=compared,
    )
    staged.path(_DOCUMENT).write_bytes(json_document(document))
    _write_verdicts(captions, verdicts, staged)
    drawn = [caption for caption in captions if caption.moment.frame_index in pictures]
    if drawn:
        sheet = caption_sheet(
            [pictures[caption.moment.frame_index] for caption in drawn],
            [
                f"{caption.moment.timestamp_ns / 1e9:.1f} s: {caption.text or caption.refused}"
                for caption in drawn
            ],
        )
        staged.path(_PICTURE).write_bytes(sheet)
    # What a part of the captions came to says nothing about the clip.
    similarities = [None if no_similarity else caption.similarity for caption in captions]
    known_similarities = [value for value in similarities if value is not None]
    relevance = caption_relevance_part(known_similarities or None)
    answered = sum(is_answer(caption.words) for caption in captions)
    known = {name: value for name, value in usage.items() if value is not None}
    forget_answers(spool)
    return LayerDraft(
        gates=judge_captions(
            words=[caption.words for caption in captions],
            similarities=similarities,
            refusals=[caption.refused for caption in captions if caption.refused],
            no_similarity=no_similarity,
            space="" if comparison.embedder is None else comparison.embedder.space,
        ),
        config={
            "interval_s": settings.interval_s,
            "ladder": [{"name": rung.name, **rung.config} for rung in rungs],
            "prompts": [asdict(prompt) for prompt in prompts],
        },
        backends=(*run.backends, *comparison.backends),
        attempts=run.attempts,
        counts={
            "captions": answered,
            **known,
            **({"caption_relevance": relevance} if relevance is not None else {}),
        },
        resolution=size,
        facts={"source": document["source"], "interval_s": settings.interval_s},
        metadata={
            "captions": answered,
            "source": document["source"],
            "example": next((caption.text for caption in captions if caption.text), ""),
            **known,
        },
        pictures={"captions": _PICTURE} if drawn else {},
    )


def _ladder(work: ClipWork, answers: AnswerSpool) -> tuple[Sequence[Rung[Captioner]], tuple[Prompt, ...]]:
    """The attempts: the endpoint's with its prompts where there is one, otherwise the profile's."""
    settings = work.settings.captions
    if not settings.base_url:
        return work.models.ladder(TASK), ()
    from resources.captioner import require_reachable

    options, rungs, prompts = endpoint_attempts(settings, answers)
    require_reachable(options)
    return rungs, prompts


def endpoint_attempts(
    settings: CaptionSettings, answers: AnswerSpool | None = None
) -> tuple[EndpointOptions, Sequence[Rung[Captioner]], tuple[Prompt, ...]]:
    """How the endpoint of the settings is talked to, the attempts with it, and the prompts that they use.

    Args:
        settings: The settings, with an address.
        answers: Answers that are there already, and where new ones are kept.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    from resources.captioner import EndpointOptions, endpoint_ladder, read_prompts

    options = EndpointOptions(
        base_url=settings.base_url,
        api_key=settings.api_key,
        concurrency=settings.concurrency,
        requests_per_minute=settings.requests_per_minute,
        timeout_s=settings.timeout_s,
        max_retries=settings.max_retries,
    )
    prompts = read_prompts(settings.prompts_file)
    rungs = endpoint_ladder(options, models=settings.models, prompts=prompts, answers=answers)
    used = {str(rung.config["prompt"]) for rung in rungs}
    return options, rungs, tuple(prompt for prompt in prompts if prompt.name in used)


@dataclass
class _Comparison:
    """Compares pictures with texts, as long as somebody can.

    Attributes:
        embedder: The profile's embeddings backend; ``None`` where it cannot compare.
        why_not: Why nobody can, or why not everything was compared; empty otherwise.
        has_compared: Whether anything was compared.
        log: Where it is told that the device has no memory for more.
    """

    log: logging.Logger
    embedder: Embedder | None = None
    why_not: str = ""
    has_compared: bool = False

    @property
    def is_possible(self) -> bool:
        """Whether it can compare, or could so far."""
        return self.embedder is not None and not self.why_not

    @property
    def backends(self) -> tuple[BackendInfo, ...]:
        """The embeddings backend, where similarities are its work."""
        return (self.embedder.info,) if self.embedder is not None and self.has_compared else ()

    def cosines(self, images: Sequence[BgrImage], texts: Sequence[str]) -> npt.NDArray[np.floating[Any]]:
        """Cosine between each picture and its text, ``float [N]``; NaN once the device has no memory for it."""
        import numpy as np

        found = self._unless_memory_ends(
            lambda embedder: (embedder.embed_images(images) * embedder.embed_texts(texts)).sum(axis=1)
        )
        return np.full(len(images), np.nan) if found is None else found

    def of_frames(
        self, frames: Mapping[int, ClipFrame], captions: Sequence[Caption], *, frame_count: int
    ) -> FrameSimilarity | None:
        """How sentences and frames of a clip go together; ``None`` once the device has no memory for it."""
        from ego_assets.labels.captions import compare_frames

        return self._unless_memory_ends(
            lambda embedder: compare_frames(embedder, frames, captions, frame_count=frame_count)
        )

    def _unless_memory_ends(self, compare: Callable[[Embedder], ComparedT]) -> ComparedT | None:
        if self.embedder is None or self.why_not:
            return None
        try:
            found = compare(self.embedder)
        except DeviceMemoryExhausted as error:
            self.why_not = f"Not all captions could be compared with their frames: {error}"
            self.log.warning("%s", self.why_not)
            return None
        self.has_compared = True
        return found


def _comparison(work: ClipWork) -> _Comparison:
    """By the profile's embeddings backend, where it can compare pictures with texts."""
    try:
        embedder: Embedder = work.models.ladder("embeddings")[0].open()
    except (BackendUnavailable, ConfigurationError, DeviceMemoryExhausted) as error:
        return _Comparison(log=work.log, why_not=f"No embeddings backend: {error}")
    if not embedder.embeds_text:
        return _Comparison(
            log=work.log, why_not=f"The embeddings backend {embedder.info.backend} reads no texts."
        )
    return _Comparison(log=work.log, embedder=embedder)


def _sources(work: ClipWork, sampled: SampledFrames) -> SceneSources:
    """What the other layers found, as far as they are there."""
    from ego_assets.labels.scene_facts import MaskRows, SceneSources, reliable_segments

    masks, actions = work.optional_input("masks"), work.optional_input("actions")
    activities = work.read_json(actions, "actions.json") if actions is not None else None
    motion, timestamps_ns = work.camera_motion(sampled.size)
    return SceneSources(
        hands=work.hand_tracks(),
        masks=(
            MaskRows.read(
                work.store.read_bytes(masks, "tracks.parquet"), resolution=masks.resolution or sampled.size
            )
            if masks is not None
            else None
        ),
        segments=(
            reliable_segments(activities, least_score=least_score(activities["known_labels"]))
            if activities is not None
            else ()
        ),
        motion=motion,
        motion_timestamps_ns=timestamps_ns,
        motion_longer_side=max(sampled.size),
        location=work.clip.location_type.value,
    )


def _requests(
    sampled: SampledFrames, moments: Sequence[CaptionMoment], sources: SceneSources
) -> Iterator[CaptionRequest]:
    """The frame of each moment, with what other layers found there."""
    from ego_assets.labels.scene_facts import scene_facts
    from ego_assets.schema.captions import CaptionRequest

    frames = sampled.stream(indices=[moment.frame_index for moment in moments])
    for moment, frame in zip(moments, frames, strict=True):
        facts = scene_facts(
            sources, timestamp_ns=moment.timestamp_ns, start_ns=moment.start_ns, end_ns=moment.end_ns
        )
        yield CaptionRequest(frame=frame, facts=facts)


def _cost_usd(work: ClipWork, run: CaptionRun) -> float | None:
    """What the tokens cost; ``None`` where no price is set."""
    settings = work.settings.captions
    prices = settings.usd_per_million_prompt_tokens, settings.usd_per_million_completion_tokens
    if prices == (None, None):
        return None
    sent, received = (price or 0.0 for price in prices)
    spent = run.usage["prompt_tokens"] * sent + run.usage["completion_tokens"] * received
    return round(spent / 1e6, 6)


def _write_verdicts(
    captions: Sequence[Caption], verdicts: Sequence[Mapping[str, GateOutcome]], staged: StagedLayer
) -> None:
    import numpy as np

    from ego_assets.media.verdict_table import VERDICTS_FILE, write_verdict_table

    write_verdict_table(
        staged.path(VERDICTS_FILE),
        frame_index=np.array([caption.moment.frame_index for caption in captions], np.int64),
        timestamps_ns=np.array([caption.moment.timestamp_ns for caption in captions], np.int64),
        measurements={
            "words": np.array([caption.words for caption in captions], np.int32),
            "similarity": np.array([caption.similarity for caption in captions], np.float32),
        },
        verdicts={
            criterion: [verdict[criterion] for verdict in verdicts]
            for criterion in dict.fromkeys(name for verdict in verdicts for name in verdict)
        },
    )
