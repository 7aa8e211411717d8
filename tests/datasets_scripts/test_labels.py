"""Labels: found by id, letter by letter; missing columns, repeated ids and values outside 1 to 5 are refused."""

import pytest
from source_trees import AESTHETIC_NAMES, save_json_lines

from datasets_scripts.labels import LabelTable, read_labels
from modeling_apex.storage.table_reader import TableError


def make_row(song_id, value=3.0, **changes):
    return {"id": song_id, **dict.fromkeys(AESTHETIC_NAMES, value)} | changes


def test_labels_are_found_by_id(tmp_path):
    rows = [make_row("b", 1), make_row("a", 5, clarity=2.5), make_row("A", 4)]
    table = LabelTable(save_json_lines(tmp_path / "labels.jsonl", rows), label_source="pseudo-labels")
    assert len(table) == 3
    assert table.find("a") == {**dict.fromkeys(AESTHETIC_NAMES, 5.0), "clarity": 2.5}
    assert table.find("A") == dict.fromkeys(AESTHETIC_NAMES, 4.0)
    assert table.find("c") is None


def test_names_of_dimensions_may_be_capitalised():
    assert read_labels({name.upper(): 2 for name in AESTHETIC_NAMES}, "t:1") == dict.fromkeys(AESTHETIC_NAMES, 2.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([make_row("a"), make_row("b", clarity=5.5)], r"labels\.jsonl:2: the label clarity is 5\.5, .* from 1 to 5"),
        ([make_row("a", musicality=0)], "the label musicality is 0, expected a number from 1 to 5"),
        ([make_row("a", musicality=None)], "the label musicality is None"),
        ([make_row("a", musicality="good")], "the label musicality is 'good'"),
        ([make_row("a", musicality=True)], "the label musicality is True"),
        ([make_row("a"), make_row("b"), make_row("a")], "holds an id twice, the second time in row 3"),
        ([make_row("")], r"labels\.jsonl:1 has no id"),
        ([], "holds no labels"),
        ([{"id": "a", "coherence": 3}], r"no column `musicality` .* Its columns: coherence, id"),
    ],
)
def test_refusals(tmp_path, rows, message):
    path = save_json_lines(tmp_path / "labels.jsonl", rows)
    with pytest.raises(TableError, match=message):
        LabelTable(path, label_source="pseudo-labels")


def test_unknown_label_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Unknown label source 'people': expected one of songeval-raters"):
        LabelTable(tmp_path / "labels.jsonl", label_source="people")


def test_a_row_that_lacks_a_dimension_is_refused():
    with pytest.raises(TableError, match="t:1 lacks naturalness; it has"):
        read_labels(dict.fromkeys(AESTHETIC_NAMES[:-1], 3), "t:1")
