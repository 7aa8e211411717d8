"""The losses against their formulas."""

import math

import numpy as np
import pytest
import torch

from modeling_apex.training.losses import MultiTaskLoss, compute_squared_error_sums

GROUPS = ["popularity", "aesthetics"]
ALL = torch.tensor([True, True])


def test_sums_leave_missing_labels_out() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    labels = torch.tensor([[0.0, float("nan")], [1.0, 4.5]])
    sums = compute_squared_error_sums(scores, labels)
    assert sums.tolist() == [5.0, 0.25]
    sums.sum().backward()
    assert scores.grad.tolist() == [[2.0, 0.0], [4.0, -1.0]]


def test_sums_in_units_of_each_head() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    labels = torch.tensor([[0.0, float("nan")], [1.0, 4.5]])
    assert compute_squared_error_sums(scores, labels, torch.tensor([0.5, 2.0])).tolist() == [20.0, 0.0625]


@pytest.mark.parametrize(
    ("kind", "expected"), [("equal", 10.0), ("weighted", 5 * 8.0 + 2.0), ("uncertainty", 8 / 2 + 2 / 2)]
)
def test_kinds(kind: str, expected: float) -> None:
    loss = MultiTaskLoss(kind, GROUPS)(torch.tensor([8.0, 2.0]), ALL)
    assert loss.item() == pytest.approx(expected)


def test_standardised_errors_are_shares_of_the_variance() -> None:
    loss = MultiTaskLoss("equal", GROUPS, label_variances=[16.0, 0.5])
    assert float(loss(torch.tensor([8.0, 2.0]), ALL)) == pytest.approx(0.5 + 4.0)


def test_learned_sigmas_settle_at_the_root_of_the_error() -> None:
    loss = MultiTaskLoss("uncertainty", GROUPS)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        loss(torch.tensor([100.0, 0.25]), ALL).backward()
        optimizer.step()
    assert loss.log_sigmas.tolist() == pytest.approx([math.log(10), math.log(0.5)], abs=0.05)


def test_a_head_without_labels_takes_no_part() -> None:
    loss = MultiTaskLoss("uncertainty", GROUPS)
    loss(torch.tensor([8.0, 0.0]), torch.tensor([True, False])).backward()
    assert loss.log_sigmas.grad.tolist() == [pytest.approx(1 - 8.0), 0.0]


def test_a_head_without_labels_adds_nothing() -> None:
    present = torch.tensor([True, False])
    assert float(MultiTaskLoss("equal", GROUPS)(torch.tensor([8.0, 2.0]), present)) == 8.0
    assert float(MultiTaskLoss("weighted", GROUPS)(torch.tensor([8.0, 2.0]), present)) == 40.0


def test_only_sigmas_are_stored() -> None:
    assert list(MultiTaskLoss("uncertainty", GROUPS).state_dict()) == ["log_sigmas"]
    assert list(MultiTaskLoss("weighted", GROUPS).state_dict()) == []


def test_variances_do_not_change_the_precision() -> None:
    loss = MultiTaskLoss("equal", GROUPS, label_variances=np.array([2.0, 4.0]))
    assert loss(torch.tensor([8.0, 2.0]), ALL).dtype == torch.float32


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="`loss` must be one of equal, weighted, uncertainty, got 'huber'"):
        MultiTaskLoss("huber", GROUPS)
