"""The prompts that models are asked with for captions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from ego_assets.schema.errors import ConfigurationError

#: Stands for what the other layers found, in a prompt that wants to tell the model.
FACTS = "{facts}"

#: Words that a caption should have (collection guide, step 4).
FEWEST_WORDS, MOST_WORDS = 15, 30


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a model is asked.

    Attributes:
        name: Short name, as captions record it.
        text: The request; ``{facts}`` in it is replaced by a sentence of what the other layers found.
    """

    name: str
    text: str

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.text.strip():
            raise ValueError(f"name, text: expected words, got {self.name!r}, {self.text!r}")

    @property
    def wants_facts(self) -> bool:
        """Whether the request tells what other layers found."""
        return FACTS in self.text

    def fill(self, facts: str) -> str:
        """The request about one picture."""
        return self.text.replace(FACTS, facts)


#: The collection guide's prompt (step 4), and what is asked when its answer is refused.
DEFAULT_PROMPTS = (
    Prompt(
        name="guide",
        text=(
            "Describe what the person wearing the camera is doing in this frame. Include objects being manipulated, "
            "the action being performed, and the environment. Be specific and concise "
            f"({FEWEST_WORDS}-{MOST_WORDS} words)."
        ),
    ),
    Prompt(
        name="plain",
        text=(
            "This picture was taken by a camera on somebody's head or chest. In one sentence of "
            f"{FEWEST_WORDS} to {MOST_WORDS} words, say what that person does with which objects, and in what kind of "
            "place. Write only what the picture shows, without guessing at what is hidden or blurred."
        ),
    ),
    Prompt(
        name="with_facts",
        text=(
            f"A wearable camera took this picture. Measurements say: {FACTS} They can be wrong: trust the picture "
            f"where it differs. Answer with one sentence of {FEWEST_WORDS} to {MOST_WORDS} words about the wearer's "
            "action, the objects involved and the surroundings, and with nothing else."
        ),
    ),
)


def shipped_prompts(names: Iterable[str]) -> tuple[Prompt, ...]:
    """Those of :data:`DEFAULT_PROMPTS` that are named, in their order."""
    wanted = set(names)
    return tuple(prompt for prompt in DEFAULT_PROMPTS if prompt.name in wanted)


def parse_prompts(content: object, *, source: str) -> tuple[Prompt, ...]:
    """Prompts from what a YAML file holds: a list of texts, or of mappings with ``name`` and ``text``.

    A text without a name is named by the first digits of its digest.

    Args:
        content: The parsed file.
        source: Its name, for messages.

    Raises:
        ConfigurationError: It is something else, or a name occurs twice.
    """
    if not isinstance(content, list) or not content:
        raise ConfigurationError(f"{source}: expected a list of prompts, got {content!r:.200}.")
    prompts = tuple(_prompt(item, where=f"{source}, prompt {place}") for place, item in enumerate(content, 1))
    names = [prompt.name for prompt in prompts]
    if len(set(names)) < len(names):
        raise ConfigurationError(
            f"{source}: expected a name for each prompt, each once, got {', '.join(names)}."
        )
    return prompts


def _prompt(item: object, *, where: str) -> Prompt:
    if isinstance(item, str) and item.strip():
        return Prompt(name=hashlib.sha256(item.encode()).hexdigest()[:8], text=item.strip())
    if isinstance(item, dict) and set(item) == {"name", "text"}:
        name, text = item["name"], item["text"]
        if isinstance(name, str) and isinstance(text, str) and name.strip() and text.strip():
            return Prompt(name=name.strip(), text=text.strip())
    raise ConfigurationError(f"{where}: expected a text, or name and text, got {item!r:.200}.")
