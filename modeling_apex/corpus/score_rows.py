"""
The rows of a file of scores, in the terms of its format: reports or a file come in, a file with the same or other rows
leaves. A row that is read and written again keeps its bytes, so that files can be put together and added to.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from modeling_apex.inference.report_apex import flatten_reports, format_json, format_row, format_rows
from modeling_apex.storage.output_folder import TEXT_ERRORS, escape_surrogates

OUTPUT_FORMATS = (".jsonl", ".json", ".csv", ".parquet")


class ScoreRows:
    """
    Rows of one format.

    Args:
        suffix (`str`):
            One of `OUTPUT_FORMATS`.
        rows (`list[dict]` or `pa.Table`):
            The rows: objects of JSON, cells of CSV as they stand in the file, or a table of Parquet.
        header (`Sequence[str]`, *optional*):
            The columns of CSV.
    """

    def __init__(self, suffix: str, rows: Any, header: Sequence[str] = ()):
        self.suffix, self._rows, self._header = suffix, rows, list(header)

    @classmethod
    def read(cls, path: Path, remedy: str) -> Self:
        """
        Read a file of scores.

        Raises:
            `ValueError`: If it is damaged; `remedy` is a sentence on what to do then.
        """
        try:
            if path.suffix == ".parquet":
                return cls(path.suffix, import_pyarrow().parquet.read_table(path))
            with open(path, encoding="utf-8", errors=TEXT_ERRORS, newline="") as file:
                return cls._parse(path.suffix, file.read())
        except (
            ValueError,
            TypeError,
            csv.Error,
            NotImplementedError,
            RecursionError,
        ) as error:  # those of Arrow are values, too
            raise ValueError(f"{path}: is damaged ({error}). {remedy}") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise ValueError(f"{path}: is damaged ({error}). {remedy}") from error

    @classmethod
    def _parse(cls, suffix: str, text: str) -> Self:
        if suffix == ".csv":
            table = csv.DictReader(io.StringIO(text), strict=True)
            return cls(suffix, list(table), table.fieldnames or ())
        rows = json.loads(text) if suffix == ".json" else [json.loads(line) for line in text.split("\n") if line]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("a row is not an object")
        return cls(suffix, rows)

    @classmethod
    def build(
        cls,
        suffix: str,
        reports: Sequence[Mapping[str, Any]],
        columns: Mapping[str, str],
        lay_out: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
    ) -> Self:
        """
        Make rows of reports.

        Args:
            suffix (`str`):
                The format.
            reports (`Sequence[Mapping]`):
                The reports; one that has an `id` keeps it.
            columns (`Mapping[str, str]`):
                Columns and types of .csv and .parquet; what the reports have besides comes behind them.
            lay_out (`Callable[[Mapping], dict]`, *optional*):
                Makes of a report the row of every format. By default .csv and .parquet have the flattened report, and
                the others the report as it is.
        """
        if suffix in (".json", ".jsonl"):
            return cls(suffix, list(reports if lay_out is None else map(lay_out, reports)))
        names: Sequence[str] = list(columns)
        if lay_out is None:
            names, rows = flatten_reports(reports, columns)
            named = ({"id": report["id"]} if "id" in report else {} for report in reports)
            rows = [row | name for row, name in zip(rows, named, strict=True)]
        else:
            rows = [lay_out(report) for report in reports]
        if suffix == ".csv":
            return cls._parse(suffix, format_rows(list(names), rows))
        pyarrow = import_pyarrow()
        cells = {name: [escape_surrogates(row[name]) for row in rows] for name in names}
        kinds = {name: pyarrow.type_for_alias(kind) for name, kind in columns.items()}
        return cls(suffix, pyarrow.table({name: pyarrow.array(cells[name], kinds.get(name)) for name in names}))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def schema(self) -> str:
        """The columns, and their types where the format has types, as text to compare; JSON has neither."""
        return str(self._rows.schema if self.suffix == ".parquet" else self._header)

    def list_values(self, name: str) -> list[Any]:
        """List what each row has in a column, or under that name; `None` where it has nothing."""
        if self.suffix == ".parquet":
            has_it = name in self._rows.column_names
            return list(self._rows[name].to_pylist()) if has_it else [None] * len(self)
        return [row.get(name) for row in self._rows]

    def put_behind(self, others: Sequence[Self]) -> Self:
        """Return these rows and those of others behind them, all of one schema."""
        if self.suffix == ".parquet":
            tables = [self._rows, *(other._rows for other in others)]
            return type(self)(self.suffix, import_pyarrow().concat_tables(tables))
        rows = [row for part in (self, *others) for row in part._rows]
        return type(self)(self.suffix, rows, self._header)

    def take(self, order: Sequence[int]) -> Self:
        """Return some rows, in the given order."""
        if self.suffix == ".parquet":
            places = import_pyarrow().array(order, "int64")
            return type(self)(self.suffix, self._rows.take(places).combine_chunks())
        return type(self)(self.suffix, [self._rows[place] for place in order], self._header)

    def write(self, file: BinaryIO) -> None:
        """Write the file."""
        if self.suffix == ".parquet":
            import_pyarrow().parquet.write_table(self._rows, file)
            return
        if self.suffix == ".csv":  # cells are text by now, and safe in a spreadsheet
            lines = [format_row(self._header), *(format_row(row.values()) for row in self._rows)]
        elif self.suffix == ".json":
            lines = [format_json(self._rows)]
        else:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self._rows]
        for line in lines:
            file.write(line.encode("utf-8", TEXT_ERRORS))


def import_pyarrow() -> Any:
    """
    Import what reads and writes Parquet.

    Raises:
        `ImportError`: If it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Parquet output needs pyarrow: pip install "apex-music[data]".') from error
    return pyarrow
