"""
Labels, groups and track features of songs, read from their dataset at the time of training and joined by song id.

What comes in is a source of songs; what leaves are the rows of the songs that are asked for, and one hash of all. They
are not kept with what is computed from the audio, because labels are corrected while audio stays what it is.
"""

import hashlib
import json

import pyarrow as pa
import pyarrow.compute as pc

from modeling_apex.corpus.song_source import SongSource, compute_source_fingerprint
from modeling_apex.inference.heads_apex import DEFAULT_HEADS

LABEL_NAMES = frozenset(str(head["name"]) for head in DEFAULT_HEADS)


class SongLabels:
    """
    The labels of all songs of a source.

    Args:
        source ([`SongSource`]):
            The songs. No audio is read.

    Raises:
        `ValueError`: If an id occurs twice.
    """

    def __init__(self, source: SongSource):
        self.ids_sha256 = compute_source_fingerprint(source)
        self._tables = {
            split: _rename_labels(source.read_columns(split, source.columns.names)) for split in source.splits
        }
        # Whatever the order of songs and columns, and whatever else the files hold.
        digest = hashlib.sha256()
        for split, table in sorted(self._tables.items()):
            ordered = table.sort_by("id")
            for name in sorted(ordered.column_names):
                digest.update(json.dumps([split, name, ordered[name].to_pylist()]).encode())
        self.sha256 = digest.hexdigest()

    def list_ids(self, split: str) -> list[str]:
        """Return the ids of a split; none if the source has no such split."""
        ids: list[str] = self._tables[split]["id"].to_pylist() if split in self._tables else []
        return ids

    def join(self, split: str, ids: pa.Array) -> pa.Table:
        """Return the rows of songs by their ids, all of which are in the split, in that order."""
        rows = pc.index_in(ids, self._tables[split]["id"].combine_chunks())
        assert not rows.null_count, split
        return self._tables[split].take(rows)


def _rename_labels(table: pa.Table) -> pa.Table:
    """Call labels as heads are called: SongEval capitalises its dimensions."""
    names = set(table.column_names)
    found = {name.lower(): name for name in sorted(names) if name.lower() in LABEL_NAMES - names}
    return table.rename_columns([name.lower() if name in found.values() else name for name in table.column_names])
