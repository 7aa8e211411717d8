"""The one door for tables: every format and encoding gives the same rows, and memory is bounded."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from modeling_apex.storage import table_reader
from modeling_apex.storage.table_reader import TableError, get_table_suffix, iterate_lines, iterate_rows

ROWS = [{"id": "a", "plays": "1"}, {"id": "b, and\nc", "plays": "2"}, {"id": "ü; \u2028x", "plays": "3"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def read(path: Path, **options) -> list[dict]:
    return [row.values for row in iterate_rows(path, **options)]


def write_csv(path: Path, encoding: str = "utf-8", **dialect) -> Path:
    with open(path, "w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, ["id", "plays"], **dialect)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("lineterminator", ["\r\n", "\n", "\r"])
def test_csv_is_read_as_programs_write_it(tmp_path, encoding, delimiter, lineterminator):
    dialect = {"delimiter": delimiter, "lineterminator": lineterminator, "quoting": csv.QUOTE_ALL}
    assert read(write_csv(tmp_path / "t.csv", encoding, **dialect)) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.jsonl", LINES),
        ("t.NDJSON", "\n" + LINES),
        ("t.json", LINES),
        ("t.json", json.dumps(ROWS)),
        ("t.json", json.dumps({"version": 1, "songs": ROWS}, indent=2)),
        ("t.json", json.dumps({row["id"]: {"plays": row["plays"]} for row in ROWS})),
    ],
)
def test_json_is_read_as_lines_an_array_or_an_object(tmp_path, name, text, encoding):
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert read(tmp_path / name) == ROWS


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "text"), [("t.jsonl", LINES), ("t.json", json.dumps(ROWS)), ("t.tsv", "id\tn\na\t1\n")]
)
def test_text_may_be_compressed_in_pieces(tmp_path, name, text, suffix):
    compress = gzip.compress if suffix == ".gz" else zstandard.compress
    data = text.encode()
    half = len(data) // 2
    (tmp_path / name).write_bytes(data)
    (tmp_path / (name + suffix)).write_bytes(compress(data[:half]) + compress(data[half:]))
    assert read(tmp_path / (name + suffix)) == read(tmp_path / name)


def test_excel_may_name_its_separator(tmp_path):
    (tmp_path / "t.csv").write_text("sep=;\r\nid;plays, all\r\na;1\r\n")
    rows = list(iterate_rows(tmp_path / "t.csv"))
    assert [(row.location.rpartition(":")[2], row.values) for row in rows] == [("3", {"id": "a", "plays, all": "1"})]


def test_columns_without_a_name_are_left_out(tmp_path):
    (tmp_path / "t.csv").write_text('\n,"id" , plays,\n0,a,1,\n1,b,2,\n')
    assert read(tmp_path / "t.csv") == [{"id": "a", "plays": "1"}, {"id": "b", "plays": "2"}]


def test_audio_of_parquet_can_be_left_out(tmp_path):
    rows = [{"id": 1, "audio": {"bytes": b"RIFF", "path": "a.wav"}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == rows
    assert read(tmp_path / "t.parquet", keeps_audio=False) == [{"id": 1}]


def test_large_rows_of_parquet_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    asked = []
    rows = [{"audio": bytes([number]) * 2_000_000} for number in range(8)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", compression="none", use_dictionary=False)
    real = pq.ParquetFile.iter_batches
    monkeypatch.setattr(table_reader, "PARQUET_BATCH_BYTES", 4_000_000)
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda self, **options: asked.append(options) or real(self, **options)
    )
    assert read(tmp_path / "t.parquet") == rows
    assert asked[0]["batch_size"] == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.csv",
            "id,title\na,b\nc,Besançon\n".encode("latin-1"),
            r"t\.csv:3 is not text in UTF-8 \(byte 0xe7: .*iconv",
        ),
        ("t.jsonl", b'{"id": 1}\n{"id": "\xe9"}\n', r"t\.jsonl:2 is not text in UTF-8"),
        (
            "t.json",
            "[{}]".encode("utf-16-le"),
            r"t\.json is not text in UTF-8: it holds zero bytes, as text in UTF-16",
        ),
        ("t.csv", b"sep=x\nid\n", r"t\.csv says sep=x: expected one of ',', ';'"),
        ("t.csv", b"id,plays,id\n", r"t\.csv has two columns that are called 'id': rename or remove one"),
        ("t.csv", b"\n \n", r"t\.csv is empty: expected a header line"),
        ("t.csv", b"id;plays\na,1\n", r"t\.csv:2 has 1 cells but the header has 2: id, plays\. Fix that row"),
        ("t.json", b"[{}, 3]", r"t\.json, row 2 is a JSON int, expected one object per row"),
        ("t.json", b"3", r"t\.json holds a JSON int, expected an array of objects"),
        ("t.json", b"[" * 200_000, r"t\.json is not JSON|t\.json:1 is not JSON"),
        ("t.json", b'{"id": 1}\n{"id": \n', r"t\.json:2 is not JSON"),
        ("t.jsonl", b'{"id": ' + b"[" * 200_000, r"t\.jsonl:1 is not JSON"),
        ("t.jsonl", b'{"id": ' + b"1" * 5_000 + b"}", r"t\.jsonl:1 is not JSON .*digit"),
        (
            "t.jsonl.gz",
            gzip.compress(LINES.encode(), mtime=0)[:-9],
            r"t\.jsonl\.gz ends in the middle of its gzip data",
        ),
        ("t.jsonl.gz", b"no gzip", r"t\.jsonl\.gz is not whole gzip data"),
        ("t.txt", b"", r"Unknown table format of .*t\.txt: expected a name ending in \.csv, \.tsv, \.jsonl"),
        ("t.parquet", b"PAR1" + b"\0" * 100 + b"PAR1", r"t\.parquet is not a whole Parquet file"),
    ],
)
def test_refusals_name_the_file_and_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=message):
        read(tmp_path / name)


def test_damage_inside_a_parquet_file_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": [str(n * 7919) for n in range(3000)]}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(data)
    with pytest.raises(TableError, match=r"t\.parquet is not a whole Parquet file"):
        read(path)


def test_repeated_columns_of_parquet_are_refused(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["id", "id"]), tmp_path / "t.parquet")
    with pytest.raises(TableError, match="two columns that are called 'id'"):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_bombs_are_refused_before_they_fill_memory(tmp_path, suffix, monkeypatch):
    bomb = tmp_path / f"t.jsonl{suffix}"
    monkeypatch.setattr(table_reader, "FREE_EXPANSION_BYTES", 1024**2)
    line = b'{"id": "' + b"0" * (8 * 1024**2)
    bomb.write_bytes(gzip.compress(line) if suffix == ".gz" else zstandard.compress(line))
    with pytest.raises(
        TableError, match=r"expands to more than .* from \d+ bytes, but a table expands at most 250-fold"
    ):
        read(bomb)


def test_what_a_parquet_file_says_that_it_holds_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(table_reader, "FREE_EXPANSION_BYTES", 1024)
    table = pa.table({"text": ["a" * 2_000_000] * 4})
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(TableError, match="a table expands at most 250-fold"):
        read(tmp_path / "t.parquet")


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table_reader, "MAX_LINE_LENGTH", 1000)
    (tmp_path / "t.jsonl").write_text('{"id": 1}\n' + "x" * 5000)
    with pytest.raises(TableError, match=r"t\.jsonl:2 is longer than"):
        read(tmp_path / "t.jsonl")


def test_json_that_is_read_at_once_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(table_reader, "MAX_JSON_BYTES", 100)
    (tmp_path / "t.json").write_text(json.dumps(ROWS * 10))
    with pytest.raises(TableError, match=r"Write it as JSON Lines \(\.jsonl\)"):
        read(tmp_path / "t.json")


def test_a_quotation_mark_that_is_never_closed_is_named_where_it_stands(tmp_path, monkeypatch):
    monkeypatch.setattr(table_reader, "MAX_CSV_CELL", 1000)
    (tmp_path / "t.csv").write_text('id,title\na,b\nc,"never closed\n' + "d,e\n" * 1000)
    with pytest.raises(TableError, match=r"t\.csv:3 is not CSV .* quotation mark that is never closed"):
        read(tmp_path / "t.csv")


def test_rows_are_streamed(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"id": 1}\n' + "no JSON\n")
    rows = iterate_rows(tmp_path / "t.jsonl")
    assert next(rows).values == {"id": 1}
    with pytest.raises(TableError, match=r"t\.jsonl:2 is not JSON"):
        next(rows)


def test_suffixes_and_lines(tmp_path):
    assert get_table_suffix("Songs.JSONL.ZST") == ".jsonl.zst"
    assert get_table_suffix("songs.zst") == ""
    (tmp_path / "ids.txt").write_bytes("a\r\nb".encode("utf-16"))
    assert [(number, line.strip()) for number, line in iterate_lines(tmp_path / "ids.txt")] == [(1, "a"), (2, "b")]
