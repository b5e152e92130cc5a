"""How planes are linked."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import StrEnum

from napari_zeroseg.errors import InputError


class Branches(StrEnum):
    """What becomes of sections that could go on in more than one section of a neighbouring plane."""

    CUT = "cut"
    """Each goes on in one, that of the largest IoU; the others are objects of their own."""
    JOIN = "join"
    """All of them are one object: it splits, or several merge."""


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How the sections of planes become objects.

    A section is all of a plane that has one label. Two sections of neighbouring planes can be linked if their IoU is at
    least `low`, or if at least `inside` of the smaller one lies over the larger one. They are linked if a chain of such
    links holds one of IoU `high` or more.

    Attributes
    ----------
    high, low : float
        IoU from which a link is sure, and from which it is possible. More than half of the union in common is a match
        that no other section can have too, so 0.5 is sure; below a quarter, shared pixels say little.
    inside : float
        Share of the smaller section over the larger one from which a link is possible: where an object begins, ends or
        branches, IoU is low though one is on the other.
    branches : Branches
        Joined by default, since mitochondria and neurites do branch. A plane on which two objects were segmented as one
        joins them for good, though; where that is common, cut.
    gap : int
        Number of planes that an object may be missing from between two of its sections. The planes between stay as they
        are.
    min_planes : int
        Objects on fewer planes are removed.
    min_area, min_volume : float
        Specks are removed: pieces of a section smaller than `min_area` before linking, objects smaller than
        `min_volume` after it.
    max_hole_area, max_hole_volume : float
        Holes up to this size are filled: background that one label encloses, in its plane before linking or in the
        volume after it. 0 fills none, infinity all of them.
    spacing : tuple of float
        (plane, row, column) distance of neighbours: the unit of areas and volumes.
    preserve : bool
        Whether objects keep the number that most of their pixels had, instead of being numbered by their first voxel.
    """

    high: float = 0.5
    low: float = 0.25
    inside: float = 0.8
    branches: Branches = Branches.JOIN
    gap: int = 0
    min_planes: int = 1
    min_area: float = 0.0
    min_volume: float = 0.0
    max_hole_area: float = 0.0
    max_hole_volume: float = 0.0
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    preserve: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= 1 or not 0 < self.inside <= 1:
            raise InputError(
                "Linking wants 0 < low <= high <= 1 and 0 < inside <= 1; got "
                f"low {self.low:g}, high {self.high:g}, inside {self.inside:g}."
            )
        if self.gap < 0 or self.min_planes < 1:
            raise InputError(
                f"A gap is 0 or more planes, and an object has at least 1; got {self.gap} and {self.min_planes}."
            )
        for field in fields(self):
            if field.name.startswith(("min_area", "min_volume", "max_hole")) and not getattr(self, field.name) >= 0:
                raise InputError(f"{field.name} is a size from 0; got {getattr(self, field.name):g}.")
        steps = tuple(float(step) for step in self.spacing)
        if len(steps) != len("zyx") or not all(math.isfinite(step) and step > 0 for step in steps):
            raise InputError(f"Spacing is three positive numbers (plane, row, column); got {steps}.")
        object.__setattr__(self, "spacing", steps)
        object.__setattr__(self, "branches", Branches(self.branches))

    @property
    def pixel(self) -> float:
        """Area of a pixel."""
        return self.spacing[1] * self.spacing[2]

    @property
    def voxel(self) -> float:
        """Volume of a voxel."""
        return self.spacing[0] * self.pixel

    @property
    def fills_volume(self) -> bool:
        """Whether holes of the volume are looked for, which reads all planes once more."""
        return self.max_hole_volume >= self.voxel
