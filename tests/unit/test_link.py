"""Planes linked into objects: rules one by one, oracles that do it the slow way, and blocks against the whole."""

from __future__ import annotations

import itertools
import pickle

import dask.array as da
import numpy as np
import pytest
from scipy import ndimage

from napari_zeroseg.errors import CancelledError, InputError, InputTypeError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.link import (
    Block,
    Branches,
    Linker,
    LinkOptions,
    fill_holes,
    join_links,
    link_blocks,
    link_planes,
    remove_specks,
    solve,
)
from napari_zeroseg.link.holes import VolumeHoles, hollows_of, join_hollows
from napari_zeroseg.metrics import joined, overlaps
from napari_zeroseg.phantom import em_like_stack


def rows_of(*planes: str) -> np.ndarray:
    """Planes of one row of pixels: ".1122" is background, two pixels of label 1 and two of label 2."""
    return np.array([[[0 if pixel == "." else int(pixel) for pixel in plane]] for plane in planes])


def as_rows(labels: np.ndarray) -> list[str]:
    return ["".join("." if pixel == 0 else str(pixel) for pixel in plane[0]) for plane in labels]


def random_planes(seed: int, shape: tuple[int, int, int], label_count: int = 5) -> np.ndarray:
    """Blobs of a few labels that overlap those of the next plane more or less."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(label_count, *shape)), (0, 0.7, 1.5, 1.5))
    labels = field.argmax(0) + 1
    labels[field.max(0) < 0.1] = 0
    return scrambled(labels, rng)


def scrambled(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other numbers on each plane."""
    result = np.zeros_like(labels)
    for z, plane in enumerate(labels):
        numbers = np.r_[0, rng.permutation(int(labels.max())) + 1]
        result[z] = numbers[plane]
    return result


def by_first_voxel(labels: np.ndarray) -> np.ndarray:
    known, first = np.unique(labels[labels > 0], return_index=True)
    numbers = np.zeros(int(labels.max()) + 1, int)
    numbers[known[np.argsort(first)]] = np.arange(len(known)) + 1
    return numbers[labels]


def slow_links(labels: np.ndarray, options: LinkOptions) -> dict[tuple, list[tuple[tuple, float]]]:
    """Every pair of sections of neighbouring planes, both ways, with branches joined."""
    sections = [(z, n) for z, plane in enumerate(labels) for n in np.unique(plane) if n]
    links: dict[tuple, list[tuple[tuple, float]]] = {section: [] for section in sections}
    for (z, n), (y, m) in itertools.combinations(sections, 2):
        a, b = labels[z] == n, labels[y] == m
        both, iou = (a & b).sum(), (a & b).sum() / (a | b).sum()
        if abs(z - y) == 1 and (iou >= options.low or both / min(a.sum(), b.sum()) >= options.inside):
            links[z, n].append(((y, m), iou))
            links[y, m].append(((z, n), iou))
    return links


def slow_link(labels: np.ndarray, options: LinkOptions) -> np.ndarray:
    """The rules read aloud: chains are found by visiting."""
    links = slow_links(labels, options)
    result, number, seen = np.zeros_like(labels), 0, set()
    for section in links:
        chain, waiting, best = {section}, [section], 0.0
        while waiting:
            for partner, iou in links[waiting.pop()]:
                best = max(best, iou)
                waiting += [partner] if partner not in chain else []
                chain.add(partner)
        if section in seen:
            continue
        seen |= chain
        for group in [chain] if best >= options.high else [{one} for one in chain]:
            number += 1
            for z, n in group:
                result[z][labels[z] == n] = number
    return by_first_voxel(result)


@pytest.mark.parametrize("seed", range(8))
def test_links_are_those_of_the_rules(seed):
    labels = random_planes(seed, (7, 14, 16))
    for options in (LinkOptions(), LinkOptions(high=0.7, low=0.3, inside=0.9), LinkOptions(high=0.95, low=0.1)):
        expected = slow_link(labels, options)
        assert np.array_equal(link_planes(labels, options).array(), expected)
    assert expected.max() > 1


@pytest.mark.parametrize("branches", Branches)
def test_the_phantom_comes_back_from_scrambled_planes(branches):
    _, truth = em_like_stack(10, 192, seed=5)
    labels = scrambled(truth, np.random.default_rng(0))
    assert not np.array_equal(by_first_voxel(labels), by_first_voxel(truth))
    assert np.array_equal(link_planes(labels, LinkOptions(branches=branches)).array(), by_first_voxel(truth))


