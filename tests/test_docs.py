"""Every block of every page: Python runs, YAML is read, commands are parsed, or a comment says why not.

The Python blocks of a page run one after the other in one set of names, in an empty folder. Pages whose
blocks say ``model`` or ``tasks`` without making them get them from PREPARED. The words of a command are read
as it would parse them itself: by Hydra, by argparse, or by a look at the Makefile. A block after
``<!-- not run: reason -->`` is left out, and the number of those is fixed here.
"""

import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import avalanche.benchmarks as ab
import pytest
import torch
import yaml
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training import Naive
from helpers import MLP, Tagger, digits, sentences, split_digits
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from markdown_it import MarkdownIt
from torch.utils.data import DataLoader, TensorDataset

from avalanche_mgem import DMGEMPlugin, Projector
from avalanche_mgem.experiment import compose
from avalanche_mgem.experiment.tuning.settings import split_words
from avalanche_mgem.report.main import _parser as report_parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")


@dataclass
class Block:
    language: str  # "commands" for an indented block
    text: str
    line: int
    not_run: str | None  # the reason


def blocks(page: Path) -> Iterator[Block]:
    """The code blocks of a page; a comment directly before one says why it is not run."""
    reason = None
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "html_block" and (found := NOT_RUN.match(token.content)):
            reason = found[1]
        elif token.type in ("fence", "code_block"):
            language = token.info if token.type == "fence" else "commands"
            yield Block(language, token.content, token.map[0] + 1, reason)
            reason = None
        elif token.type != "html_block":
            assert reason is None, f"{page.name}: no block after <!-- not run: {reason} -->"


# ---------------------------------------------------------------- what a page's Python finds when it begins


def for_the_readme() -> dict[str, Any]:
    model = torch.nn.Sequential(torch.nn.Flatten(), MLP())
    task = TensorDataset(*digits(20))
    return {
        "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "criterion": torch.nn.CrossEntropyLoss(), "tasks": [DataLoader(task, batch_size=10)] * 2,
    }  # fmt: skip


def for_training() -> dict[str, Any]:
    model = Tagger()
    return {
        "torch": torch, "DataLoader": DataLoader, "Naive": Naive,
        "Projector": Projector, "DMGEMPlugin": DMGEMPlugin,
        "pad_sequence": torch.nn.utils.rnn.pad_sequence, "cross_entropy": torch.nn.functional.cross_entropy,
        "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "device": "cpu",
        "tasks": [sentences(12, 5), sentences(12, 7, seed=1)],
    }  # fmt: skip


def for_reports() -> dict[str, Any]:
    Path("gamma").symlink_to(DOCS / "results" / "runs" / "gem_protocol", target_is_directory=True)
    return {}


def after_sentences(names: dict[str, Any]) -> None:
    """The strategy for Hugging Face trains; the blocks after it are about images."""
    assert len(names["mgem"].memory) == 2
    datasets = [AvalancheDataset([sentences(12, longest)]) for longest in (5, 7)]
    trains(names, ab.benchmark_from_datasets(train=datasets).train_stream)
    x, y = digits(60)
    model = MLP()
    names |= {
        "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "criterion": torch.nn.CrossEntropyLoss(),
        "tasks": [TensorDataset(x[:30], y[:30]), TensorDataset(x[30:], y[30:])],
    }  # fmt: skip


def after_the_scaler(names: dict[str, Any]) -> None:
    trains(names, list(split_digits(5).train_stream)[:2])
    names["benchmark"] = split_digits(5)


def trains(names: dict[str, Any], experiences: Any) -> None:
    for experience in experiences:
        names["strategy"].train(experience)
    assert len(DMGEMPlugin.of(names["strategy"]).memory) == 2
    assert all(torch.isfinite(p).all() for p in names["model"].parameters())


PREPARED: dict[str, Callable[[], dict[str, Any]]] = {
    "README.md": for_the_readme,
    "training.md": for_training,
    "report.md": for_reports,
}
# After the n-th Python block of a page.
THEN: dict[tuple[str, int], Callable[[dict[str, Any]], None]] = {
    ("training.md", 2): after_sentences,
    ("training.md", 4): after_the_scaler,
}


