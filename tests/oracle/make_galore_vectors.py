#!/usr/bin/env python3
"""Writes tests/optim/vectors/galore.bin: what the authors' GaLore (galore_torch.GaLoreAdamW) computes, replayed by tests/optim.

    python tests/oracle/make_galore_vectors.py [--output FILE]

Needs torch, numpy, galore-torch 1.0 and what it imports: transformers 4, bitsandbytes below 0.50. The layout and the common names are in
vector_file.py. Here a step has also
  p          the projection at the steps that begin with a new one, made by the package of the gradient's singular vectors
  p2         the second one, of proj_type "full": R = P^T G P2^T
  m, v       the moments after the step, at some steps
The sign of a singular vector is the library's choice: replay with the stored p. In the cases svd/... the gradient has four clear singular
values, so that the subspace of an own decomposition can be compared with the stored one. proj_type/full has a large eps: when the projection is
new R is diagonal up to rounding, and a small eps makes updates of that rounding.
"""
import torch
from galore_torch import GaLoreAdamW

import parity_inputs as inputs
import vector_file

STATE_STEPS = (1, 2, 5, 6, 12)


def run(writer, name, gradients, *, rank=4, scale=0.25, gap=5, peak=1e-2, weight_decay=0.0, eps=1e-6, proj_type="std", steps=inputs.STEPS,
        state_steps=STATE_STEPS, skip=()):
    case = vector_file.Case(writer, name)
    p = torch.nn.Parameter(inputs.weights(gradients))
    group = {"params": [p], "rank": rank, "proj_type": proj_type, "scale": scale, "update_proj_gap": gap}
    optimizer = GaLoreAdamW([group], lr=1.0, eps=eps, weight_decay=weight_decay, no_deprecation_warning=True)
    case.hyper(beta1=0.9, beta2=0.999, eps=eps, weight_decay=weight_decay, rank=rank, gap=gap, scale=scale, proj_type=proj_type)
    rates = inputs.learning_rates(peak, steps)
    case.add(gradients=gradients, lr=rates, w0=p)
    state, last = optimizer.state[p], None
    for t, (lr, g) in enumerate(zip(rates, inputs.add_gradients(writer, gradients, steps)), 1):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = None if t in skip else g.clone()
        optimizer.step()
        case.step(t, w=p)
        if t in skip:
            case.step(t, skipped=1)
            continue
        if t in state_steps:
            case.step(t, m=state["exp_avg"], v=state["exp_avg_sq"])
        matrix = state["projector"].ortho_matrix
        if matrix is not last:
            last = matrix
            case.step(t, **({"p": matrix[0], "p2": matrix[1]} if proj_type == "full" else {"p": matrix}))


def check_claims():
    """project_back of "reverse_std" chooses the side by the shape of the small matrix, and takes the wrong one for a wide matrix whose rank is m."""
    p = torch.nn.Parameter(torch.zeros(3, 5))
    p.grad = inputs.gradients("tall", 1)[0][:3, :5].clone()
    group = {"params": [p], "rank": 3, "proj_type": "reverse_std", "scale": 1.0, "update_proj_gap": 5}
    try:
        GaLoreAdamW([group], no_deprecation_warning=True).step()
    except RuntimeError:
        return
    raise AssertionError("reverse_std with rank = m works on a wide matrix")


def build(writer):
    check_claims()
    run(writer, "galore/tall", "tall")
    run(writer, "galore/wide", "wide", weight_decay=0.1)
    run(writer, "galore/square", "square", weight_decay=0.1)
    run(writer, "galore/odd", "odd", rank=1, scale=1.0, eps=1e-8)
    run(writer, "galore/full_rank", "odd", rank=17, gap=1, steps=3, state_steps=(3,))
    run(writer, "galore/skip", "odd", rank=4, skip=(1, 4, 6))
    run(writer, "galore/heavy", "odd_heavy", rank=8, gap=7, scale=1.0)
    run(writer, "svd/tall", "tall_lowrank", steps=6, state_steps=(6,))
    run(writer, "svd/wide", "wide_lowrank", steps=6, state_steps=(6,))
    run(writer, "proj_type/full", "odd", proj_type="full", eps=1e-2, steps=7, state_steps=(7,))
    run(writer, "proj_type/reverse_std", "odd", proj_type="reverse_std", steps=7, state_steps=(7,))
    return inputs.versions("torch", "numpy", "galore-torch", "transformers")


if __name__ == "__main__":
    vector_file.main(__doc__, "galore.bin", build)
