"""Rooms 5 to 9: the model alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from modeling_apex import ApexConfig, ApexModel
from modeling_apex.inference.modeling_apex import compute_masked_squared_error, pool_hidden_states

ConfigFactory = Callable[..., ApexConfig]


def segments(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, 2400, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_pooling_equals_hidden_states_of_transformers(tiny_config: ConfigFactory, norm: str) -> None:
    encoder = ApexModel(tiny_config({"feat_extract_norm": norm})).eval().encoder
    values = segments(3)
    with torch.no_grad():
        pooled = pool_hidden_states(encoder, values, [0, 1, 2, 3, -1, -4])
        states = encoder(values, output_hidden_states=True).hidden_states
    for column, index in enumerate([0, 1, 2, 3, -1, -4]):
        torch.testing.assert_close(pooled[:, column], states[index].mean(1))


def test_pooling_of_a_pre_norm_encoder_ends_behind_the_last_norm(tiny_config: ConfigFactory) -> None:
    encoder = ApexModel(tiny_config({"do_stable_layer_norm": True, "feat_extract_norm": "layer"})).eval().encoder
    values = segments(2)
    with torch.no_grad():
        pooled = pool_hidden_states(encoder, values, [0, 1, 2, -1])
        output = encoder(values, output_hidden_states=True)
    torch.testing.assert_close(pooled[:, -1], output.last_hidden_state.mean(1))
    for column in range(3):
        torch.testing.assert_close(pooled[:, column], output.hidden_states[column].mean(1))


def test_output_shapes_and_ranges(tiny_model: ApexModel) -> None:
    output = tiny_model(input_values=segments(2, 3), output_segment_scores=True)
    assert output.scores.shape == (2, 7)
    assert output.song_embedding.shape == (2, 16)
    assert output.segment_embeddings.shape == (2, 3, 16)
    assert output.segment_scores.shape == (2, 3, 7)
    assert output.loss is None
    for column, head in enumerate(tiny_model.config.heads):
        assert (output.scores[:, column] >= head["minimum"]).all()
        assert (output.scores[:, column] <= head["maximum"]).all()
    assert tiny_model(input_values=segments(2, 3)).segment_scores is None
    assert isinstance(tiny_model(input_values=segments(2, 3), return_dict=False), tuple)


def test_a_batch_equals_its_songs_alone(tiny_model: ApexModel) -> None:
    values = segments(3, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
    together = tiny_model(input_values=values, segment_mask=mask, output_segment_scores=True)
    for row, count in enumerate([4, 1, 2]):
        alone = tiny_model(input_values=values[row : row + 1, :count], output_segment_scores=True)
        torch.testing.assert_close(together.scores[row], alone.scores[0])
        torch.testing.assert_close(together.segment_scores[row, :count], alone.segment_scores[0])
        assert not together.segment_embeddings[row, count:].any()


def test_masked_segments_are_not_encoded(tiny_model: ApexModel) -> None:
    values = segments(1, 3)
    values[0, 2] = torch.nan
    mask = torch.tensor([[True, True, False]])
    assert torch.isfinite(tiny_model(input_values=values, segment_mask=mask).scores).all()


def test_order_of_segments_does_not_matter_to_the_song(tiny_model: ApexModel) -> None:
    values = segments(1, 4)
    torch.testing.assert_close(
        tiny_model(input_values=values).scores, tiny_model(input_values=values.flip(1)).scores, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("group", [1, 2, 5])
def test_segments_per_pass_changes_nothing(tiny_model: ApexModel, group: int) -> None:
    values = segments(5)
    expected = tiny_model.compute_segment_embeddings(values)
    tiny_model.segments_per_pass = group
    torch.testing.assert_close(tiny_model.compute_segment_embeddings(values), expected)


def test_stored_embeddings_give_the_same_scores(tiny_model: ApexModel) -> None:
    values, mask = segments(2, 3), torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)
    first = tiny_model(input_values=values, segment_mask=mask)
    second = tiny_model(segment_embeddings=first.segment_embeddings, segment_mask=mask)
    torch.testing.assert_close(first.scores, second.scores)


def test_two_dimensional_input_is_one_segment_a_song(tiny_model: ApexModel) -> None:
    values = segments(2)
    torch.testing.assert_close(tiny_model(input_values=values).scores, tiny_model(input_values=values[:, None]).scores)


def test_segment_level_model_averages_scores(tiny_model: ApexModel) -> None:
    values, mask = segments(2, 3), torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    timeline = tiny_model(input_values=values, segment_mask=mask, output_segment_scores=True).segment_scores
    tiny_model.config.prediction_level = "segment"
    scores = tiny_model(input_values=values, segment_mask=mask).scores
    torch.testing.assert_close(scores[0], timeline[0].mean(0))
    torch.testing.assert_close(scores[1], timeline[1, 0])


def test_frozen_encoder_takes_no_gradient_and_stays_in_evaluation_mode(tiny_model: ApexModel) -> None:
    tiny_model.train()
    assert tiny_model.shared.training
    assert not any(module.training for module in tiny_model.encoder.modules())
    tiny_model(input_values=segments(4, 2), labels=torch.rand(4, 7)).loss.backward()
    for name, parameter in tiny_model.named_parameters():
        if name.startswith("encoder."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name


def test_trained_encoder_gets_a_gradient_everywhere(tiny_config: ConfigFactory) -> None:
    torch.manual_seed(0)
    model = ApexModel(tiny_config(freeze_encoder=False)).train()
    assert model.encoder.training
    model(input_values=segments(4, 2), labels=torch.rand(4, 7)).loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"encoder.masked_spec_embed"}, "time masking is the encoder's own pre-training"


def test_freeze_survives_loading(tiny_folder: Path) -> None:
    model = ApexModel.from_pretrained(tiny_folder)
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.shared.parameters())
    thawed = ApexModel.from_pretrained(tiny_folder, freeze_encoder=False)
    assert all(parameter.requires_grad for parameter in thawed.encoder.parameters())


def test_loss_leaves_missing_labels_out() -> None:
    scores = torch.tensor([[1.0, 10.0], [3.0, 20.0]])
    labels = torch.tensor([[0.0, torch.nan], [1.0, torch.nan]])
    assert compute_masked_squared_error(scores, labels).item() == pytest.approx((1 + 4) / 2)
    labels = torch.tensor([[0.0, torch.nan], [1.0, 18.0]])
    assert compute_masked_squared_error(scores, labels).item() == pytest.approx(2.5 + 4)
    with pytest.raises(ValueError, match=r"`labels` are \(2, 1\) but the scores are \(2, 2\)"):
        compute_masked_squared_error(scores, labels[:, :1])


def test_save_and_load_is_exact_and_safetensors_only(tiny_model: ApexModel, tiny_folder: Path) -> None:
    assert sorted(path.name for path in tiny_folder.iterdir()) == ["config.json", "model.safetensors"]
    loaded = AutoModel.from_pretrained(tiny_folder)
    assert type(loaded) is ApexModel
    assert not loaded.training
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_published_head_names_are_kept() -> None:
    names = {name for name in ApexModel(ApexConfig()).state_dict() if not name.startswith("encoder.")}
    assert {"aggregator.weight", "aggregator.bias", "shared.0.block.0.weight", "shared.1.block.1.running_var"} < names
    assert {"branch_score_streams.branch.0.block.0.weight", "branch_naturalness.branch.2.bias"} < names


def test_number_of_trained_parameters_is_the_published_one() -> None:
    model = ApexModel(ApexConfig())
    heads = sum(p.numel() for name, p in model.named_parameters() if name.startswith(("shared", "branch_")))
    assert heads == 817_799


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_heads_stay_in_float32(tiny_model: ApexModel, tiny_folder: Path, dtype: torch.dtype) -> None:
    model = ApexModel.from_pretrained(tiny_folder, dtype=dtype)
    assert model.encoder.dtype == dtype
    assert {p.dtype for name, p in model.named_parameters() if not name.startswith("encoder.")} == {torch.float32}
    values = segments(2, 2)
    output = model(input_values=values)
    assert output.scores.dtype == torch.float32
    expected = tiny_model(input_values=values).segment_embeddings.flatten()
    similarity = torch.nn.functional.cosine_similarity(output.segment_embeddings.flatten(), expected, dim=0)
    assert similarity > 0.95


def damage(folder: Path, change: Callable[[dict], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_missing_weight_is_an_error(tiny_folder: Path) -> None:
    damage(tiny_folder, lambda tensors: tensors.pop("branch_clarity.branch.2.weight"))
    with pytest.raises(RuntimeError, match=r"missing_keys.*branch_clarity.branch.2.weight.*apex-music convert"):
        ApexModel.from_pretrained(tiny_folder)
    assert ApexModel.from_pretrained(tiny_folder, strict=False) is not None


def test_extra_weight_is_an_error(tiny_folder: Path) -> None:
    damage(tiny_folder, lambda tensors: tensors.update(branch_groove=torch.zeros(3)))
    with pytest.raises(RuntimeError, match=r"unexpected_keys.*branch_groove"):
        AutoModel.from_pretrained(tiny_folder)


def test_misshapen_weight_is_an_error(tiny_folder: Path) -> None:
    damage(tiny_folder, lambda tensors: tensors.update({"aggregator.weight": torch.zeros(1, 3, 1)}))
    with pytest.raises(RuntimeError, match=r"mismatched_keys.*aggregator\.weight"):
        ApexModel.from_pretrained(tiny_folder)


def test_folder_without_weights_is_an_error(tiny_folder: Path) -> None:
    (tiny_folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"holds no model\.safetensors\. Pickles .* are not loaded"):
        ApexModel.from_pretrained(tiny_folder)
    config = ApexConfig.from_pretrained(tiny_folder)
    with pytest.raises(OSError, match=r"nobody/nowhere: holds no model\.safetensors, or the Hub cannot be reached"):
        ApexModel.from_pretrained("nobody/nowhere", config=config)


def test_config_of_other_heads_does_not_load(tiny_folder: Path) -> None:
    config = json.loads((tiny_folder / "config.json").read_text())
    config["heads"] = config["heads"][:2]
    (tiny_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match=r"unexpected_keys.*branch_coherence"):
        ApexModel.from_pretrained(tiny_folder)


def test_non_finite_encoder_output_is_an_error(tiny_model: ApexModel) -> None:
    with torch.no_grad():
        tiny_model.encoder.encoder.layers[1].final_layer_norm.bias[0] = torch.inf
    with pytest.raises(FloatingPointError, match="the encoder yields NaN or infinity"):
        tiny_model(input_values=segments(1, 1))


def test_non_finite_score_is_an_error(tiny_model: ApexModel) -> None:
    with torch.no_grad():
        tiny_model.branch_clarity.branch[2].bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="a head yields NaN or infinity"):
        tiny_model(input_values=segments(1, 1))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "give either `input_values` or `segment_embeddings`"),
        (
            {"input_values": torch.zeros(1, 1, 2400), "segment_embeddings": torch.zeros(1, 1, 16)},
            "give either `input_values` or `segment_embeddings`, and not both",
        ),
        (
            {"input_values": torch.zeros(2400)},
            r"expected `\(batch_size, num_segments, length\)`, got the shape \(2400,\)",
        ),
        ({"segment_embeddings": torch.zeros(1, 16)}, "Song embeddings go in as one segment"),
        ({"segment_embeddings": torch.zeros(1, 1, 768)}, "are 768 wide, but this model's are 16"),
        ({"input_values": torch.zeros(1, 2, 2400), "segment_mask": torch.ones(1, 3)}, r"`segment_mask` is \(1, 3\)"),
        ({"input_values": torch.zeros(1, 2, 2400), "segment_mask": torch.zeros(1, 2)}, "a song has no segment"),
    ],
)
def test_wrong_inputs_are_refused(tiny_model: ApexModel, inputs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model(**inputs)