SLOW = {"experiments.md", "report.md", "tuning.md"}  # several runs of the command


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page.name in SLOW else []) for page in PAGES],
    ids=lambda page: page.stem,
)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    sources = [block for block in blocks(page) if block.language == "python" and not block.not_run]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    names = {"__name__": "page"} | (PREPARED[page.name]() if sources and page.name in PREPARED else {})
    for number, block in enumerate(sources, start=1):
        exec(compile("\n" * block.line + block.text, page.name, "exec"), names)
        THEN.get((page.name, number), lambda names: None)(names)


# ---------------------------------------------------------------- commands


def commands(text: str) -> Iterator[list[str]]:
    """The words of each line, with continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line):
            yield words


def read_mgem(words: list[str]) -> None:
    """One run of the command composes; of a sweep that is the first one.

    With files of the reader's own, which --config-dir names, there is nothing to compose: it is parsed.
    """
    if words == ["--version"] or words == ["--help"]:
        return
    if words[:1] == ["tune"]:
        words = [*split_words(words[1:]).runs]
    elif words[:1] == ["profile"]:
        words = words[1:]
    is_sweep = "-m" in words
    has_own_files = "--config-dir" in words
    if has_own_files:
        at = words.index("--config-dir")
        words = words[:at] + words[at + 2 :]
    overrides = [word for word in words if word != "-m"]
    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = [override.key_or_group for override in parsed if override.is_sweep_override()]
    assert is_sweep or not swept, f"{swept} have several values, which needs -m"
    if not has_own_files:
        compose(*BasicSweeper.split_arguments(parsed, max_batch_size=None)[0][0])


def read_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    listed = re.search(r"^REPORTS := ((?:.*\\\n)*.*)$", makefile, flags=re.MULTILINE)
    assert listed is not None
    reports = {f"report-{name}" for name in listed[1].replace("\\\n", " ").split()}
    for target in (word for word in words if "=" not in word and word not in reports):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"there is no target {target}"


def read_pip(words: list[str]) -> None:
    """What pip installs is the clone or its archive: nothing is on an index."""
    verb, *rest = words
    (target,) = [word for word in rest if not word.startswith("-")]
    found = re.fullmatch(r"\.(?:\[([\w,]+)\])?|avalanche-mgem\.zip", target)
    assert verb == "install", words
    assert found, f"pip install {target}: it is not on an index"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set((found[1] or "").split(",")) - {""} <= set(project["optional-dependencies"])


def read_environment(words: list[str]) -> None:
    assert words == [".venv/bin/activate"]


def read_file(words: list[str]) -> None:
    """A script or module of the repository."""
    if words[0] == "-m":
        module = ROOT / words[1].replace(".", "/")
        assert module.is_dir() or module.with_suffix(".py").is_file()
    elif words[0] != "-c" and words[0] != "examples/NAME.py":
        assert (ROOT / words[0]).is_file()


READERS: dict[str, Callable[[list[str]], Any]] = {
    "mgem": read_mgem,
    "mgem-report": lambda words: report_parser().parse_args(words),
    "make": read_make,
    "pip": read_pip,
    ".": read_environment,
    "python": read_file,
    # Programs of others, whose words are theirs to check.
    **dict.fromkeys(["cmp", "git", "wandb", "tensorboard", "pre-commit"], lambda words: None),
}


def read_command(words: list[str]) -> None:
    while re.fullmatch(r"\w+=\S*", words[0]):  # a variable of the environment
        words = words[1:]
    assert words[0] in READERS, f"{words[0]} is no known command"
    READERS[words[0]](words[1:])


@pytest.mark.parametrize(
    "line",
    [
        "mgem strategy=dmgm",
        "mgem strategy.num_group=2",
        "mgem seed=0,1",
        "mgem-report sweep --basline gem",
        "make quickstar",
        "python examples/plain_torch.py",
        "pip install 'avalanche-mgem[slurm]'",
        "pip install '.[slrum]'",
        "mgen strategy=gem",
    ],
)
def test_a_wrong_command_is_found(line):
    with pytest.raises((Exception, SystemExit)):
        read_command(shlex.split(line))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_other_blocks_of_a_page_are_read(page):
    for block in blocks(page):
        if block.not_run or block.language == "python":
            continue
        where = f"{page.name}, line {block.line}"
        if block.language == "commands":
            try:
                for words in commands(block.text):
                    read_command(words)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{where}: {error}") from error
        elif block.language == "yaml":
            assert yaml.safe_load(block.text), where
        else:  # what is no code, and directives of Sphinx, which make docs runs
            assert block.language in ("text", "bibtex") or block.language.startswith("{"), where


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_command_of_a_page_has_a_comment(page):
    """zsh takes what stands behind a # for words of the command."""
    shown = "".join(block.text for block in blocks(page) if block.language == "commands")
    assert re.findall(r"^.*(?:^|\s)#.*$", shown, flags=re.MULTILINE) == []