@pytest.mark.parametrize("branches", Branches)
@pytest.mark.parametrize("gap", [0, 2])
def test_the_numbers_of_the_input_do_not_matter(branches, gap):
    labels = random_planes(11, (8, 16, 16))
    options = LinkOptions(branches=branches, gap=gap)
    one = link_planes(labels, options).array()
    for seed in range(3):
        again = scrambled(labels, np.random.default_rng(seed))
        assert np.array_equal(link_planes(again.astype(np.uint64) * 2**40, options).array(), one)


def test_a_low_link_holds_only_in_a_chain_with_a_sure_one():
    weak = rows_of("1111......", "..2222....", "....3333..")  # IoU 1/3 each
    options = LinkOptions(high=0.5, low=0.3, inside=1)
    assert as_rows(link_planes(weak, options).array()) == ["1111......", "..2222....", "....3333.."]
    chained = rows_of("1111......", "..2222....", "....3333..", "....3333..")
    assert link_planes(chained, options).array().max() == 1
    assert link_planes(chained, LinkOptions(high=0.5, low=0.4, inside=1)).array().max() == 3


def test_a_tip_is_linked_to_what_it_lies_on():
    labels = rows_of("....1.....", ".22222222.", ".22222222.")
    assert link_planes(labels).array().max() == 1
    assert link_planes(labels, LinkOptions(inside=1, low=0.2)).array().max() == 1
    shifted = rows_of(".11.......", "..2222222.", "..2222222.")
    assert link_planes(shifted).array().max() == 2


def test_branches_are_cut_or_joined():
    labels = rows_of("11111111", "11111111", "222..333", "222..333", "44444444")
    joined_ones = link_planes(labels)
    assert joined_ones.array().max() == 1
    cut = link_planes(labels, LinkOptions(branches="cut"))
    # 222 and 333 are equally good: that whose first pixel comes first goes on.
    assert as_rows(cut.array()) == ["11111111", "11111111", "111..222", "111..222", "11111111"]
    better = rows_of("11111111", "22..3333")
    assert as_rows(link_planes(better, LinkOptions(branches=Branches.CUT)).array()) == ["11111111", "22..1111"]


def test_gaps():
    labels = rows_of("11..", "....", "....", "11..", "11..")
    assert link_planes(labels, LinkOptions(gap=1)).array().max() == 2
    two = link_planes(labels, LinkOptions(gap=2))
    assert as_rows(two.array()) == ["11..", "....", "....", "11..", "11.."]  # nothing is invented between
    (whole,) = two.objects
    assert (whole.first, whole.last, whole.planes, whole.voxels) == (0, 4, 3, 6)
    # What goes on in the next plane is not missing there, so no link leaps over it.
    crossing = rows_of("1111....", ".1111...", "1111....")
    linker = Linker(LinkOptions(gap=1))
    for plane in crossing:
        linker.add(plane)
    links = linker.links()
    assert list(zip(links.above.tolist(), links.below.tolist(), strict=True)) == [(0, 1), (1, 2)]


def test_objects_that_are_too_small_go():
    labels = rows_of("11.2.333", "11...333", "11...333")
    kept = link_planes(labels, LinkOptions(min_planes=2))
    assert as_rows(kept.array()) == ["11...222", "11...222", "11...222"]
    spacing = (50.0, 4.0, 5.0)
    large = link_planes(labels, LinkOptions(min_volume=9 * 50 * 4 * 5, spacing=spacing))
    assert as_rows(large.array()) == [".....111"] * 3
    assert [one.volume for one in large.objects] == [9 * 1000]
    with_specks = rows_of("11.2.333", "11...333").repeat(2, 1)
    assert link_planes(with_specks, LinkOptions(min_area=3 * 20, spacing=spacing)).array().max() == 2


