#!/usr/bin/env python3
"""Writes tests/optim/vectors/{adamw.bin,clip.txt}: what PyTorch computes, replayed by tests/optim. Needs torch.

adamw.bin, little-endian: int32 cases, then per case int32 n, int32 steps, float64 weight_decay, eps, then n floats of initial
parameters, then per step float64 lr, float32[n] gradient, p, m, v after the step.
"""
import pathlib
import struct

import torch

STEPS, N = 25, 97
OUT = pathlib.Path(__file__).resolve().parent.parent / "optim" / "vectors"


def gradients(step, generator):
    """Normal gradients with per-element scales from 1e-25 to 1e15, some exactly zero, some growing, some flipping sign."""
    g = torch.randn(N, generator=generator) * (1 + 0.1 * step)
    scales = torch.ones(N)
    scales[40:60] = 10.0 ** torch.linspace(-25, -3, 20)
    scales[60:75] = 10.0 ** torch.linspace(1, 15, 15)
    g *= scales
    g[75:80] = 0
    if step % 5 == 0:
        g[80:90] = 0
    g[90:97] *= (-1.0) ** step * 10.0 ** (step % 4)
    return g


def learning_rate(step):
    return 1e-3 * min(step / 5, (STEPS + 1 - step) / (STEPS - 4))


def case(out, weight_decay, eps, seed):
    generator = torch.Generator().manual_seed(seed)
    p = torch.nn.Parameter(0.02 * torch.randn(N, generator=generator))
    optimizer = torch.optim.AdamW([p], lr=1.0, betas=(0.9, 0.999), eps=eps, weight_decay=weight_decay, foreach=False)
    out.write(struct.pack("<iidd", N, STEPS, weight_decay, eps))
    out.write(p.detach().numpy().astype("<f4").tobytes())
    for step in range(1, STEPS + 1):
        lr = learning_rate(step)
        optimizer.param_groups[0]["lr"] = lr
        p.grad = gradients(step, generator)
        optimizer.step()
        state = optimizer.state[p]
        out.write(struct.pack("<d", lr))
        for tensor in (p.grad, p.detach(), state["exp_avg"], state["exp_avg_sq"]):
            out.write(tensor.numpy().astype("<f4").tobytes())


def clip(out):
    """Lines: norm of the gradients, max_norm, the coefficient they were multiplied by (measured on a gradient of 1)."""
    for norm in (0.25, 0.999999, 1.0, 1.0000005, 1.5, 7.0, 1e6, float("inf")):
        for max_norm in (0.5, 1.0, 10.0):
            probe = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
            rest = norm if norm == float("inf") else max(norm**2 - 0.01, 0.0) ** 0.5
            probe.grad = torch.tensor([0.1, rest], dtype=torch.float64)
            total = torch.nn.utils.clip_grad_norm_([probe], max_norm, foreach=False)
            out.write(f"{float(total)!r} {max_norm!r} {float(probe.grad[0] / 0.1)!r}\n")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    with open(OUT / "adamw.bin", "wb") as out:
        out.write(struct.pack("<i", 3))
        case(out, 0.0, 1e-8, 1)
        case(out, 0.1, 1e-8, 2)
        case(out, 0.1, 1e-4, 3)
    with open(OUT / "clip.txt", "w") as out:
        clip(out)
    print(f"torch {torch.__version__}: wrote {OUT}/adamw.bin and clip.txt")


if __name__ == "__main__":
    main()
