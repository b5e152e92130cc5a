"""Finding the rest, from the window's side: searches begun, words taught, the queue that comes of it. No Qt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_zeroseg._napari.channel import Channel
from napari_zeroseg._napari.find_elsewhere import Pair
from napari_zeroseg._napari.find_queue import Inquiry, Subject
from napari_zeroseg._napari.find_work import LEARNT, Finding, Teaching, counted
from napari_zeroseg._napari.stack_place import LabelStack
from napari_zeroseg._napari.stack_run import Runner
from napari_zeroseg._napari.taught import shared_taught
from napari_zeroseg.cascade import Proposal, Queue
from napari_zeroseg.cascade.words import taught_words
from napari_zeroseg.errors import ZerosegError
from napari_zeroseg.jobs import Priority
from napari_zeroseg.word_files import spoken

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


class Finder:
    """Searches for the rest, and teaches words. Methods are called in the window's thread and return at once.

    Parameters
    ----------
    viewer : ViewerModel
    channel : Channel
    runner : Runner
        Does the long parts.
    subject : callable
        Gives what to work on: all planes of the range (True), or that on the screen; and, where the second argument
        says so, makes labels if there are none.
    """

    changed = Signal()

    def __init__(
        self, viewer: ViewerModel, channel: Channel, runner: Runner, subject: Callable[[bool, bool], Subject]
    ) -> None:
        self.inquiry: Inquiry | None = None
        """The proposals of the last search, until they are put away."""
        self.words: list[str] = []
        """That were taught."""
        self._viewer = viewer
        self._channel = channel
        self._runner = runner
        self._subject = subject
        self._rejected: dict[object, list[Proposal]] = {}

    def find(self, on_range: bool, word: str = "", examples: Pair | None = None) -> None:
        """Look for all that looks like the labelled objects, here or of another image, or like a taught word."""
        self._try(partial(self._find, on_range, word, examples))

    def _find(self, on_range: bool, word: str, examples: Pair | None) -> None:
        self._runner.check_free()
        elsewhere = None if examples is None or word else examples.planes(self._viewer.dims)
        at = self._subject(on_range, elsewhere is not None or bool(word))
        self.done()
        known = self._rejected.get((at.image.unique_id, at.labels.unique_id, at.place.stack), [])
        finding = Finding(at.stack, LabelStack(at.labels.data, at.place), word, elsewhere, rejected=tuple(known))
        ended = partial(self._rank, at, finding)
        needs = (at.labels, at.image)
        self._runner.run("Finding the rest", finding, None, needs, then=ended, cut_short=ended)

    def _rank(self, at: Subject, finding: Finding) -> None:
        def rank(_: object) -> tuple[Queue, list[Proposal]] | None:
            queue = finding.queue()
            return None if queue is None else (queue, list(queue))

        # Behind the step that may still end in that thread.
        self._channel.submit("found", Priority.AHEAD, rank, partial(self._open, at, finding), self._runner.report)

    def _open(self, at: Subject, finding: Finding, found: tuple[Queue, list[Proposal]] | None) -> None:
        if found is None or any(layer not in self._viewer.layers for layer in (at.image, at.labels)):
            return
        queue, ranked = found
        where = counted(len(finding.searched), "plane")
        if not ranked:
            absence = sum(map(queue.absence, finding.searched)) / len(finding.searched)
            nothing = "Nothing of the learnt class is left" if finding.word == LEARNT else "Nothing else looks like it"
            self._runner.note(f"{nothing} on {where} (absence {absence:.2f}).")
            return
        self.done()
        self._runner.note(f"{counted(len(ranked), 'proposal')} on {where}: A accepts, R rejects.", "good")
        self.inquiry = Inquiry(self._viewer, self._channel, self._runner, at, queue)
        self.inquiry.changed.connect(self.changed.emit)
        self.inquiry.show_ranked(ranked)

    def teach(self, word: str) -> None:
        """Teach a word from what is labelled on the planes of the range."""
        self._try(partial(self._teach, word))

    def _teach(self, word: str) -> None:
        name, at = spoken(word), self._subject(True, False)
        work = Teaching(at.stack, LabelStack(at.labels.data, at.place), name)
        needs = (at.labels, at.image)
        self._runner.run(f"Teaching {name!r}", work, None, needs, "steps", then=self.look_for_words)

    def look_for_words(self) -> None:
        """See which words were taught."""
        self._channel.submit("words", Priority.LOAD, lambda _: taught_words(), self._on_words, self._runner.report)

    def _on_words(self, words: list[str]) -> None:
        if words != self.words:
            shared_taught().changed.emit()
        self.words = words
        self.changed.emit()

    def done(self) -> None:
        """Put the proposals away; what was accepted stays."""
        if self.inquiry is not None:
            self._runner.note(f"{self.inquiry.summary}.")
            self.close()

    def close(self) -> None:
        """Put the proposals away without a word."""
        inquiry, self.inquiry = self.inquiry, None
        if inquiry is not None:
            # what was rejected is not proposed again by the next search
            self._rejected.setdefault(inquiry.key, []).extend(inquiry.rejected)
            inquiry.close()
            self.changed.emit()

    def on_removed(self, layer: Layer) -> None:
        """Put the proposals away if they belong to that layer."""
        inquiry = self.inquiry
        if inquiry is not None and inquiry.on_removed(layer):
            self._runner.note(f"'{layer.name}' was removed, and its proposals with it.")
            self.close()

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except ZerosegError as error:
            self._runner.report(error)
