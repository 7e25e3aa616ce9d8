#!/usr/bin/env python3
"""Writes tests/optim/vectors/seeds.bin: random numbers of torch on a CPU, and the chain of seeds of APOLLO's projections.

    python tests/oracle/make_seed_vectors.py [--output FILE]

Needs torch, numpy, apollo-torch 1.0.3 and what it imports. The layout is in vector_file.py. Entries:
  randn/seedS/nN      torch.randn(N) of a generator seeded with S, float32. Fewer than 16 numbers are made in another way than 16 and more.
  randperm/seedS/nN   torch.randperm(N)
  chain/seedS         the seeds that APOLLO's next_seed makes of S: the first of S, the second of the first, ...
"""
import torch
from apollo_torch.random_projector import next_seed

import parity_inputs as inputs
import vector_file


def build(writer):
    for seed in (0, 1, 42, 2**32 + 1, 505211975917066638):
        for n in (1, 2, 3, 15, 16, 17, 31, 64, 68, 100):
            writer.add(f"randn/seed{seed}/n{n}", torch.randn(n, generator=torch.Generator().manual_seed(seed)))
        for n in (1, 2, 7, 10, 21, 33, 561):
            writer.add(f"randperm/seed{seed}/n{n}", torch.randperm(n, generator=torch.Generator().manual_seed(seed)))
    for seed in (0, 1, 2, 20, 21, 22, 75, 2**32 + 1):
        chain = [seed]
        for _ in range(8):
            chain.append(next_seed(chain[-1]))
        writer.add(f"chain/seed{seed}", torch.tensor(chain[1:]))
    return inputs.versions("torch", "numpy", "apollo-torch")


if __name__ == "__main__":
    vector_file.main(__doc__, "seeds.bin", build)
