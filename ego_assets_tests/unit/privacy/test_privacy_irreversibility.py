"""A redacted face is no closer to its original than to other faces; see the benchmark for more faces and sizes."""

from __future__ import annotations

from functools import lru_cache

import pytest

from benchmarks import _privacy_irreversibility as irreversibility
from ego_assets.privacy.config import PrivacyConfig
from ego_assets.privacy.redaction import RedactionStyle

FACES = irreversibility.packaged_faces(40)
STYLES = {method: PrivacyConfig(method=method).style for method in ("blur", "pixelate", "solid")}
#: Sides in pixels, from the smallest face that is looked for to half the height of a 4K picture.
SIZES = (24, 48, 240, 1080)
JUDGED = (*irreversibility.MATCHERS, "same redaction")


@lru_cache
def results(
    style: RedactionStyle | None, size: int, clipped_share: float = 0.0, coded: bool = False
) -> dict[str, irreversibility.Identification]:
    return irreversibility.identify(FACES, size=size, style=style, clipped_share=clipped_share, coded=coded)


def pooled(
    style: RedactionStyle | None, sizes: tuple[int, ...], matcher: str, **settings: float | bool
) -> irreversibility.Identification:
    return irreversibility.pooled([results(style, size, **settings)[matcher] for size in sizes])


@pytest.mark.parametrize("matcher", JUDGED)
@pytest.mark.parametrize("method", STYLES)
def test_a_redacted_face_is_found_no_more_often_than_by_lot(method: str, matcher: str) -> None:
    found = pooled(STYLES[method], SIZES, matcher)
    assert found.trials == 160
    assert found.hits <= found.limit < 20
    # Three standard errors of the mean rank of 160 drawn by lot.
    assert found.mean_rank > 0.5 - 3 * 0.289 / 160**0.5


@pytest.mark.parametrize("method", STYLES)
def test_the_same_holds_at_every_single_size(method: str) -> None:
    for size in SIZES:
        for matcher in JUDGED:
            found = results(STYLES[method], size)[matcher]
            assert found.hits <= found.limit, (size, matcher, found)


@pytest.mark.parametrize("settings", [{"coded": True}, {"clipped_share": 0.5}, {"clipped_share": 0.7}])
@pytest.mark.parametrize("method", STYLES)
def test_coding_and_the_edge_of_the_picture_change_nothing(method: str, settings: dict[str, float]) -> None:
    for matcher in JUDGED:
        found = pooled(STYLES[method], (48, 240), matcher, **settings)
        assert found.hits <= found.limit, (matcher, found)
        assert found.mean_rank > 0.5 - 3 * 0.289 / 80**0.5, (matcher, found)


@pytest.mark.parametrize("matcher", irreversibility.BRIGHTNESS_MATCHERS)
def test_solid_hides_the_brightness_too(matcher: str) -> None:
    found = pooled(STYLES["solid"], SIZES, matcher)
    assert found.hits <= found.limit
    assert found.mean_rank == pytest.approx(0.5)


@pytest.mark.parametrize("matcher", JUDGED)
def test_the_matchers_find_what_is_not_redacted(matcher: str) -> None:
    found = pooled(None, (24, 240), matcher)
    assert found.hits >= 0.95 * found.trials
    clipped = pooled(None, (240,), matcher, clipped_share=0.5)
    assert clipped.hits >= 0.95 * clipped.trials


@pytest.mark.parametrize("matcher", ["correlation", "low-pass correlation", "same redaction"])
def test_the_matchers_find_what_is_blurred_too_little(matcher: str) -> None:
    found = pooled(RedactionStyle(sigma_per_size=0.25), (96, 240), matcher)
    assert found.hits > found.limit
    assert found.mean_rank < 0.3
