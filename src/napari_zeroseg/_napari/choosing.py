"""Choosing: which model a session uses; others are loaded in the background, and take over when they are. No Qt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_zeroseg._napari.asking import Asking
from napari_zeroseg._napari.channel import Channel
from napari_zeroseg._napari.engine import Answer, ModelChoice, device_names
from napari_zeroseg._napari.zoo import DOWNLOAD, UNKNOWN, Entry, Zoo
from napari_zeroseg.catalogue import MOBILE_SAM
from napari_zeroseg.jobs import CancelToken, Priority
from napari_zeroseg.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from napari_zeroseg.registry import ModelSpec


class Choosing:
    """The model in use and the one that shall be.

    Parameters
    ----------
    zoo : Zoo
    asking : Asking
        Is given the model, and asks it at once about what is on the screen.
    channel : Channel
    say : callable
        Told a sentence and its tone.
    """

    changed = Signal()
    """Another model is used or loaded, or the list is another."""
    wanted = Signal(str)
    """A model was chosen whose weights are not here; its key."""

    def __init__(self, zoo: Zoo, asking: Asking, channel: Channel, say: Callable[[str, str], None]) -> None:
        self.zoo = zoo
        self.loading: ModelChoice | None = None
        self.devices: tuple[tuple[str, str], ...] | None = None
        """GPUs as (device, description); None until torch is there, which alone knows them."""
        self._asking = asking
        self._channel = channel
        self._say = say
        self._awaited: ModelChoice | None = None
        self._specs: dict[str, ModelSpec] = {}
        zoo.changed.connect(self._on_zoo_somewhere)
        zoo.refresh()

    def close(self) -> None:
        """Hear no more of the list."""
        self.zoo.changed.disconnect(self._on_zoo_somewhere)

    @property
    def spec(self) -> ModelSpec:
        """The row of the model list of the model in use."""
        return self.spec_of(self._asking.model.key)

    def spec_of(self, key: str) -> ModelSpec:
        """The row of a model; of one that is gone from the list, the last that was there."""
        if key in self.zoo.entries:
            self._specs[key] = self.zoo.entries[key].spec
        return self._specs.get(key, MOBILE_SAM)

    def choose(self, choice: ModelChoice) -> None:
        """Load another model in the background; the present one stays in use until it is there, or if it fails."""
        self._awaited = None
        self._channel.cancel("load")
        entry = self.zoo.entries.get(choice.key)
        if entry is not None and not entry.is_ready and entry.state != UNKNOWN:
            self.loading, self._awaited = None, choice
            self._say(_reason(entry), "warning")
            self.wanted.emit(choice.key)
        elif choice == self._asking.model:
            self.loading = None
        else:
            self.loading = choice
            self._say(f"Loading {self.spec_of(choice.key).title} …", "busy")
            self._channel.submit(
                "load", Priority.LOAD, lambda token: self._load(choice, token), self._on_loaded, self._on_failed
            )
        self.changed.emit()

    def _load(self, choice: ModelChoice, _: CancelToken) -> ModelChoice:
        self._channel.engine().model(choice)
        return choice

    def _on_loaded(self, choice: ModelChoice) -> None:
        self.loading = None
        self.find_devices()
        self._say(f"{self.spec_of(choice.key).title} is ready", "good")
        self.use(choice)

    def use(self, choice: ModelChoice, answer: Answer | None = None) -> None:
        """Use a model from now on; labels and prompts stay, and are answered anew, or by `answer` of that model."""
        self._asking.use(choice, self.spec_of(choice.key), answer)
        self.changed.emit()

    def find_devices(self) -> None:
        """List this machine's GPUs, once torch is there anyway."""
        if self.devices is None:
            self._channel.submit("devices", Priority.AHEAD, lambda _: device_names(), self._on_devices, lambda _: None)

    def _on_devices(self, devices: tuple[tuple[str, str], ...]) -> None:
        self.devices = devices
        self.changed.emit()

    def _on_failed(self, error: Exception) -> None:
        self.loading = None
        self._say(self._channel.report(error), "warning")
        self.changed.emit()

    def _on_zoo_somewhere(self) -> None:
        self._channel.post(self._on_zoo)

    def _on_zoo(self) -> None:
        key = self._asking.model.key
        entry = self.zoo.entries.get(key)
        if key != DEFAULT_MODEL and (entry is None or not (entry.is_ready or entry.state == UNKNOWN)):
            self._say(f"{self.spec_of(key).title} was removed; {MOBILE_SAM.title} takes over", "warning")
            self.use(ModelChoice(DEFAULT_MODEL, self._asking.model.device, self._asking.model.precision))
        if self._awaited is not None and self.zoo.is_ready(self._awaited.key):
            self.choose(self._awaited)
        self.changed.emit()


def _reason(entry: Entry) -> str:
    title = entry.spec.title
    if entry.state == DOWNLOAD:
        return f"{title} needs a download ({entry.size}): see the Models dock. The present model stays in use"
    return f"{title} needs a file that only you can get: see the Models dock. The present model stays in use"
