#!/usr/bin/env python3
"""Writes tests/optim/vectors/simple.bin: optimizers without projection, replayed by tests/optim.

    python tests/oracle/make_simple_vectors.py [--output FILE]

Needs torch, numpy, lion-pytorch, galore-torch 1.0 and what it imports: transformers 4, bitsandbytes below 0.50. The layout and the common
names are in vector_file.py. Cases:
  sgd/...       torch.optim.SGD: decay is added to the gradient; stepT/m is the momentum buffer, which begins as the first gradient
  lion/...      lion_pytorch.Lion; stepT/m is its average
  adamw_b/...   GaLore's AdamW without projection: eps is added before the bias correction, decay comes last; stepT/m and stepT/v
  adamw_a/...   torch.optim.AdamW on the inputs of adamw_b: with gradients as small as eps the two differ
Where a step has stepT/skipped the tensor had no gradient.
"""
import torch
from galore_torch import GaLoreAdamW
from lion_pytorch import Lion

import parity_inputs as inputs
import vector_file

STATE_STEPS = (1, 2, 6, 12)


def run(writer, name, gradients, make, moments, peak=1e-2, skip=(), **hyper):
    case = vector_file.Case(writer, name)
    p = torch.nn.Parameter(inputs.weights(gradients))
    optimizer = make([p], **hyper)
    if "betas" in hyper:
        hyper["beta1"], hyper["beta2"] = hyper.pop("betas")
    case.hyper(**hyper)
    rates = inputs.learning_rates(peak)
    case.add(gradients=gradients, lr=rates, w0=p)
    for t, (lr, g) in enumerate(zip(rates, inputs.add_gradients(writer, gradients)), 1):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = None if t in skip else g.clone()
        optimizer.step()
        case.step(t, w=p)
        if t in skip:
            case.step(t, skipped=1)
        elif t in STATE_STEPS:
            case.step(t, **{short: optimizer.state[p][key] for short, key in moments.items()})


def sgd(params, **hyper):
    return torch.optim.SGD(params, lr=1.0, foreach=False, **hyper)


def lion(params, **hyper):
    return Lion(params, lr=1.0, decoupled_weight_decay=False, **hyper)


def adamw_a(params, **hyper):
    return torch.optim.AdamW(params, lr=1.0, foreach=False, **hyper)


def adamw_b(params, **hyper):
    return GaLoreAdamW(params, lr=1.0, no_deprecation_warning=True, **hyper)


def build(writer):
    plain = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0}
    momentum = {"m": "momentum_buffer"}
    run(writer, "sgd/plain", "vector", sgd, {}, **plain)
    run(writer, "sgd/decay", "vector", sgd, {}, **plain | {"weight_decay": 0.1})
    run(writer, "sgd/momentum", "tiny", sgd, momentum, **plain | {"momentum": 0.9})
    run(writer, "sgd/momentum_decay", "vector", sgd, momentum, skip=(1, 4), **plain | {"momentum": 0.9, "weight_decay": 0.1})
    run(writer, "sgd/dampening", "vector", sgd, momentum, **plain | {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1})
    run(writer, "sgd/nesterov", "vector", sgd, momentum, **plain | {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1})
    average = {"m": "exp_avg"}
    run(writer, "lion/plain", "square", lion, average, peak=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    run(writer, "lion/decay", "vector_heavy", lion, average, peak=1e-3, betas=(0.95, 0.98), weight_decay=0.1)
    run(writer, "lion/zeros", "vector_small", lion, average, peak=1e-3, skip=(1, 4), betas=(0.9, 0.99), weight_decay=0.1)
    moments = {"m": "exp_avg", "v": "exp_avg_sq"}
    for family, make in (("adamw_b", adamw_b), ("adamw_a", adamw_a)):
        for name, gradients, eps, weight_decay in (("plain", "square", 1e-6, 0.0), ("decay", "vector_heavy", 1e-8, 0.1), ("small", "vector_small", 1e-6, 0.1)):
            run(writer, f"{family}/{name}", gradients, make, moments, betas=(0.9, 0.999), eps=eps, weight_decay=weight_decay,
                skip=(1, 4) if name == "small" else ())
    return inputs.versions("torch", "numpy", "lion-pytorch", "galore-torch", "transformers")


if __name__ == "__main__":
    vector_file.main(__doc__, "simple.bin", build)
