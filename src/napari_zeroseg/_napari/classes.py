"""Classes: keeps the numbers of named classes, of accepted ones and of the dock's own apart. No Qt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from napari_zeroseg._napari.layers import CLASS, CLASS_NAMES, class_numbers, free_number, keep_classes

if TYPE_CHECKING:
    from napari.layers import Shapes

    from napari_zeroseg._napari.asking import Asking
    from napari_zeroseg._napari.ledger import Ledger
    from napari_zeroseg._napari.outlining import Outlining
    from napari_zeroseg._napari.workspace import Workspace


class Classes:
    """Which numbers the classes of a session have.

    Parameters
    ----------
    workspace : Workspace
    ledger : Ledger
        Knows what was accepted.
    asking : Asking
        Whose options hold the dock's own class.
    outlining : Outlining
        Which says itself when several classes were found.
    change : callable
        Changes options.
    """

    def __init__(
        self,
        workspace: Workspace,
        ledger: Ledger,
        asking: Asking,
        outlining: Outlining,
        change: Callable[..., None],
    ) -> None:
        self._workspace = workspace
        self._ledger = ledger
        self._asking = asking
        self._outlining = outlining
        self._change = change
        self._is_chosen = False
        self._reserved: set[int] = set()
        self._with_classes: Shapes | None = None
        workspace.chosen.connect(self.look)
        workspace.marks_changed.connect(self.look)

    def choose(self, number: int) -> None:
        """Hear that the user chose the dock's own class: from now on no new name gets its number."""
        self._is_chosen = True
        self._reserved = set() if number in self._names().values() else {number}
        self.look()

    def look(self) -> None:
        """Number what is named, move the dock's own class out of its way, and write classes once shapes have them."""
        shapes, has_classes = self._workspace.shapes, False
        if shapes is not None and CLASS in shapes.features:
            names, numbers = self._ledger.classes_in(self._workspace.labels)
            keep_classes(shapes, names, numbers | self._reserved)
            has_classes = any(class_numbers(shapes))
        free = free_number(self._names().values())
        if not self._is_chosen and free != self._asking.options.class_id:
            self._change(class_id=free)
        if shapes is None or CLASS not in shapes.features or shapes is self._with_classes:
            return
        if self._outlining.is_busy:
            self._with_classes = shapes
        elif has_classes:  # the user may still choose otherwise
            self._with_classes = shapes
            self._change(semantic=True)

    def _names(self) -> dict[str, int]:
        shapes = self._workspace.shapes
        return {} if shapes is None else shapes.metadata.get(CLASS_NAMES, {})
