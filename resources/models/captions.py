"""Captions without a model: sentences built from what the other layers found."""

from __future__ import annotations

from collections.abc import Sequence

from ego_assets.labels.scene_facts import describe
from ego_assets.schema.captions import CaptionAnswer, CaptionRequest, CaptionSource
from ego_assets.schema.detections import BackendInfo


class TemplateCaptioner:
    """Says what hands, masks, actions and motion say, marked as built from a template; looks at no picture."""

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(
            task="captions", backend="template", model="sentences from the other layers, version 1"
        )

    @property
    def source(self) -> CaptionSource:
        """A template."""
        return "template"

    def caption(self, requests: Sequence[CaptionRequest]) -> list[CaptionAnswer]:
        """One sentence per request, in order."""
        return [CaptionAnswer(text=describe(request.facts)) for request in requests]
