"""`zeroseg segment --auto`: everything on the planes of a stack, as labels and as a table."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_zeroseg as zs
from napari_zeroseg import headless
from napari_zeroseg.io.read import open_image
from napari_zeroseg.io.write import LabelsWriter
from napari_zeroseg.metrics import iou

from .conftest import SIZE

GRID = ("--auto", "--points-per-side", 8, "--pred-iou-thresh", 0.8, "--stability-score-thresh", 0.9)

BOX = ("row0", "column0", "row1", "column1")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("labels") / "everything.tif"


@pytest.fixture
def done(zeroseg, stack, out):
    """A run over two planes; the second time it finds that there is nothing to do."""
    result = zeroseg("segment", stack.path, *GRID, "--planes", "0,2", "-o", out)
    assert result.code == 0, result.err
    return result


def test_labels_and_table_agree(done, out, stack):
    labels = np.asarray(open_image(out).data)
    assert labels.shape == stack.raw.shape
    assert not labels[1].any()
    rows = rows_of(out.with_name("everything.tif.csv"))
    assert [int(row["label"]) for row in rows] == list(range(1, len(rows) + 1))
    assert {row["plane"] for row in rows} == {"0", "2"}
    for row in rows:
        plane, label = int(row["plane"]), int(row["label"])
        assert not (labels[[z for z in range(3) if z != plane]] == label).any()
        seen = labels[plane] == label
        assert np.count_nonzero(seen) <= int(row["area"])
        box = (slice(int(row["row0"]), int(row["row1"]) + 1), slice(int(row["column0"]), int(row["column1"]) + 1))
        assert np.count_nonzero(seen[box]) == np.count_nonzero(seen)
        assert float(row["area_micrometer2"]) == pytest.approx(int(row["area"]) * 0.004 * 0.005, rel=1e-3)
        assert float(row["predicted_iou"]) > 0.8
    truth = stack.truth[0]
    best = [max(iou(labels[0] == n, truth == t) for n in np.unique(labels[0])) for t in np.unique(truth[truth > 0])]
    assert np.mean(best) > 0.7


def test_provenance_tells_how_and_how_many(done, out):
    report = json.loads(out.with_name("everything.tif.json").read_text())
    assert report["settings"]["automatic"]["options"]["points_per_side"] == 8
    assert sum(plane["objects"] for plane in report["planes"]) == len(rows_of(out.with_name("everything.tif.csv")))


def test_the_same_again_and_other_settings(done, zeroseg, stack, out):
    again = zeroseg("segment", stack.path, *GRID, "--planes", "0,2", "-o", out)
    assert "nothing to do" in again.out
    other = zeroseg("segment", stack.path, *GRID, "--box-nms-thresh", 0.5, "--planes", "0,2", "-o", out)
    assert "not from this run" in other.error()


def test_a_stopped_run_is_taken_up_with_its_numbers(done, zeroseg, stack, out, tmp_path, monkeypatch):
    write = LabelsWriter.write

    def write_one(self, index, plane):
        if index == 2:
            raise KeyboardInterrupt
        write(self, index, plane)

    arguments = ("segment", stack.path, *GRID, "--planes", "0,2", "-o", tmp_path / "labels.tif")
    with monkeypatch.context() as patch:
        patch.setattr(headless.LabelsWriter, "write", write_one)
        assert "goes on from there" in zeroseg(*arguments).error()
    finished = zeroseg(*arguments)
    assert "1 plane had been done" in finished.out
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "labels.tif"), tifffile.imread(out))
    assert rows_of(tmp_path / "labels.tif.csv") == rows_of(out.with_name("everything.tif.csv"))


def test_areas_in_the_unit_of_the_file_and_a_table_elsewhere(zeroseg, stack, tmp_path):
    limits = ("--min-area", 0.018, "--max-area", 0.04, "--area-unit", "physical")
    table = tmp_path / "objects.csv"
    result = zeroseg(
        "segment", stack.path, *GRID, *limits, "--planes", 0, "--table", table, "-o", tmp_path / "labels.npy"
    )
    assert result.code == 0, result.err
    rows = rows_of(table)
    assert rows
    assert all(900 <= int(row["area"]) <= 2000 for row in rows)


class TestClasses:
    """Objects of the classes of a map: here the left half of each plane is 1, the right half 2, and plane 2 is 0."""

    @pytest.fixture
    def classes(self, stack, tmp_path) -> Path:
        planes = np.ones(stack.raw.shape, np.uint8)
        planes[:, :, SIZE // 2 :] = 2
        planes[2] = 0
        return zs.write_labels(tmp_path / "classes.tif", planes)

    @pytest.fixture
    def begun(self, stack, classes):
        return ("segment", stack.path, *GRID, "--class-map", classes)

    def test_objects_of_other_classes_are_left_out(self, done, out, zeroseg, begun, classes, tmp_path):
        left, both = tmp_path / "left.npy", tmp_path / "both.npy"
        report = zeroseg(*begun, "--keep-class", 1, "--planes", "0,2", "-o", left, "--json")
        assert report.code == 0, report.err
        assert zeroseg(*begun, "--keep-class", "2,1", "--planes", "0,2", "-o", both).code == 0
        everything = [row for row in rows_of(out.with_name("everything.tif.csv")) if row["plane"] == "0"]
        assert len(rows_of(tmp_path / "both.npy.csv")) == len(everything)
        rows = rows_of(tmp_path / "left.npy.csv")
        assert {row["plane"] for row in rows} == {"0"}
        on_the_left = [row for row in everything if int(row["column1"]) < SIZE // 2]
        across = [row for row in everything if int(row["column0"]) < SIZE // 2 <= int(row["column1"])]
        kept = {tuple(row[name] for name in BOX) for row in rows}
        assert on_the_left
        assert kept >= {tuple(row[name] for name in BOX) for row in on_the_left}
        assert len(on_the_left) <= len(kept) <= len(on_the_left) + len(across) < len(everything)
        assert not np.load(left)[2].any()
        settings = json.loads(report.out)["settings"]["automatic"]
        assert settings["keep_class"] == [1]
        assert settings["class_map"]["path"] == str(classes)

    def test_another_map_or_class_is_another_run_and_a_moved_map_is_not(self, zeroseg, begun, classes, tmp_path):
        arguments = (*begun, "--keep-class", 1, "--planes", 0, "-o", tmp_path / "labels.npy")
        assert zeroseg(*arguments).code == 0
        assert "nothing to do" in zeroseg(*arguments).out
        other = [2 if argument == 1 else argument for argument in arguments]
        assert "not from this run" in zeroseg(*other).error()
        (tmp_path / "elsewhere").mkdir()
        moved = tmp_path / "elsewhere" / classes.name
        shutil.copy2(classes, moved)
        assert "nothing to do" in zeroseg(*(moved if argument == classes else argument for argument in arguments)).out
        labels = np.asarray(open_image(classes).data)
        zs.write_labels(classes, labels * 3)
        assert "not from this run" in zeroseg(*arguments).error()

    def test_a_plane_without_a_class_that_can_be_read_is_named(self, zeroseg, stack, tmp_path):
        planes = np.ones(stack.raw.shape, np.float32)
        planes[2] = 0.5
        np.save(tmp_path / "classes.npy", planes)
        done = zeroseg(
            *("segment", stack.path, *GRID, "--planes", "0,2", "-o", tmp_path / "labels.npy"),
            *("--class-map", tmp_path / "classes.npy", "--keep-class", 1),
        )
        assert done.code == 0
        assert "Plane 2 was left empty: Classes are whole numbers from 0" in done.err
        assert np.load(tmp_path / "labels.npy")[0].any()

    @pytest.mark.parametrize(
        ("made", "said"),
        [
            (np.ones((SIZE, SIZE), np.uint8), "has 1 planes of (256, 256), but the picture 3"),
            (np.ones((3, 8, 8), np.uint8), "give labels of the same planes"),
            (np.full((3, SIZE, SIZE), 0.5), "holds fractions"),
            (np.full((3, SIZE, SIZE), -1), "Classes are whole numbers from 0"),
            (None, "There is no file"),
        ],
    )
    def test_what_is_no_map_of_the_planes(self, zeroseg, stack, tmp_path, monkeypatch, made, said):
        """It is told before the model is loaded."""
        monkeypatch.setattr("napari_zeroseg.cli_segment.load_chosen", None)
        if made is not None:
            np.save(tmp_path / "classes.npy", made)
        flags = ("--auto", "--class-map", tmp_path / "classes.npy", "--keep-class", 1)
        assert said in zeroseg("segment", stack.path, *flags, "-o", tmp_path / "labels.tif").error()
        assert not list(tmp_path.glob("*labels*"))

    def test_the_map_is_not_replaced(self, zeroseg, begun, classes):
        before = classes.read_bytes()
        assert "itself or lies inside it" in zeroseg(*begun, "--keep-class", 1, "-o", classes, "--overwrite").error()
        assert classes.read_bytes() == before


def test_areas_in_a_unit_that_the_file_does_not_tell(zeroseg, plane, tmp_path):
    limits = ("--min-area", 0.018, "--area-unit", "physical")
    result = zeroseg("segment", plane, *GRID, *limits, "-o", tmp_path / "labels.tif")
    assert "how large its pixels are" in result.error()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--auto", "--point", "3,4"), "leave points and boxes out"),
        (("--point", "3,4", "--points-per-side", 8), "is for --auto"),
        (("--point", "3,4", "--table", "x.csv"), "is for --auto"),
        (("--point", "3,4", "--class-map", "x.tif", "--keep-class", 1), "--class-map is for --auto"),
        (("--auto", "--class-map", "x.tif"), "belong together"),
        (("--auto", "--keep-class", 1), "belong together"),
        (("--auto", "--class-map", "x.tif", "--keep-class", "1;2"), "such as 1,3, were expected, not '1;2'"),
        (("--text", "cell", "--keep-class", 1), "does not go with --text"),
    ],
)
def test_what_does_not_go_together(zeroseg, plane, tmp_path, arguments, said):
    assert said in zeroseg("segment", plane, *arguments, "-o", tmp_path / "labels.tif").usage_error()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--points-per-side", 0), "points_per_side"),
        (("--table", "objects.txt"), "the ending .csv"),
        (("--min-area", 10, "--max-area", 5), "smaller number comes first"),
    ],
)
def test_values_that_make_no_sense(zeroseg, plane, tmp_path, arguments, said):
    assert said in zeroseg("segment", plane, "--auto", *arguments, "-o", tmp_path / "labels.tif").error()
