"""Tables as Markdown."""

from modeling_apex.storage.markdown import build_table, escape_markdown


def test_a_table_has_a_rule_below_its_header_and_bars_are_escaped() -> None:
    assert build_table(["x", "y"], [["a|b", "c"]]) == "| x | y |\n| --- | --- |\n| a\\|b | c |"


def test_a_bar_ends_no_cell_whatever_stands_before_it() -> None:
    cells = build_table(["x"], [["a\\|b"], ["a\\\\|b"], ["a\r\nb"]]).splitlines()[2:]
    assert cells == ["| a\\|b |", "| a\\\\\\|b |", "| a b |"]


def test_words_from_outside_stand_as_they_are() -> None:
    assert escape_markdown("suno v4.5") == "suno v4.5"
    assert escape_markdown("[x](http://a) <img src=x> `c` a|b") == ("\\[x\\](http://a) \\<img src=x\\> \\`c\\` a\\|b")
    assert escape_markdown("a\x1b[2J\n# b\u202e\udcff") == "a\\\\x1b\\[2J\\\\n\\# b\\\\u202e\\\\udcff"
    assert build_table(["x"], [[escape_markdown("a|b")]]).endswith("| a\\|b |")
