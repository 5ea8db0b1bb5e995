import subprocess
import sys

import pytest

import avalanche_mgem


def test_every_public_name_is_there_and_no_other():
    for name in avalanche_mgem.__all__:
        assert getattr(avalanche_mgem, name).__name__ == name
    assert dir(avalanche_mgem) == sorted(avalanche_mgem.__all__)
    with pytest.raises(AttributeError, match="no attribute 'PMGEN'"):
        _ = avalanche_mgem.PMGEN


def test_the_command_starts_without_torch_and_avalanche():
    code = "import sys, avalanche_mgem.experiment.main; print({'torch', 'avalanche'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_the_functional_core_knows_no_avalanche():
    code = "import sys, avalanche_mgem.functional, avalanche_mgem.references, avalanche_mgem.partition\n"
    code += "import avalanche_mgem.schedules; print('avalanche' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
