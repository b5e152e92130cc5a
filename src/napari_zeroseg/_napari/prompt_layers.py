"""The layers that go with an image: made at first use, shared features, marks taken out and put back. No Qt."""

from __future__ import annotations

import datetime
import math
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from napari.layers import Labels, Points, Shapes
from napari.utils.notifications import show_info
from numpy.typing import DTypeLike, NDArray

from napari_zeroseg._napari.layers import (
    CLASS,
    NEGATIVE,
    OBJECT,
    POSITIVE,
    SCORE,
    SIGN,
    TEXT,
    data_shape,
)
from napari_zeroseg.io.label_zarr import editable_labels
from napari_zeroseg.settings import Settings

if TYPE_CHECKING:
    from napari.layers import Image, Layer

SIGN_COLOURS = {POSITIVE: "#2ecc71", NEGATIVE: "#ff4d4d"}
OUTLINE = "#38bdf8"

IMAGE_OF = "napari-zeroseg image"
"""Metadata of a Labels layer: unique id of the image that it was made for, or was last used with."""


def placement(image: Layer) -> dict[str, Any]:
    """Say where a layer must lie to share the image's pixels, as keywords of napari's layers."""
    return {
        "scale": image.scale,
        "translate": image.translate,
        "rotate": image.rotate,
        "shear": image.shear,
        "affine": image.affine,
        "units": image.units,
        "axis_labels": image.axis_labels,
    }


def new_points(image: Image) -> Points:
    """Make an empty Points layer over an image, whose points carry `sign` and `object`."""
    return Points(
        ndim=image.ndim,
        name=f"{image.name} – points",
        features={SIGN: np.array([], dtype=object), OBJECT: np.array([], dtype=int)},
        feature_defaults={SIGN: POSITIVE, OBJECT: 1},
        face_color=SIGN,
        face_color_cycle=SIGN_COLOURS,
        # The ring too: at a small size napari draws hardly anything else.
        border_color=SIGN,
        border_color_cycle=SIGN_COLOURS,
        # Small enough to leave a mitochondrion to be seen below it.
        size=_mark_size(image) / 2,
        canvas_size_limits=(7, 11),
        **placement(image),
    )


def new_shapes(image: Image) -> Shapes:
    """Make an empty Shapes layer over an image, whose shapes carry `object` and `text`."""
    return Shapes(
        ndim=image.ndim,
        name=f"{image.name} – shapes",
        features={OBJECT: np.array([], dtype=int), TEXT: np.array([], dtype=object)},
        feature_defaults={OBJECT: 1, TEXT: ""},
        edge_color=OUTLINE,
        face_color="transparent",
        edge_width=_mark_size(image) / 3,
        **placement(image),
    )


def new_labels(image: Image, what: str = "labels", dtype: DTypeLike = np.uint16) -> Labels:
    """Make an empty Labels layer of the image's shape; `what` it holds is part of its name.

    Labels that would take more than an eighth of the memory lie on disk, as OME-Zarr in the user's data folder, and
    what is drawn is written there at once.

    Raises
    ------
    WriteError
        If there is no room on disk.
    """
    shape, kind = data_shape(image), np.dtype(dtype)
    # 16 bit: napari draws it three times as fast as wider integers, and 65535 objects are seldom too few.
    data: Any = None
    if math.prod(shape) * kind.itemsize <= in_memory():
        with suppress(MemoryError):
            data = np.zeros(shape, kind)
    if data is None:
        path = _file_for(image, what)
        data = editable_labels(path, shape, kind, *_steps(image))
        show_info(f"The labels of '{image.name}' are large, so they lie on disk: {path}")
    made = Labels(data, name=label_name(image, what), opacity=0.5, **placement(image))
    made.metadata[IMAGE_OF] = image.unique_id
    return made


def label_name(image: Image, what: str) -> str:
    """Name of a layer that holds `what` of an image."""
    return f"{image.name} – {what}"


