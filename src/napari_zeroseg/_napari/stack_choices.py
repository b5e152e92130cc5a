"""How the user wants to work on a stack. No Qt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_zeroseg._napari.engine import ModelChoice
from napari_zeroseg._napari.find_elsewhere import Pair
from napari_zeroseg._napari.stack_place import StackPlace
from napari_zeroseg.automatic import AutomaticOptions
from napari_zeroseg.errors import InputError
from napari_zeroseg.link import Branches
from napari_zeroseg.propagation import Direction

if TYPE_CHECKING:
    from napari.layers import Labels


@dataclass(frozen=True)
class Choices:
    """How the user wants to work; planes are counted from 0 and `last` is one of them."""

    model: ModelChoice = field(default_factory=ModelChoice)
    whole: bool = True
    first: int = 0
    last: int = 0
    everywhere: bool = False
    """Whether objects of all labelled planes are followed instead of those on the screen's."""
    direction: Direction = Direction.BOTH
    threshold: float = 0.8
    on_range: bool = False
    """Whether everything is segmented on all planes of the range instead of the screen's."""
    search: AutomaticOptions = field(default_factory=AutomaticOptions)
    least_area: int = 0
    most_area: int = 0
    """0 is no limit."""
    class_map: Labels | None = None
    """Classes by which masks are kept; without, all are."""
    keep: str = "1"
    """Numbers of the classes that are kept."""
    line: str = ""
    probability: float = 0.5
    find_on_range: bool = False
    """Whether the rest is looked for on all planes of the range instead of the screen's."""
    like: str = ""
    """The taught word that is looked for in place of what is labelled."""
    examples: Pair | None = None
    """Another image and its labels, where the examples are."""
    gap: int = 0
    min_planes: int = 1
    specks: int = 0
    """Linked objects of fewer voxels are removed."""
    holes: int = 0
    """Holes of a plane up to this many pixels are filled before linking."""
    branches: Branches = Branches.JOIN
    room: float = 0.0
    """GB that embeddings of planes encoded ahead may take; 0 is all there is."""

    def planes(self, place: StackPlace) -> range:
        """Planes to work on.

        Raises
        ------
        InputError
            If there is none.
        """
        if self.whole:
            return range(place.count)
        last = min(self.last, place.count - 1)
        if self.first > last:
            raise InputError(
                f"No plane lies from {self.first} to {self.last}: planes go from 0 to {place.count - 1}, the lower "
                "number first."
            )
        return range(self.first, last + 1)
