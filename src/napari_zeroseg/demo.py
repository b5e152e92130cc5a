"""`zeroseg demo`: the main job on real input, with pictures to look at and figures where the truth is known."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.color import label2rgb
from skimage.segmentation import find_boundaries

from napari_zeroseg import metrics
from napari_zeroseg.embeddings import default_store
from napari_zeroseg.errors import InputError, WriteError
from napari_zeroseg.intensity import to_uint8
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.sample_files import chest_radiograph
from napari_zeroseg.io.write import write_labels
from napari_zeroseg.phantom import em_like_stack
from napari_zeroseg.planes import Planes, check_picture
from napari_zeroseg.prompts import Prompt
from napari_zeroseg.provenance import write_json
from napari_zeroseg.segmenter import Prediction, Segmenter
from napari_zeroseg.stack import PlaneReport, Prompts, StackOptions, segment_stack
from napari_zeroseg.view import View

LUNG_BOXES = ((110.0, 150.0, 1490.0, 810.0), (110.0, 990.0, 1500.0, 1690.0))
"""(row0, column0, row1, column1) around both lungs of the sample radiograph, drawn by hand."""

EM_PLANES = 6
_SMALLEST_OBJECT = 60
_GRID = 4
_GOOD_SCORE = 0.85


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture with its prompts, and its truth where that is known.

    Attributes
    ----------
    name : str
        Start of the names of its files.
    title : str
    planes : Planes
    limits : tuple of float, optional
        (black, white) in pixel values.
    prompts : Prompts
    truth : (Z, H, W) int32 array, optional
        Same labels as the prompts have.
    source : Path, optional
        The file, where there is one.
    spacing, units : dict
        As in :class:`Picture`.
    """

    name: str
    title: str
    planes: Planes
    limits: tuple[float, float] | None
    prompts: Prompts
    truth: NDArray[np.int32] | None = None
    source: Path | None = None
    spacing: dict[str, float] | None = None
    units: dict[str, str] | None = None


def samples() -> list[Sample]:
    """Return the radiograph with a box for each lung, and the EM-like stack with a click in each mitochondrion."""
    return [radiograph(), em_like()]


def radiograph() -> Sample:
    """Return the chest radiograph of pydicom-data with a box for each lung."""
    path = chest_radiograph()
    picture = open_image(path)
    prompts = [Prompt(box=box) for box in LUNG_BOXES]
    limits = picture.metadata.get("contrast_limits")
    return Sample(
        "chest",
        "Chest radiograph, two boxes",
        picture.planes(),
        limits,
        prompts,
        None,
        path,
        picture.spacing,
        picture.units,
    )


def em_like() -> Sample:
    """Return the generated stack with one click in the middle of each mitochondrion of each plane."""
    raw, truth = em_like_stack(EM_PLANES)
    prompts: dict[int, list[Prompt]] = {}
    numbered = np.zeros_like(truth)
    last = 0
    for z, plane in enumerate(truth):
        prompts[z] = []
        for label in np.unique(plane[plane > 0]):
            inside = plane == label
            if np.count_nonzero(inside) < _SMALLEST_OBJECT:
                continue
            depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
            last += 1
            numbered[z][inside] = last
            prompts[z].append(Prompt(points=[np.unravel_index(depth.argmax(), depth.shape)]))
    return Sample("em", "Generated EM-like stack, one click an object", Planes.of(raw), None, prompts, numbered)


def own(path: Path, model: Segmenter) -> Sample:
    """Return the user's picture (of a stack, its middle plane) with those clicks of a grid that found something."""
    picture = open_image(path)
    series = picture.planes()
    middle = len(series) // 2
    plane = series.read(middle)
    check_picture(plane)
    given = picture.metadata.get("contrast_limits")
    limits = None if given is None else (float(given[0]), float(given[1]))
    view = View(model, to_uint8(plane, limits), default_store())
    height, width = view.shape
    grid = [
        Prompt(points=[((i + 0.5) * height / _GRID - 0.5, (j + 0.5) * width / _GRID - 0.5)])
        for i in range(_GRID)
        for j in range(_GRID)
    ]
    return Sample(
        picture.name or "picture",
        f"{path.name}, plane {middle}, clicks of a grid",
        series,
        limits,
        {middle: _distinct(view, grid)},
        None,
        path,
        picture.spacing,
        picture.units,
    )


def _trust(prediction: Prediction) -> float:
    return float(prediction.scores[prediction.best])