def test_numbers_are_kept_where_possible():
    labels = rows_of("77..9..", "77..9..", "33..9..", "33.....")
    kept = link_planes(labels, LinkOptions(preserve=True))
    assert as_rows(kept.array()) == ["33..9..", "33..9..", "33..9..", "33....."]  # as many of 3 as of 7: the lower one
    rival = rows_of("555.55", "555.55", "555.55")
    rival[:, 0, 4:] = 6
    rival[1:, 0, 4:] = 5
    rival[1:, 0, :3] = 4
    rival[0, 0, :3] = 5
    # The left one wants 4; the right one 5.
    assert as_rows(link_planes(rival, LinkOptions(preserve=True)).array()) == ["444.55"] * 3
    clash = rows_of("11.....", "....1..", "....1..", "....1..")  # one has more of 1 than the other
    linked = link_planes(clash, LinkOptions(preserve=True))
    assert as_rows(linked.array()) == ["22.....", "....1..", "....1..", "....1.."]
    assert [one.label for one in linked.objects] == [1, 2]
    even = rows_of("11.....", "....1..", "....1..")
    assert as_rows(link_planes(even, LinkOptions(preserve=True)).array()) == ["11.....", "....2..", "....2.."]


def test_consistent_labels_stay_as_they_are():
    _, truth = em_like_stack(6, 128, seed=3)
    named = truth * 10
    assert np.array_equal(link_planes(named, LinkOptions(preserve=True)).array(), named)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [LinkOptions(), LinkOptions(gap=2), LinkOptions(branches="cut", gap=1, high=0.8)])
def test_links_of_blocks_are_those_of_the_whole(seed, options):
    labels = random_planes(seed, (13, 14, 16))
    labels[6] = 0
    whole = link_planes(labels, options).array()
    shared = options.gap + 1
    parts = []
    for start, stop in ((0, 5 + shared), (5, 9 + shared), (9, 13)):
        linker = Linker(options, start)
        for plane in labels[start:stop]:
            linker.add(plane)
        parts.append(pickle.loads(pickle.dumps(linker.links())))
    relabelling = solve(join_links(parts[::-1]), options)
    assert np.array_equal([relabelling.apply(z, plane) for z, plane in enumerate(labels)], whole)


def test_links_of_blocks_that_do_not_fit():
    labels = random_planes(0, (6, 10, 10))

    def links_of(start, stop, planes=labels, options=None):
        linker = Linker(options, start)
        for plane in planes[start:stop]:
            linker.add(plane)
        return linker.links()

    with pytest.raises(InputError, match="Blocks must share 1 or more planes"):
        join_links([links_of(0, 3), links_of(3, 6)])
    gap = LinkOptions(gap=1)
    with pytest.raises(InputError, match="Blocks must share 2 or more planes"):
        join_links([links_of(0, 3, options=gap), links_of(2, 6, options=gap)])
    with pytest.raises(InputError, match="same labels in both"):
        join_links([links_of(0, 3), links_of(2, 6, np.roll(labels, 2, 2) * (labels != 1))])
    with pytest.raises(InputError, match="no blocks"):
        join_links([])


