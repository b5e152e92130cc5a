"""Everything that steps need, ready: network, embeddings, windows, tasks; and how long one of them takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from napari_zeroseg.devices import peak_memory
from napari_zeroseg.embeddings import EmbeddingStore
from napari_zeroseg.registry import find_model
from napari_zeroseg.settings import Settings
from napari_zeroseg.training.adapter import AdapterNetwork, AdapterTask
from napari_zeroseg.training.bases import ADAPTER, reads_words
from napari_zeroseg.training.classes import ClassHead, side_for
from napari_zeroseg.training.config import TrainingConfig
from napari_zeroseg.training.data import TrainingData
from napari_zeroseg.training.ladder import within_memory
from napari_zeroseg.training.lengths import proportions_in
from napari_zeroseg.training.loop import steps_of
from napari_zeroseg.training.networks import Learner, Network
from napari_zeroseg.training.patches import Patch, Patches
from napari_zeroseg.training.processes import ALONE, Processes
from napari_zeroseg.training.split import Split, objects_of
from napari_zeroseg.training.tasks import ClassTask, MaskTask, Task
from napari_zeroseg.training.validation import Judge, MaskJudge
from napari_zeroseg.training.words import WordJudge, WordNetwork, WordTask


class Workbench:
    """What a fit works with.

    Parameters
    ----------
    config : TrainingConfig
    data : TrainingData
    split : Split
    everything : bool
        Whether to learn from all objects, since other fits give the figures.
    processes : Processes
        Who share each step.
    """

    def __init__(
        self,
        config: TrainingConfig,
        data: TrainingData,
        split: Split,
        everything: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        self._processes = processes
        self.config, self.data, self.split = config, data, split
        self.network: Learner = self._new_network()
        settings = Settings.from_environment()
        self.store = EmbeddingStore(settings.cache_dir / "embeddings", settings.memory_bytes // 4, settings.disk_bytes)
        # embeddings of weights that change are of no use afterwards
        self.passing = EmbeddingStore(None, settings.memory_bytes // 4) if config.trains_encoder else self.store
        self.objects = list(data.objects) if everything else objects_of(data, split.train)
        planes = list(range(len(data.planes))) if everything else list(split.train_planes)
        self._held = () if everything else split.held
        self.patches = Patches(data, config.seed, self._held, config.any_orientation)
        self.head, self.side = self._new_head()
        known = () if self.head is None else planes
        self.proportions = proportions_in(data, known, config.min_pixels, self._held)
        self.tasks = self._make_tasks(planes)
        self.judge = self._new_judge()

    def patches_ahead(self) -> list[Patch]:
        """Everything that the encoder is to be run on before the first step."""
        if self.config.trains_encoder:
            return []
        windows = {window for task in self.tasks.values() for window in task.windows()}
        patches = [Patch(*window, variant) for window in windows for variant in range(self.config.variants)]
        return sorted(patches, key=lambda patch: (patch.plane, patch.field, patch.variant))

    def encode(self, patch: Patch) -> None:
        """Make sure that a patch's embedding is there."""
        self.patches.encoded(patch, self.network.model, self.store)

    def is_encoded(self, patch: Patch) -> bool:
        """Whether a patch's embedding is there."""
        return self.patches.is_encoded(patch, self.network.model, self.store)

    def step_seconds(self) -> float:
        """Seconds of a step without its validation; the gradients are thrown away."""
        # what these steps look at is encoded first, where it is encoded once; else one step warms up
        for number in (0,) if self.config.trains_encoder else (0, 1, 2):
            self._try(number)
        start = time.perf_counter()
        for number in (1, 2):
            self._try(number)
        seconds = (time.perf_counter() - start) / 2
        self._forget()
        return seconds

    def _try(self, number: int) -> None:
        def steps() -> None:
            for task in self.tasks.values():
                task.step(number)

        within_memory(steps, self.tasks.values(), self.config, self.network.model.device, self._forget)

    def _forget(self) -> None:
        for module in (module for task in self.tasks.values() for module in task.trained()):
            module.zero_grad(set_to_none=True)
        self.network.modules.zero_grad(set_to_none=True)

    def steps(self, seconds: float) -> int:
        """How many steps the run does, where one takes so many seconds."""
        return steps_of(self.config, list(self.tasks.values()), seconds)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show everything once."""
        return max(task.steps() for task in self.tasks.values())

    def memory_bytes(self) -> int:
        """Peak so far, of the GPU or of this process on a CPU, and what the run will take beside it.

        That is the optimiser's part, the best weights, and, where the encoder is trained, a second network to judge.
        """
        device = self.network.model.device
        parameters = [*self.network.encoder_parameters(), *self.network.decoder_parameters()]
        count = sum(parameter.numel() for _, parameter in parameters)
        count += 0 if self.head is None else sum(parameter.numel() for parameter in self.head.parameters())
        # two moments, the running mean of the weights and the best of these, in float32
        beside = 4 * 4 * count
        if self.config.trains_encoder:
            beside += 4 * sum(tensor.numel() for tensor in self.network.base_tensors.values())
        if device.type == "cuda":
            return int(torch.cuda.max_memory_reserved(device)) + beside
        if device.type == "mps":
            return int(torch.mps.driver_allocated_memory()) + beside
        return peak_memory() + beside

    def _new_head(self) -> tuple[ClassHead | None, int]:
        if not self.config.trains_class:
            return None, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            head = ClassHead()
        return head.to(self.network.model.device), side_for(self.data, self.objects)

    def _make_tasks(self, planes: Sequence[int]) -> dict[str, Task]:
        tasks: dict[str, Task] = {}
        config, network = self.config, self.network
        if isinstance(network, WordNetwork):
            return {"words": WordTask(config, network, self.patches, planes, self.store, self._processes)}
        assert isinstance(network, Network)
        if config.trains_masks:
            kind = AdapterTask if config.what == ADAPTER else MaskTask
            tasks["masks"] = kind(config, network, self.patches, self.objects, self.store, self._processes)
        if self.head is not None:
            tasks["class"] = ClassTask(
                config, network, self.patches, self.store, self.head, self.side, planes, self._processes
            )
        return tasks

    def _new_network(self) -> Learner:
        if reads_words(find_model(self.config.base)):
            return WordNetwork(self.config)
        return AdapterNetwork(self.config) if self.config.what == ADAPTER else Network(self.config)

    def _new_judge(self) -> Judge:
        if isinstance(self.network, WordNetwork):
            return WordJudge(self.config, self.data, self.network, self.split.held)
        return MaskJudge(self.config, self.data)
