import pytest

from avalanche_mgem.runs import one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gem", "gem"),
        ("Täsk 日本", "Täsk 日本"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\x9b2J", "a\\x9b2J"),
        ("bell\x07", "bell\\x07"),
        ("\u202egnp", "\\u202egnp"),
        ("\udcff", "\\udcff"),
    ],
)
def test_codes_are_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert one_line(ValueError(text)) == shown


def test_a_message_is_one_line() -> None:
    assert one_line(ValueError("two\n lines\r\nand\u2028more")) == "two lines and more"
    assert one_line(KeyError()) == "KeyError"
