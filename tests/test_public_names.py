import inspect
import tomllib
from pathlib import Path

import pytest
import yaml

import avalanche_mgem


def test_every_public_name_is_there_and_no_other():
    for name in set(avalanche_mgem.__all__) - {"__version__"}:
        assert getattr(avalanche_mgem, name).__name__ == name
    assert dir(avalanche_mgem) == sorted(avalanche_mgem.__all__)
    with pytest.raises(AttributeError, match="no attribute 'PMGEN'"):
        _ = avalanche_mgem.PMGEN


def test_the_version_is_that_of_the_project():
    root = Path(__file__).parents[1]
    assert (
        avalanche_mgem.__version__
        == tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
        == yaml.safe_load((root / "CITATION.cff").read_text())["version"]
    )


@pytest.mark.parametrize(
    "name", ["MGEM", "PMGEM", "DMGEM", "MGEMPlugin", "PMGEMPlugin", "DMGEMPlugin", "Projector"]
)
def test_every_argument_is_in_the_signature_and_explained(name):
    cls = getattr(avalanche_mgem, name)
    parameters = list(inspect.signature(cls).parameters.values())
    assert len(parameters) > 15
    assert all(p.kind is not p.VAR_KEYWORD and p.annotation is not p.empty for p in parameters)
    arguments = cls.__doc__.partition("Args:\n")[2].partition("\n\n")[0]
    explained = [line.strip().partition(":")[0] for line in arguments.splitlines() if line[8:9].strip()]
    assert explained == [p.name for p in parameters] or set(explained) == {p.name for p in parameters}


def test_only_the_refinement_of_a_class_has_another_default():
    def defaults(cls):
        return {p.name: p.default for p in inspect.signature(cls).parameters.values()}

    for whole, modules, groups in (
        (avalanche_mgem.MGEM, avalanche_mgem.PMGEM, avalanche_mgem.DMGEM),
        (avalanche_mgem.MGEMPlugin, avalanche_mgem.PMGEMPlugin, avalanche_mgem.DMGEMPlugin),
    ):
        assert defaults(modules) == {**defaults(whole), "num_modules": 2}
        assert defaults(groups) == {**defaults(whole), "num_groups": 2}
