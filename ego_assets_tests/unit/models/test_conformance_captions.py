"""What every caption backend must do, those behind an endpoint included."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ego_assets.labels.prompts import DEFAULT_PROMPTS
from ego_assets.schema.captions import CaptionAnswer, Captioner, CaptionRequest, SceneFacts
from ego_assets.schema.frames import ClipFrame
from ego_assets_tests.caption_server import caption_server
from ego_assets_tests.checkpoints import small_backend
from resources.captioner import EndpointOptions, endpoint_ladder
from resources.models.backends import BACKENDS

FACTS = SceneFacts(
    hands={"right": {"state": "grasp", "category": "tool"}},
    objects={"container": 2},
    activity="manipulating",
    camera="still",
    location="kitchen",
)


@pytest.fixture(scope="module", params=[*sorted(BACKENDS["captions"]), "endpoint"])
def captioner(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Captioner]:
    if request.param == "endpoint":
        with caption_server() as server:
            options = EndpointOptions(base_url=server.base_url)
            yield endpoint_ladder(options, models=["m"], prompts=DEFAULT_PROMPTS)[0].open()
        return
    yield small_backend("captions", request.param, tmp_path_factory.mktemp("models"))


def ask(
    width: int, height: int, *, index: int = 0, level: int = 128, facts: SceneFacts = FACTS
) -> CaptionRequest:
    image = np.full((height, width, 3), level, np.uint8)
    image[: height // 2, : width // 2, 1] = level // 2
    return CaptionRequest(frame=ClipFrame(index, index * 2_000_000_000, image), facts=facts)


def expect_answers(answers: list[CaptionAnswer], count: int) -> None:
    assert len(answers) == count
    for answer in answers:
        assert isinstance(answer, CaptionAnswer)
        assert answer.text == answer.text.strip() and "\n" not in answer.text
        assert answer.prompt_tokens >= 0 and answer.completion_tokens >= 0


def test_says_who_it_is(captioner: Captioner) -> None:
    assert isinstance(captioner, Captioner)
    assert captioner.info.task == "captions" and captioner.info.backend and captioner.info.model
    assert captioner.source in ("model", "template")


def test_nothing_asked_nothing_answered(captioner: Captioner) -> None:
    assert captioner.caption([]) == []


@pytest.mark.parametrize(("width", "height"), [(640, 360), (321, 179), (16, 16), (90, 160), (1, 1), (500, 3)])
def test_any_size(captioner: Captioner, width: int, height: int) -> None:
    expect_answers(captioner.caption([ask(width, height)]), 1)


def test_black_frames_and_no_facts(captioner: Captioner) -> None:
    expect_answers(captioner.caption([ask(320, 180, level=0, facts=SceneFacts())]), 1)


def test_calls_are_repeatable_and_independent(captioner: Captioner) -> None:
    many = [ask(320, 180, index=index, level=40 * index) for index in range(5)]
    together = captioner.caption(many)
    expect_answers(together, 5)
    assert captioner.caption(many) == together
    assert [captioner.caption([one])[0] for one in many] == together


def test_pictures_are_left_as_they_were(captioner: Captioner) -> None:
    asked = ask(320, 180)
    before = asked.frame.image.copy()
    captioner.caption([asked])
    assert np.array_equal(asked.frame.image, before)
