"""The completeness bitfield: which enrichment layers a clip has."""

from __future__ import annotations

from collections.abc import Iterable

from ego_assets.schema.layers import COMPLETENESS_BITS


def completeness_bit(layer: str) -> int:
    """The bit of one layer, as a mask.

    Raises:
        ValueError: The layer has no position in the bitfield.
    """
    if layer not in COMPLETENESS_BITS:
        raise ValueError(f"layer: expected one of {list(COMPLETENESS_BITS)}, got {layer!r}")
    return 1 << COMPLETENESS_BITS[layer]


def bitfield_of(layers: Iterable[str]) -> int:
    """The bitfield in which exactly these layers are set; raises as :func:`completeness_bit`."""
    bitfield = 0
    for layer in layers:
        bitfield |= completeness_bit(layer)
    return bitfield


def layers_in(bitfield: int) -> tuple[str, ...]:
    """The layers that are set, in the order of their positions.

    Raises:
        ValueError: A bit is set that belongs to no layer.
    """
    known = bitfield_of(COMPLETENESS_BITS)
    if bitfield & ~known:
        raise ValueError(f"bitfield: expected bits within {known:#b}, got {bitfield:#b}")
    ordered = sorted(COMPLETENESS_BITS, key=lambda layer: COMPLETENESS_BITS[layer])
    return tuple(layer for layer in ordered if bitfield & completeness_bit(layer))


def has_layer(bitfield: int, layer: str) -> bool:
    """Whether the layer is set; raises as :func:`completeness_bit`."""
    return bool(bitfield & completeness_bit(layer))