@pytest.mark.parametrize("shared", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_objects_of_blocks_are_those_of_the_whole(seed, shared):
    mask = random_planes(seed, (14, 16, 18)) % 3 == 1
    whole = by_first_voxel(ndimage.label(mask)[0])
    bounds = [(0, 5), (5 - shared, 10), (10 - shared, 14)]
    labels = [scramble_block(ndimage.label(mask[start:stop])[0], start) for start, stop in bounds]
    blocks = [
        Block.of(part, start, before=shared if start else 0, after=shared if stop < 14 else 0)
        for part, (start, stop) in zip(labels, bounds, strict=True)
    ]
    order = [2, 0, 1]
    linked = link_blocks([pickle.loads(pickle.dumps(blocks[i])) for i in order])
    result = np.full(whole.shape, -1)
    for i, one in zip(order, linked, strict=True):
        assert (result[one.planes] == -1).all()
        own = slice(one.planes.start - bounds[i][0], one.planes.stop - bounds[i][0])
        result[one.planes] = one.apply(labels[i][own])
    assert np.array_equal(result, whole)


def scramble_block(labels: np.ndarray, seed: int) -> np.ndarray:
    numbers = np.r_[0, np.random.default_rng(seed).permutation(int(labels.max())) * 3 + 1]
    return numbers[labels]


def test_blocks_that_differ_a_little_are_linked_and_neighbours_are_not():
    first = rows_of("1111.22...", "1111.22...", "1111.22...")
    second = rows_of(".555.77.8.", ".555.77.8.", ".555.77.8.")
    one, other = link_blocks([Block.of(first, 0, after=2), Block.of(second, 1, before=2)])
    assert (one.planes, other.planes) == (range(2), range(2, 4))
    assert as_rows(one.apply(first[:2])) == ["1111.22..."] * 2
    assert as_rows(other.apply(second[1:])) == [".111.22.3."] * 2


def test_blocks_that_do_not_fit():
    labels = rows_of("11", "11", "11")
    with pytest.raises(InputError, match="share 0, but are said to share 1 and 1"):
        link_blocks([Block.of(labels, 0, after=1), Block.of(labels, 3, before=1)])
    with pytest.raises(InputError, match="share 1, but are said to share 1 and 2"):
        link_blocks([Block.of(labels, 0, after=1), Block.of(labels, 2, before=2)])
    with pytest.raises(InputError, match="got shape"):
        Block.of(labels, 0, before=2, after=2)
    assert link_blocks([]) == []
    (alone,) = link_blocks([Block.of(labels * 7)])
    assert as_rows(alone.apply(labels * 7)) == ["11"] * 3


def slow_holes(labels: np.ndarray, max_size: float) -> np.ndarray:
    """Each part of the background on its own, grown by one pixel."""
    result = labels.copy()
    parts, count = ndimage.label(labels == 0)
    for part in range(1, count + 1):
        at = parts == part
        around = ndimage.binary_dilation(at) & ~at
        edge = any(at.take(side, axis).any() for axis in range(at.ndim) for side in (0, -1))
        beside = np.unique(labels[around])
        if not edge and len(beside) == 1 and at.sum() <= max_size:
            result[at] = beside[0]
    return result


@pytest.mark.parametrize("shape", [(22, 24), (9, 12, 13)])
@pytest.mark.parametrize("seed", range(4))
def test_holes_and_specks(seed, shape):
    rng = np.random.default_rng(seed)
    labels = ndimage.zoom(rng.integers(0, 3, [max(2, n // 5) for n in shape]), 5, order=0)[tuple(map(slice, shape))]
    labels[rng.uniform(size=labels.shape) < 0.1] = 0
    before = labels.copy()
    for size in (0, 1, 2, np.inf):
        assert np.array_equal(fill_holes(labels, size), slow_holes(labels, size))
    assert np.array_equal(fill_holes(labels, 2, [2.0] * labels.ndim), slow_holes(labels, 2 / 2**labels.ndim))
    assert (fill_holes(labels) != labels).any()
    expected = labels.copy()
    for label in np.unique(labels)[1:]:
        parts, _ = ndimage.label(labels == label)
        sizes = np.bincount(parts.ravel())
        expected[(parts > 0) & (sizes[parts] < 4)] = 0
    assert np.array_equal(remove_specks(labels, 4), expected)
    assert np.array_equal(labels, before)


def test_a_ring_with_something_inside_is_not_filled():
    ring = np.zeros((7, 7), int)
    ring[1:6, 1:6] = 1
    ring[2:5, 2:5] = 0
    assert (fill_holes(ring)[1:6, 1:6] == 1).all()
    ring[3, 3] = 2
    assert np.array_equal(fill_holes(ring), ring)
    with pytest.raises(InputError, match="one number for each of 2 axes"):
        fill_holes(ring, 1, (1, 1, 1))


@pytest.mark.parametrize("seed", range(3))
def test_holes_of_the_volume_are_those_of_the_whole(seed):
    rng = np.random.default_rng(seed)
    labels = np.zeros((10, 16, 18), int)
    labels[1:9, 2:14, 2:8] = 1
    labels[1:9, 2:14, 9:16] = 2
    labels[rng.uniform(size=labels.shape) < 0.15] = 0
    for size in (1, 3, np.inf):
        options = LinkOptions(max_hole_volume=size * 24, spacing=(6, 2, 2))
        linked = link_planes(labels, LinkOptions()).array()
        filled = link_planes(labels, options).array()
        assert np.array_equal(filled, slow_holes(linked, size))
    assert (filled != linked).any()


@pytest.mark.parametrize("cuts", [(10,), (4, 10), (1, 2, 3, 9, 10)])
def test_holes_of_blocks_are_those_of_the_whole(cuts):
    """Each block begins with the last plane of the one before, since a hole goes on there."""
    rng = np.random.default_rng(7)
    labels = np.zeros((10, 16, 18), np.int32)
    labels[:, 2:14, 2:8] = 1
    labels[:, 2:14, 9:16] = 2
    labels[rng.uniform(size=labels.shape) < 0.2] = 0
    starts = [0, *(stop - 1 for stop in cuts[:-1])]
    blocks = [pickle.loads(pickle.dumps(hollows_of(labels[a:b]))) for a, b in zip(starts, cuts, strict=True)]
    for size in (1, 3, np.inf):
        holes = VolumeHoles.of(join_hollows(blocks), size)
        filled = np.stack([holes.part(z, z + 1).fill(z, plane) for z, plane in enumerate(labels)])
        assert np.array_equal(filled, slow_holes(labels, size))
        assert (filled != labels).any()


def test_holes_of_planes_are_filled_before_linking():
    plane = np.zeros((7, 7), int)
    plane[1:6, 1:6] = 1
    plane[2:5, 2:5] = 0
    solid = np.where(plane > 0, 1, 0)
    solid[2:5, 2:5] = 1
    labels = np.stack([plane, solid * 4])
    assert np.array_equal(link_planes(labels, LinkOptions(max_hole_area=9)).array(), np.stack([solid, solid]))
    assert np.array_equal(link_planes(labels, LinkOptions(max_hole_area=8)).array()[0], plane)


def test_planes_are_read_one_at_a_time_and_twice():
    labels = random_planes(1, (6, 12, 12))
    read = []

    def plane(block, block_info=None):
        read.append(block_info[0]["chunk-location"][0])
        return block

    lazy = da.from_array(labels, chunks=(1, 12, 12)).map_blocks(plane, dtype=labels.dtype, meta=labels[:0])
    read.clear()
    seen = []
    linked = link_planes(lazy, progress=lambda done, total: seen.append((done, total)))
    assert read == list(range(6))
    assert seen == [(i + 1, 6) for i in range(6)]
    assert linked.shape == (6, 12, 12)
    assert np.array_equal(np.stack(list(linked)), link_planes(labels).array())
    assert read == list(range(6)) * 2
    assert linked.plane(3).dtype == np.int32


def test_nothing_to_link():
    linked = link_planes(np.zeros((3, 4, 5), int), LinkOptions(gap=1, preserve=True, max_hole_volume=3))
    assert not linked.array().any()
    assert not linked.objects


def test_bad_input():
    labels = np.zeros((3, 4, 5), int)
    with pytest.raises(InputTypeError, match="integers; got float64"):
        link_planes(labels * 1.0)
    with pytest.raises(InputError, match="A stack"):
        link_planes(labels[0])
    with pytest.raises(InputError, match="from 0, the background"):
        link_planes(labels - 1)
    linker = Linker()
    linker.add(labels[0])
    with pytest.raises(InputError, match="one shape"):
        linker.add(labels[0].T)
    with pytest.raises(InputError, match="up to 2147483647"):
        link_planes(labels + 2**31, LinkOptions(preserve=True))
    relabelling = solve(Linker().links())
    with pytest.raises(InputError, match="was not linked"):
        relabelling.apply(0, labels[0])
    with pytest.raises(InputError, match="Label 1 was not there"):
        solve(linker.links()).apply(0, labels[0] + 1)
    token = CancelToken()
    with pytest.raises(CancelledError):
        link_planes(labels, progress=lambda done, total: token.cancel(), cancel=token)


@pytest.mark.parametrize(
    "options",
    [
        {"low": 0.6},
        {"high": 1.1},
        {"inside": 0},
        {"gap": -1},
        {"min_planes": 0},
        {"min_area": -1},
        {"max_hole_volume": float("nan")},
        {"spacing": (1, 1)},
        {"spacing": (1, 0, 1)},
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(InputError):
        LinkOptions(**options)


@pytest.mark.parametrize("scale", [1, 5000, 2**40])
def test_overlaps_are_counted_whatever_the_numbers(scale):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, (2, 30, 30))
    table = overlaps(a * scale, b * scale)
    for first, second, count in zip(table.first, table.second, table.count, strict=True):
        assert count == ((a * scale == first) & (b * scale == second)).sum() > 0
    assert table.count.sum() == 900
    halves = joined([overlaps(a[:15] * scale, b[:15] * scale), overlaps(a[15:] * scale, b[15:] * scale)])
    for column in ("first", "second", "count"):
        assert np.array_equal(getattr(halves, column), getattr(table, column))
    with pytest.raises(InputError):
        overlaps(a, b[:1])
