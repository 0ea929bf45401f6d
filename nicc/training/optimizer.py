"""Adam, with Muon for the weight matrices of hidden layers.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"): the update is
the momentum's nearest semi-orthogonal matrix, by five Newton-Schulz iterations with their published
coefficients, so that every direction of a matrix moves alike. torch.optim.Muon takes matrices only;
here convolutions are matrices of (outputs, all else), and ours of (inputs, outputs) their transposes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalised(matrix: Tensor) -> Tensor:
    """About the nearest matrix whose singular values are all one (0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


class MuonAdam(torch.optim.Adam):
    """Parameter groups with ``muon`` set take Muon's step: ``"outputs first"`` or ``"inputs first"``.

    All others take Adam's. Muon's learning rate is the spectral norm of a step for square matrices.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        kept = []
        for group in self.param_groups:
            for p in group["params"]:
                if group.get("muon") and p.grad is not None:
                    kept.append((p, p.grad))
                    if group["lr"]:
                        self._muon(p, p.grad, group["lr"], group["muon"] == "inputs first")
                    p.grad = None  # none of Adam's business
        result = super().step(closure)
        for p, grad in kept:
            p.grad = grad
        return result

    def _muon(self, p: Tensor, grad: Tensor, rate: float, inputs_first: bool) -> None:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
            state["step"] = torch.zeros(())  # Adam looks for it when a state is loaded
        momentum = state["momentum"].mul_(MOMENTUM).add_(grad)
        nesterov = grad.add(momentum, alpha=MOMENTUM)
        matrix = nesterov.reshape(len(p), -1)
        matrix = matrix.T if inputs_first else matrix
        update = orthogonalised(matrix) * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        p.add_((update.T if inputs_first else update).reshape(p.shape), alpha=-rate)
