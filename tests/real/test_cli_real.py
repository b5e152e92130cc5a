"""`zeroseg segment` on real pictures: a TIFF stack, 16-bit TEM and a radiograph in DICOM."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from skimage.measure import label, regionprops

from napari_zeroseg.cli import main
from napari_zeroseg.demo import LUNG_BOXES
from napari_zeroseg.errors import ReadError
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.sample_files import chest_radiograph
from napari_zeroseg.metrics import iou

pytestmark = pytest.mark.real

SMALLEST = 300


def test_mitochondria_of_a_stack_by_boxes(shared, tmp_path):
    truth = tifffile.imread(shared / "data" / "em_vnc" / "mitochondria.tif")
    lines = ["index,shape-type,vertex-index,axis-0,axis-1,axis-2,object"]
    wanted = {}
    for z in (0, 8):
        for region in regionprops(label(truth[z])):
            r0, c0, r1, c1 = region.bbox
            if region.area < SMALLEST:
                continue
            number = len(wanted) + 1
            wanted[number] = z, region.coords
            for vertex, (r, c) in enumerate([(r0, c0), (r0, c1 - 1), (r1 - 1, c1 - 1), (r1 - 1, c0)]):
                lines.append(f"{number},rectangle,{vertex},{z},{r},{c},{number}")
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    source, out = shared / "data" / "em_vnc" / "raw.tif", tmp_path / "labels.tif"
    assert main(["segment", str(source), "--boxes", str(tmp_path / "boxes.csv"), "-o", str(out)]) == 0
    labels = open_image(out).data
    assert labels.shape == truth.shape
    scores = []
    for number, (z, coordinates) in wanted.items():
        object_ = np.zeros(truth.shape[1:], bool)
        object_[tuple(coordinates.T)] = True
        scores.append(iou(np.asarray(labels[z]) == number, object_))
    assert len(scores) > 30
    assert np.mean(scores) > 0.8
    report = json.loads((tmp_path / "labels.tif.json").read_text())
    assert [plane["plane"] for plane in report["planes"]] == [0, 8]


def test_a_click_on_16_bit_tem(shared, tmp_path, capsys):
    source, out = shared / "data" / "em_tem_16bit" / "raw.tif", tmp_path / "labels.ome.zarr"
    arguments = ["--point", "444,668", "--planes", "1", "--json", "-o", str(out)]
    assert main(["segment", str(source), *arguments]) == 0
    (plane,) = json.loads(capsys.readouterr().out)["planes"]
    assert plane["objects"][0]["area"] == np.count_nonzero(np.asarray(open_image(out).data)[1])
    assert plane["objects"][0]["area"] > 0


def test_lungs_of_a_radiograph(tmp_path):
    try:
        source = chest_radiograph()
    except ReadError as missing:
        pytest.skip(str(missing))
    out = tmp_path / "lungs.nii.gz"
    boxes = [word for box in LUNG_BOXES for word in ("--box", ",".join(map(str, box)))]
    assert main(["segment", str(source), *boxes, "--json", "-o", str(out)]) == 0
    report = json.loads((tmp_path / "lungs.nii.gz.json").read_text())
    areas = [item["area"] for item in report["planes"][0]["objects"]]
    filled = [area / ((r1 - r0) * (c1 - c0)) for area, (r0, c0, r1, c1) in zip(areas, LUNG_BOXES, strict=True)]
    assert all(0.4 < part < 0.95 for part in filled)