def _distinct(view: View, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Keep the prompts whose masks are trusted and do not overlap a better one; at least the best."""
    predictions = view.predict(prompts, multimask=True)
    ranked = sorted(range(len(prompts)), key=lambda i: -_trust(predictions[i]))
    taken = np.zeros(view.shape, bool)
    kept: list[Prompt] = []
    for i in ranked:
        rows, columns, mask = predictions[i].patch()
        overlap = np.count_nonzero(taken[rows, columns] & mask)
        if kept and (_trust(predictions[i]) < _GOOD_SCORE or overlap > 0.1 * np.count_nonzero(mask)):
            continue
        taken[rows, columns] |= mask
        kept.append(prompts[i])
    return kept


def run(file: Path | None, out: Path, model: Segmenter) -> dict[str, Any]:
    """Segment the samples, or the user's own picture, and write labels, an overlay and a report into `out`.

    Parameters
    ----------
    file : Path, optional
        The user's own picture.
    out : Path
        Folder; made if it is not there.
    model : Segmenter

    Returns
    -------
    dict
        The report, ready for JSON.

    Raises
    ------
    ReadError, InputError, WriteError
    """
    out = out.expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"The folder {out} cannot be made ({error.strerror}): choose another with --out.") from error
    todo = samples() if file is None else [own(file.expanduser(), model)]
    report = {"model": model.model_key, "samples": [_segment(sample, out, model) for sample in todo]}
    write_json(out / "report.json", report)
    return {**report, "report": str(out / "report.json")}


def _segment(sample: Sample, out: Path, model: Segmenter) -> dict[str, Any]:
    reports: list[PlaneReport] = []
    start = time.perf_counter()
    labels = segment_stack(
        sample.planes,
        model,
        sample.prompts,
        options=StackOptions(sample.limits),
        store=default_store(),
        progress=reports.append,
    )
    seconds = time.perf_counter() - start
    if not reports or all(report.fault for report in reports):
        raise InputError(reports[0].fault if reports else "There is no plane to segment: check the picture.")
    label_file = write_labels(
        out / f"{sample.name}_labels.tif", labels if len(labels) > 1 else labels[0], sample.spacing, sample.units
    )
    plane = max(reports, key=lambda report: len(report.objects)).plane
    overlay_file = out / f"{sample.name}_overlay.png"
    _save(overlay(sample, labels[plane], plane), overlay_file)
    told: dict[str, Any] = {
        "title": sample.title,
        "objects": sum(len(report.objects) for report in reports),
        "planes": len(reports),
        "seconds": round(seconds, 2),
        "labels": str(label_file),
        "overlay": str(overlay_file),
    }
    if sample.truth is not None:
        scores = [
            metrics.iou(labels[report.plane] == item.label, sample.truth[report.plane] == item.label)
            for report in reports
            for item in report.objects
        ]
        told |= {"mean_iou": round(float(np.mean(scores)), 3), "worst_iou": round(min(scores), 3)}
    return told


def overlay(sample: Sample, labels: NDArray[np.int32], plane: int) -> Image.Image:
    """Draw labels in colour, their outlines and the prompts of one plane over the picture, (H, W, 3) uint8."""
    picture = to_uint8(sample.planes.read(plane), sample.limits)
    coloured = label2rgb(labels, picture, alpha=0.35, bg_label=0)
    coloured[find_boundaries(labels, mode="inner")] = (1.0, 0.85, 0.2)
    image = Image.fromarray(np.rint(coloured * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    size = max(2, max(picture.shape[:2]) // 200)
    prompts = sample.prompts[plane] if isinstance(sample.prompts, dict) else sample.prompts
    for prompt in prompts:
        assert isinstance(prompt, Prompt)
        if prompt.box is not None:
            r0, c0, r1, c1 = prompt.box
            draw.rectangle((c0, r0, c1, r1), outline=(0, 220, 255), width=size)
        for row, column in prompt.points:
            draw.ellipse((column - size, row - size, column + size, row + size), fill=(60, 255, 90), outline="black")
    return image


def _save(image: Image.Image, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        image.save(temporary, format="PNG")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise WriteError(f"{path} could not be written ({error}): make room or choose another --out.") from error


def as_text(report: dict[str, Any]) -> str:
    """Tell a report in a few lines."""
    lines = []
    for sample in report["samples"]:
        found = f"{sample['title']}: {sample['objects']} objects on {sample['planes']} plane(s), {sample['seconds']} s"
        if "mean_iou" in sample:
            found += f", mean IoU {sample['mean_iou']:.3f} (worst {sample['worst_iou']:.3f})"
        lines += [found, f"  labels   {sample['labels']}", f"  overlay  {sample['overlay']}"]
    return "\n".join([*lines, f"Report: {report['report']}"])


def show(sample: Sample) -> None:
    """Open napari with the dock, the layers and the prompts of a sample in place; returns when it is closed.

    Raises
    ------
    InputError
        If napari or a Qt binding is missing.
    """
    if importlib.util.find_spec("napari") is None:
        raise InputError("napari is not installed: run `pip install napari-zeroseg[all]`, or leave --gui out.")
    importlib.import_module("napari_zeroseg._napari.show").show(sample)
