#!/usr/bin/env python3
"""Writes tests/optim/vectors/frugal.bin: what the authors' FRUGAL computes, replayed by tests/optim.

    FRUGAL_ROOT=CHECKOUT python tests/oracle/make_frugal_vectors.py [--output FILE]

Needs torch, numpy, transformers 4, and a checkout of github.com/fzmushko/FRUGAL (commit c7ebe4c), which is in no package index. The layout and
the common names are in vector_file.py. CASE/h/ has gap, density, reset, rule (no, sgd, sign_sgd), inactive_lr_scale, proj_params_lr_scale, choice or
proj_type and proj_side or block_order, and those of AdamW, Lion or SGD. A step has also, at the steps that begin with a new subspace,
  indices    columns, rows or flattened row-major entries (CASE/h/choice), in the order of the state
  p, p2      the projection: right r x n, left m x r, full both
and m and v (Lion, SGD: m alone) after some steps. Cases:
  coord/...     F1 columns, rows, single entries; with and without reset; three subspaces in 12 steps
  lion/, sgd/   other rules for the subspace; sgd shows that a momentum buffer begins as a copy of the projected gradient
  project/...   F3 projections of singular vectors, random orthogonal, permutations
  edge/...      F4 density 0 and 1
  regular/...   a tensor that is never projected, beside one that is
  block/...     F2 whole tensors; CASE/tensorI/w0 and stepT/tensorI/w; stepT/active at each refresh. Gradients are gradients/GRADIENTS/stepT of
                tensorI with GRADIENTS in CASE/tensorI/gradients
"""
import importlib
import math
import os
import pathlib
import sys

import torch

import parity_inputs as inputs
import vector_file


def load_frugal():
    root = os.environ.get("FRUGAL_ROOT")
    if not root or not (pathlib.Path(root) / "frugal" / "proj_optimizer_templates.py").exists():
        sys.exit("FRUGAL_ROOT must name a checkout of github.com/fzmushko/FRUGAL, commit c7ebe4c: it has no package")
    # FRUGAL imports a helper that newer versions of torch have removed. For a number, all it is called with, it was math.sqrt.
    module = importlib.import_module("torch.optim.optimizer")
    if not hasattr(module, "_dispatch_sqrt"):
        module._dispatch_sqrt = math.sqrt
    sys.path.insert(0, root)
    import frugal

    return frugal


frugal = load_frugal()
STATE_STEPS = (1, 2, 5, 6, 12)
COMMON = {"update_gap": 5, "density": 0.25, "reset_statistics": True, "inactive_update_rule": "sign_sgd", "inactive_lr_scale": 1.0,
          "proj_params_lr_scale": 1.0}
ADAMW = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}


def make(cls, groups, options):
    adam = {"no_deprecation_warning": True} if "AdamW" in cls.__name__ else {}
    return cls(groups, lr=1.0, **options, **adam)


def record_hyper(case, options):
    options = dict(options)
    if "betas" in options:
        options["beta1"], options["beta2"] = options.pop("betas")
    names = {"update_gap": "gap", "inactive_update_rule": "rule", "coord_choice": "choice", "reset_statistics": "reset"}
    case.hyper(**{names.get(key, key): value for key, value in options.items()})


def subspace(projector):
    """The entries that describe what a projector projects on."""
    if hasattr(projector, "coord_choice"):
        indices = projector.indices
        return {"indices": indices[0] * projector.grad_shape[1] + indices[1] if isinstance(indices, tuple) else indices}
    matrix = projector.ortho_matrix
    return {"p": matrix[0], "p2": matrix[1]} if isinstance(matrix, (list, tuple)) else {"p": matrix}


