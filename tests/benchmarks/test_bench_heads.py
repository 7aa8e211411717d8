"""The benchmark of the heads makes a corpus that training opens, and its floor counts the products of an epoch."""

import pytest
from bench_heads import HIDDEN_SIZE, measure_floor, measure_other_operations, write_corpus

from modeling_apex.corpus.embedding_store import open_embedding_store


def test_its_corpus_is_one_that_training_opens(tmp_path) -> None:
    write_corpus(tmp_path, 20)
    store = open_embedding_store(tmp_path / "embeddings", tmp_path / "cache")
    assert store.get_split("train").song_embeddings.shape == (20, HIDDEN_SIZE)
    assert store.get_split("validation").num_songs == 512


def test_the_floor_counts_the_products_of_all_songs(tmp_path) -> None:
    one, two = (measure_floor(tmp_path, num_songs) for num_songs in (512, 1024))
    # A song through trunk and branches, forwards, and both gradients but that of the embeddings.
    forward = 768 * 512 + 512 * 256 + 7 * (256 * 128 + 128 * 64)
    assert one["epoch_teraflop"] == pytest.approx(2 * 512 * (3 * forward - 768 * 512) / 1e12)
    assert two["epoch_teraflop"] == pytest.approx(2 * one["epoch_teraflop"])


def test_what_is_no_product_is_measured_by_name(tmp_path) -> None:
    seconds = measure_other_operations(tmp_path, 512)
    assert set(seconds) == {f"{name}_seconds" for name in ("AdamW", "batch norm", "GELU", "dropout")}
    assert min(seconds.values()) > 0
