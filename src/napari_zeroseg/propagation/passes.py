"""What the ways through the planes have found of each object, and what follows from both ways together."""

from __future__ import annotations

import numpy as np

from napari_zeroseg.propagation import masks
from napari_zeroseg.propagation.outlines import Outlines
from napari_zeroseg.propagation.result import ObjectOnPlane, PropagationOptions, Record
from napari_zeroseg.propagation.tracking import Track
from napari_zeroseg.segmenter import Patch

_SAME_SHAPE = 0.5
"""IoU of both ways from which their masks are blended; below it they are different places, and one is taken."""


class Passes:
    """Records of both ways.

    Attributes
    ----------
    first : dict of int to (dict of int to Record)
        By label and plane: away from an outline; between two, from the lower one.
    second : dict of int to (dict of int to Record)
        Back to an outline; between two, from the upper one.
    finished : set of Track
        What need not be followed again.
    open : set of int
        Objects of which something is still to be followed.
    """

    def __init__(self, outlines: Outlines, planes: range, options: PropagationOptions) -> None:
        self.outlines = outlines
        self.planes = planes
        self.options = options
        self.first: dict[int, dict[int, Record]] = {label: {} for label in outlines.labels}
        self.second: dict[int, dict[int, Record]] = {label: {} for label in outlines.labels}
        self._returned: dict[tuple[int, int, int], Record] = {}
        self.finished: set[Track] = set()
        self.open = set(outlines.labels)

    def take(self, track: Track, plane: int, record: Record) -> None:
        """Note what a track has found on a plane."""
        if track.second and self.outlines.is_start(track.label, plane):
            self._returned[track.label, plane, track.direction] = record
        else:
            (self.second if track.second else self.first)[track.label][plane] = record

    def is_known(self, label: int, plane: int) -> bool:
        """Whether :meth:`known` has something to tell, which takes longer."""
        if self.outlines.get(plane, label) is not None:
            return not self.outlines.ends_at(label, plane)
        before, after = self.outlines.starts_around(label, plane)
        between = before is not None and after is not None
        return plane in self.first[label] or (between and plane in self.second[label])

    def known(self, label: int, plane: int) -> tuple[Patch, ObjectOnPlane] | None:
        """Mask and report of an object on a plane; None where it is not."""
        outlined = self.outlines.get(plane, label)
        if outlined is not None:
            if not masks.area(outlined):
                return None
            return outlined, ObjectOnPlane(label, masks.area(outlined), 1.0, 1.0, True)
        first, second = self.first[label].get(plane), self.second[label].get(plane)
        before, after = self.outlines.starts_around(label, plane)
        between = before is not None and after is not None
        if first is None and (second is None or not between):
            return None
        known = [record for record in (first, second) if record is not None]
        certainty = self._certainty(label, plane, before, after)
        patch = known[0].mask.patch
        if between and first is not None and second is not None:
            assert before is not None
            assert after is not None
            patch = _blended(first, second, (plane - before) / (after - before), certainty or 0.0)
        score = float(np.mean([record.score for record in known]))
        return patch, ObjectOnPlane(label, masks.area(patch), score, certainty)

    def _certainty(self, label: int, plane: int, before: int | None, after: int | None) -> float | None:
        """Agreement of both ways on a plane; 0 where one lost the object, None where one has not been gone."""
        first, second = self.first[label].get(plane), self.second[label].get(plane)
        if first is not None and second is not None:
            return masks.iou(first.mask.patch, second.mask.patch)
        between = before is not None and after is not None
        if not between and self.options.check:
            towards = 1 if before is None else -1
            if self._is_farthest(label, plane, -towards):
                # the way back begins here, so what it is worth shows on the plane before
                return self._agreement_towards(label, plane, towards)
        return None if label in self.open or not (self.options.check or between) else 0.0

    def _is_farthest(self, label: int, plane: int, step: int) -> bool:
        """Whether an object was found on no plane behind `plane`, up to the next where something is known of it."""
        known = self.outlines.neighbours(label, plane)[step > 0]
        end = known if known is not None else (self.planes.stop if step > 0 else self.planes.start - 1)
        return not any(behind in self.first[label] for behind in range(plane + step, end, step))

    def _agreement_towards(self, label: int, plane: int, step: int) -> float | None:
        """Agreement on the next plane towards the outline on which the object was found, or on the outline itself."""
        while True:
            plane += step
            outlined = self.outlines.get(plane, label)
            found = self.first[label].get(plane)
            if outlined is None and found is None:
                continue
            back = self.second[label].get(plane) if found is not None else self._returned.get((label, plane, step))
            if back is None:
                return None if label in self.open else 0.0
            there = found.mask.patch if found is not None else outlined
            assert there is not None
            return masks.iou(there, back.mask.patch)

    def forget_around(self, label: int, plane: int) -> None:
        """Forget what was found of an object between the outlined planes on either side of `plane`."""
        before, after = self.outlines.neighbours(label, plane)
        low = before if before is not None else self.planes.start - 1
        high = after if after is not None else self.planes.stop
        for passes in (self.first, self.second):
            known = passes.setdefault(label, {})
            passes[label] = {p: record for p, record in known.items() if not low < p < high}
        for stale in ((label, low, -1), (label, high, 1)):
            self._returned.pop(stale, None)
        self.finished -= {track for track in self.finished if track.label == label and track.touches(low, high)}
        self.open.add(label)


def _blended(first: Record, second: Record, way: float, agreement: float) -> Patch:
    """The mask between two outlined planes: the nearer and surer side counts more."""
    near, far = (1 - way) * first.score, way * second.score
    if agreement < _SAME_SHAPE:
        return (first if near >= far else second).mask.patch
    return masks.blended(first.mask.patch, second.mask.patch, far / (near + far))
