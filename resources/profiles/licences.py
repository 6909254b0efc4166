"""Judges licences where a profile demands commercial use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ego_assets.schema.errors import ConfigurationError
from resources.models.backends import LICENCE_PERMITS, BackendSpec
from resources.models.registry import OWN_LICENCE, ModelCard
from resources.profiles.lookup import backends_of


def licence_of(card: ModelCard, settings: Mapping[str, Any]) -> str:
    """Licence of a checkpoint; of the user's own weights what the settings state."""
    return card.licence_stated(str(settings.get("licence", OWN_LICENCE)))


def require_permitted(profile_name: str, card: ModelCard) -> None:
    """Refuse a checkpoint for a profile that demands commercial use; its user's own weights are not judged here.

    Raises:
        ConfigurationError: The message names the permitted alternative, where one is known.
    """
    if card.commercial_use or card.licence == OWN_LICENCE:
        return
    instead = f" Use {card.permitted_instead}." if card.permitted_instead else ""
    raise ConfigurationError(
        f"profile {profile_name!r} demands commercial_use, and of {card.name} the "
        f"{_why_refused(card.licence)}.{instead}"
    )


def licence_refusal(spec: BackendSpec, settings: Mapping[str, Any]) -> str:
    """Why a backend is refused where commercial use is demanded, and what may be used instead; empty if it is not.

    Of weights that the user brings, and of a program that the user runs, only the user can know the licence, and may
    state that it permits it.
    """
    permits = settings.get(LICENCE_PERMITS) is True
    stated = str(settings.get("licence", OWN_LICENCE))
    if LICENCE_PERMITS in spec.settings and not spec.all_models:
        if permits:
            return ""
        loaded, reason, is_own = "runs a model of your own", _why_refused(stated, is_own=True), True
    else:
        refused = [
            card
            for card in spec.models_for(settings)
            if not card.commercial_use and not (permits and card.licence == OWN_LICENCE)
        ]
        if not refused:
            return ""
        card = refused[0]
        is_own = card.licence == OWN_LICENCE
        loaded, reason = f"loads {card.name}", _why_refused(licence_of(card, settings), is_own=is_own)
    if is_own:
        licence = ", and licence," if stated == OWN_LICENCE else ""
        way = f"Set {LICENCE_PERMITS}: true{licence} if yours permits it"
    else:
        way = f"Use {card.permitted_instead}" if card.permitted_instead else ""
    others = [
        f"{name} ({choice})" if choice else name
        for name, other in sorted(backends_of(spec.task).items())
        if name != spec.backend and name not in way and (choice := other.permitted_choice) is not None
    ]
    if others:
        way = f"{way}, or choose" if way else "Choose"
        way = f"{way} another backend: {', '.join(others)}"
    return f"{spec.task} backend {spec.backend!r} {loaded}, whose {reason}. {way or 'There is no other backend'}."


def _why_refused(licence: str, *, is_own: bool = False) -> str:
    """Why a licence is no permission; of weights of the user's own, as far as the profile says."""
    if licence == OWN_LICENCE:
        return "licence is not stated"
    if OWN_LICENCE in licence:
        return f"licence is {licence}: nothing permits it"
    if is_own:
        return f"licence {licence} is not said to permit it"
    return f"licence {licence} forbids it"
