"""The planes of a stack on the workers of a Dask cluster, or on several processes of this machine.

Blocks of planes are the tasks. Each worker process loads the model once, reads its planes itself and writes them
where they belong; the scheduler and this process see reports only. So input and output lie where every worker sees
them.
"""

from __future__ import annotations

from napari_zeroseg.cluster.connection import connected, threads_of
from napari_zeroseg.cluster.linking import SpreadLinks
from napari_zeroseg.cluster.spread import Spread
from napari_zeroseg.cluster.worker import Recipe

__all__ = ["Recipe", "Spread", "SpreadLinks", "connected", "threads_of"]
