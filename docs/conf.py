"""The documentation site: these pages, the API from the docstrings, and the examples with what they print.

``make docs`` builds it. The pages are Markdown that reads on a code host too, so their links are those of the
repository: a link to a file outside of ``docs/`` becomes a link to the page that has it, if there is one.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

project = "avalanche-mgem"
author = "The avalanche-mgem authors"
copyright = f"MIT licence, {author}"
release = importlib.metadata.version("avalanche-mgem")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "results/runs"]
html_theme = "furo"
html_title = f"{project} {release}"
highlight_language = "none"  # of indented blocks: commands
myst_heading_anchors = 4

# Docstrings. The signature of a strategy has thirty arguments, each on its own line.
templates_path = ["_templates"]
autosummary_ignore_module_all = False
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # the docstrings say types and shapes in words
maximum_signature_line_length = 90
napoleon_use_rtype = False
nitpicky = True  # a name in a docstring that leads nowhere is an error, but for names of other packages
_OTHERS = (
    "PIL|_io|abc|avalanche|collections|hydra|matplotlib|numpy|omegaconf|os|pandas|pathlib|pd|torch|typing"
)
nitpick_ignore_regex = [("py:.*", rf"({_OTHERS})\..*")]


def links(text: str, folder: Path) -> str:
    """The text with its links to files of the repository as links of the site; a folder is just named."""

    def link(match: re.Match[str]) -> str:
        shown, target, anchor = match.groups()
        path = Path(os.path.normpath(folder / target))
        if path.is_relative_to(DOCS) and path.is_file():
            return f"[{shown}](/{path.relative_to(DOCS).as_posix()}{anchor or ''})"
        if page := _page(path):
            return f"[{shown}](/{page}{anchor or ''})"
        return shown if path.is_dir() else match[0]  # MyST makes a file a download, or warns

    return re.sub(r"(?<!!)\[((?:[^][]|\[[^]]*\])*)\]\((?!https?:|#|/)([^)#\s]+)(#[^)\s]*)?\)", link, text)


def _page(path: Path) -> str | None:
    """The page of the site that has a file or a room which lies outside of the pages."""
    if path in EXAMPLES:
        return f"_examples/{path.stem}.md"
    if path.parent == ROOT / "avalanche_mgem":
        return f"_api/avalanche_mgem.{path.stem}.rst"
    return {
        ROOT / "README.md": "index.md",
        ROOT / "CHANGELOG.md": "changelog.md",
        ROOT / "CONTRIBUTING.md": "contributing.md",
    }.get(path)


def example_page(script: Path, output: str) -> str:
    """A page with a script's title, its text, its code, and what it prints."""
    docstring, _, code = script.read_text().removeprefix('"""').partition('"""')
    title, _, text = docstring.partition("\n")
    text = text.strip().replace("``", "`")
    return (
        f"# {title.rstrip('.')}\n\n{text}\n\n```python\n{code.strip()}\n```\n\n"
        f"It printed this when these pages were built:\n\n```text\n{output.strip()}\n```\n"
    )


def make_example_pages(app: Any) -> None:
    """Runs the examples. A page is kept while neither its script nor the package has changed."""
    folder = DOCS / "_examples"
    folder.mkdir(exist_ok=True)
    package = max(path.stat().st_mtime for path in (ROOT / "avalanche_mgem").rglob("*.py"))
    for script in EXAMPLES:
        page = folder / f"{script.stem}.md"
        if page.exists() and page.stat().st_mtime > max(package, script.stat().st_mtime):
            continue
        command = [sys.executable, "-W", "ignore", str(script)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{script.name} failed:\n{done.stderr}")
        page.write_text(example_page(script, done.stdout))


def setup(app: Any) -> None:
    """Sphinx calls this before it reads the pages."""
    app.connect("builder-inited", make_example_pages)

    def on_page(app: Any, name: str, source: list[str]) -> None:
        if (path := Path(app.env.doc2path(name))).suffix == ".md":
            source[0] = links(source[0], path.parent)

    def on_include(app: Any, path: Path, name: str, source: list[str]) -> None:
        source[0] = links(source[0], (DOCS / path).resolve().parent)

    app.connect("source-read", on_page)
    app.connect("include-read", on_include)
