"""What workers of the tests' clusters do: they import it from here, as they would from an installed package."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_zeroseg.errors import InputError
from napari_zeroseg.stack import ObjectReport, PlaneReport


@dataclass(frozen=True)
class Bright:
    """Each bright pixel is an object, numbered through all planes; `log` tells who did which plane when.

    Planes from `slow_from` on take `slow` seconds each.
    """

    log: Path
    slow: float = 0.0
    slow_from: int = 0
    dies_on: int = -1
    fails_on: int = -1
    numbers_on: bool = True

    def on(self, planes):
        return self

    def run(self, series, model, planes, first, cancel):
        for plane in planes:
            if cancel is not None:
                cancel.raise_if_cancelled()
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {plane}\n")
            if plane == self.dies_on:
                os.kill(os.getpid(), signal.SIGKILL)
            if plane == self.fails_on:
                raise InputError("This plane is not liked.")
            end = time.monotonic() + (self.slow if plane >= self.slow_from else 0)
            while time.monotonic() < end:
                time.sleep(0.05)
                if cancel is not None:
                    cancel.raise_if_cancelled()
            picture = series.read(plane)
            if picture.max() == 0:
                yield PlaneReport(plane, (), 0.0, "It is dark."), np.zeros(picture.shape, np.int32)
                continue
            places = np.flatnonzero(picture > 250)
            labels = np.zeros(picture.size, np.int32)
            labels[places] = first + np.arange(len(places))
            objects = tuple(ObjectReport(int(label), 1.0, 1) for label in labels[places])
            first += len(places)
            yield PlaneReport(plane, objects, 0.0), labels.reshape(picture.shape)
