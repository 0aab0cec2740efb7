"""Training against the bare PyTorch loop: `python bench/training.py`. On the CPU, one thread for both.

A CSV of 100,000 x 20 for one epoch (at most 1.5x), each gate by the perceptron (at most 50 ms), XOR by 20 seeds
(all right, at most 1 s). The bare loop has the same network, batches and optimiser, and nothing else.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from hansang.jobs.jobs import Job, JobContext
from hansang.training.data import gate, read_dataset
from hansang.training.mlp import MLPTrainer
from hansang.training.perceptron import PerceptronTrainer

ROWS, COLUMNS, ROUNDS = 100_000, 20, 5


def write_table(path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, COLUMNS - 1))
    y = (x @ random.normal(size=COLUMNS - 1) > 0).astype(int)
    names = ",".join([*(f"x{n}" for n in range(COLUMNS - 1)), "y"])
    np.savetxt(
        path, np.column_stack([x, y]), fmt=["%.6f"] * (COLUMNS - 1) + ["%d"], delimiter=",", header=names, comments=""
    )


def bare(x: Any, y: Any) -> float:
    """Seconds of one epoch, in the fewest lines that train this network."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.005)
    began = perf_counter()
    order = torch.randperm(len(x))
    for start in range(0, len(x), 256):
        places = order[start : start + 256]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x[places])[:, 0], y[places])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return perf_counter() - began


def train(trainer: Any, data: Any, folder: Path, seed: int = 0, **chosen: float) -> Any:
    options = {option.name: chosen.get(option.name, option.default) for option in trainer.options}
    job = JobContext(Job("bench", "train", "bench", {}), lambda job, events, state: None)
    return trainer.train(data, options, seed, "json", folder, job)


def table_figures(folder: Path) -> str:
    """Both train on the same rows: those of the split."""
    path = folder / "table.csv"
    write_table(path)
    began = perf_counter()
    data = read_dataset({}, "bench", path, "y")
    reading = perf_counter() - began
    learnt, _ = data.split(0)
    x, y = torch.from_numpy(data.features())[learnt], torch.from_numpy(data.y)[learnt].float()
    ours, theirs = [], []
    for _ in range(ROUNDS):
        theirs.append(bare(x, y))
        ours.append(train(MLPTrainer(), data, folder, epochs=1).seconds)
    mine, yours = median(ours), median(theirs)
    told = f"one epoch {mine:.3f} s, bare loop {yours:.3f} s: {mine / yours:.2f}x"
    return f"CSV {ROWS} x {COLUMNS}: {told}; reading {reading:.2f} s"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(MLPTrainer(), gate("and"), folder)
        print(table_figures(folder))
        for gate_name in ("and", "or", "not", "nand", "nor"):
            runs = [train(PerceptronTrainer(), gate(gate_name), folder, seed) for seed in range(20)]
            slowest = max(run.seconds for run in runs)
            print(f"{gate_name}: {sum(run.converged for run in runs)} of 20, slowest {slowest * 1000:.1f} ms")
        runs = [train(MLPTrainer(), gate("xor"), folder, seed) for seed in range(20)]
        right = sum(run.metrics["accuracy"] == 1.0 for run in runs)
        print(f"xor: {right} of 20, slowest {max(run.seconds for run in runs):.2f} s")


if __name__ == "__main__":
    main()
