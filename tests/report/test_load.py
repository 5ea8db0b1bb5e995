import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from report.conftest import numbers, random_matrix

from avalanche_mgem import report
from avalanche_mgem.report import load_results
from avalanche_mgem.report.main import main
from avalanche_mgem.runs import find_runs, pack_runs, read_run


def test_runs_are_found_at_any_depth(write_run, tmp_path, monkeypatch) -> None:
    write_run("a/b/c/one", seed=0)
    write_run("a/two", seed=1)
    (write_run("a/three", seed=2) / "wandb").mkdir()
    (tmp_path / "a/three/wandb/summary.json").write_text("not of a run")
    write_run("a/.trash/four", seed=3)
    monkeypatch.chdir(tmp_path)
    runs = load_results(tmp_path, "a", tmp_path / "a/two").runs
    assert sorted(runs["seed"]) == [0, 1, 2]
    assert load_results(tmp_path / "a/b/c/one").runs["path"].tolist() == [str(tmp_path / "a/b/c/one")]


def test_the_frames_hold_what_the_files_hold(write_run, tmp_path) -> None:
    rows = ["experience,violated_steps,gap_violated", "1,0.5,", "2,0.25,0.125"]
    write_run("gem", settings={"memory_strength": 0.5}, constraints=rows)
    write_run("naive", "naive", matrix=random_matrix(7))
    results = load_results(tmp_path)
    assert results.runs["method"].tolist() == ["naive", "gem"]
    for name, value in numbers(random_matrix(7)).items():
        assert results.runs.loc[0, name] == value
    assert np.isnan(results.runs.loc[0, "peak_memory_mb"])
    assert results.runs["strategy.memory_strength"].tolist()[1] == 0.5
    matrix = results.matrices.query("run == 0").pivot(index="after", columns="experience", values="accuracy")
    assert matrix.to_numpy().tolist() == random_matrix(7).tolist()
    assert matrix.index.tolist() == [0, 1, 2, 3]
    expected = pd.DataFrame(
        {"run": [1, 1], "experience": [1, 2], "violated_steps": [0.5, 0.25], "gap_violated": [np.nan, 0.125]}
    )
    pd.testing.assert_frame_equal(results.constraints, expected)
    assert results.environments["git.revision"].tolist() == ["abc", "abc"]
    assert "overrides" not in results.environments


def test_joint_training_has_seen_all_experiences(write_run) -> None:
    results = load_results(write_run("joint", "joint", matrix=random_matrix(0)[[0, -1]]))
    assert sorted(set(results.matrices["after"])) == [0, 3]
    assert results.runs[["bwd", "la", "fwt", "forgetting"]].isna().all(axis=None)
    assert results.constraints.empty


def test_a_method_is_a_strategy_with_its_settings(write_run, tmp_path) -> None:
    """Neither the seed nor the machine makes another method; any setting and the optimizer do."""
    machine = {"device": "cuda", "dataset_root": "/x", "benchmark.preload": False, "inferred.num_classes": 3}
    for seed in (0, 1):
        write_run(f"a{seed}", seed=seed, settings={"gamma": 0.5}, config=machine if seed else None)
        write_run(f"b{seed}", seed=seed, settings={"gamma": 1})
        write_run(f"c{seed}", "naive", seed, settings={"gamma": 0.5})
    write_run("d", seed=0, settings={"gamma": 1.0}, config={"optimizer.lr": 0.2})
    runs = load_results(tmp_path).runs
    assert runs.groupby("method", sort=False).size().to_dict() == {
        "naive": 2, "gem lr=0.1 gamma=0.5": 2, "gem lr=0.1 gamma=1": 2, "gem lr=0.2 gamma=1": 1
    }  # fmt: skip


def test_what_is_constant_for_a_strategy_is_not_in_its_name(write_run, tmp_path) -> None:
    write_run("a", "gem", settings={"gamma": 0.5, "solver": "exact"})
    write_run("b", "dmgem", settings={"gamma": 1, "solver": "exact"})
    write_run("c", "dmgem", settings={"gamma": 10, "solver": "exact"})
    write_run("d", "dmgem", settings={"gamma": 2, "solver": "exact"})
    assert load_results(tmp_path).methods.index.tolist() == [
        "gem",
        "dmgem gamma=1",
        "dmgem gamma=2",
        "dmgem gamma=10",
    ]


