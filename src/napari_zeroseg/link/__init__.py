"""From labels of planes to objects of a volume: linking, ids, holes and specks, one plane in memory at a time."""

from __future__ import annotations

from napari_zeroseg.link.blocks import Block, BlockLabels, link_blocks
from napari_zeroseg.link.options import Branches, LinkOptions
from napari_zeroseg.link.planes import Linked, link_planes
from napari_zeroseg.link.sections import Linker, Links, join_links
from napari_zeroseg.link.solve import LinkedObject, Relabelling, solve
from napari_zeroseg.link.tidy import fill_holes, remove_specks

__all__ = [
    "Block",
    "BlockLabels",
    "Branches",
    "LinkOptions",
    "Linked",
    "LinkedObject",
    "Linker",
    "Links",
    "Relabelling",
    "fill_holes",
    "join_links",
    "link_blocks",
    "link_planes",
    "remove_specks",
    "solve",
]
