"""
Texts that the bytes of a file do not show: cells of Parquet, metadata of safetensors, what a compressed file holds.

What comes in is a file, known by its first bytes; what leaves are pieces of bytes, each with the place that it stands
in, so that whoever searches them can name it.
"""

import bz2
import gzip
import io
import json
import lzma
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO, Any

Piece = tuple[str, bytes]

MAX_HEADER_BYTES = 100_000_000  # as in the safetensors library
_BLOCK_BYTES = 4 * 1024 * 1024
_OVERLAP_BYTES = 512
_SAMPLE_BYTES = 8192  # text has no zero in it
_TEXT_ROWS_AT_ONCE, _AUDIO_ROWS_AT_ONCE = 1024, 8
# What a decompressor gives last if it got to the end; it is compressed to bytes that do not hold it.
_END_MARK = b"the end of the file\0" * 512
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class UnsearchableError(ValueError):
    """A file cannot be opened as what its first bytes say that it is."""


def iterate_pieces(file: IO[bytes]) -> Iterator[Piece]:
    """
    Yield what an open file holds, first what its bytes do not show, then the bytes themselves.

    Args:
        file (`IO[bytes]`):
            A seekable file.

    Yields:
        `tuple[str, bytes]`: the place, such as `row 3, column prompt` or `line 7` (`""` for the file as a whole), and
        what stands there. What is cut in two stands whole at the beginning of the next piece.

    Raises:
        [`UnsearchableError`]: If the file is damaged.
        `ImportError`: If a library that reads the file is not installed.
    """
    start = file.read(8)
    file.seek(0)
    try:
        yield from _iterate_hidden(file, start)
    except (UnsearchableError, ImportError, MemoryError):
        raise
    except Exception as error:  # each library has its own, and this one file must not hide what others hold
        raise UnsearchableError(f"cannot be opened to search it for secrets ({error})") from error
    file.seek(0)
    if start[:2] in _UTF16_MARKS or b"\0" in file.read(_SAMPLE_BYTES):
        yield from _iterate_blocks(file, is_wide=start[:2] in _UTF16_MARKS)
    else:
        yield from _iterate_lines(file)


def _iterate_hidden(file: IO[bytes], start: bytes) -> Iterator[Piece]:
    if start[:4] == b"PAR1":
        yield from _iterate_cells(file)
    elif start[:4] == b"PK\x03\x04":
        yield from _iterate_members(file)
    elif (opened := _decompress(file, start)) is not None:
        with opened, tempfile.TemporaryFile(prefix="apex-publish-") as whole:
            shutil.copyfileobj(opened, whole, _BLOCK_BYTES)
            _cut_end_mark(whole)
            whole.seek(0)
            yield from iterate_pieces(whole)
    else:
        yield from _iterate_metadata(file, start)


class _Followed:
    """A file that is read as if there were more bytes behind its end."""

    def __init__(self, file: IO[bytes], more: bytes):
        self._parts = (file, io.BytesIO(more))

    def read(self, size: int = -1) -> bytes:
        return next((block for part in self._parts if (block := part.read(size))), b"")


def _decompress(file: IO[bytes], start: bytes) -> Any:
    """Open a compressed file, followed by a compressed [`_END_MARK`]: that is read only if all before it was."""
    for magic, library in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ\x00", lzma)):
        if start.startswith(magic):
            return library.open(_Followed(file, library.compress(_END_MARK)))
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        try:
            import zstandard
        except ImportError as error:
            raise ImportError('searching .zst files needs zstandard: pip install "apex-music[data]".') from error
        followed: Any = _Followed(file, zstandard.compress(_END_MARK))
        return zstandard.ZstdDecompressor().stream_reader(followed, read_across_frames=True, closefd=False)
    return None


def _cut_end_mark(whole: IO[bytes]) -> None:
    size = whole.seek(0, io.SEEK_END) - len(_END_MARK)
    whole.seek(max(size, 0))
    if whole.read() != _END_MARK:
        raise EOFError("it is truncated, or other data follows the compressed data")
    whole.truncate(size)


def _iterate_members(file: IO[bytes]) -> Iterator[Piece]:
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                for place, piece in iterate_pieces(member):
                    yield f"{name}, {place}" if place else name, piece


def _iterate_metadata(file: IO[bytes], start: bytes) -> Iterator[Piece]:
    """Yield the metadata of a safetensors file, if it is one."""
    num_bytes = int.from_bytes(start, "little")
    if len(start) < 8 or num_bytes > MAX_HEADER_BYTES:
        return
    file.seek(8)
    header = file.read(num_bytes)
    if header[:1] != b"{":
        return
    try:
        metadata = json.loads(header).get("__metadata__", {})
    except (ValueError, RecursionError):
        return
    if isinstance(metadata, dict):
        for key, value in metadata.items():
            yield f"metadata {key}", _encode(f"{key}\n{value}")


def _iterate_cells(file: IO[bytes]) -> Iterator[Piece]:
    """Yield every text and every bytes of a Parquet file, and what its schema says in base64."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError('searching Parquet needs pyarrow: pip install "apex-music[data]".') from error

    with pq.ParquetFile(file) as table:
        schema = table.schema_arrow
        shown = {"show_field_metadata": True, "show_schema_metadata": True, "truncate_metadata": False}
        yield "schema", _encode(schema.to_string(**shown))
        kinds = {field.name: _list_kinds(field.type) for field in schema}
        columns = [name for name, found in kinds.items() if found]
        is_audio = any("binary" in kind for found in kinds.values() for kind in found)
        row = 0
        size = _AUDIO_ROWS_AT_ONCE if is_audio else _TEXT_ROWS_AT_ONCE
        for batch in table.iter_batches(batch_size=size, columns=columns) if columns else ():
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                for number, value in enumerate(column.to_pylist(), start=row + 1):
                    for place, text in _walk(value, name):
                        yield f"row {number}, column {place}", text
            row += batch.num_rows


def _list_kinds(kind: Any) -> set[str]:
    """Name the kinds of text and bytes that a type holds, nested ones too."""
    kind = getattr(kind, "storage_type", kind)  # of an extension
    nested = [kind.field(index).type for index in range(kind.num_fields)]
    nested += [kind.value_type] if hasattr(kind, "value_type") else []
    found = {str(kind)} if not nested and any(word in str(kind) for word in ("string", "binary")) else set()
    return found.union(*map(_list_kinds, nested))


def _walk(value: Any, place: str) -> Iterator[Piece]:
    if isinstance(value, (str, bytes)):
        yield place, _encode(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _walk(item, place)


def _iterate_blocks(file: IO[bytes], *, is_wide: bool) -> Iterator[Piece]:
    file.seek(0)
    tail = b""
    while block := file.read(_BLOCK_BYTES):
        # UTF-16 of the letters and signs that a secret is made of: one byte of each pair is zero.
        window = tail + (block.replace(b"\0", b"") if is_wide else block)
        yield "", window
        tail = window[-_OVERLAP_BYTES:]


def _iterate_lines(file: IO[bytes]) -> Iterator[Piece]:
    file.seek(0)
    number, tail = 1, b""
    while line := file.readline(_BLOCK_BYTES):
        yield f"line {number}", tail + line
        is_whole = line.endswith(b"\n")
        number, tail = number + is_whole, b"" if is_whole else line[-_OVERLAP_BYTES:]


def _encode(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
