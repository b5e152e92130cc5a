"""One of the processes of a run: ``python -m napari_zeroseg.training.member FOLDER``, started by accelerate's launcher.

Events go to the standard output of the first one, as lines of JSON; commands come by its standard input, whose end is a
stop as well, since whoever started the run has gone then.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from contextlib import suppress
from typing import Any

from napari_zeroseg.errors import ZerosegError
from napari_zeroseg.training.events import Control
from napari_zeroseg.training.folder import open_run
from napari_zeroseg.training.processes import Joined


def main(path: str) -> int:
    """Take part in the run of a folder; the exit code is 0 if all processes know how it ended."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    folder, config = open_run(path)
    processes = Joined(config.device)
    # torch is here already, and what it needs of this module is not
    from napari_zeroseg.training.run import Work

    work = Work(folder, config, listener=_tell, control=_listen, processes=processes)
    try:
        work.go()
    except ZerosegError as error:
        sys.stderr.write(f"zeroseg: {error}\n")
        return 0 if processes.has_agreed else 1
    finally:
        if processes.has_agreed or sys.exc_info()[0] is None:
            processes.close()
    return 0


def _tell(event: dict[str, Any]) -> None:
    with suppress(OSError):  # whoever started the run has gone; the end of the standard input says so
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


def _listen(control: Control) -> None:
    def read() -> None:
        for line in sys.stdin:
            control.tell(line)
        control.tell("stop")

    threading.Thread(target=read, name="training commands", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
