"""The Stack dock's session: what is asked of a stack, one run at a time, and what came of it. No Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike
from psygnal import Signal

from napari_zeroseg._napari.channel import Bridge, Channel
from napari_zeroseg._napari.engine import Engine, shared_engine
from napari_zeroseg._napari.find_queue import Subject
from napari_zeroseg._napari.find_session import Finder
from napari_zeroseg._napari.layers import camera_of, shown_plane
from napari_zeroseg._napari.prompt_layers import new_labels
from napari_zeroseg._napari.stack_ahead import encode
from napari_zeroseg._napari.stack_choices import Choices
from napari_zeroseg._napari.stack_edits import link, take_over
from napari_zeroseg._napari.stack_place import LabelStack, ShownStack, StackPlace, labels_place, world_of
from napari_zeroseg._napari.stack_results import Results
from napari_zeroseg._napari.stack_run import Runner, flagged
from napari_zeroseg._napari.stack_work import Following, Searching, Stack, Voting, Wording
from napari_zeroseg._napari.workspace import picture_of
from napari_zeroseg._napari.zoo import UNKNOWN, Zoo, shared_zoo
from napari_zeroseg.automatic.class_filter import ClassFilter, classes_of
from napari_zeroseg.automatic.table import write_table
from napari_zeroseg.errors import InputError, ZerosegError
from napari_zeroseg.jobs import InferenceQueue, Priority, shared_queue
from napari_zeroseg.link import LinkOptions
from napari_zeroseg.prompts import PromptKind
from napari_zeroseg.propagation import Flag, PropagationOptions

GB = 10**9

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels


class StackSession:
    """Works on the stacks of one viewer. All methods are called in the window's thread and return at once.

    Parameters
    ----------
    viewer : ViewerModel
    bridge : Bridge
        To the window's thread and to its user.
    queue, engine, zoo : optional
        Those that all viewers of the process share, if left out.
    """

    changed = Signal()
    """Something that the dock shows is different."""

    def __init__(
        self,
        viewer: ViewerModel,
        bridge: Bridge,
        queue: InferenceQueue | None = None,
        engine: Engine | None = None,
        zoo: Zoo | None = None,
    ) -> None:
        def get_engine() -> Engine:
            return shared_engine() if engine is None else engine

        self.viewer = viewer
        self.zoo = zoo or shared_zoo()
        self.image: Image | None = None
        self.labels: Labels | None = None
        self.choices = Choices()
        self.results: Results | None = None
        """What the newest run has drawn."""
        self._channel = Channel(bridge, queue if queue is not None else shared_queue(), get_engine)
        self._following: Following | None = None
        self._followed: Results | None = None
        self._found: dict[object, Results] = {}
        self.runner = Runner(self._channel, self._plane_of)
        self.runner.changed.connect(self.changed.emit)
        self.finder = Finder(viewer, self._channel, self.runner, self._subject)
        self.finder.changed.connect(self.changed.emit)
        self.zoo.changed.connect(self._on_zoo)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.dims.events.point.connect(self._on_dims)
        for event in self._camera_events:
            event.connect(self._on_user)
        self.zoo.refresh()
        self.finder.look_for_words()

    def close(self) -> None:
        """Let go of the viewer; what still runs reports to nobody, and what it has drawn stays."""
        if self._channel.is_closed:
            return
        self.runner.close()
        self._channel.close()
        self.finder.close()
        self.zoo.changed.disconnect(self._on_zoo)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.viewer.dims.events.point.disconnect(self._on_dims)
        for event in self._camera_events:
            event.disconnect(self._on_user)

    @property
    def _camera_events(self) -> tuple[Any, ...]:
        """What is told when the user moves or enlarges the picture."""
        events = camera_of(self.viewer).events
        return events.center, events.zoom

    # Choices

    def choose_image(self, image: Image | None) -> None:
        """Work on that image from the next run on."""
        if image is not self.image:
            self.image = image
            self.choices = replace(self.choices, examples=None)
            place = self.place
            if place is not None:
                self.choices = replace(self.choices, first=0, last=place.count - 1)
            self.changed.emit()

    def choose_labels(self, labels: Labels | None) -> None:
        """Take objects from, and write them into, that layer."""
        if labels is not self.labels:
            self.labels = labels
            self.changed.emit()

    def set_choices(self, **values: Any) -> None:
        """Change some of :class:`Choices`."""
        self.choices = replace(self.choices, **values)
        self.changed.emit()

    def set_search(self, **values: Any) -> None:
        """Change some of :class:`AutomaticOptions`."""
        self.set_choices(search=replace(self.choices.search, **values))

    def set_computing(self, **values: str) -> None:
        """Use another device or precision from the next run on."""
        self.set_choices(model=replace(self.choices.model, **values))

    def set_model(self, key: str) -> None:
        """Use another model from the next run on."""
        self.set_choices(model=replace(self.choices.model, key=key))
        entry = self.zoo.entries.get(key)
        if entry is not None and not entry.is_ready and entry.state != UNKNOWN:
            self.runner.say(f"{entry.spec.title}: {entry.state}. See the Models dock", "warning")

    # What the dock shows

    @property
    def place(self) -> StackPlace | None:
        """The stack on the screen; None where there is none."""
        try:
            return self._place()
        except ZerosegError:
            return None

    @property
    def flags(self) -> list[Flag]:
        """Places to look at, plane by plane."""
        survey = self.runner.survey
        return [] if survey is None else list(survey.flags)

    @property
    def can_follow_again(self) -> bool:
        """Whether there is a propagation to correct or to go on with."""
        return self._followed is not None and self._followed.layer in self.viewer.layers and not self.runner.is_busy

    @property
    def can_take_over(self) -> bool:
        """Whether there are results, and other labels to put them into."""
        results = self.results
        return (
            results is not None
            and results.layer in self.viewer.layers
            and self.labels is not None
            and self.labels is not results.layer
            and not self.runner.is_busy
        )

    # Runs

    def propagate(self) -> None:
        """Follow the objects of the labels layer through the range of planes, into a new layer."""
        self._try(self._propagate)

    def _propagate(self) -> None:
        image, labels, place, own = self._image(), *self._own_labels()
        if place.count < 2:
            raise InputError(f"'{image.name}' is a single plane: objects are followed through the planes of a stack.")
        choices = self.choices
        options = PropagationOptions(choices.direction, spacing=place.spacing(image), threshold=choices.threshold)
        stack = self._stack(place, self.choices.planes(place))
        following = Following(stack, LabelStack(labels.data, own), choices.everywhere, options)
        self.runner.check_free()
        results = Results.new(self.viewer, image, place, "propagated", labels.data.dtype)
        if self._followed is not None:
            self._followed.layer.visible = False  # not removed: what was corrected there would be lost
        self._following, self._followed, self.results = following, results, results
        self.runner.forget(following.survey)
        self.runner.run("Propagating", following.begin, results, (image, results.layer), "steps")

    def propagate_again(self) -> None:
        """Do again what depends on planes that the user has corrected in the results, and what was not done yet."""
        self._try(self._propagate_again)

    def _propagate_again(self) -> None:
        results, following = self._followed, self._following
        if results is None or following is None or results.layer not in self.viewer.layers:
            raise InputError("There is no propagation to correct: propagate first.")
        self.results = results
        work = partial(following.again, results.layer.data, results.sums)
        self.runner.run("Propagating again", work, results, (results.layer,), "steps")

    def search(self) -> None:
        """Segment everything on the screen's plane, or on all of the range."""
        self._try(self._search)

    def _search(self) -> None:
        image, place, choices = self._image(), self._place(), self.choices
        least, most = choices.least_area or None, choices.most_area or None
        if least is not None and most is not None and least > most:
            raise InputError(f"No area is at least {least} and at most {most}: the smaller number comes first.")
        planes = self.choices.planes(place) if choices.on_range else range(place.current, place.current + 1)
        classes = self._classes(image, place)
        results = self._results(image, place, "everything", np.int32)
        work = Searching(self._stack(place, planes), choices.search, least, most, results.largest + 1, classes)
        needs = (image, results.layer) if choices.class_map is None else (image, results.layer, choices.class_map)
        self.runner.run("Segmenting everything", work, results, needs)

    def _classes(self, image: Image, place: StackPlace) -> ClassFilter | None:
        layer = self.choices.class_map
        if layer is None:
            return None
        stack = LabelStack(layer.data, labels_place(layer, image, place))
        return ClassFilter(stack.series(), classes_of(self.choices.keep))

    def vote(self) -> None:
        """Give the classes of the labels layer the outlines of masks, into a layer of their own."""
        self._try(self._vote)

    def _vote(self) -> None:
        image, place, choices = self._image(), self._place(), self.choices
        if self.labels is None:
            raise InputError("There is no map of classes: choose labels, of words or of a pixel classifier.")
        classes = LabelStack(self.labels.data, labels_place(self.labels, image, place))
        planes = choices.planes(place) if choices.on_range else range(place.current, place.current + 1)
        results = self._results(image, place, "voted", self.labels.data.dtype)
        work = Voting(self._stack(place, planes), classes, choices.search)
        self.runner.run("Voting", work, results, (image, self.labels, results.layer))

    @property
    def takes_text(self) -> bool:
        """Whether the chosen model looks for words."""
        entry = self.zoo.entries.get(self.choices.model.key)
        return entry is not None and PromptKind.TEXT in entry.spec.accepts

    def look_for_words(self) -> None:
        """Look for the phrases of the line on all planes of the range."""
        self._try(self._look_for_words)

    def _look_for_words(self) -> None:
        image, place = self._image(), self._place()
        results = self._results(image, place, "words", np.uint16)
        work = Wording(self._stack(place, self.choices.planes(place)), self.choices.line, self.choices.probability)
        self.runner.run("Looking for words", work, results, (image, results.layer))

    def _results(self, image: Image, place: StackPlace, kind: str, dtype: DTypeLike) -> Results:
        """The layer for results of that kind, the one before if it is still there."""
        self.runner.check_free()
        results = self._found.get((image.unique_id, kind))
        if results is None or results.layer not in self.viewer.layers or results.place.stack != place.stack:
            results = Results.new(self.viewer, image, place, kind, dtype)
            self._found[image.unique_id, kind] = results
        self.results = results
        return results

    def link(self) -> None:
        """Link the planes of the labels layer into objects, as one step of undo."""
        self._try(self._link)

    def _link(self) -> None:
        labels, place = self.labels, None
        if labels is None:
            raise InputError("There are no labels to link: choose a labels layer.")
        place = StackPlace.of(labels, self.viewer.dims)
        if labels.multiscale or place.count < 2:
            raise InputError(f"'{labels.name}' is no stack of planes that can be edited: choose other labels.")
        chosen = self.choices
        options = LinkOptions(
            branches=chosen.branches,
            gap=chosen.gap,
            min_planes=chosen.min_planes,
            min_volume=chosen.specks,
            max_hole_area=chosen.holes,
            preserve=True,
        )
        self.runner.run("Linking", partial(link, labels.data, place, options), None, (labels,), "steps")

    def take_over(self) -> None:
        """Write the results into the labels layer where that is empty, as one step of undo."""
        self._try(self._take_over)

    def _take_over(self) -> None:
        results, labels = self.results, self.labels
        if results is None or labels is None or labels is results.layer:
            raise InputError("Nothing to take over: propagate first, and choose the labels that shall have the result.")
        own = labels_place(labels, results.image, results.place)
        found = LabelStack(results.layer.data, results.place)
        work = partial(take_over, found, labels.data, own, results.kind == "everything")
        self.runner.run("Taking over", work, None, (labels, results.layer), "steps")

    def encode_ahead(self) -> None:
        """Encode the planes of the range, that on the screen first, while the user does not work."""
        self._try(self._encode_ahead)

    def _encode_ahead(self) -> None:
        image, place = self._image(), self._place()
        plane = shown_plane(image, self.viewer.dims)
        centre = np.array(plane.point, float)
        centre[list(self.viewer.dims.displayed)] = np.asarray(camera_of(self.viewer).center)[-2:]
        budget = round(self.choices.room * GB) or None
        work = partial(encode, self._stack(place, self.choices.planes(place)), plane.pixel_at(centre), budget)
        self.runner.run("Encoding ahead", work, None, (image,), gives_way=True)

    def save_table(self, path: str | Path) -> None:
        """Write what segmenting everything has found as CSV."""
        rows = [] if self.results is None else self.results.table
        if not rows:
            self.runner.report(InputError("There is no table to save: segment everything first."))
            return
        self._channel.submit(
            "table", Priority.LOAD, lambda _: write_table(path, rows), self._on_saved, self.runner.report
        )

    def _on_saved(self, path: Path) -> None:
        self.runner.note(f"Table saved as {path}.")

    # Looking at what was found

    def jump(self, plane: int) -> None:
        """Show that plane of what was propagated."""
        self._try(partial(self._jump, plane))

    def _jump(self, number: int) -> None:
        results = self._followed
        if results is None or results.place.along is None or results.layer not in self.viewer.layers:
            return
        plane = shown_plane(results.layer, self.viewer.dims)
        axis = self.viewer.dims.ndim - plane.ndim + results.place.along
        self.viewer.dims.set_point(axis, world_of(plane, results.place.along, number))

    def next_flag(self, step: int = 1) -> None:
        """Show the next plane to look at, or with `step` -1 the one before; from the last on, the first."""
        results, flags = self._followed, self.flags
        if results is None or results.layer not in self.viewer.layers or not flags:
            self.runner.say("No plane is flagged", "good" if self.runner.survey else "idle")
            return
        here = self._plane_of(results)
        ahead = [flag for flag in flags if (flag.plane - here) * step > 0]
        plane = (min if step > 0 else max)(flag.plane for flag in ahead or flags)
        self.jump(plane)
        self.runner.say(f"Plane {plane}: {flagged(flags)[plane][0]}", "warning")

    def flag_before(self) -> None:
        """Show the plane before that somebody should look at."""
        self.next_flag(-1)

    @property
    def followed_planes(self) -> range:
        """Planes of what was propagated last."""
        return range(0) if self._following is None else self._following.stack.planes

    @property
    def followed_plane(self) -> int | None:
        """That of them on the screen."""
        return None if self._followed is None else self._plane_of(self._followed)

    def _plane_of(self, results: Results) -> int:
        try:
            return StackPlace.of(results.layer, self.viewer.dims).current
        except ZerosegError:
            return -1

    # What there is to work on

    def _image(self) -> Image:
        if self.image is None:
            raise InputError("Open an image, or choose one above.")
        return self.image

    def _place(self) -> StackPlace:
        return StackPlace.of(self._image(), self.viewer.dims)

    def _own_labels(self) -> tuple[Labels, StackPlace, StackPlace]:
        if self.labels is None:
            raise InputError("There are no labels to begin from: accept an object first, or choose a labels layer.")
        place = self._place()
        return self.labels, place, labels_place(self.labels, self._image(), place)

    def _subject(self, on_range: bool, makes_labels: bool) -> Subject:
        if makes_labels and self.labels is None:
            self.choose_labels(self.viewer.add_layer(new_labels(self._image())))
        image, (labels, place, own) = self._image(), self._own_labels()
        planes = self.choices.planes(place) if on_range else range(place.current, place.current + 1)
        return Subject(image, labels, own, self._stack(place, planes))

    def _stack(self, place: StackPlace, planes: range) -> Stack:
        image = self._image()
        picture = picture_of(image, shown_plane(image, self.viewer.dims))
        return Stack(self._channel.engine, ShownStack(picture, place), place, self.choices.model, planes)

    # What happens elsewhere

    def _on_user(self) -> None:
        if self.runner.task is not None:
            self.runner.task.give_way()

    def _on_dims(self) -> None:
        self._on_user()
        self.changed.emit()

    def _on_zoo(self) -> None:
        self._channel.post(self.changed.emit)

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        if layer is self.image:
            self.image = None
        if layer is self.labels:
            self.labels = None
        if (pair := self.choices.examples) is not None and layer in (pair.image, pair.labels):
            self.choices = replace(self.choices, examples=None)
        if layer is self.choices.class_map:
            self.choices = replace(self.choices, class_map=None)
        self.runner.on_removed(layer)
        self.finder.on_removed(layer)
        self.changed.emit()

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except ZerosegError as error:
            self.runner.report(error)
