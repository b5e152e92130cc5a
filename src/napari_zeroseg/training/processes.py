"""The processes of one training run: whose share of a step is whose, sums over all of them, what one does for all.

Every process holds the same weights and comes to the same steps. Each adds the gradients of its share, and the sum over
all is that of a single process. The first one alone writes, tells, validates and hears what the run is told.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from napari_zeroseg.errors import ZerosegError
from napari_zeroseg.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from napari_zeroseg.training.config import TrainingConfig

T = TypeVar("T")

_PATIENCE = datetime.timedelta(days=30)
"""For which processes wait for each other: the first one may be paused, or validate, as long as it takes."""

_AT_ONCE = 2**25
"""Numbers that are summed over the processes in one go, so that the sum needs little memory of its own."""


class Processes:
    """One process that does everything; :class:`Joined` is one of several."""

    rank = 0
    """Number of this process."""
    count = 1
    """How many there are."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def placed(self, config: TrainingConfig) -> TrainingConfig:
        """The same settings with the device of this process."""
        return config

    def share(self, units: Sequence[T]) -> Sequence[T]:
        """Which of a step's units are this process's."""
        return units[self.rank :: self.count]

    def together(self, work: Callable[[], T]) -> T:
        """Do what every process does by itself; if one of them fails, all fail with its error."""
        return work()

    def lead(self, work: Callable[[], T]) -> T:
        """Let the first process work while the others wait; all get what it returned, or its error."""
        return work()

    def known_to_all(self, error: ZerosegError) -> ZerosegError:
        """An error that every process comes to by itself."""
        return error

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give each parameter the sum of its gradients over the processes; none if it has none in any."""

    def sum(self, values: dict[str, float]) -> dict[str, float]:
        """Sum numbers of the same names over the processes."""
        return values


ALONE = Processes()


class LostError(ZerosegError):
    """Another process of the run has gone without a word."""


@contextmanager
def _in_touch() -> Iterator[None]:
    """Say in a sentence what it means if the others cannot be reached any more.

    Raises
    ------
    LostError
    """
    try:
        yield
    except RuntimeError as error:  # of gloo and NCCL alike
        raise LostError(
            "A process of the run ended without a word: it was killed, or memory ran out. --resume goes on from what "
            "was saved last."
        ) from error


class Joined(Processes):
    """One of several processes that accelerate's launcher started, each on a device of its own or all on the CPU.

    Parameters
    ----------
    device : str
        As in the settings; where it is no processor, this process takes the GPU of its number.

    Attributes
    ----------
    has_agreed : bool
        Whether the error that this process ends with is known to all others.
    """

    def __init__(self, device: str) -> None:
        from accelerate import PartialState

        self._shares_processor = shares_processor(device)
        self._state = PartialState(cpu=self._shares_processor, timeout=_PATIENCE)
        self.rank = int(self._state.process_index)
        self.count = int(self._state.num_processes)
        self.has_agreed = False

    def close(self) -> None:
        """Take leave of the others."""
        self._state.destroy_process_group()

    def placed(self, config: TrainingConfig) -> TrainingConfig:
        """The same settings with the device of this process."""
        return config if self._shares_processor else replace(config, device=str(self._state.device))

    def together(self, work: Callable[[], T]) -> T:
        """Do what every process does by itself; if one of them fails, all fail with its error."""
        own: Exception | None = None
        result: Any = None
        try:
            result = work()
        except Exception as error:
            own = error
        failed = self._first_failure(own)
        if failed is not None:
            self.has_agreed = True
            raise own or error_of(*failed)
        return result  # type: ignore[no-any-return]

    def lead(self, work: Callable[[], T]) -> T:
        """Let the first process work while the others wait; all get what it returned, or its error."""
        from accelerate.utils import broadcast_object_list

        own: BaseException | None = None
        outcome: list[Any] = [None, None]
        if self.leads:
            try:
                outcome[0] = work()
            except BaseException as error:  # the others must not wait for one that is leaving, for whatever reason
                own, outcome[1] = error, _in_words(error)
        with _in_touch():
            broadcast_object_list(outcome)
        if outcome[1] is not None:
            self.has_agreed = True
            raise own or error_of(*outcome[1])
        return outcome[0]  # type: ignore[no-any-return]

    def known_to_all(self, error: ZerosegError) -> ZerosegError:
        """An error that every process comes to by itself."""
        self.has_agreed = True
        return error

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give each parameter the sum of its gradients over the processes; none if it has none in any."""
        import torch

        parameters = list(parameters)
        with torch.no_grad():
            present = torch.tensor([one.grad is not None for one in parameters], dtype=torch.float32)
            reached = [one for one, n in zip(parameters, self._summed(present), strict=True) if n > 0]
            for group in _groups(reached):
                flat = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in group])
                parts = self._summed(flat).split([one.numel() for one in group])
                for one, part in zip(group, parts, strict=True):
                    one.grad = part.view_as(one)

    def sum(self, values: dict[str, float]) -> dict[str, float]:
        """Sum numbers of the same names over the processes."""
        import torch

        summed = self._summed(torch.tensor(list(values.values()), dtype=torch.float64))
        return dict(zip(values, summed.tolist(), strict=True))

    def _summed(self, tensor: Any) -> Any:
        from accelerate.utils import reduce

        tensor = tensor.to(self._state.device)
        with _in_touch():
            return reduce(tensor, "sum")

    def _first_failure(self, own: Exception | None) -> tuple[str, str] | None:
        """What went wrong in the first process where something did."""
        from accelerate.utils import gather_object

        if not self.sum({"failed": float(own is not None)})["failed"]:
            return None
        with _in_touch():
            told: list[tuple[str, str] | None] = gather_object([None if own is None else _in_words(own)])
        return next(one for one in told if one is not None)


def shares_processor(device: str) -> bool:
    """Whether processes with this setting of the device share the processor."""
    return (Settings.from_environment().device if device == "auto" else device) in ("cpu", "openvino")


def _groups(parameters: Sequence[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    """Cut into lists of so many numbers each that they are summed in one go."""
    group: list[nn.Parameter] = []
    for one in parameters:
        if group and sum(other.numel() for other in group) + one.numel() > _AT_ONCE:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _in_words(error: BaseException) -> tuple[str, str]:
    is_ours = isinstance(error, ZerosegError)
    return type(error).__name__, str(error) if is_ours else f"{type(error).__name__}: {error}"


def error_of(kind: str, message: str) -> ZerosegError:
    """An error that another process told by its kind and its sentence."""
    return next((one for one in _kinds(ZerosegError) if one.__name__ == kind), ZerosegError)(message)


def _kinds(parent: type[ZerosegError]) -> Iterable[type[ZerosegError]]:
    for kind in parent.__subclasses__():
        yield kind
        yield from _kinds(kind)