def test_a_key_that_some_configurations_lack(write_run, tmp_path) -> None:
    """As after ``~strategy.ridge``: it makes another method, and names those that have it."""
    write_run("without", settings={"gamma": 1})
    write_run("with", settings={"gamma": 1, "ridge": "relative", "solver": "exact"})
    methods = load_results(tmp_path).methods
    assert set(methods.index) == {"gem", "gem ridge=relative solver=exact"}
    assert methods.loc["gem", "strategy.ridge"] == "absent"


def test_another_class_is_named_by_its_class(write_run, tmp_path) -> None:
    write_run("a", settings={"_target_": "x.MGEM"})
    write_run("b", settings={"_target_": "avalanche.training.GEM"})
    assert load_results(tmp_path).methods.index.tolist() == ["gem strategy=GEM", "gem strategy=MGEM"]


def test_classes_of_one_name_from_two_modules_are_told_apart(write_run, tmp_path) -> None:
    for seed in (0, 1):
        for module in ("a", "b"):
            write_run(f"{module}{seed}", seed=seed, settings={"_target_": f"{module}.Mine"})
    assert sorted(set(load_results(tmp_path).runs["method"])) == [
        "gem strategy=a.Mine",
        "gem strategy=b.Mine",
    ]


def test_numbers_of_experiences_are_not_mixed(write_run, tmp_path) -> None:
    """Folders of images are one experience each: no key of the configuration says how many."""
    write_run("a")
    write_run("b", "naive", matrix=random_matrix(0)[:3, :2])
    with pytest.raises(ValueError, match=r"different protocols.*n_experiences: 2 \(1 run\), 3 \(1 run\)"):
        load_results(tmp_path)
    assert load_results(tmp_path, where={"n_experiences": "2"}).runs["strategy"].tolist() == ["naive"]


def test_data_of_another_size_is_another_protocol(write_run, tmp_path) -> None:
    """Two folders of images have the same configuration but for dataset_root, which is the machine's."""
    write_run("a", config={"inferred.n_samples": [60, 20]})
    write_run("b", "naive", config={"inferred.n_samples": [60, 30]})
    with pytest.raises(ValueError, match=r"different protocols.*n_samples: \[60,20\] \(1 run\), \[60,30\]"):
        load_results(tmp_path)
    assert load_results(tmp_path, where={"n_samples": "[60,30]"}).runs["strategy"].tolist() == ["naive"]


def test_a_seed_that_is_held_fixed_is_a_setting(write_run, tmp_path) -> None:
    for seed in (0, 1, 2):
        write_run(f"fixed{seed}", seed=seed, settings={"seed": 0})
        write_run(f"following{seed}", "dmgem", seed)
    methods = load_results(tmp_path).methods
    assert methods["strategy.seed"].to_dict() == {"gem": 0, "dmgem": "${seed}"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("benchmark.n_experiences", 5),
        ("samples_per_experience", 100),
        ("test_samples_per_experience", 100),
        ("train_mb_size", 20),
        ("train_epochs", 2),
        ("model.hidden_size", 50),
        ("benchmark.new_key", 1),
    ],
)
def test_protocols_are_not_mixed(write_run, tmp_path, key, value) -> None:
    write_run("a", seed=0)
    write_run("b", seed=1)
    write_run("c", "dmgem", config={key: value})
    with pytest.raises(ValueError, match=rf"{key}: .*\b{value} \(1 run\)") as error:
        load_results(tmp_path)
    assert "(2 runs)" in str(error.value)
    assert "\n" not in str(error.value)
    assert load_results(tmp_path, where={key: str(value)}).runs["strategy"].tolist() == ["dmgem"]


def test_a_fixed_benchmark_is_another_protocol(write_run, tmp_path) -> None:
    for seed in (0, 1):
        write_run(f"a{seed}", seed=seed)
        write_run(f"b{seed}", "dmgem", seed, config={"benchmark.seed": 0})
    with pytest.raises(ValueError, match=r"benchmark.seed: \$\{seed\} \(2 runs\), 0 \(2 runs\)"):
        load_results(tmp_path)


