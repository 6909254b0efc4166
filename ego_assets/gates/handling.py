"""Whether a clip is about handling things, and how often its hands must then be seen: one rule for all layers."""

from __future__ import annotations

import re

from ego_assets.schema.hands import HandObjectTracks

#: Share of the frames of manipulation-focused data that show a hand, at least.
MIN_HAND_FRAMES_SHARE = 0.40
HAND_FRAMES_SOURCE = "collection guide: hands in at least 40 % of frames of manipulation-focused data"

#: A clip whose activity does not tell is about handling things when a hand reaches, holds or lets go in this share of
#: its frames (own: one grasp of a second in a clip of ten).
MIN_CONTACT_SHARE = 0.10

# Verbs are matched as they stand, with -s, -ing and -ed; things as they stand and with -s. Words that also name a place
# (building, garden, plant) or stand for more than handling (playing) are left out: there the hands decide.
_HANDLING_VERBS = """
    assemble bake braid brew carve chop clean cook craft crochet cut disassemble drill fix fold glue grasp grill handle
    harvest inspect install iron knead knit load machine maintain make manipulate mend mow operate pack paint peel pick
    plumb polish pour prepare prune repair sand saw screw sew slice solder sort stack stir unload unpack wash weave weed
    weld wipe wire wrap
"""
_HANDLING_THINGS = """
    assembly bolt cable carpentry desk dish dishes dough furniture gardening hammer housework installation instrument
    keyboard knife laundry lego maintenance manipulation meal metalwork nail needlework origami packaging planting
    pottery preparation puzzle screwdriver tool typing woodwork woodworking writing
"""
_OTHER_VERBS = """
    browse chat climb commute cycle dance drive explore hike jog listen navigate ride run sightsee skate ski stroll swim
    talk tour travel walk watch
"""
_OTHER_THINGS = "conversation meeting navigation tourism trip walkthrough"


def _forms(verb: str) -> set[str]:
    stem = verb.removesuffix("e")
    # The last letter is doubled in some verbs only; the words that are none harm nothing.
    return {
        verb,
        f"{verb}s",
        *(f"{part}{end}" for part in (verb, stem, verb + verb[-1]) for end in ("ing", "ed")),
    }


def _words(verbs: str, things: str) -> frozenset[str]:
    return frozenset(
        {form for verb in verbs.split() for form in _forms(verb)}
        | {form for thing in things.split() for form in (thing, f"{thing}s")}
    )


_HANDLING = _words(_HANDLING_VERBS, _HANDLING_THINGS)
_OTHER = _words(_OTHER_VERBS, _OTHER_THINGS)


def is_about_handling(activity: str, *, contact_share: float | None) -> bool | None:
    """Whether a clip is about handling things; ``None`` where nothing tells.

    The activity decides where it has a word that does: one of handling goes before one of anything else, as in ``watch
    repair`` or ``cooking and talking``. Otherwise what the hands do decides.

    Args:
        activity: Free text of the clip, such as ``cooking``; empty where it has none.
        contact_share: :func:`contact_share` of the clip; ``None`` where nobody looked for hands.
    """
    words = set(re.findall(r"[a-z]+", activity.lower()))
    if words & _HANDLING:
        return True
    if words & _OTHER:
        return False
    return None if contact_share is None else contact_share >= MIN_CONTACT_SHARE


def contact_share(hands: HandObjectTracks | None) -> float | None:
    """Share of the frames in which a hand reaches, holds or lets go, 0-1; ``None`` without a frame to look at."""
    if hands is None or not hands.frame_index.size:
        return None
    both = zip(hands.left.states, hands.right.states, strict=True)
    busy = sum(any(state not in (None, "free") for state in states) for states in both)
    return busy / hands.frame_index.size
