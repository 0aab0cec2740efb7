"""Our Adam goes where PyTorch's goes."""

from __future__ import annotations

import warnings

import pytest

from hansang.training.adam import Adam

torch = pytest.importorskip("torch")


def test_it_takes_the_steps_of_pytorchs_own() -> None:
    torch.manual_seed(0)
    ours = torch.randn(4, 3, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    target = torch.randn(4, 3)
    adam = Adam(torch, [ours], 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = torch.optim.Adam([theirs], lr=0.05)
    for _ in range(50):
        adam.step(((ours - target) ** 4).sum())
        other.zero_grad()
        ((theirs - target) ** 4).sum().backward()
        other.step()
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
