"""Muon's step: all directions alike, in both layouts, and Adam's for the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nicc.training.optimizer import MuonAdam, orthogonalised


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (30, 30)])
def test_singular_values_become_about_one(shape):
    torch.manual_seed(0)
    matrix = torch.randn(*shape)
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert 0.5 < values.min() < values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalised(matrix)
    assert float((found * (u @ v)).sum() / found.norm() / (u @ v).norm()) > 0.97


def test_layouts_agree_and_convolutions_are_matrices():
    torch.manual_seed(0)
    weight, grad = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    a = nn.Parameter(weight.clone())
    b = nn.Parameter(weight.reshape(8, -1).T.clone())
    optimizer = MuonAdam(
        [{"params": [a], "lr": 0.1, "muon": "outputs first"}, {"params": [b], "lr": 0.1, "muon": "inputs first"}]
    )
    a.grad, b.grad = grad.clone(), grad.reshape(8, -1).T.clone()
    optimizer.step()
    assert torch.allclose(a.reshape(8, -1), b.T, atol=1e-5)
    assert torch.equal(a.grad, grad)  # gradients stay where they were
    moved = torch.linalg.svdvals((a - weight).reshape(8, -1).detach())
    assert moved.max() < 0.13
    assert moved.min() > 0.05


def test_groups_without_muon_are_adam_s_and_a_rate_of_zero_rests():
    torch.manual_seed(0)
    start, grad = torch.randn(6, 6), torch.randn(6, 6)
    ours, theirs, resting = (nn.Parameter(start.clone()) for _ in range(3))
    optimizer = MuonAdam([{"params": [ours], "muon": None}, {"params": [resting], "lr": 0.0, "muon": "outputs first"}])
    adam = torch.optim.Adam([theirs])
    for _ in range(3):
        for p in (ours, theirs, resting):
            p.grad = grad.clone()
        optimizer.step()
        adam.step()
    assert torch.equal(ours, theirs)
    assert torch.equal(resting, start)


def test_state_survives_saving():
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(5, 7))
    groups = [{"params": [p], "lr": 0.01, "muon": "outputs first"}]
    optimizer = MuonAdam(groups)
    p.grad = torch.randn(5, 7)
    optimizer.step()
    q = nn.Parameter(p.detach().clone())
    other = MuonAdam([{"params": [q], "lr": 0.01, "muon": "outputs first"}])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    p.grad = q.grad = torch.randn(5, 7)
    optimizer.step()
    other.step()
    assert torch.equal(p, q)
