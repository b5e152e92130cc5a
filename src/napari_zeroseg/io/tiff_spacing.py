"""The size of a pixel, from the four places where TIFF writers leave it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from napari_zeroseg.io.picture import MICROMETRE, SECOND, micrometres, positive, seconds

if TYPE_CHECKING:
    import tifffile

# Scanners and editors write the resolution for printing; only a microscope's is finer than 1270 dots an inch.
_COARSEST_TRUSTED = 20.0

Spacing = tuple[dict[str, float], dict[str, str]]


def tiff_spacing(tif: tifffile.TiffFile) -> Spacing:
    """Distance of neighbours along the axes, and its unit, from OME, ImageJ or the resolution tags.

    Parameters
    ----------
    tif : TiffFile
        An open file.

    Returns
    -------
    spacing : dict of str to float
        Micrometres for "X", "Y" and "Z", seconds for "T"; only what is known.
    units : dict of str to str
        "micrometer" or "second" for the same axes.
    """
    if tif.is_ome and tif.ome_metadata:
        found = _from_ome(tif.ome_metadata)
    elif tif.is_imagej and tif.imagej_metadata:
        found = _from_imagej(tif.imagej_metadata, tif.pages[0])
    elif tif.is_shaped and tif.shaped_metadata:
        found = _from_imagej(tif.shaped_metadata[0], tif.pages[0])
    else:
        found = {}
    if "X" not in found and not tif.is_ome:
        found |= _from_tags(tif.pages[0])
    spacing = {axis: step for axis, step in found.items() if step is not None}
    return spacing, {axis: SECOND if axis == "T" else MICROMETRE for axis in spacing}


def _from_ome(xml: str) -> dict[str, float | None]:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return {}
    pixels = root.find(".//{*}Image/{*}Pixels")
    if pixels is None:
        return {}
    found = {
        axis: micrometres(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "um"))
        for axis in "ZYX"
    }
    return {**found, "T": seconds(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s"))}


def _from_imagej(metadata: dict[str, Any], page: Any) -> dict[str, float | None]:
    unit = metadata.get("unit")
    found: dict[str, float | None] = {"T": seconds(metadata.get("finterval"), metadata.get("tunit", "s"))}
    if micrometres(1, unit) is None:
        return found
    found["Z"] = micrometres(metadata.get("spacing"), unit)
    for axis, tag in (("Y", "YResolution"), ("X", "XResolution")):
        found[axis] = micrometres(_step(page, tag), metadata.get(f"{axis.lower()}unit", unit))
    return found


def _from_tags(page: Any) -> dict[str, float | None]:
    tag = page.tags.get("ResolutionUnit")
    unit = {2: "inch", 3: "cm"}.get(2 if tag is None else int(tag.value))
    found: dict[str, float | None] = {}
    for axis, name in (("Y", "YResolution"), ("X", "XResolution")):
        found[axis] = micrometres(_step(page, name), unit)
    steps = list(found.values())
    return found if all(step is not None and step < _COARSEST_TRUSTED for step in steps) else {}


def _step(page: Any, name: str) -> float | None:
    """Units per pixel, from a tag that holds (numerator, denominator) of pixels per unit.

    Two whole numbers of 32 bits may stand for a rounder one, which seven digits tell.
    """
    tag = page.tags.get(name)
    try:
        numerator, denominator = tag.value
        return positive(f"{denominator / numerator:.7g}")
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return None
