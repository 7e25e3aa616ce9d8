#!/usr/bin/env python3
"""Writes tests/optim/vectors/schedules.bin: which tensors are trained when, by the authors' FRUGAL, BAdam and LISA, and small runs of the two.

    FRUGAL_ROOT=CHECKOUT LMFLOW_ROOT=CHECKOUT python tests/oracle/make_schedule_vectors.py [--output FILE]

Needs torch, numpy, badam 1.4, transformers 4, a checkout of github.com/fzmushko/FRUGAL (commit c7ebe4c) and one of github.com/OptimalScale/LMFlow
(commit f3597db), of which only src/lmflow/pipeline/utils/lisa_trainer.py is loaded. The layout is in vector_file.py. Entries:
  order/ORDER/rhoDENSITY/...   FRUGAL's Block over 21 tensors, 3 layers of 7: seed, count, and refreshK/active, sorted, for K = 0, 1, ... The
                               random order draws torch.randperm(21) of the global generator, seeded with seed, at each refresh
  badam/MODE/...               layers, K, seed (of torch.randperm for the random mode), blocks[t], which layer is trained in step t, tensors and
                               tensorI/{name,w0}, stepT/tensorI/{g,w,master} for the layer's two tensors, 2 I and 2 I + 1: weights and gradients are
                               bfloat16, stored as float32; w is checked bit by bit, master is the float32 copy after the step
  lisa/draw/seedS/...          layers, gamma, layers drawn at each switch: rows of active, in the order of the draw, of numpy's legacy generator
  lisa/STATE/...               tensors 0..5 are layers, 6 and 7 (embedding, head) are always trained; K, active as above, tensorI/{gradients,w0},
                               stepT/tensorI/w. STATE is keep: every state stays (LMFlow); drop: at a switch the states of the layers that
                               are frozen go; restart: at a switch all states go, as when each interval is a run of its own (the paper)
"""
import contextlib
import importlib.util
import os
import pathlib
import sys
import types

import badam
import numpy as np
import torch

import parity_inputs as inputs
import vector_file
from make_frugal_vectors import ADAMW, COMMON, frugal, make


def load_lisa():
    path = pathlib.Path(os.environ.get("LMFLOW_ROOT", "")) / "src/lmflow/pipeline/utils/lisa_trainer.py"
    if not path.exists():
        sys.exit("LMFLOW_ROOT must name a checkout of github.com/OptimalScale/LMFlow, commit f3597db")
    spec = importlib.util.spec_from_file_location("lisa_trainer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DynamicLayerActivationCallback


def orders(writer):
    for order in ("descending", "ascending", "mirror", "random"):
        for density in (0.0, 0.25, 0.5, 0.3, 1.0):
            if order == "mirror" and round(21 * density) % 2:
                continue  # refused by an assertion
            case = vector_file.Case(writer, f"order/{order}/rho{density}")
            parameters = [torch.nn.Parameter(torch.zeros(2, 1)) for _ in range(21)]
            group = {"params": parameters, "is_proj_params": True}
            optimizer = make(frugal.BlockAdamW, [group], COMMON | ADAMW | {"update_gap": 1, "density": density, "block_order": order})
            case.add(seed=11, count=optimizer.param_groups[0]["num_active_blocks"])
            torch.manual_seed(11)
            for k in range(9):
                for p in parameters:
                    p.grad = torch.ones(2, 1)
                optimizer.step()
                active = [i for i, p in enumerate(parameters) if optimizer.state[p]["active"]]
                case.add(**{f"refresh{k}/active": torch.tensor(active, dtype=torch.int64)})


def run_badam(writer, mode, layers=4, every=3, steps=14, seed=3):
    """A layer has a weight and a bias: decay reaches both, and at torch's default, because the wrapper's group takes the constructor's defaults."""
    case = vector_file.Case(writer, f"badam/{mode}")
    names = [f"layers.{i}.{kind}" for i in range(layers) for kind in ("weight", "bias")]
    random = inputs.rng("badam", mode)
    shapes = {"weight": (5, 4), "bias": (5,)}
    parameters = [torch.nn.Parameter(torch.from_numpy(0.02 * random.randn(*shapes[name.split(".")[-1]])).to(torch.bfloat16)) for name in names]
    torch.manual_seed(seed)
    base = torch.optim.AdamW([{"params": parameters, "weight_decay": 0.5}], lr=1e-3, foreach=False)
    with contextlib.redirect_stdout(None):
        optimizer = badam.BlockOptimizer(base, list(zip(names, parameters)), switch_block_every=every, switch_mode=mode, verbose=0)
    case.hyper(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)
    rates = inputs.learning_rates(1e-2, steps)
    case.add(lr=rates, layers=layers, K=every, seed=seed, tensors=len(names))
    for i, (name, p) in enumerate(zip(names, parameters)):
        case.add(**{f"tensor{i}/name": name, f"tensor{i}/w0": p.float()})
    blocks = []
    for t, lr in enumerate(rates, 1):
        optimizer.param_groups[0]["lr"] = lr
        active = [i for i, p in enumerate(parameters) if p.requires_grad]
        assert len(active) == 2 and active[0] % 2 == 0
        blocks.append(active[0] // 2)
        masters = dict(optimizer.param_idx2hp)
        for i in active:
            parameters[i].grad = torch.from_numpy(random.randn(*parameters[i].shape)).to(torch.bfloat16)
            case.step(t, **{f"tensor{i}/g": parameters[i].grad.float()})
        with contextlib.redirect_stdout(None):
            optimizer.step()
        for i in active:
            case.step(t, **{f"tensor{i}/w": parameters[i].float(), f"tensor{i}/master": masters[i]})
    case.add(blocks=torch.tensor(blocks))


def check_claims():
    """BAdam by default trains layers only: embedding, last norm and head are frozen for the whole run."""
    names = ["embed_tokens.weight", "layers.0.weight", "layers.1.weight", "norm.weight", "lm_head.weight"]
    parameters = [torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16)) for _ in names]
    with contextlib.redirect_stdout(None):
        optimizer = badam.BlockOptimizer(torch.optim.AdamW(parameters), list(zip(names, parameters)), switch_block_every=1)
    trained = set()
    for _ in range(5):
        trained |= {name for name, p in zip(names, parameters) if p.requires_grad}
        for p in parameters:
            p.grad = torch.ones_like(p) if p.requires_grad else None
        with contextlib.redirect_stdout(None):
            optimizer.step()
    assert trained == {"layers.0.weight", "layers.1.weight"}, trained


