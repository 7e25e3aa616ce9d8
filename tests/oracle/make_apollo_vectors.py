#!/usr/bin/env python3
"""Writes tests/optim/vectors/apollo.bin: what the authors' APOLLO (apollo_torch.APOLLOAdamW) computes, replayed by tests/optim.

    python tests/oracle/make_apollo_vectors.py [--output FILE]

Needs torch, numpy, apollo-torch 1.0.3 and what it imports: transformers 4, bitsandbytes below 0.50. Of the package, whose licence is
CC-BY-NC, nothing but numbers enters the repository. The layout and the common names are in vector_file.py. Here there are also
  CASE/h/    beta1, beta2, eps, weight_decay, rank, gap, scale, scale_type (channel or tensor), scale_front, disable_nl
  CASE/seed0 the first seed: the tensor's number in the optimizer, from 1
and a step has
  p          the projection, at the steps that begin with a new one: r x n where m >= n, else m x r
  seed       the projector's seed after a step with a new projection
  m, v       the moments after the step, at some steps
  s          the scaling factors: one for each index of the longer dimension, or one alone
  limiter    the norm that the limiter remembers after the step
  skipped    1 where the tensor had no gradient
Cases, by what they are for (the numbers are those of the parity plan):
  apollo/SHAPE...         P1, P4 channel-wise factors; T = 5, so three projections in 12 steps
  mini/SHAPE...           P2 one factor for the tensor, rank 1, scale 128
  limiter/...             P3 the norm of the gradient jumps and drops
  zero/...                P5 a row, a column, the whole matrix without gradient at the first step
  seeds/...               P6 19 regular tensors, then three matrices; projections and seeds only
  unit/...                P7 P = the first r unit vectors
  bf16/...                P8 weights and gradients in bfloat16 (stored as float32): to be compared as a direction only
  regular/...             a tensor that is not projected
  svd/...                 the projection is made of the gradient's singular vectors
"""
import contextlib

import apollo_torch
import torch

import parity_inputs as inputs
import vector_file
from apollo_torch import random_projector

STATE_STEPS = (1, 2, 5, 6, 12)


@contextlib.contextmanager
def recorded_norms():
    """The results of torch.norm in order. APOLLO takes two for the factors, then one for the limiter."""
    original, results = torch.norm, []

    def norm(*args, **kwargs):
        results.append(original(*args, **kwargs))
        return results[-1]

    torch.norm = norm
    try:
        yield results
    finally:
        torch.norm = original


def unit_vectors(self, full_rank_grad, proj_type):
    m, n = full_rank_grad.shape
    self.ortho_matrix = torch.eye(self.rank, n) if proj_type == "right" else torch.eye(m, self.rank)


def run(writer, name, gradients, *, rank=4, scale=1.0, scale_type="channel", gap=5, peak=1e-2, weight_decay=0.0, eps=1e-6, proj="random",
        scale_front=False, disable_nl=False, first_is_zero=False, skip=(), steps=inputs.STEPS, state_steps=STATE_STEPS, dtype=torch.float32):
    case = vector_file.Case(writer, name)
    p = torch.nn.Parameter(inputs.weights(gradients).to(dtype))
    group = {"params": [p]}
    if rank:
        group |= {"rank": rank, "proj": proj, "proj_type": "std", "scale": scale, "scale_type": scale_type, "update_proj_gap": gap}
    optimizer = apollo_torch.APOLLOAdamW([group], lr=1.0, eps=eps, weight_decay=weight_decay, scale_front=scale_front, disable_nl=disable_nl)
    case.hyper(beta1=0.9, beta2=0.999, eps=eps, weight_decay=weight_decay)
    if rank:
        case.hyper(rank=rank, gap=gap, scale=scale, scale_type=scale_type, scale_front=scale_front, disable_nl=disable_nl)
    rates = inputs.learning_rates(peak, steps, first_is_zero)
    case.add(gradients=gradients, lr=rates, w0=p.float())
    state, last = optimizer.state[p], None
    if rank:
        case.add(seed0=state["seed"])
    for t, (lr, g) in enumerate(zip(rates, inputs.add_gradients(writer, gradients, steps)), 1):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = None if t in skip else g.to(dtype)
        with recorded_norms() as norms:
            optimizer.step()
        case.step(t, w=p.float())
        if t in skip:
            case.step(t, skipped=1)
            continue
        if t in state_steps:
            case.step(t, m=state["exp_avg"].float(), v=state["exp_avg_sq"].float())
        if not rank:
            continue
        case.step(t, s=(norms[0] / (norms[1] + 1e-8)).float())
        if not disable_nl:
            case.step(t, limiter=state["scaled_grad"].float())
        if state["projector"].ortho_matrix is not last:
            last = state["projector"].ortho_matrix
            case.step(t, p=last.float())
            if proj == "random" and dtype == torch.float32:
                case.step(t, seed=state["projector"].seed)


