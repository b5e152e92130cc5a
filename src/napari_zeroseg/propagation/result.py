"""What propagation is asked for and what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import numpy as np

from napari_zeroseg.errors import InputError
from napari_zeroseg.propagation.masks import Packed
from napari_zeroseg.segmenter import Patch


class Direction(StrEnum):
    """Where to go from the planes that have labels; what lies between two of them is always done."""

    BOTH = "both"
    FORWARDS = "forwards"
    BACKWARDS = "backwards"


@dataclass(frozen=True)
class PropagationOptions:
    """How objects are followed.

    Attributes
    ----------
    direction : Direction
    limits : tuple of float, optional
        (black, white) in pixel values; left out, uint8 is taken as it is and anything else between its percentiles.
    spacing : tuple of float, optional
        Distance of neighbouring planes, rows and columns in one unit. Where planes are far apart compared with pixels,
        an object may change more from one to the next. Left out, as in serial sections of electron microscopy
        (planes 10 pixels apart).
    check : bool
        Go back from where an object ends to where it began, and take the agreement of both ways for its certainty.
    threshold : float
        Certainty (0 to 1) below which an object's plane is flagged.
    patience : int
        Planes on which an object may not be found before it has ended.
    longest_gap : int
        Planes in a row that are missing or broken and still bridged.
    """

    direction: Direction = Direction.BOTH
    limits: tuple[float, float] | None = None
    spacing: tuple[float, float, float] | None = None
    check: bool = True
    threshold: float = 0.8
    patience: int = 1
    longest_gap: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InputError(f"Certainty goes from 0 to 1, so its threshold does; got {self.threshold}.")
        if self.patience < 0 or self.longest_gap < 0:
            raise InputError("Patience and the longest gap are numbers of planes from 0.")
        if self.spacing is not None and sum(np.isfinite(step) and step > 0 for step in self.spacing) != 3:
            raise InputError(f"Spacing is three positive distances (plane, row, column); got {self.spacing}.")
        object.__setattr__(self, "direction", Direction(self.direction))

    @property
    def step(self) -> float:
        """Distance of neighbouring planes in pixels."""
        if self.spacing is None:
            return 10.0
        return 2 * self.spacing[0] / (self.spacing[1] + self.spacing[2])


class Record(NamedTuple):
    """An object on a plane as one pass found it.

    Attributes
    ----------
    mask : Packed
    score : float
        IoU that the network predicts.
    overlap : float
        IoU with what motion made one expect.
    """

    mask: Packed
    score: float
    overlap: float


@dataclass(frozen=True)
class StepRecord:
    """What one pass did on one plane: all that is needed to go on from there.

    Attributes
    ----------
    found : Mapping of int to Record or None
        By label; None where the object was looked for and not found. One is left out where nothing is to be seen.
    fault : str
        Why the plane could not be looked at, in a sentence; empty if all went well.
    """

    found: Mapping[int, Record | None] = field(default_factory=dict)
    fault: str = ""


class Journal(Protocol):
    """Keeps what was done, so that a run that was stopped is taken up where it was."""

    def get(self, sweep: int, plane: int) -> StepRecord | None:
        """What an earlier run kept of this plane in this sweep; None if it is to be done."""
        ...

    def put(self, sweep: int, plane: int, step: StepRecord) -> None:
        """Keep what was done; it is safe when this returns."""
        ...


@dataclass(frozen=True)
class ObjectOnPlane:
    """One object on one plane.

    Attributes
    ----------
    label : int
    area : int
        In pixels.
    score : float
        IoU that the network predicts; 1 where the user outlined it.
    certainty : float or None
        Agreement (IoU) of both ways on this plane; 1 where the user outlined it, None while it was gone but one way.
    outlined : bool
        Whether the user outlined it here.
    """

    label: int
    area: int
    score: float
    certainty: float | None
    outlined: bool = False


@dataclass(frozen=True)
class PlaneResult:
    """What is known of one plane.

    Attributes
    ----------
    plane : int
        Running number of the plane.
    objects : tuple of ObjectOnPlane
    patches : Mapping of int to Patch
        Their masks by label, before overlaps are resolved.
    final : bool
        False while a later pass will come by again.
    fault : str
        Why the plane could not be looked at, in a sentence; empty if all went well.
    seconds : float
        That the step took.
    """

    plane: int
    objects: tuple[ObjectOnPlane, ...]
    patches: Mapping[int, Patch]
    final: bool
    fault: str = ""
    seconds: float = 0.0

    @property
    def certainty(self) -> float | None:
        """Mean certainty of the objects that were propagated to here; None where nothing is known."""
        known = [one.certainty for one in self.objects if one.certainty is not None and not one.outlined]
        return float(np.mean(known)) if known else None

    def as_dict(self) -> dict[str, Any]:
        """The result without its masks as plain values, for JSON."""
        return {
            "plane": self.plane,
            "certainty": self.certainty,
            "objects": [asdict(one) for one in self.objects],
            "fault": self.fault,
        }


class FlagReason(StrEnum):
    """Why somebody should look at an object on a plane."""

    UNSURE = "unsure"
    """Both ways disagree."""
    ENDED = "ended"
    """It is not found on this plane nor beyond."""
    BROKEN = "broken"
    """The plane could not be looked at."""


class Flag(NamedTuple):
    """A place to look at.

    Attributes
    ----------
    plane : int
    label : int
        0 where it is about the plane.
    reason : FlagReason
    certainty : float
    """

    plane: int
    label: int
    reason: FlagReason
    certainty: float