def test_runs_are_selected_by_values(sweep) -> None:
    where = {"strategy": ["gem,dmgem"], "strategy.memory_strength": ["0.50", 1]}
    runs = load_results(sweep, where=where).runs
    assert set(runs["method"]) == {
        f"{name} memory_strength={v}" for name in ("gem", "dmgem") for v in (0.5, 1)
    }
    assert len(load_results(sweep, where={"environment.git.revision": "abc"}).runs) == 21
    with pytest.raises(
        ValueError, match=r"where strategy\.memory_strengt: .* nearest are strategy\.memory_strength"
    ):
        load_results(sweep, where={"strategy.memory_strengt": "1"})
    with pytest.raises(
        ValueError, match="where strategy=ewc: no run has this value; there are dmgem, gem, naive"
    ):
        load_results(sweep, where={"strategy": "ewc"})


def test_a_seed_counts_once(write_run, tmp_path) -> None:
    write_run("a")
    write_run("b")
    with pytest.raises(ValueError, match=rf"two runs of 'gem' with seed 0: {tmp_path}/a and {tmp_path}/b"):
        load_results(tmp_path)


def test_incomplete_runs_are_named(sweep, tmp_path) -> None:
    incomplete = load_results(sweep).incomplete.set_index("path")["reason"].to_dict()
    assert incomplete == {str(sweep / "failed"): "the loss is nan", str(sweep / "open"): "unfinished"}
    with pytest.raises(ValueError, match=r"no complete run in .*failed: .*incomplete: .*\(the loss is nan\)"):
        load_results(sweep / "failed")
    with pytest.raises(ValueError, match="no such folder"):
        load_results(tmp_path / "absent")


EMPTY_STRATEGY = "seed: 0\nbenchmark: {_target_: a}\nmodel: {_target_: a}\nstrategy: {}\n"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("summary.json", "{", "not valid JSON"),
        ("summary.json", "[]", "must hold a JSON object"),
        ("summary.json", '{"strategy": "gem", "benchmark": "b", "seed": "0", "acc": 1}', "'seed' must be"),
        (
            "summary.json",
            '{"strategy": "gem", "benchmark": "b", "seed": 0, "acc": NaN}',
            "finite number or null",
        ),
        ("summary.json", '{"strategy": "gem", "benchmark": "b", "seed": true}', "'seed' must be"),
        ("summary.json", '{"strategy": "", "benchmark": "b", "seed": 0}', "'strategy' must be"),
        ("summary.json", '{"strategy": "gem", "benchmark": "b", "seed": -1}', "seed=-1: it must be from 0"),
        (
            "summary.json",
            '{"strategy": "gem", "benchmark": "b", "seed": 0, "acc": 1' + 400 * "0" + "}",
            "finite",
        ),
        ("summary.json", '{"seed": ' + 5000 * "1" + "}", "not valid JSON: Exceeds the limit"),
        ("environment.json", None, "cannot be read"),
        ("environment.json", "[" * 100_000, "nested more than 50 levels"),
        ("environment.json", '{"a":' * 60 + "1" + "}" * 60, "nested more than 50 levels"),
        ("environment.json", b"\xff", "no UTF-8"),
        ("config.yaml", "a: [", "not valid YAML"),
        ("config.yaml", "", "must hold a configuration"),
        ("config.yaml", "5\n", "config"),
        ("config.yaml", "- 5\n", "must hold a configuration"),
        ("config.yaml", "text\n", "'seed' must be"),
        ("config.yaml", EMPTY_STRATEGY, "'strategy._target_' must be there"),
        ("config.yaml", "[" * 5000, "config"),
        ("config.yaml", "a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("accuracy_matrix.csv", "", "not valid CSV"),
        ("accuracy_matrix.csv", "exp_0,exp_0\n0.1,0.2\n0.1,0.2\n", "each once"),
        ("accuracy_matrix.csv", "a,b\n0.1,0.2\n0.1,0.2\n", "its columns must be exp_0"),
        ("accuracy_matrix.csv", "exp_0,exp_1\n0.1,0.2\n0.1\n", "line 3 has 1 values for 2 columns"),
        ("accuracy_matrix.csv", "exp_0,exp_1\n0.1,0.2\n0.1,0.2", "cut off"),
        ("accuracy_matrix.csv", "exp_0,exp_1\n0.1,inf\n0.1,0.2\n", "finite numbers only"),
        ("accuracy_matrix.csv", "exp_0,exp_1\n0.1,x\n", "column 'exp_1' must hold numbers only"),
        ("accuracy_matrix.csv", "exp_0,exp_1\n0.1,\n0.2,0.3\n", "none missing"),
        ("accuracy_matrix.csv", "exp_0,exp_1\n0.1,2\n0.2,0.3\n", "from 0 to 1"),
        ("accuracy_matrix.csv", "exp_0\n0.1\n0.1\n0.1\n", "3 rows for 1 experiences"),
        ("constraints.csv", "violated_steps\n0.5\n", "must have a column 'experience'"),
        ("constraints.csv", "experience,violated_steps\n0,a\n", "numbers only"),
        (
            "constraints.csv",
            "experience,violated_steps\n1,1.5\n2,0.5\n",
            "'violated_steps' must be from 0 to 1",
        ),
        (
            "constraints.csv",
            "experience,relative_change\n1,-1\n2,0.5\n",
            "'relative_change' must be at least 0",
        ),
        ("constraints.csv", "experience,violated_steps\n1,0.5\n2,nan\n", "finite numbers only"),
        (
            "constraints.csv",
            "experience,violated_steps\n1,0.5\n",
            "it has rows for 1; it must have one for each",
        ),
        ("constraints.csv", "experience,violated_steps\n2,0.5\n", "it has rows for 2"),
        ("constraints.csv", "experience,violated_steps\n1,0.5\n1,0.5\n", "it has rows for 1, 1"),
        ("constraints.csv", "experience,violated_steps\n1,0.5\n2,0.5\n3,1\n", "it has rows for 1, 2, 3"),
        ("constraints.csv", "experience,violated_steps\n1.5,0.5\n2,0.5\n", "a number in each row"),
    ],
)
def test_damaged_files_are_named(write_run, file, content, reason) -> None:
    folder = write_run("run", constraints=["experience,violated_steps", "1,0.5", "2,0.5"])
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=reason) as error:
        load_results(folder)
    assert str(error.value).startswith(f"{folder / file}: ")
    assert "\n" not in str(error.value)


