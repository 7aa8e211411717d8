"""Tables as Markdown."""

from modeling_apex.storage.markdown import build_table


def test_a_table_has_a_rule_below_its_header_and_bars_are_escaped() -> None:
    assert build_table(["x", "y"], [["a|b", "c"]]) == "| x | y |\n| --- | --- |\n| a\\|b | c |"
