"""What "find the rest" can be told."""

from __future__ import annotations

from dataclasses import dataclass

from napari_zeroseg.errors import InputError
from napari_zeroseg.tiling import NARROWEST
from napari_zeroseg.view import FieldChoice


@dataclass(frozen=True)
class SimilarOptions:
    """How the rest is looked for.

    Attributes
    ----------
    least_certainty : float
        Proposals that are less certain are not shown, 0 to 1.
    points_per_plane : int
        Places of a plane that are asked for at most, the most similar ones, for each million pixels and each class.
    least_predicted_iou : float
        Masks for which the model predicts a lower IoU are never looked at.
    overlap : float
        Two masks are the same object if they share more than this part of the smaller one.
    boxes : bool
        Ask with boxes around similar regions as well, which mostly brings masks that are none
        (docs/find_the_rest.md).
    field : "auto", "plane" or int
        Side of the windows, in pixels. "auto" takes the smallest at least twice as wide as the examples.

    Raises
    ------
    InputError
        If a value is none that can be worked with.
    """

    least_certainty: float = 0.45
    points_per_plane: int = 200
    least_predicted_iou: float = 0.5
    overlap: float = 0.5
    boxes: bool = False
    field: FieldChoice = "auto"

    def __post_init__(self) -> None:
        for name in ("least_certainty", "least_predicted_iou", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a number from 0 to 1; got {getattr(self, name)!r}.")
        if self.points_per_plane < 1:
            raise InputError(f"points_per_plane is a whole number from 1; got {self.points_per_plane!r}.")
        if self.field not in ("auto", "plane") and not (isinstance(self.field, int) and self.field >= NARROWEST):
            raise InputError(f"A field of view is 'auto', 'plane' or at least {NARROWEST} pixels; got {self.field!r}.")
