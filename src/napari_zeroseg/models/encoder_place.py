"""Where an image encoder computes: on its device, and on the CPU for pictures that the device has no memory for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from napari_zeroseg.devices import is_out_of_memory, memory_error, release

_log = logging.getLogger(__name__)

_CPU = torch.device("cpu")
_T = TypeVar("_T")


class EncoderPlace:
    """Keeps an encoder whole on one device.

    Parameters
    ----------
    encoder : torch.nn.Module
        On `device`.
    device : torch.device
    """

    def __init__(self, encoder: nn.Module, device: torch.device) -> None:
        self._encoder = encoder
        self._device = device
        self._is_away = False

    def compute(self, compute: Callable[[torch.device], _T], doing: str = "encoding a picture") -> _T:
        """Return what `compute` does on the device that it is given: the encoder's own, or the CPU where that is full.

        From the CPU the encoder comes back for the next picture, if there is room for it then.

        Raises
        ------
        DeviceMemoryError
            If the CPU has no memory for it either.
        """
        # not inference_mode: its tensors could not be used under autograd, and a decoder is trained on embeddings
        try:
            with torch.no_grad():
                if self._is_away:
                    self._encoder.to(self._device)
                    self._is_away = False
                return compute(self._device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self._device.type == "cpu":
                raise memory_error(self._device, doing) from error
            _log.warning(
                "%s ran out of memory while %s; that is done on the CPU and takes longer.", self._device, doing
            )
        release(self._device)
        try:
            with torch.no_grad():
                # also what has come back already, where there was no room for all of it
                self._is_away = True
                self._encoder.to(_CPU)
                return compute(_CPU)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise memory_error(self._device, f"{doing}, on the CPU as well") from error