def run(writer, name, cls, gradients, *, peak=1e-2, steps=inputs.STEPS, state_steps=STATE_STEPS, rule=ADAMW, **changes):
    case = vector_file.Case(writer, name)
    options = COMMON | rule | changes
    p = torch.nn.Parameter(inputs.weights(gradients))
    optimizer = make(cls, [{"params": [p], "is_proj_params": True}], options)
    record_hyper(case, options)
    rates = inputs.learning_rates(peak, steps)
    case.add(gradients=gradients, lr=rates, w0=p)
    torch.manual_seed(7)
    last = None
    for t, (lr, g) in enumerate(zip(rates, inputs.add_gradients(writer, gradients, steps)), 1):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = g.clone()
        optimizer.step()
        state = optimizer.state[p]
        case.step(t, w=p)
        if t in state_steps:
            moments = {"m": "exp_avg", "v": "exp_avg_sq"} if "exp_avg" in state else {"m": "momentum_buffer"}
            case.step(t, **{short: state[key] for short, key in moments.items() if key in state})
        now = subspace(state["projector"])
        tensor = next(iter(now.values()))
        if last is None or tensor.shape != last.shape or not torch.equal(tensor, last):
            if (t - 1) % options["update_gap"]:
                raise AssertionError(f"{name}: a new subspace at step {t}")
            case.step(t, **now)
            last = tensor.clone()
        elif (t - 1) % options["update_gap"] == 0:
            case.step(t, **now)  # drawn again, the same by chance or by construction


def regular(writer):
    """A group that is not projected is AdamW, family A, at the plain rate, whatever proj_params_lr_scale says."""
    p, q = (torch.nn.Parameter(inputs.weights(s)) for s in ("vector", "tall"))
    options = COMMON | ADAMW | {"weight_decay": 0.1, "proj_params_lr_scale": 0.25, "coord_choice": "columns"}
    optimizer = make(frugal.CoordAdamW, [{"params": [p], "is_proj_params": False}, {"params": [q], "is_proj_params": True}], options)
    case = vector_file.Case(writer, "regular/vector")
    case.hyper(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.1)
    rates = inputs.learning_rates(1e-2)
    case.add(gradients="vector", lr=rates, w0=p)
    others = inputs.gradients("tall")
    for t, (lr, g) in enumerate(zip(rates, inputs.add_gradients(writer, "vector")), 1):
        for group in optimizer.param_groups:
            group["lr"] = lr
        p.grad, q.grad = g.clone(), others[t - 1].clone()
        optimizer.step()
        case.step(t, w=p)
        if t in STATE_STEPS:
            case.step(t, m=optimizer.state[p]["exp_avg"], v=optimizer.state[p]["exp_avg_sq"])


def block(writer, name, cls, sets, *, order, seed=0, steps=8, peak=1e-2, rule=ADAMW, **changes):
    case = vector_file.Case(writer, name)
    options = COMMON | {"update_gap": 3} | rule | changes | {"block_order": order}
    parameters = [torch.nn.Parameter(inputs.weights(s)) for s in sets]
    optimizer = make(cls, [{"params": parameters, "is_proj_params": True}], options)
    record_hyper(case, options)
    rates = inputs.learning_rates(peak, steps)
    case.add(lr=rates, tensors=len(parameters), seed=seed, count=optimizer.param_groups[0]["num_active_blocks"])
    for i, (s, p) in enumerate(zip(sets, parameters)):
        case.add(**{f"tensor{i}/gradients": s, f"tensor{i}/w0": p})
    gradients = [inputs.add_gradients(writer, s, steps) for s in sets]
    torch.manual_seed(seed)
    for t, lr in enumerate(rates, 1):
        optimizer.param_groups[0]["lr"] = lr
        for p, g in zip(parameters, gradients):
            p.grad = g[t - 1].clone()
        optimizer.step()
        if (t - 1) % options["update_gap"] == 0:
            case.step(t, active=torch.tensor([i for i, p in enumerate(parameters) if optimizer.state[p]["active"]], dtype=torch.int64))
        for i, p in enumerate(parameters):
            case.step(t, **{f"tensor{i}/w": p})
            state = optimizer.state[p]
            if not state["active"] and set(state) != {"step", "active"}:
                raise AssertionError("a tensor that is not active has a state")


def check_claims():
    """What the specification says about the code and no vector shows."""

    def step(cls, **changes):
        p = torch.nn.Parameter(torch.zeros(4, 4))
        p.grad = torch.ones(4, 4)
        make(cls, [{"params": [p], "is_proj_params": True}], COMMON | ADAMW | changes).step()
        return p

    # The buffer of a whole tensor begins as the tensor's weights.
    p = torch.nn.Parameter(torch.full((2, 2), 3.0))
    p.grad = torch.ones(2, 2)
    make(frugal.BlockSGD, [{"params": [p], "is_proj_params": True}], COMMON | {"density": 1.0, "momentum": 0.5}).step()
    assert torch.equal(p, torch.full((2, 2), 3.0 - (0.5 * 3.0 + 1.0)))

    # The default rule of the command line, "same", is none.
    moved = step(frugal.CoordAdamW, inactive_update_rule="same") != 0
    assert moved.sum() == 4, "Coord with the rule 'same' moves one column of four"
    try:
        step(frugal.BlockAdamW, inactive_update_rule="same", density=0.0)
    except TypeError:
        return
    raise AssertionError("Block accepts the rule 'same'")