def seeds(writer):
    """Two groups: 19 tensors that are not projected, of which one is frozen but counted, and three matrices."""
    regular = [torch.nn.Parameter(torch.zeros(4), requires_grad=i != 5) for i in range(19)]
    matrices = [torch.nn.Parameter(torch.zeros(inputs.SHAPES[s])) for s in ("tall", "wide", "odd")]
    group = {"params": matrices, "rank": 4, "proj": "random", "proj_type": "std", "scale": 1.0, "scale_type": "channel", "update_proj_gap": 1}
    optimizer = apollo_torch.APOLLOAdamW([{"params": regular}, group], lr=1e-3)
    for t in (1, 2, 3):
        for p in matrices:
            p.grad = torch.ones_like(p)
        optimizer.step()
        for i, p in enumerate(matrices):
            case = vector_file.Case(writer, f"seeds/matrix{i}")
            projector = optimizer.state[p]["projector"]
            if t == 1:
                case.add(seed0=optimizer.state[p]["seed"])
            case.step(t, p=projector.ortho_matrix, seed=projector.seed)


def check_claims():
    """What the specification says about the package and no vector can show."""
    p, q = (torch.nn.Parameter(torch.zeros(4, 3)) for _ in range(2))
    assert [apollo_torch.APOLLOAdamW([x]).state[x]["seed"] for x in (p, q)] == [1, 1], "an optimizer for each parameter: every seed is 1"
    for shape, proj_type in (((6, 4), "left"), ((4, 6), "right"), ((6, 4), "reverse_std"), ((4, 6), "reverse_std")):
        p = torch.nn.Parameter(torch.zeros(shape))
        p.grad = torch.ones(shape)
        group = {"params": [p], "rank": 3, "proj": "random", "proj_type": proj_type, "scale": 1.0, "scale_type": "channel", "update_proj_gap": 5}
        try:
            apollo_torch.APOLLOAdamW([group]).step()
        except RuntimeError:
            continue
        raise AssertionError(f"channel-wise scaling works with proj_type {proj_type} on {shape}")


def build(writer):
    check_claims()
    run(writer, "apollo/tall", "tall")
    run(writer, "apollo/wide", "wide", weight_decay=0.1)
    run(writer, "apollo/square", "square", weight_decay=0.1)
    run(writer, "apollo/odd", "odd", rank=16, weight_decay=0.1, eps=1e-8)
    run(writer, "apollo/tiny", "tiny", rank=1, gap=1, scale=4.0)
    run(writer, "apollo/large", "large", rank=16, gap=2, steps=3, state_steps=(3,))
    run(writer, "apollo/rank_above_both", "square", rank=64, gap=200, steps=6, state_steps=(6,))
    run(writer, "apollo/lowrank", "wide_lowrank", rank=4, gap=7, scale=2.0)
    run(writer, "apollo/heavy", "odd_heavy", scale=2.0, scale_front=True)
    run(writer, "apollo/no_limiter", "odd", disable_nl=True, weight_decay=0.1)
    run(writer, "apollo/first_rate_zero", "odd", first_is_zero=True, weight_decay=0.1)
    run(writer, "apollo/skip", "odd", skip=(1, 4, 6))
    run(writer, "mini/tall", "tall", rank=1, scale=128.0, scale_type="tensor", peak=1e-3)
    run(writer, "mini/wide", "wide", rank=1, scale=128.0, scale_type="tensor", scale_front=True, peak=1e-3, weight_decay=0.1)
    run(writer, "mini/square", "square", rank=1, scale=128.0, scale_type="tensor", peak=1e-3, weight_decay=0.1)
    run(writer, "mini/odd", "odd", rank=1, scale=128.0, scale_type="tensor", scale_front=True, peak=1e-3)
    run(writer, "limiter/channel", "odd_jump")
    run(writer, "limiter/tensor", "odd_jump", rank=1, scale=128.0, scale_type="tensor", scale_front=True, peak=1e-3)
    run(writer, "zero/row", "odd_zerorow")
    run(writer, "zero/column", "tiny_zerocolumn", rank=2)
    run(writer, "zero/matrix", "odd_zerofirst")
    run(writer, "zero/matrix_tensor", "tiny_zerofirst", rank=1, scale=128.0, scale_type="tensor")
    run(writer, "regular/vector", "vector", rank=0, weight_decay=0.1)
    run(writer, "svd/tall", "tall_lowrank", proj="svd", steps=7, state_steps=(7,))
    run(writer, "bf16/odd", "odd", dtype=torch.bfloat16, steps=6, state_steps=(6,))
    run(writer, "bf16/mini", "odd", rank=1, scale=128.0, scale_type="tensor", peak=1e-3, dtype=torch.bfloat16, steps=6, state_steps=(6,))
    original = random_projector.GradientProjector.update_ortho_matrix
    random_projector.GradientProjector.update_ortho_matrix = unit_vectors
    run(writer, "unit/tall", "tall_lowrank", gap=200, steps=4, state_steps=(1,), proj="random")
    run(writer, "unit/wide", "wide_lowrank", gap=200, steps=4, state_steps=(1,), scale=4.0)
    random_projector.GradientProjector.update_ortho_matrix = original
    seeds(writer)
    return inputs.versions("torch", "numpy", "apollo-torch", "transformers")


if __name__ == "__main__":
    vector_file.main(__doc__, "apollo.bin", build)
