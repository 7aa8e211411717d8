"""The benchmark of scoring counts the products of the encoder, and measures what it is made of."""

import pytest
from bench_scoring import count_operations, list_products, measure_parts
from transformers import HubertConfig


def test_a_segment_of_the_published_shape_takes_the_operations_that_follow_from_its_config() -> None:
    config = HubertConfig()
    # The rows of each convolution, by its kernel and stride, are those that HuBERT makes of 30 s at 24,000 Hz.
    assert [rows for rows, _, _ in list_products(config)[:7]] == [143_999, 71_999, 35_999, 17_999, 8_999, 4_499, 2_249]
    assert count_operations(config) == pytest.approx(0.791e12, rel=1e-3)


def test_parts_are_measured_in_both_precisions() -> None:
    config = HubertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64)
    config.conv_dim = [8] * 7
    parts = measure_parts(config, 2)
    assert set(parts) == {"float32", "bfloat16"}
    for seconds in parts.values():
        assert set(seconds) == {"products", "attention", "GELU", "norms"}
        assert min(seconds.values()) > 0
