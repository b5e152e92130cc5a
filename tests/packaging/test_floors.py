"""The floors that pyproject.toml declares are the versions that the job with the oldest dependencies installs."""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "napari-zeroseg",  # its own extras
    "torch",  # named by the workflow, see constraints/lowest.txt
}


def declared_floors() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    requirements = map(
        Requirement, chain(project["project"]["dependencies"], *extras, project["dependency-groups"]["test"])
    )
    floors = {}
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name not in ELSEWHERE:
            floors[name] = next(spec.version for spec in requirement.specifier if spec.operator == ">=")
    return floors


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in requirements}


def test_every_floor_is_what_the_lowest_job_installs() -> None:
    floors, pins = declared_floors(), pinned()
    assert {name: pins.get(name) for name in floors} == floors
