"""Build hook: puts napari.yaml, whose one home is the top level, where napari looks for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MANIFEST = "napari.yaml"
PACKAGE = "napari_zeroseg"


class ManifestHook(BuildHookInterface):  # type: ignore[type-arg]
    """Copies the manifest into a wheel and links it into the source tree of an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Place the manifest for this kind of build (`version` is "standard" or "editable")."""
        if self.target_name != "wheel":
            return
        if version == "editable":
            self._link(Path(self.root))
        else:
            build_data["force_include"][MANIFEST] = f"{PACKAGE}/{MANIFEST}"

    @staticmethod
    def _link(root: Path) -> None:
        link = root / "src" / PACKAGE / MANIFEST
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(Path("..") / ".." / MANIFEST)
        except OSError:
            # Windows without developer mode. A link is better: it follows the manifest when that is edited.
            shutil.copyfile(root / MANIFEST, link)
