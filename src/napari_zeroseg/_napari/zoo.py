"""The zoo: which models this process knows and what is being done to their files; shared by all docks. No Qt.

Disks and networks are waited for in threads of their own, so neither the window nor the inference thread does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from psygnal import Signal

from napari_zeroseg._napari.channel import sentence
from napari_zeroseg.catalogue import BUILT_IN, ModelSpec
from napari_zeroseg.errors import CancelledError, ChangedWeightsError
from napari_zeroseg.jobs import CancelToken
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.registry import list_models
from napari_zeroseg.weights import locate
from napari_zeroseg.weights.folder import left_in_folder, megabytes, size_in_words

_log = logging.getLogger(__name__)

T = TypeVar("T")

READY, DOWNLOAD, BRING, UNKNOWN = "ready", "needs download", "bring a file", ""
"""States of a model; the last one until somebody has looked."""

_FAULTS = {"Downloading": "download failed", "Verifying": "check failed", "Removing": "not removed"}


@dataclass(frozen=True)
class Entry:
    """A model as the docks list it.

    Attributes
    ----------
    spec : ModelSpec
    state : str
        As :attr:`ModelSpec.state`; "" until somebody has looked.
    size : str
        Of its weights, for people; "?" where unknown.
    where, path : str
        The kind of place of its weights ("package", "models folder", "local folder", "hub cache") and the file; "" if
        they are not here.
    left : int
        Bytes of damaged or half downloaded files that lie in the models folder.
    """

    spec: ModelSpec
    state: str = UNKNOWN
    size: str = "?"
    where: str = ""
    path: str = ""
    left: int = 0

    @property
    def is_ready(self) -> bool:
        """Whether it can be loaded at once."""
        return self.state == READY

    @property
    def is_ours(self) -> bool:
        """Whether there is anything that can be deleted."""
        return self.where == "models folder" or self.left > 0

    @classmethod
    def unlooked(cls, spec: ModelSpec) -> Entry:
        """What is known without looking at any disk."""
        state = READY if spec.weights.is_embedded else UNKNOWN
        return cls(spec, state, size_in_words(spec), "package" if state else "")

    @classmethod
    def looked_up(cls, spec: ModelSpec) -> Entry:
        """What there is on this machine."""
        found = locate(spec)
        left = 0 if found is not None and found.where == "models folder" else left_in_folder(spec.key)
        if found is None:
            return cls(spec, spec.state, size_in_words(spec), left=left)
        size = megabytes(found.path.stat().st_size) if found.path.is_file() else size_in_words(spec)
        return cls(spec, READY, size, found.where, str(found.path), left)


@dataclass(frozen=True, eq=False)
class Fault:
    """Why an errand came to nothing; remembered until the next one for the model begins.

    Attributes
    ----------
    doing : str
        The errand's.
    error : Exception
    """

    doing: str
    error: Exception

    @property
    def change(self) -> str:
        """What differs from the file that came first; "" if that is not the fault."""
        return self.error.change if isinstance(self.error, ChangedWeightsError) else ""

    @property
    def sha256(self) -> str:
        """Of the file that differs; "" if that is not the fault."""
        return self.error.sha256 if isinstance(self.error, ChangedWeightsError) else ""

    @property
    def words(self) -> str:
        """What is read beside the model."""
        return "file changed" if self.change else _FAULTS.get(self.doing, "failed")

    @property
    def sentence(self) -> str:
        """What is wrong."""
        return self.change or sentence(self.error)


@dataclass(eq=False)
class Errand:
    """Something that is being done to a model's files.

    Attributes
    ----------
    doing : str
        "Downloading", "Verifying", "Removing" or "Adding".
    token : CancelToken
    there, total : int
        Bytes; 0 where unknown. Written by the errand's thread, read by the window's.
    """

    doing: str
    token: CancelToken = field(default_factory=CancelToken)
    there: int = 0
    total: int = 0

    def progress(self, there: int, total: int) -> None:
        """Take note of how far it has come."""
        self.there, self.total = there, total

    @property
    def short(self) -> str:
        """How far it has come, in two words."""
        return f"{100 * self.there // self.total} % there" if self.total else self.doing.lower()

    @property
    def words(self) -> str:
        """How far it has come, for people."""
        if self.token.cancelled:
            return "Stopping …"
        if not self.there:
            return f"{self.doing} …"
        of = f" of {megabytes(self.total)}" if self.total else ""
        return f"{self.doing}: {megabytes(self.there)}{of}"


class Zoo:
    """All models by key, and the errands that are run for them."""

    changed = Signal()
    """Models, states or errands are others than before; emitted in whichever thread noticed."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {spec.key: Entry.unlooked(spec) for spec in BUILT_IN}
        self.errands: dict[str, Errand] = {}
        self.faults: dict[str, Fault] = {}
        self._lock = threading.Lock()
        self._looks = 0

    @property
    def knows_text(self) -> bool:
        """Whether any model takes text."""
        return any(PromptKind.TEXT in entry.spec.accepts for entry in self.entries.values())

    def is_ready(self, key: str) -> bool:
        """Whether that model can be loaded at once."""
        entry = self.entries.get(key)
        return entry is not None and entry.is_ready

    def refresh(self) -> None:
        """Look at the disks again, in a thread; of several looks at once the last one counts."""
        with self._lock:
            self._looks += 1
            number = self._looks
        _in_a_thread(lambda: self._look(number), "zeroseg-look")

    def look(self) -> None:
        """Look at the disks again, in this thread."""
        with self._lock:
            self._looks += 1
            number = self._looks
        self._look(number)

    def _look(self, number: int) -> None:
        entries = {spec.key: Entry.looked_up(spec) for spec in list_models()}
        with self._lock:
            if number != self._looks:
                return
            is_new, self.entries = entries != self.entries, entries
            # Another process, or the user, may have brought what could not be downloaded here.
            come = [key for key, fault in self.faults.items() if fault.doing == "Downloading" and self.is_ready(key)]
            for key in come:
                del self.faults[key]
        if is_new:
            self.changed.emit()

    def run(
        self,
        key: str,
        doing: str,
        work: Callable[[Errand], T],
        done: Callable[[T], None],
        failed: Callable[[Exception], None],
    ) -> Errand:
        """Begin an errand in a thread of its own; a model has one at a time.

        Parameters
        ----------
        key : str
            The model's.
        doing : str
            See :class:`Errand`.
        work : callable
            Called in the errand's thread with the errand, at whose token it looks between steps.
        done, failed : callable
            Called in the errand's thread with the result or the error; a cancellation is an error here, since what
            has come of a download is kept and the user should hear so.

        Returns
        -------
        Errand
            The new one, or that which is running already.
        """
        with self._lock:
            if key in self.errands:
                return self.errands[key]
            errand = self.errands[key] = Errand(doing)
            self.faults.pop(key, None)

        def go() -> None:
            try:
                result = work(errand)
            except Exception as error:
                self._end(key, None if isinstance(error, CancelledError) else Fault(doing, error))
                failed(error)
            else:
                self._end(key)
                done(result)

        _in_a_thread(go, f"zeroseg-{doing.lower()}")
        self.changed.emit()
        return errand

    def cancel(self, key: str) -> None:
        """Ask an errand to stop."""
        errand = self.errands.get(key)
        if errand is not None:
            errand.token.cancel()
            self.changed.emit()

    def _end(self, key: str, fault: Fault | None = None) -> None:
        with self._lock:
            del self.errands[key]
            if fault is not None:
                self.faults[key] = fault
        for renew in (self.look, self.changed.emit):
            try:
                renew()
            except Exception:
                # whoever began the errand must hear how it ended, whatever the disks or a dock say
                _log.exception("The list of models could not be renewed.")


def _in_a_thread(call: Callable[[], Any], name: str) -> None:
    # A daemon: napari may close while a download runs, which goes on from there the next time.
    threading.Thread(target=call, name=name, daemon=True).start()


@cache
def shared_zoo() -> Zoo:
    """Return the zoo of the process, so that all docks show the same."""
    return Zoo()