def build(writer):
    check_claims()
    coord, lion, sgd, galore = frugal.CoordAdamW, frugal.CoordLion, frugal.CoordSGD, frugal.GaloreAdamW
    run(writer, "coord/columns_tall", coord, "tall", coord_choice="columns", weight_decay=0.1)
    run(writer, "coord/columns_wide", coord, "wide", coord_choice="columns")
    run(writer, "coord/columns_keep", coord, "odd", coord_choice="columns", density=0.33, reset_statistics=False, weight_decay=0.1)
    run(writer, "coord/rows", coord, "odd", coord_choice="rows", density=0.29, weight_decay=0.1, inactive_lr_scale=0.3, proj_params_lr_scale=0.5)
    run(writer, "coord/rows_keep", coord, "wide", coord_choice="rows", reset_statistics=False, inactive_update_rule="sgd")
    run(writer, "coord/randk", coord, "odd", coord_choice="randk", weight_decay=0.1)
    run(writer, "coord/randk_keep", coord, "square", coord_choice="randk", reset_statistics=False, inactive_update_rule="no")
    run(writer, "coord/heavy_sgd", coord, "odd_heavy", coord_choice="columns", inactive_update_rule="sgd", inactive_lr_scale=0.1)
    run(writer, "coord/zeros", coord, "tiny_zerocolumn", coord_choice="columns", density=0.67, update_gap=1)
    betas = {"betas": (0.9, 0.99), "weight_decay": 0.1}
    run(writer, "lion/columns", lion, "odd", coord_choice="columns", rule=betas, peak=1e-3)
    momentum = {"momentum": 0.9, "dampening": 0.0, "nesterov": False, "weight_decay": 0.1, "sign_update": False}
    run(writer, "sgd/columns", sgd, "odd", coord_choice="columns", rule=momentum)
    run(writer, "project/svd_tall", galore, "tall", proj_type="svd", proj_side="std", weight_decay=0.1)
    run(writer, "project/svd_wide_keep", galore, "wide", proj_type="svd", proj_side="std", reset_statistics=False)
    run(writer, "project/galore", galore, "square", proj_type="svd", proj_side="std", reset_statistics=False, inactive_update_rule="no",
        proj_params_lr_scale=0.25)
    run(writer, "project/random", galore, "odd", proj_type="random", proj_side="std", density=0.5, inactive_update_rule="sgd")
    run(writer, "project/random_reverse", galore, "wide", proj_type="random", proj_side="reverse_std", weight_decay=0.1)
    run(writer, "project/randperm", galore, "odd", proj_type="randperm", proj_side="std", weight_decay=0.1)
    run(writer, "project/full", galore, "odd", proj_type="random", proj_side="full", steps=7, state_steps=(7,))
    run(writer, "edge/density0", coord, "odd", coord_choice="columns", density=0.0, steps=4, state_steps=(), weight_decay=0.1)
    run(writer, "edge/density1", coord, "odd", coord_choice="columns", density=1.0, update_gap=200, weight_decay=0.1)
    regular(writer)
    six = ("tiny", "tiny_heavy", "vector", "tiny", "tiny_zerofirst", "tall")
    block(writer, "block/descending", frugal.BlockAdamW, six, order="descending", density=0.25, weight_decay=0.1)
    block(writer, "block/ascending", frugal.BlockAdamW, six, order="ascending", density=0.75, inactive_update_rule="sgd", inactive_lr_scale=0.3)
    block(writer, "block/mirror", frugal.BlockAdamW, six, order="mirror", density=0.3, inactive_update_rule="no", reset_statistics=False)
    block(writer, "block/random", frugal.BlockAdamW, six, order="random", density=0.5, seed=5, proj_params_lr_scale=0.5, weight_decay=0.1)
    block(writer, "block/all", frugal.BlockAdamW, six, order="descending", density=1.0, reset_statistics=False)
    return inputs.versions("torch", "numpy", "transformers") | {"FRUGAL": "c7ebe4c"}


if __name__ == "__main__":
    vector_file.main(__doc__, "frugal.bin", build)
