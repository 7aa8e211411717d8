"""Labels of a dataset: found by the names of heads, however a dataset capitalises them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from modeling_apex.corpus.song_labels import SongLabels
from modeling_apex.corpus.song_source import open_song_source


def test_capitalised_dimensions_are_labels(tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "audio": [b"RIFF"], "Coherence": [3.5], "clarity": [2.0], "CLARITY": [1.0]})
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    labels = SongLabels(open_song_source(tmp_path)).join("train", pa.array(["a"]))
    assert labels.to_pylist() == [{"id": "a", "coherence": 3.5, "clarity": 2.0, "CLARITY": 1.0}]
