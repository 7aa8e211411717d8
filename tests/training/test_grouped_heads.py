"""The grouped heads against the modules that they stand for."""

from unittest.mock import Mock

import pytest
import torch

from modeling_apex import ApexModel
from modeling_apex.inference.modeling_apex import compute_masked_squared_error
from modeling_apex.training.arguments import build_arguments
from modeling_apex.training.grouped_heads import BatchShare, GroupedHeads
from modeling_apex.training.loop import build_optimizer
from modeling_apex.training.losses import compute_squared_error_sums


def test_scores_equal_the_modules(tiny_model: ApexModel) -> None:
    heads = GroupedHeads.from_model(tiny_model)
    embeddings = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(heads(embeddings), tiny_model.compute_scores(embeddings), rtol=1e-5, atol=1e-5)


def test_training_equals_the_modules(tiny_model: ApexModel) -> None:
    """Scores in training mode, gradients, and batch norm statistics, without dropout."""
    heads = GroupedHeads.from_model(tiny_model)
    for module in (*tiny_model.modules(), *heads.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    tiny_model.double().train()
    heads.double().train()
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(12, 16, generator=generator, dtype=torch.float64)
    labels = 1 + 4 * torch.rand(12, 7, generator=generator, dtype=torch.float64)
    labels[0, 1] = float("nan")
    counts = (~labels.isnan()).sum(0)
    (compute_squared_error_sums(heads(embeddings, BatchShare(0, 12)), labels) / counts).sum().backward()
    compute_masked_squared_error(tiny_model.compute_scores(embeddings), labels).backward()

    expected = {name: p.grad for name, p in tiny_model.named_parameters() if p.grad is not None}
    weights = GroupedHeads.from_model(tiny_model).double()
    for own, grouped in zip(weights.parameters(), heads.parameters(), strict=True):
        own.data = torch.zeros_like(grouped) if grouped.grad is None else grouped.grad
    gradients = weights.build_named_tensors()
    for name, gradient in expected.items():  # zero, but for rounding, for the biases that batch norm cancels
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-8, atol=1e-9)
    trained = heads.build_named_tensors()
    for name, buffer in tiny_model.named_buffers():
        if name in trained:
            torch.testing.assert_close(trained[name], buffer, rtol=1e-8, atol=1e-9)


def test_steps_of_the_optimizer_equal_those_of_the_modules(tiny_model: ApexModel) -> None:
    """Weights after ten clipped steps in float32: fused AdamW on stacked weights against AdamW tensor by tensor."""
    for module in tiny_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    heads = GroupedHeads.from_model(tiny_model).train()
    for block in (*heads.shared, *heads.branches):
        block.dropout = 0.0
    # The biases that batch norm subtracts again stay as they are in both.
    frozen = {f"{name}.bias" for name, module in tiny_model.named_modules() if isinstance(module, torch.nn.Linear)}
    frozen -= {f"branch_{name}.branch.2.bias" for name in heads.head_names}
    plain = [
        parameter
        for name, parameter in tiny_model.named_parameters()
        if name.startswith(("shared.", "branch_")) and name not in frozen
    ]
    grouped = [parameter for parameter in heads.parameters() if parameter.requires_grad]
    task = Mock(accelerator=Mock(device=torch.device("cpu")), arguments=build_arguments())
    task.build_parameter_groups.return_value = [{"params": grouped, "lr": 1e-3}]
    fused = build_optimizer(task)
    assert fused.defaults["fused"]
    by_tensor = torch.optim.AdamW(plain, lr=1e-3, weight_decay=1e-4, foreach=False, fused=False)
    tiny_model.train()
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        embeddings = torch.randn(24, 16, generator=generator)
        labels = 1 + 4 * torch.rand(24, 7, generator=generator)
        sums = compute_squared_error_sums(heads(embeddings, BatchShare(0, 24)), labels)
        for loss, parameters, optimizer in (
            (sums.sum() / 24, grouped, fused),
            (compute_masked_squared_error(tiny_model.compute_scores(embeddings), labels), plain, by_tensor),
        ):
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
    trained, expected = heads.build_named_tensors(), tiny_model.state_dict()
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=2e-5)


def test_names_and_values_survive_the_way_there_and_back(tiny_model: ApexModel) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    heads = GroupedHeads.from_model(tiny_model)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(1.0)
    missing, unexpected = tiny_model.load_state_dict(heads.build_named_tensors(), strict=False)
    assert not unexpected
    assert all(name.startswith(("encoder.", "aggregator.")) for name in missing), missing
    after = tiny_model.state_dict()
    assert list(after) == list(before)
    for name, parameter in tiny_model.named_parameters():
        is_head = name.startswith(("shared.", "branch_"))
        torch.testing.assert_close(parameter.data, before[name] + 1.0 if is_head else before[name])


def test_a_shared_batch_draws_the_rows_of_the_whole_batch(tiny_model: ApexModel) -> None:
    block = GroupedHeads.from_model(tiny_model).shared[0].train()
    hidden = torch.ones(10, 12)

    def draw(start: int, stop: int, seed: int = 5) -> torch.Tensor:
        share = BatchShare(seed, 10, start)
        return block._draw_mask(hidden[start:stop], share, torch.Generator().manual_seed(seed))

    whole = draw(0, 10)
    assert torch.equal(torch.cat([draw(0, 4), draw(4, 10)]), whole)
    assert not torch.equal(draw(0, 10, seed=6), whole)
    assert whole.unique().tolist() == pytest.approx([0.0, 1 / 0.7], rel=1e-5)


def test_dropout_keeps_the_share_and_the_mean_that_it_should(tiny_model: ApexModel) -> None:
    block = GroupedHeads.from_model(tiny_model).shared[0].train()
    mask = block._draw_mask(torch.ones(1000, 999), BatchShare(3, 1000), torch.Generator().manual_seed(3))
    # Four standard errors of a share of 0.7 among a million.
    assert (mask > 0).double().mean().item() == pytest.approx(0.7, abs=4 * (0.7 * 0.3 / mask.numel()) ** 0.5)
    assert mask.double().mean().item() == pytest.approx(1.0, abs=4 * (0.3 / 0.7 / mask.numel()) ** 0.5)
    # The four values that one word decides are independent of each other, and rows and columns are alike.
    words = mask.flatten()[: mask.numel() // 4 * 4].view(-1, 4).bool().double()
    assert torch.corrcoef(words.T).sub(torch.eye(4, dtype=torch.double)).abs().max() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_are_those_of_the_words_that_were_drawn(tiny_model: ApexModel, dtype: torch.dtype) -> None:
    """A run that is resumed by a later version draws the masks that it would have drawn before."""
    block = GroupedHeads.from_model(tiny_model).shared[0]
    mask = block._draw_mask(torch.ones(3, 4, dtype=dtype), BatchShare(5, 7, 2), torch.Generator().manual_seed(5))
    words = torch.empty(7, dtype=torch.int64).random_(-(2**63), None, generator=torch.Generator().manual_seed(5))
    is_kept = words.view(torch.int16).view(7, 4)[2:5] >= round(0.3 * 2**16) - 2**15
    assert 0 < is_kept.sum() < 12
    assert torch.equal(mask, is_kept.to(dtype) * (2**16 / (2**16 - round(0.3 * 2**16))))


def test_training_mode_needs_a_seed(tiny_model: ApexModel) -> None:
    heads = GroupedHeads.from_model(tiny_model).train()
    with pytest.raises(ValueError, match="in training mode, pass `share`"):
        heads(torch.zeros(4, 16))
