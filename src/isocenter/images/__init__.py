"""Voxels with geometry: the only room that knows file formats. Everything is loaded on first use.

World coordinates are RAS+ millimetres; arrays are (channel, z, y, x) or (channel, y, x).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isocenter.images.geometry import Geometry
    from isocenter.images.image import Image
    from isocenter.images.reading import (
        is_segmentation,
        modality,
        read,
        read_channels,
        read_geometry,
        read_labels,
        segments,
    )
    from isocenter.images.sources import (
        SUFFIXES,
        find,
        find_signals,
        holds_several,
        is_source,
        reachable,
        stem,
    )
    from isocenter.images.writing import write

__all__ = [
    "SUFFIXES",
    "Geometry",
    "Image",
    "find",
    "find_signals",
    "holds_several",
    "is_segmentation",
    "is_source",
    "modality",
    "reachable",
    "read",
    "read_channels",
    "read_geometry",
    "read_labels",
    "segments",
    "stem",
    "write",
]

_HOME = {
    "Geometry": "geometry",
    "Image": "image",
    "is_segmentation": "reading",
    "modality": "reading",
    "read": "reading",
    "read_channels": "reading",
    "read_geometry": "reading",
    "read_labels": "reading",
    "segments": "reading",
    "SUFFIXES": "sources",
    "find": "sources",
    "find_signals": "sources",
    "holds_several": "sources",
    "is_source": "sources",
    "reachable": "sources",
    "stem": "sources",
    "write": "writing",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
