"""The part of the Stack dock that finds the rest: what is searched for, and the proposals to answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QStringListModel, Qt
from qtpy.QtWidgets import QAbstractItemView, QDoubleSpinBox, QFrame, QLabel, QLineEdit, QListView, QVBoxLayout, QWidget

from napari_zeroseg._napari.find_elsewhere import pairs
from napari_zeroseg._napari.find_work import LEARNT
from napari_zeroseg._napari.layout import button, column, row
from napari_zeroseg._napari.widgets import Choice, keep_keys_free
from napari_zeroseg.weights.cards import has_class

if TYPE_CHECKING:
    from napari_zeroseg._napari.find_session import Finder
    from napari_zeroseg._napari.stack_session import StackSession
    from napari_zeroseg.cascade import Proposal

_ROWS = 6
_PLANES = (
    (False, "this plane", "Only the plane on the screen"),
    (True, "all of the range", "All planes of the range above, that on the screen first"),
)
_HERE = (None, "examples from this image", "The labelled objects of the image above are the examples")
_LEARNT = (LEARNT, "what the model has learnt", "All objects of the class that the chosen model was trained for")
_LABELLED = ("", "like what is labelled", "The labelled objects of these planes are the examples")


class FindPart(QWidget):
    """Starts a search, and teaches words.

    Parameters
    ----------
    session : StackSession
    """

    def __init__(self, session: StackSession) -> None:
        super().__init__()
        self._session = session
        self.start = button("Find the rest", "Propose all that is like the labelled objects, or what is chosen below")
        self.planes, self.like = Choice(_PLANES), Choice([_LABELLED])
        self.planes.setToolTip("Where the rest is looked for")
        self.like.setToolTip("What is looked for")
        self.examples = Choice([_HERE])
        self.examples.setToolTip("Where the labelled examples are")
        self.word = QLineEdit()
        self.word.setPlaceholderText("a word")
        # Typing begins with a click, never by itself: the keys belong to the canvas.
        self.word.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.teach = button(
            "Teach this word", "Learn what is labelled on the planes of the range, to look for it elsewhere"
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(column(row(self.start, self.planes), self.like, self.examples, row(self.word, self.teach)))
        self.start.clicked.connect(lambda: self._find())
        self.planes.picked.connect(lambda on: session.set_choices(find_on_range=on))
        self.like.picked.connect(lambda word: session.set_choices(like=word))
        self.examples.picked.connect(lambda pair: session.set_choices(examples=pair))
        self.word.textChanged.connect(lambda _: self.refresh())
        self.word.returnPressed.connect(self._on_return)
        self.teach.clicked.connect(lambda: session.finder.teach(self.word.text()))

    def refresh(self) -> None:
        """Show the state of the session; tells nobody."""
        session, choices = self._session, self._session.choices
        taught = [(word, f"like “{word}”", "A word that was taught") for word in session.finder.words]
        learnt = [_LEARNT] if has_class(choices.model.key) else []
        self.like.offer([_LABELLED, *learnt, *taught])
        self.like.show_value(self._like)
        self.like.setVisible(bool(taught or learnt))
        others = list(pairs(session.viewer, session.image, session.labels))
        about = "Its labelled objects are looked for in the image above"
        self.examples.offer([_HERE, *((pair, f"examples from {pair.name}", about) for pair in others)])
        self.examples.show_value(choices.examples if choices.examples in others else None)
        self.examples.setVisible(bool(others) and not self._like)
        self.planes.show_value(choices.find_on_range)
        is_free = session.image is not None and not session.runner.is_busy
        self.start.setEnabled(is_free)
        self.teach.setEnabled(is_free and bool(self.word.text().strip()))

    @property
    def _like(self) -> str:
        """What is looked for; a class that this model has not learnt is not."""
        choices = self._session.choices
        return "" if choices.like == LEARNT and not has_class(choices.model.key) else choices.like

    def _find(self) -> None:
        session, choices = self._session, self._session.choices
        there = list(pairs(session.viewer, session.image, session.labels))
        pair = choices.examples if choices.examples in there else None
        session.finder.find(choices.find_on_range, self._like, pair)

    def _on_return(self) -> None:
        self.word.clearFocus()
        self.teach.click()


class ProposalsPart(QFrame):
    """The ranked proposals, and what is answered; hidden where there are none.

    Parameters
    ----------
    finder : Finder
    """

    def __init__(self, finder: Finder) -> None:
        super().__init__()
        self.setObjectName("zeroseg_question")
        self._finder = finder
        self._shown: Sequence[Proposal] = ()
        self._build()
        self.accept.clicked.connect(lambda: self._call("accept"))
        self.reject.clicked.connect(lambda: self._call("reject"))
        self.back.clicked.connect(lambda: self._call("take_back"))
        self.all_above.clicked.connect(lambda: self._call("accept_all", self.least.value()))
        self.done.clicked.connect(lambda: finder.done())
        self.least.valueChanged.connect(lambda _: self.refresh())
        self.list.selectionModel().currentChanged.connect(lambda index: self._call("select", index.row()))

    def _build(self) -> None:
        self.summary = QLabel()
        self.summary.setWordWrap(True)
        self.list, self._texts = QListView(), QStringListModel(self)
        self.list.setObjectName("zeroseg_proposals")
        self.list.setModel(self._texts)
        self.list.setUniformItemSizes(True)
        self.list.setToolTip("Certainty, plane and area of each proposal; a click asks about it")
        self.list.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.list.setAccessibleName("Proposals, the most certain first")
        self.list.setFixedHeight(_ROWS * (self.list.fontMetrics().lineSpacing() + 6) + 6)
        keep_keys_free(self.list)
        self.accept = button("Accept  A", "Write it into the labels where they are empty, as an object of its own (A)")
        self.accept.setObjectName("zeroseg_accept")
        self.reject = button("Reject  R", "Drop it; what looks more like it sinks (R)")
        self.all_above = button("", "Write all that are at least so certain, as one step of undo")
        self.least = QDoubleSpinBox()
        self.least.setRange(0, 1)
        self.least.setSingleStep(0.05)
        self.least.setValue(0.7)
        self.least.setToolTip("Certainty from which all are accepted")
        self.back = button("Take back", "Take the last answer back (Ctrl-Z)")
        self.done = button("Done", "Put the proposals away; what was accepted stays")
        lines = (self.summary, self.list, row(self.accept, self.reject), row(self.all_above, self.least))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 8)
        for part in (*lines, row(self.back, self.done)):
            layout.addWidget(part)

    def refresh(self) -> None:
        """Show the state of the queue; tells nobody."""
        inquiry = self._finder.inquiry
        self.setVisible(inquiry is not None)
        if inquiry is None:
            return
        self.summary.setText(inquiry.summary.replace("; ", "\n"))
        selection = self.list.selectionModel()
        selection.blockSignals(True)
        if self._shown is not inquiry.ranked:
            self._shown = inquiry.ranked
            self._texts.setStringList([_told(one) for one in inquiry.ranked])
        if inquiry.current is not None:
            self.list.setCurrentIndex(self._texts.index(inquiry.ranked.index(inquiry.current), 0))
        selection.blockSignals(False)
        self.list.viewport().update()
        for one in (self.accept, self.reject):
            one.setEnabled(inquiry.can_answer)
        above = len(inquiry.above(self.least.value()))
        self.all_above.setText(f"Accept {above} above")
        self.all_above.setEnabled(inquiry.can_answer and above > 0)
        self.back.setEnabled(inquiry.can_take_back)

    def _call(self, method: str, *values: Any) -> None:
        if self._finder.inquiry is not None:
            getattr(self._finder.inquiry, method)(*values)


def _told(proposal: Proposal) -> str:
    return f"{proposal.certainty:.2f}   plane {proposal.plane}   {proposal.area:,} px"
