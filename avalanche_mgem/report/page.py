"""A report as one page to send: nothing else is needed to read it, and nothing is fetched."""

from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path

from avalanche_mgem.report._document import Document, Items, Picture
from avalanche_mgem.report.sheets import Sheet

# Of a figure on the screen: its words are as large as those around it, whether it is one column wide or two.
_SCALE = 0.55


def page(made: Document, figures: Path) -> str:
    """The report in HTML, with its figures inside. A browser that obeys the page's policy loads nothing.

    Args:
        made: the report.
        figures: the folder of its figures as PNG.
    """
    style, script = (_resource(name) for name in ("page.css", "page.js"))
    # Only this style and this script: not even a name of a method that looks like a script could be one.
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_hash(style)}'; "
        f"script-src 'sha256-{_hash(script)}'"
    )
    body = "\n".join(
        f"<section>\n<h2>{escape(heading)}</h2>\n{_content(content, figures)}\n</section>"
        for heading, content in made.sections.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(made.title)}</title>
<style>{style}</style>
</head>
<body>
<h1>{escape(made.title)}</h1>
<p>{escape(made.runs)}, by <code>{escape(made.command)}</code>.
A click on the heading of a column sorts its table.</p>
{body}
<script>{script}</script>
</body>
</html>
"""


def html_table(sheet: Sheet, *, is_sorted_by_click: bool = False) -> str:
    """A table without its caption.

    Args:
        sheet: the table.
        is_sorted_by_click: whether each heading is a button for the page's script.
    """
    before, after = ("<button>", "</button>") if is_sorted_by_click else ("", "")
    kinds = ["text"] * sheet.texts + ["number"] * (len(sheet.header) - sheet.texts)
    headings = "".join(
        f'<th scope="col" class="{kind}" aria-sort="none">{before}{escape(name)}{after}</th>'
        for kind, name in zip(kinds, sheet.header, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{escape(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in sheet.rows
    )
    return (
        f'<table id="{escape(sheet.name)}">\n<thead><tr>{headings}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table>"
    )


def _content(content: Sheet | Items | str | list[Picture], figures: Path) -> str:
    if isinstance(content, Sheet):
        table = f'<div class="wide">\n{html_table(content, is_sorted_by_click=True)}\n</div>'
        return f'{table}\n<p class="caption">{escape(content.caption)}</p>'
    if isinstance(content, Items):
        lines = (f"<li>{_named(content, name)}{escape(line)}</li>" for name, line in content.lines)
        return "<ul>\n" + "\n".join(lines) + "\n</ul>"
    if isinstance(content, str):
        return f"<p>{escape(content)}</p>"
    return "\n".join(_picture(one, figures) for one in content)


def _named(items: Items, name: str) -> str:
    if not name:
        return ""
    return f"<code>{escape(name)}</code>: " if items.is_code else f"{escape(name)}: "


def _picture(one: Picture, figures: Path) -> str:
    image = (figures / f"{one.name}.png").read_bytes()
    data, caption = b64encode(image).decode(), escape(one.caption)
    width = round(int.from_bytes(image[16:20], "big") * _SCALE)  # a PNG begins with its size
    return (
        f'<figure>\n<img src="data:image/png;base64,{data}" width="{width}" alt="{escape(one.name)}">\n'
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )


def _resource(name: str) -> str:
    return files("avalanche_mgem.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()
