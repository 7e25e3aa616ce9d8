#!/usr/bin/env python3
"""Writes tests/optim/vectors/deepspeed.bin: what DeepSpeed's AdamW on a CPU computes, replayed by tests/optim.

    python tests/oracle/make_deepspeed_vectors.py [--output FILE]

Needs torch, numpy and deepspeed, whose kernel is built on first use (ninja and a C++ compiler; TORCH_EXTENSIONS_DIR says where). The layout and the
common names are in vector_file.py. Cases: adamw_ds/...; stepT/{m,v} after some steps. The kernel computes with beta1 and beta2 in float32, 1 - beta2
too, and multiplies their powers up in float32.
"""
import deepspeed.ops.adam
import torch

import parity_inputs as inputs
import vector_file

STATE_STEPS = (1, 2, 13, 25)


def run(writer, name, gradients, *, eps=1e-8, weight_decay=0.0, peak=1e-2, steps=25):
    case = vector_file.Case(writer, name)
    p = torch.nn.Parameter(inputs.weights(gradients))
    optimizer = deepspeed.ops.adam.DeepSpeedCPUAdam([p], lr=1.0, betas=(0.9, 0.999), eps=eps, weight_decay=weight_decay, adamw_mode=True)
    case.hyper(beta1=0.9, beta2=0.999, eps=eps, weight_decay=weight_decay)
    rates = inputs.learning_rates(peak, steps)
    case.add(gradients=gradients, lr=rates, w0=p)
    for t, (lr, g) in enumerate(zip(rates, inputs.add_gradients(writer, gradients, steps)), 1):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = g.clone()
        optimizer.step()
        case.step(t, w=p)
        if t in STATE_STEPS:
            case.step(t, m=optimizer.state[p]["exp_avg"], v=optimizer.state[p]["exp_avg_sq"])


def build(writer):
    run(writer, "adamw_ds/plain", "vector")
    run(writer, "adamw_ds/decay", "vector_heavy", weight_decay=0.1)
    run(writer, "adamw_ds/small", "vector_small", eps=1e-6, weight_decay=0.1)
    return inputs.versions("torch", "numpy", "deepspeed")


if __name__ == "__main__":
    vector_file.main(__doc__, "deepspeed.bin", build)
