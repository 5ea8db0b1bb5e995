"""The oldest releases that are allowed are the ones that ``make test-lowest`` installs."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
# Avalanche's GPUtil needs any release of it.
UNBOUNDED = {"setuptools"}


def test_the_lowest_versions_are_the_bounds_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["slurm"], *extras["ray"], *extras["tune"]]
    bounds = {}
    for requirement in map(Requirement, asked):
        lowest = [part.version for part in requirement.specifier if part.operator == ">="]
        if requirement.name not in UNBOUNDED:
            bounds[requirement.name] = tuple(map(int, lowest[0].split(".")))
    lines = (ROOT / "tests/lowest.txt").read_text().splitlines()
    pinned = [line.partition(" #")[0].partition("==") for line in lines if not line.startswith("#")]
    versions = {name: tuple(map(int, version.split("."))) for name, _, version in pinned}
    assert bounds.keys() <= versions.keys()
    # A pin may say zeros that a bound leaves out.
    assert {name: versions[name][: len(bound)] for name, bound in bounds.items()} == bounds
    assert all(not any(versions[name][len(bound) :]) for name, bound in bounds.items())
