"""Memory that this process may still take: of the machine, and of the container that it runs in. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from napari_zeroseg.errors import DeviceMemoryError

_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60
"""Version 1 has no word for "none": a limit beyond this is none."""

_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By controller ("" in version 2): the files of limit and use, and the entry of memory.stat that can be let go."""


def free_memory(groups: Path = _GROUPS, mount: Path = _MOUNT) -> int:
    """Return bytes that can still be taken, which a control group of Linux may limit to less than the machine has.

    Parameters
    ----------
    groups : Path
        The file in which Linux says which groups this process is in.
    mount : Path
        Where it shows them.
    """
    import psutil

    return min(int(psutil.virtual_memory().available), *_left_in_groups(groups, mount), _NO_LIMIT)


def check_room_to_read(size: int, name: str) -> None:
    """Raise before a file is read whole, if there is no room for it.

    Raises
    ------
    DeviceMemoryError
        With both sizes.
    """
    free = free_memory()
    if size > free:
        raise DeviceMemoryError(
            f"To read {name} takes about {size / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: close other "
            "programs, or take a smaller model."
        )


def _left_in_groups(groups: Path, mount: Path) -> Iterator[int]:
    """What each group that this process is in leaves of its limit, and each group above those."""
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        controller = "memory" if "memory" in controllers.split(",") else controllers
        if controller not in _FILES:
            continue
        top = mount / controller
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            left = _left(folder, *_FILES[controller])
            if left is not None:
                yield left
            if folder == top:
                break


def _left(folder: Path, limit: str, used: str, reclaimable: str) -> int | None:
    """None where a group has no limit, or is not shown here, as that of a container within it."""
    try:
        most = int((folder / limit).read_text(encoding="utf-8"))
        taken = int((folder / used).read_text(encoding="utf-8"))
        entries = (line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
        cached = next((int(value) for name, value in entries if name == reclaimable), 0)
    except (OSError, ValueError):
        return None
    return None if most >= _NO_LIMIT else max(0, most - taken + min(cached, taken))
