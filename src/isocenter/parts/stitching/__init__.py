"""A network that sees a tile at a time, applied to a whole image: cut, run, weigh, add."""

from __future__ import annotations

from isocenter.parts.stitching.tiles import stitch, tile_starts, tile_weights

__all__ = ["stitch", "tile_starts", "tile_weights"]
