"""Metadata tables: every format gives the same rows, and a row that cannot be read is named by file and line."""

import builtins
import csv
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from datasets_scripts.metadata_tables import ColumnSpec, check_columns, iterate_table
from modeling_apex.storage.table_reader import TableError, TableRow

ROWS = [{"id": "a", "plays": "1"}, {"id": "b, and c", "plays": "2"}, {"id": "ü", "plays": "3"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def write_table(folder, name):
    path = folder / name
    if name.endswith((".jsonl", ".ndjson")):
        path.write_bytes(LINES)
    elif name.endswith(".zst"):
        # Two frames, as appending to a compressed file gives.
        half = len(LINES) // 2
        path.write_bytes(b"".join(zstandard.compress(part) for part in (LINES[:half], LINES[half:])))
    elif name.endswith(".csv"):
        with open(path, "w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, ["id", "plays"])
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "t.jsonl.zst", "t.csv", "t.parquet"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    rows = list(iterate_table(write_table(tmp_path, name)))
    assert [row.values for row in rows] == ROWS
    assert all(name in row.location for row in rows)


def test_a_folder_is_read_file_by_file_in_order(tmp_path):
    write_table(tmp_path, "b.csv")
    write_table(tmp_path, "a.jsonl")
    (tmp_path / "readme.txt").write_text("not a table")
    assert [row.values["id"] for row in iterate_table(tmp_path)] == [row["id"] for row in ROWS] * 2


def test_a_hub_dataset_is_streamed_with_its_audio_encoded(monkeypatch):
    asked = {}

    def load_dataset(name, **options):
        asked.update(name=name, **options)
        features = datasets.Features({"id": datasets.Value("string"), "audio": datasets.Audio()})
        storage = pa.array([{"bytes": b"RIFF", "path": "a.wav"}], type=features["audio"].pa_type)
        table = pa.Table.from_arrays([pa.array(["a"]), storage], schema=features.arrow_schema)
        return datasets.Dataset(table).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = list(iterate_table("owner/songs", split="test", revision="v1"))
    assert asked == {"name": "owner/songs", "split": "test", "revision": "v1", "streaming": True}
    assert rows == [TableRow("owner/songs (test), row 1", {"id": "a", "audio": {"bytes": b"RIFF", "path": "a.wav"}})]


def test_columns_are_found_by_alternatives_and_nesting():
    spec = ColumnSpec("metadata.description|metadata.prompt")
    assert spec.find({"metadata": {"description": "", "prompt": "words"}}) == "words"
    assert spec.find({"metadata.description": "flat", "metadata": {"description": "deep"}}) == "flat"
    assert spec.find({"metadata": None}) is None
    assert ColumnSpec("count").find({"count": 0}) == 0


def test_checked_rows_are_passed_on_from_the_first(tmp_path):
    rows = iterate_table(write_table(tmp_path, "t.jsonl"))
    checked = check_columns(rows, {"id": ColumnSpec("id")}, source="t.jsonl")
    assert [row.values for row in checked] == ROWS


def test_a_column_may_be_missing_from_the_first_rows():
    rows = [TableRow("t:1", {"id": 1}), TableRow("t:2", {"id": 2, "deep": {"plays": 3}})]
    assert list(check_columns(iter(rows), {"plays": ColumnSpec("deep.plays")}, source="t")) == rows


def test_missing_columns_are_named_beside_those_there_are(tmp_path):
    rows = iterate_table(write_table(tmp_path, "t.csv"))
    required = {"id": ColumnSpec("id"), "like_count": ColumnSpec("upvote_count|likes")}
    message = r"no column `upvote_count\|likes` \(for like_count\). Its columns: id, plays. Name the right one with "
    with pytest.raises(TableError, match=message + "--column like_count=NAME"):
        list(check_columns(rows, required, source="t.csv"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b'{"id": 1}\n\n{"id": \n', r"t\.jsonl:3 is not JSON"),
        ("t.jsonl", b'{"id": 1}\n\xff\xfe\n', r"t\.jsonl:2 is not text in UTF-8"),
        ("t.jsonl", b"[1]\n", r"t\.jsonl:1 holds a JSON list, expected one object per line"),
        ("t.jsonl.zst", zstandard.compress(LINES) + b"!!!!", "not whole zstandard data"),
        ("t.jsonl.zst", b"no zstandard", r"t\.jsonl\.zst is not whole zstandard data"),
        ("t.csv", b"id,plays\na,1\nb\n", r"t\.csv:3 has 1 cells but the header has 2"),
        ("t.csv", b"", r"t\.csv is empty: expected a header line"),
        ("t.csv", b"id,plays\n\xff,1\n", r"t\.csv:2 is not text in UTF-8"),
        ("t.parquet", b"PAR1 cut off", r"t\.parquet is not a whole Parquet file"),
        ("t.xml", b"<songs/>", r"Unknown table format of .*t\.xml: expected a name ending in \.csv, .* \.jsonl"),
    ],
)
def test_refusals(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=message):
        list(iterate_table(tmp_path / name))


def test_a_truncated_zstandard_file_is_refused(tmp_path):
    data = zstandard.compress(b"".join(json.dumps({"id": str(n), "x": str(n * 7919)}).encode() + b"\n"
                                       for n in range(50_000)))  # fmt: skip
    for length in (len(data) // 2, len(data) - 1, 0):
        (tmp_path / "t.jsonl.zst").write_bytes(data[:length])
        with pytest.raises(TableError, match="ends in the middle of its zstandard data"):
            list(iterate_table(tmp_path / "t.jsonl.zst"))


def test_missing_tables_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No metadata table at .*nowhere\.csv"):
        iterate_table(str(tmp_path / "nowhere.csv"))
    with pytest.raises(TableError, match=r"No metadata table in .*expected files ending in"):
        iterate_table(tmp_path)


def test_zstandard_that_is_not_installed_is_named(tmp_path, monkeypatch):
    path = write_table(tmp_path, "t.jsonl.zst")
    real_import = builtins.__import__

    def refuse_zstandard(name, *rest, **options):
        if name == "zstandard":
            raise ImportError(name)
        return real_import(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse_zstandard)
    with pytest.raises(ImportError, match=r'pip install "apex-music\[data\]"'):
        list(iterate_table(path))
