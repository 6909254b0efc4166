"""``ego-assets similar``: clips that look like another, or like words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ego_assets.settings import same_profile_command
from ego_assets.terminal import (
    STOPPED,
    USAGE,
    JsonOption,
    ProfileOption,
    console,
    open_project,
    print_json,
    stop,
)

if TYPE_CHECKING:
    from ego_assets.project import Project
    from ego_assets.schema.embeddings import Embedding
    from resources.embeddings import EmbeddingIndex


def similar(
    clip: Annotated[str, typer.Argument(metavar="[CLIP_ID]", help="The clip to compare with.")] = "",
    text: Annotated[
        str, typer.Option(help="Words to compare with, instead of a clip: 'a person pours water'.")
    ] = "",
    limit: Annotated[int, typer.Option(help="Clips to show at most.", min=1)] = 10,
    min_similarity: Annotated[
        float | None,
        typer.Option(help="Cosine similarity from which clips are shown, -1 to 1. Default: all."),
    ] = None,
    profile: ProfileOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show the clips that look most like one, or like words, the most similar first; withdrawn clips are left out."""
    from ego_assets.labels.appearance import NEAR_DUPLICATE_SIMILARITY, SPACE
    from ego_assets.partitions import require_clip_id
    from resources.embeddings import EmbeddingIndex

    text = text.strip()
    if bool(clip) == bool(text):
        stop("Expected either a CLIP_ID or --text with words.", USAGE)
    clip_id = require_clip_id(clip) if clip else ""
    if min_similarity is not None and not -1 <= min_similarity <= 1:
        stop(f"--min-similarity {min_similarity}: expected a number from -1 to 1.", USAGE)
    project = open_project(profile)
    index = EmbeddingIndex(project.database)
    embedding = _of_clip(project, index, clip_id) if clip else _of_text(project, index, text)
    neighbours = index.nearest(
        embedding,
        limit=limit,
        min_similarity=-1.0 if min_similarity is None else min_similarity,
        leave_out=(clip_id,) if clip else (),
    )
    names = project.database.source_names(neighbour.clip_id for neighbour in neighbours)
    space = embedding.space
    # Measured in this space, between clips, alone: in others nobody can tell yet.
    threshold = NEAR_DUPLICATE_SIMILARITY if clip and space == SPACE else None
    if as_json:
        rows: list[dict[str, Any]] = []
        for neighbour in neighbours:
            row = {
                "clip_id": neighbour.clip_id,
                "source_name": names[neighbour.clip_id],
                "similarity": round(neighbour.similarity, 4),
            }
            if clip:
                row["near_duplicate"] = None if threshold is None else neighbour.similarity >= threshold
            rows.append(row)
        print_json({**({"clip_id": clip_id} if clip else {"text": text}), "space": space, "similar": rows})
        return
    if not neighbours:
        console.print(
            f"No {'other ' if clip else ''}clip with an embedding in the space {escape(space)} is that similar."
        )
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("similarity", justify="right")
    if clip:
        table.add_column("may be a copy")
    table.add_column("clip", overflow="fold")
    for neighbour in neighbours:
        copy = "?" if threshold is None else "yes" if neighbour.similarity >= threshold else ""
        table.add_row(
            f"{neighbour.similarity:.3f}",
            *([copy] if clip else []),
            f"{escape(names[neighbour.clip_id])}\n{neighbour.clip_id}",
        )
    console.print(table)
    if not clip:
        console.print(
            f"Cosine similarity in the space {escape(space)}. Between words and pictures even good matches stay far "
            "below 1: what counts is the order."
        )
        return
    console.print(f"Cosine similarity in the space {escape(space)}; 1 is the same picture.")
    if threshold is not None:
        console.print(f"From {threshold:g} on a clip may be a copy of the same recording: look at both.")


def _of_clip(project: Project, index: EmbeddingIndex, clip_id: str) -> Embedding:
    """What is stored of a clip."""
    project.database.clip(clip_id)
    found = index.get(clip_id)
    if found is None:
        make = same_profile_command(f"run --clip {clip_id} --layer embeddings", project.settings)
        stop(
            f"Clip {clip_id} has no embedding. Make it with `{make}`; if the layer is there, `ego-assets reindex` "
            "brings its vector into the database.",
            STOPPED,
        )
    return found.embedding


def _of_text(project: Project, index: EmbeddingIndex, text: str) -> Embedding:
    """The vector of words by the embeddings backend of the profile, in whose space clips have to lie."""
    from ego_assets.schema.embeddings import Embedding

    embedder = project.services.models.ladder("embeddings")[0].open()
    profile = project.settings.profile
    stored = index.spaces()
    if embedder.embeds_text and embedder.space in stored:
        return Embedding(embedder.space, embedder.embed_texts([text])[0])
    others = [f"{space} ({count})" for space, count in sorted(stored.items()) if space != embedder.space]
    if embedder.embeds_text:
        why = f"No clip has an embedding in the space {embedder.space} of the profile {profile!r}."
        make = f"`{same_profile_command('run --layer embeddings --again', project.settings)}`"
    else:
        why = f"The embeddings backend {embedder.info.backend} of the profile {profile!r} reads no words."
        make = (
            "`ego-assets run --layer embeddings --again --profile P`, P naming a backend that reads words, such as "
            "open_clip"
        )
    if others:
        stop(
            f"{why} There are embeddings in other spaces: {', '.join(others)}. Name the profile of the run that made "
            f"them with --profile. Only where you want others, make them anew: {make}.",
            STOPPED,
        )
    stop(f"{why} Make embeddings: {make}.", STOPPED)
