"""Labels: found by id, letter by letter; missing columns, repeated ids and values outside 1 to 5 are refused."""

import pytest
from source_trees import AESTHETIC_NAMES, save_json_lines

from datasets_scripts.labels import LabelTable, read_labels
from modeling_apex.corpus.label_teacher import find_teacher
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


HASHES = ("ab" * 32, "cd" * 32)
TEACHER = {
    "teacher": "owner/songeval",
    "teacher_revision": "0" * 40,
    "teacher_sha256": HASHES[0],
    "labelled_on": "2026-11-26",
    "apex_music_version": "0.2.0",
}
FAILED = {**dict.fromkeys(AESTHETIC_NAMES), "error": "x.mp3: is not in a format that this program reads."}


def open_table(tmp_path, rows, label_source="pseudo-labels"):
    return LabelTable(save_json_lines(tmp_path / "labels.jsonl", rows), label_source=label_source)


def test_the_labels_of_a_teacher_are_called_so(tmp_path):
    table = open_table(tmp_path, [make_row("a", **TEACHER), make_row("b", **TEACHER)])
    assert table.label_source == "pseudo-labels of owner/songeval (SHA-256 abababababab, 2026-11-26)"
    assert table.teacher.to_json() == TEACHER
    assert find_teacher(table.label_source) == "owner/songeval (SHA-256 abababababab, 2026-11-26)"
    later = [make_row("a", **TEACHER), make_row("b", **{**TEACHER, "labelled_on": "2026-11-28"})]
    source = open_table(tmp_path, later).label_source
    assert source == "pseudo-labels of owner/songeval (SHA-256 abababababab, 2026-11-26 to 2026-11-28)"
    assert find_teacher(source) is not None
    assert open_table(tmp_path, [make_row("a", teacher="Mrs Smith")]).label_source == "pseudo-labels"


def test_songs_that_the_teacher_could_not_score_have_no_labels(tmp_path):
    table = open_table(tmp_path, [make_row("a", **TEACHER), FAILED | TEACHER | {"id": "b"}, make_row("c", **TEACHER)])
    assert (len(table), table.num_failed) == (2, 1)
    assert table.find("b") is None
    assert table.find("c") == dict.fromkeys(AESTHETIC_NAMES, 3.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([FAILED | {"id": "a"}], r"holds no labels: all of its 1 songs failed\."),
        ([FAILED | {"id": "a", "clarity": 3}], "the label coherence is None"),  # a label, and not a failure
        ([FAILED | {"id": "a", "error": None}], "the label coherence is None"),
        ([FAILED | {"id": "x"}, make_row("a"), make_row("a")], "an id twice, the second time in row 3"),
        (
            [make_row("a", **TEACHER), make_row("b", **{**TEACHER, "teacher_sha256": HASHES[1]})],
            r"labels\.jsonl:2: pseudo-labels of owner/songeval \(SHA-256 cdcdcdcdcdcd, 2026-11-26\), and the rows",
        ),
        ([make_row("a", **TEACHER), make_row("b")], r"labels\.jsonl:2: labels without a teacher, and the rows before"),
        ([make_row("a"), make_row("b", **TEACHER)], "and the rows before are labels without a teacher. Use one table"),
        ([make_row("a", **{**TEACHER, "teacher_sha256": "12"})], "teacher_sha256 is '12', expected 64 hexadecimal"),
        ([make_row("a", **{**TEACHER, "labelled_on": "today"})], "labelled_on is 'today', expected a day as 2026"),
        ([make_row("a", **{**TEACHER, "labelled_on": None})], "labelled_on is None, expected a line of at most 200"),
        (
            [make_row("a", **{**TEACHER, "teacher": "a\nb"})],
            r"teacher is 'a\\nb', expected a line of at most",
        ),
        (
            [make_row("a", **{**TEACHER, "teacher": "a" * 201})],
            "teacher is 'aaa.*, expected a line of at most",
        ),
    ],
)
def test_refusals_of_rows_of_a_teacher(tmp_path, rows, message):
    with pytest.raises(TableError, match=message):
        open_table(tmp_path, rows)


@pytest.mark.parametrize("label_source", ["songeval-raters", "synthetic"])
def test_the_labels_of_a_teacher_are_not_called_otherwise(tmp_path, label_source):
    with pytest.raises(ValueError, match=rf"so they are not of the source '{label_source}'\. Leave out"):
        open_table(tmp_path, [make_row("a", **TEACHER)], label_source)


@pytest.mark.parametrize("text", ["pseudo-labels", "synthetic", "pseudo-labels of x", "pseudo-labels of \n (SHA-256"])
def test_other_label_sources_name_no_teacher(text):
    assert find_teacher(text) is None
