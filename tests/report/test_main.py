import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import avalanche_mgem
from avalanche_mgem.report import load_results, report
from avalanche_mgem.report.main import main

IN_REPORT = {
    *("report.md", "mgem-report.json", "figures", "runs.csv", "gap.tex"),
    *(f"{name}.{ending}" for name in ("results", "differences", "hypervolumes") for ending in ("csv", "tex")),
}


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line on standard error with which the command ends."""
    with pytest.raises(SystemExit) as error:
        main([str(word) for word in words])
    assert error.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"mgem-report: [^\n]+\n", captured.err)
    return captured.err


def test_a_report_of_a_sweep(sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep), "--output", str(tmp_path / "report")])
    captured = capsys.readouterr()
    assert f"report: {tmp_path / 'report' / 'report.md'}" in captured.out
    assert captured.err.splitlines() == [
        f"mgem-report: left out {sweep / 'failed'}: the loss is nan",
        f"mgem-report: left out {sweep / 'open'}: unfinished",
    ]
    assert set(os.listdir(tmp_path / "report")) == IN_REPORT
    assert sorted(os.listdir(tmp_path)) == ["report", "sweep"]
    text = (tmp_path / "report/report.md").read_text()
    for part in (
        "21 runs of 7 methods", f"mgem-report {sweep} --output", "the loss is nan", "- `train_mb_size`: 10",
        "- torch: 2.15.0", "seeds 0, 1, 2", "No difference to a baseline is made for: naive.",
    ):  # fmt: skip
        assert part in text
    figures = re.findall(r"\((figures/\w+\.png)\)", text)
    assert len(figures) == 5
    assert all((tmp_path / "report" / figure).is_file() for figure in figures)
    with (tmp_path / "report/hypervolumes.csv").open() as file:
        assert {row["front"]: bool(row["difference"]) for row in csv.DictReader(file)} == {
            "gem": False,
            "dmgem": True,
        }
    manifest = json.loads((tmp_path / "report/mgem-report.json").read_text())
    assert len(manifest["runs"]) == 21
    assert set(manifest["files"]) | {"mgem-report.json"} == {
        path.relative_to(tmp_path / "report").as_posix()
        for path in (tmp_path / "report").rglob("*")
        if path.is_file()
    }


@pytest.mark.usefixtures("_one_figure")
def test_csv_has_full_precision(write_run, tmp_path: Path) -> None:
    for seed in range(3):
        write_run(f"sweep/gem{seed}", seed=seed)
    main([str(tmp_path / "sweep"), "--output", str(tmp_path / "report")])
    runs = load_results(tmp_path / "sweep").runs
    with (tmp_path / "report/results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["acc_mean"]) == runs["acc"].mean()
    assert row["peak_memory_mb_mean"] == ""
    with (tmp_path / "report/runs.csv").open() as file:
        assert [float(row["acc"]) for row in csv.DictReader(file)] == runs["acc"].tolist()


@pytest.mark.usefixtures("_one_figure")
def test_an_older_report_is_replaced_whole(
    write_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run("sweep/gem")
    sweep, report = write_run("sweep/naive", "naive").parent, tmp_path / "report"
    main([str(sweep), "--output", str(report)])
    assert "differences.csv" in os.listdir(report)
    main([str(sweep), "--output", str(report), "--where", "strategy=naive"])
    assert set(os.listdir(report)) == {
        "figures",
        "mgem-report.json",
        "report.md",
        "results.csv",
        "results.tex",
        "runs.csv",
    }
    assert sorted(os.listdir(tmp_path)) == ["report", "sweep"]
    capsys.readouterr()
    (report / "notes.txt").write_text("mine")
    assert "notes.txt is none of its files" in refused(capsys, sweep, "--output", report)
    assert (report / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("_one_figure")
def test_other_folders_are_not_touched(
    write_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_run("run")
    assert "holds no report" in refused(capsys, sweep, "--output", sweep)
    (tmp_path / "file").touch()
    assert "it is a file" in refused(capsys, sweep, "--output", tmp_path / "file")
    monkeypatch.setenv("HOME", str(tmp_path))  # a shell leaves the ~ of --output=~/file as it is
    assert f"{tmp_path}/file: it is a file" in refused(capsys, sweep, "--output=~/file")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for own in (".", "..", "../empty", "x/.."):
        assert "than you are in" in refused(capsys, sweep, "--output", own)
    monkeypatch.chdir(tmp_path)
    main([str(sweep), "--output", str(tmp_path / "empty")])
    assert "report.md" in os.listdir(tmp_path / "empty")


@pytest.mark.usefixtures("_one_figure")
def test_a_report_that_fails_leaves_the_older_one(write_run, tmp_path: Path, monkeypatch, capsys) -> None:
    sweep, report = write_run("run"), tmp_path / "report"
    main([str(sweep), "--output", str(report)])
    before = (report / "report.md").read_text()

    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    capsys.readouterr()
    monkeypatch.setattr("avalanche_mgem.report.write.write_figures", fail)
    assert "No space left" in refused(capsys, sweep, "--output", report)
    assert (report / "report.md").read_text() == before
    assert sorted(os.listdir(tmp_path)) == ["report", "run"]


def test_what_the_user_can_get_wrong(sweep, write_run, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert "the following arguments are required: RUNS" in refused(capsys)
    assert "there is no such folder" in refused(capsys, "absent")
    (tmp_path / "nothing").mkdir()
    assert "no complete run in nothing" in refused(capsys, "nothing")
    assert "--baseline ewc: no method is called so" in refused(capsys, sweep, "--baseline", "ewc")
    assert "--where gem: it must be KEY=VALUE" in refused(capsys, sweep, "--where", "gem")
    assert "it does not vary" in refused(capsys, sweep, "--front", "solver")
    assert "--front solver: it does" in refused(capsys, sweep, "--front", "memory_strength,solver")
    assert "it does not vary" in refused(capsys, sweep, "--over", "memory_strength,solver")
    assert "there are 0, 0.5, 1" in refused(capsys, sweep, "--baseline", "memory_strength=3")
    no_front = refused(capsys, sweep, "--where", "strategy=naive", "--reference", "0.5", "-0.1")
    assert "there is no front" in no_front
    assert "it must be a finite number; got nan" in refused(capsys, sweep, "--reference", "0.5", "nan")
    assert "it must be a finite number; got a" in refused(capsys, sweep, "--reference", "0.5", "a")
    write_run("sweep/other", "ewc", config={"train_epochs": 5})
    assert "train_epochs: 1 (21 runs), 5 (1 run)" in refused(capsys, sweep)
    assert sorted(os.listdir(tmp_path)) == ["nothing", "sweep"]


@pytest.mark.usefixtures("_one_figure")
def test_a_report_without_gem_has_tables_and_curves(write_run, tmp_path: Path, capsys) -> None:
    for seed in (0, 1):
        write_run(f"sweep/naive{seed}", "naive", seed)
        write_run(f"sweep/ewc{seed}", "ewc", seed)
    sweep, report = tmp_path / "sweep", tmp_path / "report"
    main([str(sweep), "--output", str(report), "--html"])
    assert capsys.readouterr().out.endswith(f"report: {report / 'report.html'}\n")
    files = {
        "figures",
        "mgem-report.json",
        "report.html",
        "report.md",
        "results.csv",
        "results.tex",
        "runs.csv",
    }
    assert set(os.listdir(report)) == files
    sentence = "no method is called gem; give --baseline one of naive, ewc, or all for all pairs."
    assert sentence in (report / "report.md").read_text()
    main([str(sweep), "--output", str(report), "--baseline", "ewc"])
    assert set(os.listdir(report)) == files - {"report.html"} | {"differences.csv", "differences.tex"}


@pytest.mark.usefixtures("_one_figure")
def test_all_pairs(write_run, tmp_path: Path) -> None:
    """Of methods at any memory strength; a strategy that is called all is one like the others."""
    for seed in range(2):
        write_run(f"sweep/all-{seed}", "all", seed)
        for gamma in (0, 1):
            write_run(f"sweep/gem-{gamma}-{seed}", "gem", seed, settings={"memory_strength": gamma})
    report = tmp_path / "report"
    main([str(tmp_path / "sweep"), "--output", str(report), "--baseline", "all", "--html"])
    assert set(os.listdir(report)) == IN_REPORT - {"gap.tex"} | {
        *("report.html", "pairs_acc.tex", "pairs_bwd.tex", "pairs_la.tex"),
    }
    with (report / "differences.csv").open() as file:
        rows = list(csv.DictReader(file))
    methods = {"all", "gem memory_strength=0", "gem memory_strength=1"}
    for metric in ("acc", "bwd", "la"):
        pairs = [{row["method"], row["baseline"]} for row in rows if row["metric"] == metric]
        assert len(pairs) == 3
        assert all(methods - {name} in pairs for name in methods)
    assert len(re.findall(r"^(?:ACC|BWD|LA) & ", (report / "differences.tex").read_text(), re.MULTILINE)) == 9
    text = (report / "report.md").read_text()
    for part in (
        "## ACC of all pairs\n\n| method | 2 | 3 |\n", "## BWD of all pairs\n", "## LA of all pairs\n",
        "Fewer than 5 shared seeds are not tested", "- All pairs have no baseline, so hypervolumes have no",
    ):  # fmt: skip
        assert part in text
    assert "to a baseline" not in text
    assert "Differences" not in text
    for name in ("pairs_acc", "pairs_bwd", "pairs_la", "hypervolumes"):
        assert f'<table id="{name}">' in (report / "report.html").read_text()


@pytest.mark.usefixtures("_one_figure")
def test_one_method_has_no_pairs(write_run, tmp_path: Path) -> None:
    made = report(write_run("naive", "naive"), out=tmp_path / "report", baseline="all")
    assert "There is one method, so there are no pairs to compare." in made.notes
    assert list(made.tables) == ["results"]
    assert not list(made.folder.glob("pairs*"))


@pytest.mark.usefixtures("_one_figure")
def test_what_differs_is_named(write_run, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(f"sweep/gem{seed}", seed=seed)
    write_run("sweep/late", "naive", 2, environment={"torch": "2.16.0", "threads": 2})
    write_run("sweep/new", "ewc", 0, settings={"ewc_lambda": 1})
    write_run("sweep/old", "ewc", 0)
    main([str(tmp_path / "sweep"), "--output", str(tmp_path / "report")])
    text = (tmp_path / "report/report.md").read_text()
    for part in (
        "torch differs: 2.15.0 (4 runs), 2.16.0 (1 run)",
        "threads differs: 1 (4 runs), 2 (1 run)",
        "Seconds and memory are not comparable",
        "rounding in them, which grows in training, since the runs differ in threads, torch.",
        "gem has seeds 0, 1, and lacks 2",
        "One seed gives no interval: naive, ewc ewc_lambda=1, ewc.",
        "Fewer than 5 seeds are not tested, and give no star and no bootstrap: no method has more.",
        "ewc ewc\\_lambda=1",
    ):
        assert part in text


def test_the_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    for word in (
        "--baseline",
        "--where",
        "--front",
        "--over",
        "--reference",
        "--wandb",
        "--output",
        "examples:",
    ):
        assert word in text
    assert max(map(len, text.splitlines())) <= 110


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"mgem-report {avalanche_mgem.__version__}\n"


@pytest.mark.slow
def test_as_a_program_with_warnings_as_errors(sweep, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", "from avalanche_mgem.report.main import main; main()"]
    done = subprocess.run([*command, sweep], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    (report,) = (tmp_path / "reports").iterdir()
    assert set(os.listdir(report)) == IN_REPORT


def test_a_sweep_is_packed(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "sweep.tar.gz"
    main([str(sweep), "--pack", str(archive)])
    assert capsys.readouterr() == (f"packed 21 runs: {archive}\n", "")
    assert len(load_results(archive).runs) == 21
    assert "it exists, and nothing is overwritten" in refused(capsys, sweep, "--pack", archive)
    error = refused(capsys, sweep, "--pack", tmp_path / "x.tar.gz", "--baseline", "gem")
    assert "--baseline: it is of a report, and --pack writes none" in error


@pytest.mark.parametrize("manifest", ["5", '{"files": 5}', '{"files": [[]]}', "[" * 100_000, "{"])
def test_a_damaged_manifest_is_one_line(write_run, tmp_path: Path, capsys, manifest: str) -> None:
    sweep, report = write_run("run"), tmp_path / "report"
    report.mkdir()
    (report / "mgem-report.json").write_text(manifest)
    (report / "mine.txt").touch()
    assert f"--output {report}: " in refused(capsys, sweep, "--output", report)
    assert (report / "mine.txt").exists()


@pytest.mark.usefixtures("_one_figure")
def test_codes_for_the_terminal_are_written_out(write_run, tmp_path: Path, capsys) -> None:
    code = "\x1b[31m"
    write_run(f"sweep/{code}gem", f"gem{code}")
    write_run(f"sweep/{code}damaged", "naive", 1)
    (tmp_path / f"sweep/{code}damaged/summary.json").write_text("{")
    main([str(tmp_path / "sweep"), "--output", str(tmp_path / f"report{code}")])
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "gem\\x1b[31m" in captured.out
    assert "left out" in captured.err
    assert "\\x1b[31mdamaged: summary.json" in captured.err
    assert "\x1b" not in refused(capsys, f"{code}absent")
    assert "\x1b" not in refused(capsys, "x", f"--{code}")


def test_a_deleted_working_folder_is_named(sweep: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "the working folder is not there any more" in refused(capsys, sweep)
