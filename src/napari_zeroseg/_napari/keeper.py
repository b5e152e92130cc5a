"""The keeper: downloads, verifies, removes and adds models for a dock, asks where consent is due. No Qt."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from psygnal import Signal

from napari_zeroseg._napari.channel import Channel, Status
from napari_zeroseg._napari.looking import Look, look_at
from napari_zeroseg._napari.trying import try_out
from napari_zeroseg._napari.zoo import Entry, Errand, Zoo
from napari_zeroseg.catalogue import FORMS, SAM, ModelSpec
from napari_zeroseg.errors import CancelledError, ChangedWeightsError, UnknownModelError, WeightsError, ZerosegError
from napari_zeroseg.jobs import CancelToken, InferenceQueue, Priority
from napari_zeroseg.registry import add_checkpoint as join_checkpoint
from napari_zeroseg.registry import download_model, offer_of, remove_model, verify
from napari_zeroseg.weights import Weights, locate
from napari_zeroseg.weights.folder import megabytes

T = TypeVar("T")

ADDING = "+"
"""Key of the errand that reads and adds a checkpoint, whose model is not known yet."""

_STOPPED = {
    "Downloading": "Stopped. What has come of the download is kept, and it goes on from there",
    "Verifying": "Stopped. The files were not verified",
    "Removing": "Stopped. Nothing was deleted",
    "Exporting": "Stopped. No file was written",
}
"""What is said of errands that the user has stopped; the others add something."""

_FETCHING = "napari_zeroseg.weights.download"
_ACCEPTING = (
    "Its publisher gives no hash, so the first download is all there is to compare with. Accept the new file only if "
    "you know that it was replaced on purpose: it is downloaded again, becomes what later ones are compared with, and "
    "masks may differ from earlier ones."
)


@dataclass(frozen=True, eq=False)
class Question:
    """What must be asked before something is done.

    Attributes
    ----------
    text : str
    yes : str
        What the button says that goes on.
    act : callable
        Called with the chosen key ("" where there was no choice) and the name that was typed.
    choices : tuple of (key, title)
        Models to choose from; empty where that is clear.
    name : str or None
        A name to begin with, where one must be given.
    file : str
        What file must be chosen to go on, in words, unless a model was; its path is then what was typed. "" for none.
    """

    text: str
    yes: str
    act: Callable[[str, str], None]
    choices: tuple[tuple[str, str], ...] = ()
    name: str | None = None
    file: str = ""


class Keeper:
    """Does what a Models dock asks for; all methods return at once.

    Parameters
    ----------
    zoo : Zoo
    channel : Channel
        To the window's thread and its user.
    queue : InferenceQueue
        In which a new checkpoint is tried.
    """

    changed = Signal()
    """There is another status or question."""
    added = Signal(str)
    """A checkpoint is in the list now, under this key."""

    def __init__(self, zoo: Zoo, channel: Channel, queue: InferenceQueue) -> None:
        self.zoo = zoo
        self.status = Status("")
        self.question: Question | None = None
        self._channel = channel
        self._queue = queue
        # The libraries for HTTP take a moment to import, and are wanted when something is asked for, not before.
        threading.Thread(target=import_module, args=(_FETCHING,), name="zeroseg-import", daemon=True).start()

    def answer(self, yes: bool, key: str = "", name: str = "") -> None:
        """Answer the question that is asked."""
        question, self.question = self.question, None
        if question is not None and yes:
            question.act(key, name)
        self.changed.emit()

    def offer(self, key: str) -> None:
        """Tell what a download would bring, and ask for consent to its licence."""
        try:
            spec = self._spec(key)
            text = offer_of(key).sentence(spec.title)
        except ZerosegError as error:
            self._fail(error)
            return
        self._ask(Question(text, "Accept and download", lambda _, __: self._download(spec)))

    def offer_change(self, key: str) -> None:
        """Tell how a file differs from what the same place gave first, and ask whether to take it all the same."""
        fault = self.zoo.faults.get(key)
        if fault is not None and fault.change:
            spec = self._spec(key)
            text = f"{fault.change} {_ACCEPTING}"
            self._ask(Question(text, "Accept and download", lambda _, __: self._download(spec, fault.sha256)))

    def _download(self, spec: ModelSpec, accept_change: str = "") -> None:
        def work(errand: Errand) -> Path:
            return download_model(
                spec.key,
                licence_accepted=True,
                progress=errand.progress,
                cancel=errand.token,
                accept_change=accept_change,
            )

        def failed(error: Exception) -> None:
            if not isinstance(error, ChangedWeightsError):
                self._fail(error)
                return
            # What to do about it is asked here, rather than told as a command.
            self._fail(WeightsError(error.change))
            if self.question is None:
                self.offer_change(spec.key)

        def done(_: Path) -> None:
            self._forget(spec.key)
            self._say(f"{spec.title} is ready", "good")

        self._run(spec.key, "Downloading", work, done, failed)

    def verify(self, key: str) -> None:
        """Hash a model's files anew."""

        def work(errand: Errand) -> str:
            report = verify(key, cancel=errand.token)
            if not report.ok:
                raise WeightsError(report.sentence)
            return report.sentence

        self._run(key, "Verifying", work, lambda words: self._say(words, "good"))

    def offer_removal(self, key: str) -> None:
        """Ask whether a model's files shall go."""
        entry = self.zoo.entries[key]
        what = f"the weights of {entry.spec.title} ({entry.size})"
        if entry.left:
            what = f"what there is of the weights of {entry.spec.title} in the models folder ({megabytes(entry.left)})"
        text = f"Delete {what} from this machine?"
        self._ask(Question(text, "Delete", lambda _, __: self._remove(entry)))

    def _remove(self, entry: Entry) -> None:
        key, title = entry.spec.key, entry.spec.title

        def done(_: None) -> None:
            self._forget(key)
            where = "in the models folder" if entry.left else "on this machine"
            self._say(f"The weights of {title} are no longer {where}")

        self._run(key, "Removing", lambda errand: remove_model(key, cancel=errand.token), done)

    def _forget(self, key: str) -> None:
        """Have what was loaded of a model's files before let go of."""
        work = lambda _: self._channel.engine().forget(key)  # noqa: E731
        self._channel.submit(f"forget {key}", Priority.CLICK, work, lambda _: None, self._fail)

    def unload(self) -> None:
        """Take all loaded models out of memory; they are loaded again when they are next asked."""
        self._channel.submit(
            "unload",
            Priority.CLICK,
            lambda _: self._channel.engine().unload(),
            self._on_unloaded,
            self._fail,
        )

    def _on_unloaded(self, keys: list[str]) -> None:
        names = ", ".join(self.title(key) for key in dict.fromkeys(keys))
        self._say(f"Unloaded: {names}" if names else "No model was loaded", "good")

    def keep_several(self, several: bool) -> None:
        """Allow several large models in memory at once, or one only."""

        def work(_: object) -> None:
            self._channel.engine().keeps_several = several

        self._channel.submit("several", Priority.CLICK, work, lambda _: None, self._fail)

    # Adding a checkpoint

    def add(self, path: str | Path, key: str = "") -> None:
        """Find out what a file is, ask what it does not tell, try it and add it.

        Parameters
        ----------
        path : path
        key : str
            The model that it is for, where the user has said so.
        """
        specs = self._specs()
        work = lambda errand: look_at(Path(path), key, specs, errand.token)  # noqa: E731
        self._run(ADDING, "Reading", work, self._on_looked)

    def _on_looked(self, look: Look) -> None:
        if look.exported:
            self._offer_import(look)
            return
        known = [key for key in look.candidates if key in self._specs()]
        if look.lacks_sam:
            self._ask_for_sam(look)
            return
        if not known:
            # The adding itself says best what is wrong with it.
            self._add(look.path, None, None)
            return
        needs_name = not look.is_published and any(_has_hash(self._spec(key)) for key in known)
        needs_name |= look.is_another or any(self.zoo.is_ready(key) for key in known)
        if len(known) == 1 and not needs_name:
            self._add(look.path, known[0], None)
            return
        titles = tuple((key, self._spec(key).title) for key in known)
        text = f"{look.path.name} holds weights of {titles[0][1]}."
        if len(known) > 1:
            text = f"{look.path.name} fits several models, which have the same parameters: say which it is."
        if needs_name:
            text += " It is not the one that was published or downloaded first, or that is here already: give it a "
            text += "name of its own."
        act = lambda chosen, name: self._add(look.path, chosen or known[0], name or None)  # noqa: E731
        name = _name_of(look.path, set(self.zoo.entries)) if needs_name else None
        self._ask(Question(text, "Try and add", act, titles if len(known) > 1 else (), name))

    def _ask_for_sam(self, look: Look) -> None:
        """Join PA-SAM's decoder alone with the SAM of its size if that is known and here; else ask for it."""
        entries = self.zoo.entries
        here = {f"pa_{key}": entries[key] for key in (spec.key for spec in SAM) if self.zoo.is_ready(key)}
        wanted = here.get(look.candidates[0]) if len(look.candidates) == 1 else None
        if wanted is not None:
            self._join(look.path, wanted.path)
            return
        text = f"{look.path.name} holds PA-SAM's decoder alone: choose the SAM checkpoint that it was trained on."
        act = lambda key, file: self._join(look.path, entries[key].path if key else file)  # noqa: E731
        choices = [(entry.spec.key, f"{entry.spec.title}, which is here") for entry in here.values()]
        if choices:
            choices.append(("", "another file"))
        self._ask(Question(text, "Choose it", act, tuple(choices), file="The SAM checkpoint"))

    def _offer_import(self, look: Look) -> None:
        """Add an exported model under its own name; ask where that is taken, or another model was meant."""
        path, key = look.path, look.exported
        if key not in self.zoo.entries and not look.candidates:
            self._import(path, None)
            return
        text = f"There is a model {key!r} already: give that of {path.name} another name."
        if look.candidates and look.candidates[0] != key:
            wanted = self.title(look.candidates[0])
            text = f"{path.name} is the exported model {key!r}, not the file of {wanted}. It can be added under a name."
        name = _name_of(Path(key), set(self.zoo.entries))
        self._ask(Question(text, "Try and add", lambda _, chosen: self._import(path, chosen or name), (), name))

    def _import(self, path: Path, name: str | None) -> None:
        def put(cancel: CancelToken) -> ModelSpec:
            from napari_zeroseg.training.result import import_model

            return import_model(path, name, cancel=cancel)

        self._put_and_try(put)

    def _put_and_try(self, put: Callable[[CancelToken], ModelSpec]) -> None:
        """Put a model into the models folder and try it there; one that fails does not stay."""

        def work(errand: Errand) -> str:
            spec = put(errand.token)
            found = locate(spec)
            assert found is not None
            try:
                self._try(spec, found.path, errand)
            except Exception:
                remove_model(spec.key)
                raise
            return spec.key

        self._run(ADDING, "Trying", work, self._on_added)

    def offer_export(self, key: str, path: str | Path) -> None:
        """Write a model with its card as one file; the user has been asked about a file of just that name only."""
        target = Path(path)
        if target.suffix.lower() == ".zip":
            self._export(key, target)
            return
        target = target.with_name(f"{target.name}.zip")
        if not target.exists():
            self._export(key, target)
            return
        self._ask(
            Question(f"{target} is there already: replace it?", "Replace", lambda _, __: self._export(key, target))
        )

    def _export(self, key: str, path: Path) -> None:
        def work(errand: Errand) -> Path:
            from napari_zeroseg.training.result import export_model

            return export_model(key, path, overwrite=True, cancel=errand.token)

        self._run(key, "Exporting", work, lambda file: self._say(f"{self.title(key)} is in {file}", "good"))

    def _add(self, path: Path, key: str | None, name: str | None) -> None:
        specs = self._specs()

        def work(errand: Errand) -> str:
            from napari_zeroseg.weights.adding import add_checkpoint

            def check(spec: ModelSpec, _: Weights) -> None:
                self._try(spec, path, errand)

            return add_checkpoint(path, specs, key, name, check=check, cancel=errand.token)

        self._run(ADDING, "Trying", work, self._on_added)

    def _join(self, decoder: Path, sam: str) -> None:
        # the published ones are there already: this one needs a name of its own
        taken = any(self.zoo.is_ready(key) for key in self.zoo.entries if key.startswith("pa_sam_"))
        name = _name_of(decoder, set(self.zoo.entries)) if taken else None

        self._put_and_try(lambda cancel: join_checkpoint(decoder, name=name, beside=sam, cancel=cancel))

    def _try(self, spec: ModelSpec, path: Path, errand: Errand) -> None:
        """Let the inference thread try a file, and wait for it in the errand's own thread."""
        outcome: Future[None] = Future()
        job = self._queue.submit(
            lambda _: try_out(self._channel.engine(), spec, path),
            owner=errand,
            key="try",
            done=outcome.set_result,
            failed=outcome.set_exception,
            priority=Priority.LOAD,
        )
        while not outcome.done():
            if errand.token.cancelled:
                job.cancel()
            job.raise_if_cancelled()
            time.sleep(0.02)
        outcome.result()

    def _on_added(self, key: str) -> None:
        self._forget(key)
        self._say(f"{self.title(key)} works on a test picture and is in the list", "good")
        self.added.emit(key)

    # Talking to the user

    def _specs(self) -> dict[str, ModelSpec]:
        """All models that a file can be of, by key: those in the list, and networks without published weights."""
        forms = {spec.key: spec for spec in FORMS}
        return forms | {key: entry.spec for key, entry in self.zoo.entries.items()}

    def _spec(self, key: str) -> ModelSpec:
        specs = self._specs()
        if key not in specs:
            raise UnknownModelError(f"There is no model {key!r} any more: choose one of the list.")
        return specs[key]

    def title(self, key: str) -> str:
        """Name for people; of what is not in the list, or not yet, the key."""
        entry = self.zoo.entries.get(key)
        return key if entry is None else entry.spec.title

    def _run(
        self,
        key: str,
        doing: str,
        work: Callable[[Errand], T],
        done: Callable[[T], None],
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        def hear(result: T) -> None:
            self._channel.post(partial(done, result))

        def hear_error(error: Exception) -> None:
            if isinstance(error, CancelledError):
                self._channel.post(partial(self._say, _STOPPED.get(doing, "Stopped. Nothing was added")))
            else:
                self._channel.post(partial(failed or self._fail, error))

        self._say("")
        self.zoo.run(key, doing, work, hear, hear_error)

    def _ask(self, question: Question) -> None:
        self.question = question
        self._say("")

    def _fail(self, error: Exception) -> None:
        self._say(self._channel.report(error), "warning")

    def _say(self, text: str, tone: str = "idle") -> None:
        self.status = Status(text, tone)
        self.changed.emit()


def _has_hash(spec: ModelSpec) -> bool:
    return any(source.sha256 for source in spec.sources)


def _name_of(path: Path, taken: set[str]) -> str:
    """Make a name of a file's that no model has."""
    stem = path.stem if path.suffix else path.name
    bare = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).strip("_.-")[:56] or "model"
    return next(name for name in (bare, *(f"{bare}-{i}" for i in range(2, 1000))) if name not in taken)