def test_the_help_of_a_report_needs_no_pandas() -> None:
    help_code = (
        "import sys\nfrom avalanche_mgem.report.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", help_code], capture_output=True, check=False).returncode == 0


def test_every_public_name_is_there() -> None:
    assert dir(report) == sorted(report.__all__)
    for name in report.__all__:
        assert getattr(report, name).__name__ == name
    with pytest.raises(AttributeError, match="'load_result'"):
        _ = report.load_result


def test_results_are_shown_in_one_line(sweep: Path) -> None:
    assert repr(load_results(sweep)) == "Results(21 runs of 7 methods, 2 incomplete)"


def test_an_archive_is_read_like_its_folder(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pack_runs(["sweep"], "kept/sweep.tar.gz")
    folder, archive = load_results("sweep"), load_results("kept/sweep.tar.gz")
    assert sorted(archive.runs["path"]) == [
        f"kept/sweep.tar.gz/{path}" for path in sorted(folder.runs["path"])
    ]
    of_runs = [results.runs.drop(columns="path") for results in (folder, archive)]
    pd.testing.assert_frame_equal(*of_runs)
    assert len(folder.incomplete) == 2
    assert len(archive.incomplete) == 0
    with pytest.raises(ValueError, match=r"no complete run in empty.tar.gz"):
        load_results(empty_archive("empty.tar.gz"))
    with pytest.raises(ValueError, match=r"damaged.zip/run/summary.json: not valid JSON"):
        load_results(damaged_archive("damaged.zip"))


def empty_archive(name: str) -> str:
    tarfile.open(name, "w:gz").close()
    return name


def damaged_archive(name: str) -> str:
    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr("run/summary.json", "{")
    return name


COMMITTED = Path(__file__).parents[2] / "docs" / "results" / "runs"


def test_the_committed_runs_read() -> None:
    """The strictest check of the checks: no run that mgem has made is taken for damaged."""
    complete, incomplete = find_runs([COMMITTED])
    assert len(complete) > 50
    assert incomplete == {}
    for path in complete:
        read_run(path)


@pytest.mark.parametrize(
    ("changed", "file", "reason"),
    [
        ({"summary": {"acc": 5}}, "summary.json", "acc is 5, but accuracy_matrix.csv gives 0."),
        ({"summary": {"bwd": 0.5}}, "summary.json", "bwd is 0.5, but"),
        ({"summary": {"fwt": None}}, "summary.json", "fwt is null, but"),
        ({"summary": {"seconds_train": -1}}, "summary.json", "it must be at least 0"),
        ({"summary": {"seed": 7}}, "summary.json", "seed is 7, but config.yaml says 0"),
        ({"config": {"names.strategy": "ewc"}}, "summary.json", "strategy is gem, but config.yaml says ewc"),
        ({"config": {"names.benchmark": "x"}}, "summary.json", "benchmark is digits, but config.yaml says x"),
        ({"config": {"inferred.n_experiences": 7}}, "accuracy_matrix.csv", "3 experiences, but .* says 7"),
        ({"config": {"strategy": None}}, "config.yaml", "'strategy._target_' must be there"),
        ({"config": {"strategy._target_": ""}}, "config.yaml", "'strategy._target_' must be there"),
        ({"config": {"model._target_": 5}}, "config.yaml", "'model._target_' must be there and of type str"),
        ({"config": {"seed": "0"}}, "config.yaml", "'seed' must be there and of type int"),
        ({"settings": {"_target_": "avalanche_mgem.DMGEM"}}, "constraints.csv", "it is missing"),
    ],
)  # fmt: skip
def test_files_are_checked_against_one_another(write_run, changed, file: str, reason: str) -> None:
    folder = write_run("run", **changed)
    with pytest.raises(ValueError, match=reason) as error:
        load_results(folder)
    assert str(error.value).startswith(f"{folder / file}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0])
@pytest.mark.parametrize(
    "file", ["accuracy_matrix.csv", "summary.json", "config.yaml", "constraints.csv", "environment.json"]
)
def test_a_file_that_is_cut_off_is_named(write_run, file: str, share: float) -> None:
    """Wherever it is cut; only the newline at the end of YAML is none of the contents."""
    rows = ["experience,violated_steps,cosine_worst", "1,0.5,0.123456789", "2,0.25,-0.123456789"]
    folder = write_run("run", constraints=rows, matrix=random_matrix(0))
    whole = (folder / file).read_text()
    (folder / file).write_text(whole[: int(share * (len(whole) - 1))])
    if share == 1.0 and file == "config.yaml":
        load_results(folder)
        return
    with pytest.raises(ValueError, match=file) as error:
        load_results(folder)
    assert "\n" not in str(error.value)


def test_a_damaged_run_is_left_out_and_named(write_run, tmp_path, capsys) -> None:
    for seed in range(3):
        write_run(f"sweep/gem{seed}", seed=seed)
    (tmp_path / "sweep/gem1/accuracy_matrix.csv").write_text("exp_0\n")
    results = load_results(tmp_path / "sweep")
    assert results.runs["seed"].tolist() == [0, 2]
    reason = "accuracy_matrix.csv: 0 rows for 1 experiences; it must have 2 or 2"
    assert results.incomplete.to_numpy().tolist() == [[str(tmp_path / "sweep/gem1"), reason]]
    main([str(tmp_path / "sweep"), "--output", str(tmp_path / "report")])
    assert capsys.readouterr().err == f"mgem-report: left out {tmp_path / 'sweep/gem1'}: {reason}\n"
    assert reason in (tmp_path / "report/report.md").read_text()


def test_an_error_that_cannot_be_read_is_of_its_run_alone(write_run, tmp_path) -> None:
    write_run("sweep/gem")
    (tmp_path / "sweep/failed").mkdir()
    (tmp_path / "sweep/failed/error.txt").write_bytes(b"\xff\x1b[31mno\nmore")
    (reason,) = load_results(tmp_path / "sweep").incomplete["reason"]
    assert reason == "\N{REPLACEMENT CHARACTER}\\x1b[31mno"


def test_nothing_in_a_run_folder_is_executed(write_run, tmp_path, monkeypatch) -> None:
    """Not what a configuration would run, nor what it would read from the environment."""
    monkeypatch.setenv("MGEM_TEST_SECRET", "hunter2")
    called: list[str] = []
    OmegaConf.register_new_resolver("mgem_test_called", called.append, replace=True)
    (tmp_path / "own_danger.py").write_text("raise SystemExit('executed')\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = {
        "_target_": "own_danger.Strategy",
        "token": "${oc.env:MGEM_TEST_SECRET}",
        "x": "${mgem_test_called:1}",
    }
    folder = write_run("run/gem", settings=settings)
    main([str(folder), "--output", str(tmp_path / "report")])
    assert called == []
    assert "own_danger" not in sys.modules
    assert read_run(folder).config["strategy.token"] == "${oc.env:MGEM_TEST_SECRET}"
    marker = tmp_path / "executed"
    (folder / "config.yaml").write_text(f"a: !!python/object/apply:pathlib.Path.touch [{marker}]\n")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_results(folder)
    assert not marker.exists()
