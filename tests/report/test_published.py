from pathlib import Path

import pytest
from omegaconf import OmegaConf

from avalanche_mgem.experiment import compose
from avalanche_mgem.report import load_results, report
from avalanche_mgem.report.methods import chosen_settings
from avalanche_mgem.report.published import Published, all_published
from avalanche_mgem.runs import METRICS, flatten

DOCS = Path(__file__).parents[2] / "docs"
MATCHED = [entry for entry in all_published() if entry.command]


def settings_of(*words: str) -> dict:
    return chosen_settings(flatten(OmegaConf.to_container(compose(*words))))


def test_every_entry_says_what_it_is() -> None:
    assert len(MATCHED) == 11
    for entry in all_published():
        assert entry.source
        assert entry.protocol
        assert set(entry.values) <= set(METRICS)
        assert all(isinstance(value, str) for value in entry.values.values())
        assert bool(entry.command) == bool(entry.settings) == bool(entry.strategies)


@pytest.fixture(scope="module")
def runs() -> dict[str, dict]:
    """The settings of the run that each entry's command makes, by the command."""
    return {entry.command: settings_of(*entry.command.split()) for entry in MATCHED}


def test_the_command_of_an_entry_makes_a_run_of_its_protocol_and_of_no_other(runs) -> None:
    for entry in MATCHED:
        strategy, settings = entry.strategies[0], runs[entry.command]
        assert [other for other in MATCHED if other.is_of(strategy, settings)] == [entry]
        assert not entry.is_of("dmgem", settings)
        for key in ("train_mb_size", "samples_per_experience", "optimizer.lr", "strategy.patterns_per_exp"):
            assert not entry.is_of(strategy, settings | {key: 7}), key
        for key in ("benchmark.n_experiences", "train_epochs", "model._target_"):
            assert not entry.is_of(strategy, {name: value for name, value in settings.items() if name != key})


def test_avalanches_gem_has_the_same_numbers_and_finer_constraints_have_not(runs) -> None:
    first = MATCHED[0]
    assert first.is_of("avalanche_gem", settings_of(first.command, "strategy=avalanche_gem"))
    assert not first.is_of("gem", runs[first.command] | {"strategy.num_groups": 2})
    normalised = {"benchmark.train_transform", "benchmark.eval_transform"}
    assert not first.is_of("gem", {k: v for k, v in runs[first.command].items() if k not in normalised})


def test_the_page_on_reports_lists_them_all() -> None:
    text = (DOCS / "report.md").read_text(encoding="utf-8")
    for entry in all_published():
        acc, bwd = entry.values.get("acc", ""), entry.values.get("bwd", "")
        assert f"| {entry.source} | {entry.protocol} | {entry.method} | {acc} | {bwd} |" in text


@pytest.mark.usefixtures("_one_figure")
def test_they_stand_beside_ours_of_the_same_protocol_only(write_run, tmp_path: Path, monkeypatch) -> None:
    entries = (
        Published("A", "digits", "GEM", {"acc": "0.9", "bwd": "+0.05"}, "x", ["gem"], {"train_mb_size": 10}),
        Published("B", "larger", "GEM", {"acc": "0.8"}, "x", ["gem"], {"train_mb_size": [20, 30]}),
        Published("C", "not known", "GEM", {"acc": "0.7"}),
    )
    monkeypatch.setattr("avalanche_mgem.report.published.all_published", lambda: entries)
    for seed in range(2):
        write_run(f"sweep/gem{seed}", "gem", seed)
        write_run(f"sweep/naive{seed}", "naive", seed)
    made = report(tmp_path / "sweep", out=tmp_path / "report")
    table = made.tables["published"]
    assert table[["method", "source", "metric", "published"]].to_numpy().tolist() == [
        ["gem", "A", "acc", "0.9"], ["gem", "A", "bwd", "+0.05"],
    ]  # fmt: skip
    mean = load_results(tmp_path / "sweep").runs.query("method == 'gem'")["acc"].mean()
    assert table.loc[0, "mean"] == pytest.approx(mean)
    assert "| gem | A | digits | ACC | 2 | " in (made.folder / "report.md").read_text()
    monkeypatch.setattr("avalanche_mgem.report.published.all_published", lambda: entries[1:])
    again = report(tmp_path / "sweep", out=tmp_path / "report")
    assert "published" not in again.tables
    assert not (made.folder / "published.csv").exists()
