"""``ego-assets similar``: clips that look like another."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ego_assets.terminal import STOPPED, USAGE, JsonOption, console, open_project, print_json, stop


def similar(
    clip: Annotated[str, typer.Argument(metavar="CLIP_ID", help="The clip to compare with.")],
    limit: Annotated[int, typer.Option(help="Clips to show at most.", min=1)] = 10,
    min_similarity: Annotated[
        float | None,
        typer.Option(help="Cosine similarity from which clips are shown, -1 to 1. Default: all."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the clips that look most like one, the most similar first; withdrawn clips are left out."""
    from ego_assets.labels.appearance import NEAR_DUPLICATE_SIMILARITY, SPACE
    from ego_assets.partitions import require_clip_id
    from resources.embeddings import EmbeddingIndex

    clip_id = require_clip_id(clip)
    if min_similarity is not None and not -1 <= min_similarity <= 1:
        stop(f"--min-similarity {min_similarity}: expected a number from -1 to 1.", USAGE)
    database = open_project().database
    database.clip(clip_id)
    index = EmbeddingIndex(database)
    found = index.get(clip_id)
    if found is None:
        stop(
            f"Clip {clip_id} has no embedding. Make it with `ego-assets run --clip {clip_id} --layer embeddings`; "
            "if the layer is there, `ego-assets reindex` brings its vector into the database.",
            STOPPED,
        )
    neighbours = index.nearest(
        found.embedding,
        limit=limit,
        min_similarity=-1.0 if min_similarity is None else min_similarity,
        leave_out=(clip_id,),
    )
    names = database.source_names(neighbour.clip_id for neighbour in neighbours)
    space = found.embedding.space
    # Measured in this space alone: in others nobody can tell yet.
    threshold = NEAR_DUPLICATE_SIMILARITY if space == SPACE else None
    if as_json:
        rows = [
            {
                "clip_id": neighbour.clip_id,
                "source_name": names[neighbour.clip_id],
                "similarity": round(neighbour.similarity, 4),
                "near_duplicate": None if threshold is None else neighbour.similarity >= threshold,
            }
            for neighbour in neighbours
        ]
        print_json({"clip_id": clip_id, "space": space, "similar": rows})
        return
    if not neighbours:
        console.print(f"No other clip with an embedding in the space {escape(space)} is that similar.")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("similarity", justify="right")
    table.add_column("may be a copy")
    table.add_column("clip", overflow="fold")
    for neighbour in neighbours:
        table.add_row(
            f"{neighbour.similarity:.3f}",
            "?" if threshold is None else "yes" if neighbour.similarity >= threshold else "",
            f"{escape(names[neighbour.clip_id])}\n{neighbour.clip_id}",
        )
    console.print(table)
    console.print(f"Cosine similarity in the space {escape(space)}; 1 is the same picture.")
    if threshold is not None:
        console.print(f"From {threshold:g} on a clip may be a copy of the same recording: look at both.")
