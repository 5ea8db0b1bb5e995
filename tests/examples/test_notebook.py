"""The cells of the notebook run, one after the other."""

import json
from pathlib import Path

NOTEBOOK = json.loads((Path(__file__).parents[2] / "examples" / "quickstart.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_cells_run(capsys):
    # The first cell installs: what pip makes of the archive is the wheel's affair, and needs a network.
    assert CODE[0] == "%pip install --quiet avalanche-mgem.zip"
    names = {"__name__": "notebook"}
    for source in CODE[1:]:
        exec(source.replace("PermutedDigits(4", "PermutedDigits(2"), names)  # two experiences are enough
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if " ACC " in line]
    acc = {method: float(value) for method, _, value, *_ in rows}
    assert list(acc) == ["naive", "gem", "pmgem", "dmgem"]
    assert min(acc["gem"], acc["pmgem"], acc["dmgem"]) > acc["naive"]


def test_the_notebook_is_kept_without_outputs():
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in NOTEBOOK["cells"])
