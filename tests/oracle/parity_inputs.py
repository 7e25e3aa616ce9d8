"""Weights, gradients and learning rates that the make_*_vectors.py programs share. They are stored in the vector files, so nothing that replays
a file needs to make them again."""
import importlib.metadata

import numpy as np
import torch

SHAPES = {"tall": (24, 16), "wide": (16, 24), "square": (16, 16), "odd": (33, 17), "tiny": (8, 3), "vector": (64,), "large": (96, 64)}
STEPS = 12

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def rng(*key):
    return np.random.RandomState([1234, *(ord(c) for c in "/".join(map(str, key)))])


def weights(gradients_name):
    """For a tensor with these gradients."""
    shape_name = gradients_name.partition("_")[0]
    return torch.from_numpy((0.02 * rng("weights", shape_name).randn(*SHAPES[shape_name])).astype(np.float32))


def gradients(name, steps=STEPS):
    """SHAPE or SHAPE_KIND. Plain gradients are normal, each row with a scale of its own between 1e-3 and 1, and grow by a tenth a step."""
    shape_name, _, kind = name.partition("_")
    shape, random = SHAPES[shape_name], rng("gradients", name)
    row_scale = 10.0 ** random.uniform(-3, 0, shape[:1] + (1,) * (len(shape) - 1))
    result = []
    for t in range(1, steps + 1):
        g = random.randn(*shape) * row_scale * (1 + 0.1 * t)
        if kind == "lowrank":
            left, right = random.randn(shape[0], 4), random.randn(4, shape[1])
            g = left @ right + 1e-2 * random.randn(*shape)
        elif kind == "heavy":
            g = random.standard_t(2, shape) * row_scale
        elif kind == "jump":  # what a norm-growth limiter must hold back, and let go
            g *= 1.0 if t < 5 else 100.0 if t < 9 else 0.1
        elif kind == "zerorow" and t == 1:
            g[3] = 0
        elif kind == "zerocolumn" and t == 1:
            g[:, 1] = 0
        elif kind == "zerofirst" and t == 1:
            g[:] = 0
        elif kind == "small":  # as small as eps, and exact zeros
            g = random.randn(*shape) * 1e-6
            g[:5] = 0
        elif kind not in ("", "jump", "zerorow", "zerocolumn", "zerofirst"):
            raise ValueError(f"no such gradients: {name}")
        result.append(torch.from_numpy(g.astype(np.float32)))
    return result


def add_gradients(writer, name, steps=STEPS):
    """Stores a set once, and gives it."""
    result = gradients(name, steps)
    for t, g in enumerate(result, 1):
        if f"gradients/{name}/step{t}" not in writer.entries:
            writer.add(f"gradients/{name}/step{t}", g)
    return result


def learning_rates(peak, steps=STEPS, first_is_zero=False):
    """Three steps of warm-up, then a slow fall. In the authors' training scripts the first update has a rate of 0."""
    rates = [peak * min(t / 3, 1.0) * (1 - 0.02 * t) for t in range(1, steps + 1)]
    if first_is_zero:
        rates[0] = 0.0
    return rates


def versions(*packages):
    return {package: importlib.metadata.version(package) for package in packages}