def lisa_callback(layers, gamma, every):
    model = types.SimpleNamespace(layers=layers)
    return load_lisa()(n_layers=gamma, interval_steps=every, model=model, lisa_layers_attribute="model.layers")


def lisa_draws(writer):
    for seed in (0, 42):
        layers = [torch.nn.Linear(1, 1) for _ in range(32)]
        callback = lisa_callback(layers, 2, 1)
        np.random.seed(seed)
        draws = []
        for step in range(10):
            with contextlib.redirect_stdout(None):
                callback.on_step_begin(None, types.SimpleNamespace(global_step=step), None)
            draws.append([int(i) for i in callback.active_layers_indices])
        vector_file.Case(writer, f"lisa/draw/seed{seed}").add(layers=32, gamma=2, active=torch.tensor(draws))


class Layer:
    def __init__(self, p):
        self.p = p

    def parameters(self):
        return [self.p]


def run_lisa(writer, state_rule, every=3, gamma=2, steps=13, seed=1):
    case = vector_file.Case(writer, f"lisa/{state_rule}")
    sets = ["tiny", "tiny_heavy", "tiny", "tiny_heavy", "tiny", "tiny_heavy", "vector", "vector_small"]
    parameters = [torch.nn.Parameter(inputs.weights(s)) for s in sets]
    optimizer = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.1, foreach=False)
    callback = lisa_callback([Layer(p) for p in parameters[:6]], gamma, every)
    case.hyper(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.1)
    rates = inputs.learning_rates(1e-2, steps)
    case.add(lr=rates, K=every, gamma=gamma, layers=6, tensors=8)
    gradients = [inputs.add_gradients(writer, s, steps) for s in sets]
    for i, (s, p) in enumerate(zip(sets, parameters)):
        case.add(**{f"tensor{i}/gradients": s, f"tensor{i}/w0": p})
    np.random.seed(seed)
    draws = []
    for t, lr in enumerate(rates, 1):
        with contextlib.redirect_stdout(None):
            callback.on_step_begin(None, types.SimpleNamespace(global_step=t - 1), None)
        if (t - 1) % every == 0:
            draws.append([int(i) for i in callback.active_layers_indices])
            for p in parameters:
                if state_rule == "restart" or (state_rule == "drop" and not p.requires_grad):
                    optimizer.state.pop(p, None)
        optimizer.param_groups[0]["lr"] = lr
        for p, g in zip(parameters, gradients):
            p.grad = g[t - 1].clone() if p.requires_grad else None
        optimizer.step()
        for i, p in enumerate(parameters):
            case.step(t, **{f"tensor{i}/w": p})
    case.add(active=torch.tensor(draws))


def build(writer):
    check_claims()
    orders(writer)
    for mode in ("descending", "ascending", "random"):
        run_badam(writer, mode)
    lisa_draws(writer)
    for state_rule in ("keep", "drop", "restart"):
        run_lisa(writer, state_rule)
    return inputs.versions("torch", "numpy", "badam", "transformers") | {"FRUGAL": "c7ebe4c", "LMFlow": "f3597db"}


if __name__ == "__main__":
    vector_file.main(__doc__, "schedules.bin", build)
