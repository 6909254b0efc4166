"""Captions and the protocol of the backends that write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from ego_assets.schema.detections import BackendInfo
from ego_assets.schema.frames import ClipFrame

#: Whether a model looked at the picture, or a sentence was built from what other layers found.
CaptionSource = Literal["model", "template"]


@dataclass(frozen=True, kw_only=True)
class SceneFacts:
    """What the other layers found around a time, for sentences and for prompts; empty where a layer is missing.

    Attributes:
        hands: Side to ``state`` and the ``category`` of what it holds, of the wearer's hands that were found; ``None``
            where nobody looked for hands.
        objects: Category to number of instances seen.
        activity: Label of the activity segment that contains the time, where that can be relied on.
        camera: How the camera moves: ``still``, ``turning`` or ``moving``; ``unseen`` where the picture shows next to
            nothing; empty where unknown.
        location: Kind of place as the collector stated it.
    """

    hands: Mapping[str, Mapping[str, str]] | None = None
    objects: Mapping[str, int] = field(default_factory=dict)
    activity: str = ""
    camera: str = ""
    location: str = ""


@dataclass(frozen=True, kw_only=True)
class CaptionRequest:
    """One moment to describe.

    Attributes:
        frame: The picture, of the de-identified video.
        facts: What other layers found there.
    """

    frame: ClipFrame
    facts: SceneFacts


@dataclass(frozen=True, kw_only=True)
class CaptionAnswer:
    """What a backend said of one moment.

    Attributes:
        text: The sentence, trimmed; empty where there is none.
        refused: Why there is none: a refusal, an empty or malformed answer. Empty where there is a sentence.
        prompt_tokens: Tokens that were sent, where the backend counts them.
        completion_tokens: Tokens that came back.
        requests: Requests to an endpoint that it took, those tried again included.
        model: Model that answered, as the endpoint names it.
        prompt: Name of the prompt, where the backend chose it; otherwise the attempt's configuration names it.
    """

    text: str
    refused: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    model: str = ""
    prompt: str = ""

    def __post_init__(self) -> None:
        if bool(self.text) == bool(self.refused):
            raise ValueError(f"expected either text or a reason, got {self.text!r} and {self.refused!r}")


@runtime_checkable
class Captioner(Protocol):
    """Describes moments of a clip in a sentence each."""

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        ...

    @property
    def source(self) -> CaptionSource:
        """Whether a model looks at the pictures."""
        ...

    def caption(self, requests: Sequence[CaptionRequest]) -> list[CaptionAnswer]:
        """One answer per request, in order.

        Raises:
            TransientError: The endpoint could not be reached after all retries; nothing is lost by trying later.
        """
        ...