def in_memory() -> int:
    """Bytes of labels that are held in memory: with more of them, the picture itself would have no room."""
    return int(psutil.virtual_memory().total // 8)


def _steps(image: Image) -> tuple[list[float], str]:
    """Distances of an image's pixels in micrometres, or in whatever they are in where that is no length."""
    try:
        return [
            float((step * unit).to("micrometer").magnitude) for step, unit in zip(image.scale, image.units, strict=True)
        ], "micrometer"
    except (AttributeError, TypeError):  # no units, or pixels
        return [float(step) for step in image.scale], ""


def _file_for(image: Image, what: str) -> Path:
    """A new name in the data folder."""
    home = Settings.from_environment().data_dir / "labels"
    name = re.sub(r"[^\w.-]+", "_", f"{image.name}-{what}").strip("_.")[:80] or "labels"
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    tries = (home / f"{name}-{stamp}{suffix}.ome.zarr" for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
    return next(path for path in tries if not path.exists())


def adopt_points(layer: Points) -> None:
    """Give points that were made elsewhere a sign and an object, and the colours that show the sign."""
    missing = {name: value for name, value in ((SIGN, POSITIVE), (OBJECT, 1)) if name not in layer.features}
    if missing:
        layer.features = layer.features.assign(**missing)
        layer.feature_defaults = {**_defaults(layer), **missing}
        if SIGN in missing and len(layer.data):
            layer.face_color_cycle = SIGN_COLOURS
            layer.face_color = SIGN


def adopt_shapes(layer: Shapes) -> None:
    """Give shapes that were made elsewhere an object: each its own where they say of which class it is."""
    if OBJECT not in layer.features:
        count = len(layer.data)
        layer.features = layer.features.assign(**{OBJECT: range(1, count + 1) if CLASS in layer.features else 1})
        layer.feature_defaults = {**_defaults(layer), OBJECT: 1}


def give_classes(layer: Shapes) -> None:
    """Let shapes say of which class their object is, and how sure that is; "" and NaN say nothing."""
    count = len(layer.data)
    values = {CLASS: np.full(count, "", object), SCORE: np.full(count, math.nan)}
    missing = {name: value for name, value in values.items() if name not in layer.features}
    if CLASS not in missing and layer.features[CLASS].dtype != object:  # numbers so far, and names are to come
        missing[CLASS] = np.array(layer.features[CLASS].astype(object), object)
    if missing:
        defaults = {CLASS: "", SCORE: math.nan, **_defaults(layer)}
        layer.features = layer.features.assign(**missing)
        layer.feature_defaults = {**_defaults(layer), **defaults}


def set_text(layer: Shapes, text: str) -> int:
    """Write what is to be looked for inside the selected shapes, or the newest one; return how many there are."""
    rows = sorted(layer.selected_data) or [len(layer.data) - 1] * bool(len(layer.data))
    texts = list(layer.features[TEXT]) if TEXT in layer.features else [""] * len(layer.data)
    for row in rows:
        texts[row] = text
    if rows:
        layer.features = layer.features.assign(**{TEXT: np.array(texts, dtype=object)})
    return len(rows)


def set_next(layer: Points | Shapes, **values: object) -> None:
    """Set features of the mark that is made next; those that are there keep theirs."""
    layer.feature_defaults = {**_defaults(layer), **values}
    if isinstance(layer, Points) and SIGN in values and layer.face_color_mode == "direct":
        # Without a cycle the colour does not follow the feature by itself.
        with layer.block_update_properties():
            layer.current_face_color = SIGN_COLOURS[str(values[SIGN])]


def next_value(layer: Points | Shapes, name: str, default: object) -> object:
    """Feature of the mark that is made next."""
    return _defaults(layer).get(name, default)


def _defaults(layer: Points | Shapes) -> dict[str, Any]:
    return {str(name): layer.feature_defaults[name].iloc[0] for name in layer.feature_defaults}


@dataclass(frozen=True, eq=False)
class Taken:
    """Points or shapes that were taken out of their layer, with all that is needed to put them back."""

    layer: Points | Shapes
    data: list[NDArray[Any]]
    kinds: list[str]
    features: Any

    def put_back(self) -> None:
        """Add the marks to their layer again, as they were."""
        add(self.layer, self.data, self.kinds, self.features)


def add(layer: Points | Shapes, data: list[NDArray[Any]], kinds: list[str], features: Any) -> None:
    """Add marks to their layer.

    Parameters
    ----------
    layer : Points or Shapes
    data : list of array
        Coordinates of each mark.
    kinds : list of str
        Of shapes, as napari has them.
    features : mapping of str to array_like
        One value a mark; those that the layer does not have are left out.
    """
    before = len(layer.data)
    if isinstance(layer, Shapes):
        layer.add(data, shape_type=kinds)
    else:
        layer.add(np.stack(data))
    table = layer.features.copy()
    for name in table:
        if name in features:
            values = np.asarray(features[name])
            try:
                table.iloc[before:, table.columns.get_loc(name)] = values
            except (TypeError, ValueError):  # signs may be numbers or categories in a layer made elsewhere
                table[name] = table[name].astype(object)
                table.iloc[before:, table.columns.get_loc(name)] = values
    layer.features = table
    layer.selected_data = set()
    layer.refresh_colors()


def take(layer: Points | Shapes, rows: list[int]) -> Taken:
    """Take marks out of their layer."""
    kinds = [str(layer.shape_type[i]) for i in rows] if isinstance(layer, Shapes) else []
    taken = Taken(layer, [np.array(layer.data[i]) for i in rows], kinds, layer.features.iloc[rows].copy())
    layer.selected_data = set(rows)
    layer.remove_selected()
    return taken


def _mark_size(image: Image) -> float:
    """Size of a point in pixels of the data: visible in the whole picture, small beside an object."""
    return max(1.0, max(data_shape(image)[-2:]) / 128)
