"""Texts of others on a terminal: one line, and nothing that a terminal would obey."""

import os
import unicodedata

# Control codes, marks that turn the direction of writing, halves of characters, separators of lines.
_ESCAPED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def one_line(error: BaseException | str) -> str:
    r"""The whole message on one line, without control codes; an error without a message gives its type.

    "No such file or directory" without a name is that of the working folder, if that is not there.

    >>> one_line("in \x1b[31mred\n  or not")
    'in \\x1b[31mred or not'
    """
    if isinstance(error, FileNotFoundError) and error.filename is None and not _has_working_folder():
        return "the working folder is not there any more; go to another one"
    words = " ".join(str(error).split())
    return printable(words) or type(error).__name__


def _has_working_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def printable(text: str) -> str:
    r"""The text with each code that a terminal would obey written as its escape.

    >>> printable("gem\x07")
    'gem\\x07'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _ESCAPED else char
        for char in text
    )
