#!/usr/bin/env python3
"""The optimizers of PyTorch and of the papers' authors as `strata bench optimizers` times the update: one fp32 matrix with fp32 gradients.

Prints one JSON object of the form of `strata bench optimizers --json`. Needs torch; apollo-torch for apollo and apollo-mini, galore-torch for
galore, bitsandbytes for adamw-8bit, a checkout of github.com/fzmushko/FRUGAL (--frugal) for frugal-*. Of a method whose package is not
there a note tells. Nothing is drawn anew while it is timed: subspaces are made in the first step. What the packages import and this does not
need (transformers; bitsandbytes but for its own) may be absent.
"""
import argparse
import importlib
import importlib.machinery
import importlib.util
import math
import pathlib
import sys
import types

from pytorch_common import Timer, machine, measurement, print_result, start_torch

METHODS = ("adamw", "adamw-foreach", "adamw-8bit", "sgd", "sgd-momentum", "lion", "frugal-columns", "frugal-rows", "frugal-randk", "frugal-0",
           "apollo", "apollo-mini", "galore")
NEVER = 1 << 40  # steps between two projections
PATTERN = 1013


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--density", type=float, default=0.25)
    parser.add_argument("--method", default=",".join(METHODS))
    parser.add_argument("--frugal", type=pathlib.Path, help="a checkout of FRUGAL")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=11, help="timed steps, after those that warm up")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    options.tf32 = False
    options.method = options.method.split(",")
    if not set(options.method) <= set(METHODS):
        parser.error(f"--method wants some of {', '.join(METHODS)}")
    return options


class Absent(types.ModuleType):
    """Stands for a package that is imported and not used here."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_kwargs: None


def stand_in(*names):
    for name in [one for one in names if importlib.util.find_spec(one.split(".")[0]) is None]:
        module = Absent(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        sys.modules[name] = module


def without_init(package, module):
    """A module of a package whose __init__ imports more than this needs."""
    if package not in sys.modules:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ImportError(f"no package {package}")
        parent = types.ModuleType(package)
        parent.__path__ = list(spec.submodule_search_locations)
        sys.modules[package] = parent
    return importlib.import_module(f"{package}.{module}")


def frugal_classes(root):
    if root is None or not (root / "frugal" / "proj_optimizer_templates.py").exists():
        raise ImportError("--frugal names no checkout")
    # FRUGAL imports a helper that newer versions of torch have removed. For a number, all it is called with, it was math.sqrt.
    module = importlib.import_module("torch.optim.optimizer")
    if not hasattr(module, "_dispatch_sqrt"):
        module._dispatch_sqrt = math.sqrt
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module("frugal")


def make(torch, name, p, options):
    adamw = {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.01}
    if name == "adamw":
        return torch.optim.AdamW([p], **adamw, fused=True)
    if name == "adamw-foreach":
        return torch.optim.AdamW([p], **adamw, foreach=True)
    if name == "adamw-8bit":
        bitsandbytes = importlib.import_module("bitsandbytes")
        if isinstance(bitsandbytes, Absent):
            raise ImportError("no package bitsandbytes")
        return bitsandbytes.optim.AdamW8bit([p], **adamw)
    if name == "sgd":
        return torch.optim.SGD([p], lr=1e-4, weight_decay=0.01, fused=True)
    if name == "sgd-momentum":
        return torch.optim.SGD([p], lr=1e-4, momentum=0.9, weight_decay=0.01, fused=True)
    if name == "lion":  # FRUGAL's, for torch has none
        return frugal_classes(options.frugal).Lion([p], lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01)
    if name.startswith("frugal"):
        kind = name.removeprefix("frugal-")
        return frugal_classes(options.frugal).CoordAdamW(
            [{"params": [p], "is_proj_params": True}], **adamw, density=0.0 if kind == "0" else options.density, update_gap=NEVER,
            inactive_update_rule="sign_sgd", coord_choice="columns" if kind == "0" else kind, no_deprecation_warning=True)
    group = {"params": [p], "rank": options.rank, "update_proj_gap": NEVER, "scale": 1.0, "proj_type": "std"}
    if name == "galore":
        return without_init("galore_torch", "adamw").AdamW([group | {"scale": 0.25}], **adamw, no_deprecation_warning=True)
    apollo = without_init("apollo_torch", "apollo")
    mini = {"rank": 1, "scale": 128.0, "scale_type": "tensor"}
    return apollo.AdamW([group | {"proj": "random", "scale_type": "channel"} | (mini if name == "apollo-mini" else {})], **adamw)


def main():
    options = parse_arguments()
    torch = start_torch(options)
    stand_in("transformers", "transformers.utils", "transformers.utils.versions", "bitsandbytes", "tensorly")
    n = options.rows * options.columns

    def filled(scale, offset):
        """The values of `strata bench optimizers`."""
        pattern = offset + scale * (torch.arange(PATTERN, dtype=torch.float32) / PATTERN - 0.5)
        return pattern.repeat(math.ceil(n / PATTERN))[:n].view(options.rows, options.columns).to(options.device)

    found, notes = [], []
    p = torch.nn.Parameter(filled(0.02, 0.0))
    p.grad = filled(1e-3, -2e-4)
    timers = {}
    for name in options.method:
        try:
            optimizer = make(torch, name, p, options)
        except ImportError as error:
            notes.append(f"{name}: {error}")
            continue
        timers[name] = Timer(torch, options.device, optimizer.step)
    samples = {name: [] for name in timers}
    for _ in range(options.repeats):  # in turns, as ours
        for name, timer in timers.items():
            samples[name].append(n / (timer.seconds(timer.count) / timer.count))
    for name, rates in samples.items():
        found.append(measurement(name, "parameters/s", rates))
    print_result("optimizers", machine(torch, options.device),
                 {key: str(getattr(options, key)) for key in ("rows", "columns", "rank", "density")}, found, notes)


if __name__ == "__main__":
    main()
