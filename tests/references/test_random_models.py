"""Whatever a model does, ``references="auto"`` gives the gradients of the loop."""

import pytest
from references.random_models import compare, main


@pytest.mark.parametrize(
    "first", [pytest.param(n, marks=[] if n < 20 else [pytest.mark.slow]) for n in range(0, 100, 5)]
)
def test_auto_gives_the_gradients_of_the_loop_on_models_of_every_kind(first: int) -> None:
    chosen = [way for seed in range(first, first + 5) for way in compare(seed).chosen]
    assert "layerwise" in chosen  # or nothing has been compared


def test_the_command_draws_as_many_as_one_asks_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--n", "3", "--first", "7"]) == 0
    assert capsys.readouterr().out.startswith("3 of 3 models agree (")