def test_what_pages_and_configurations_tell_to_install_is_the_clone():
    files = [*PAGES, *(ROOT / "configs").rglob("*.yaml")]
    found = [
        words
        for file in files
        for words in re.findall(r"pip (install [^`\n]+?)(?:`|\n| in a clone)", file.read_text())
    ]
    assert len(found) > 5
    for words in found:
        read_pip(shlex.split(words))


def test_the_page_on_installing_has_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "install.md").read_text(), flags=re.MULTILINE)
    assert sorted(set(rows) - {"mgem"}) == sorted(project["optional-dependencies"])


def test_few_blocks_are_not_run():
    """Each has a reason beside it. The number changes here when one is added or removed."""
    reasons = {page.name: [b.not_run for b in blocks(page) if b.not_run] for page in PAGES}
    assert {name: len(found) for name, found in reasons.items() if found} == {"benchmarks.md": 1}


# ---------------------------------------------------------------- names and links


def test_every_test_that_the_page_on_reliability_names_is_there():
    faults = (DOCS / "reliability.md").read_text().partition("\n## Long checks")[0]
    rows = re.findall(r"^\| (?!fault|---)(.*) \|$", faults, flags=re.MULTILINE)
    assert len(rows) > 30
    for row in rows:
        fault, _, test = row.rsplit(" | ", maxsplit=2)
        file, name = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", test).groups()
        assert re.search(rf"^def {name}\(", (DOCS.parent / file).read_text(), flags=re.MULTILINE), fault


def slug(heading: str) -> str:
    """The anchor of a heading, as code hosts and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_links_of_a_page_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name}: {target}#{anchor}"


def test_every_page_is_in_the_site():
    index = (DOCS / "index.md").read_text()
    listed = set(re.findall(r"^(?:.+ <)?([\w/-]+)>?$", index, flags=re.MULTILINE))
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    generated = {page for page in pages if page.startswith("_")}
    assert pages - generated - {"index"} == listed


def test_what_to_choose_is_the_same_on_all_pages():
    """README and results.md have the ten lines of choosing.md, without what these rest on."""

    def lines(page: str) -> list[list[str]]:
        _, _, table = (ROOT / page).read_text().partition("| | you want | take |")
        rows = [line.strip("| ").split(" | ") for line in table.partition("\n\n")[0].splitlines()]
        return [row[:3] for row in rows if row[0].isdigit()]

    chosen = lines("docs/choosing.md")
    assert len(chosen) == 10
    assert lines("README.md") == lines("docs/results.md") == chosen


def test_the_api_has_every_public_room():
    package = ROOT / "avalanche_mgem"
    private = {"__init__", "options", "parameters", "timing"}  # what the rooms share
    rooms = {path.stem for path in package.glob("*.py")}
    rooms |= {path.parent.name for path in package.glob("*/__init__.py")}
    listed = re.findall(r"^   avalanche_mgem\.(\w+)$", (DOCS / "api.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(rooms - private)


def test_the_citation_is_that_of_the_file():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    page = (DOCS / "citing.md").read_text()
    assert f"version = {{{cff['version']}}}" in page
    assert cff["preferred-citation"]["title"] in page
    assert cff["preferred-citation"]["url"] in page


def test_no_shell_takes_a_word_of_the_pages_for_a_pattern():
    """zsh refuses an unquoted ``logger=[a,b]``, which it takes for names of files."""
    pages = [DOCS.parent / "README.md", *DOCS.rglob("*.md"), *(DOCS.parent / "configs").rglob("*.yaml")]
    found = []
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        shown = re.findall(r"^ {4,}(?:.*\bmgem|\w\S*=).*", text, flags=re.MULTILINE)
        shown += re.findall(r"`([^`\n]*=[^`\n]*)`", text)
        for line in shown:
            bare = re.sub(r"'[^']*'|\"[^\"]*\"|\s#.*", "", line)
            found += re.findall(r"(?:^|\s)(?:[+\w.]+=\S*[\[({*?]\S*|~\w\S*)", bare)
    assert found == []
