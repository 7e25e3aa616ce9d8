"""The optimizers of the vector files in float64, their schedules, quantisers and random numbers, a short function each: what they are by their
specification, without the authors' code. Needs numpy."""
import math
from types import SimpleNamespace

import numpy as np

# s is a tensor's state: s.t steps, s.m, s.v ...; h the hyper-parameters. Each gives the new weights.


def new_state():
    return SimpleNamespace(t=0, m=0.0, v=0.0)


def adam_moments(s, g, h):
    s.t += 1
    s.m = h["beta1"] * s.m + (1 - h["beta1"]) * g
    s.v = h["beta2"] * s.v + (1 - h["beta2"]) * g * g
    return 1 - h["beta1"] ** s.t, 1 - h["beta2"] ** s.t


def adamw_a(s, w, g, lr, h):
    """torch, FRUGAL, BAdam, LISA: eps beside the corrected root, decay of the old weights."""
    c1, c2 = adam_moments(s, g, h)
    return (1 - lr * h["weight_decay"]) * w - lr / c1 * s.m / (np.sqrt(s.v / c2) + h["eps"])


def adamw_b(s, w, g, lr, h):
    """GaLore, APOLLO: eps beside the uncorrected root, decay of the new weights."""
    c1, c2 = adam_moments(s, g, h)
    w = w - lr * math.sqrt(c2) / c1 * s.m / (np.sqrt(s.v) + h["eps"])
    return (1 - lr * h["weight_decay"]) * w


def adamw_deepspeed(s, w, g, lr, h):
    """adamw_a with betas of float32, whose powers are multiplied up in float32."""
    beta1, beta2 = np.float32(h["beta1"]), np.float32(h["beta2"])
    adam_moments(s, g, h | {"beta1": float(beta1), "beta2": float(beta2)})
    s.powers = (beta1, beta2) if s.t == 1 else (s.powers[0] * beta1, s.powers[1] * beta2)
    c1, c2 = (1 - float(power) for power in s.powers)
    return (1 - lr * h["weight_decay"]) * w - lr / c1 * s.m / (np.sqrt(s.v / c2) + h["eps"])


def sgd(s, w, g, lr, h):
    s.t += 1
    g = g + h["weight_decay"] * w
    if h["momentum"]:
        s.m = g if s.t == 1 else h["momentum"] * s.m + (1 - h["dampening"]) * g
        g = g + h["momentum"] * s.m if h["nesterov"] else s.m
    return w - lr * g


def lion(s, w, g, lr, h):
    w = (1 - lr * h["weight_decay"]) * w - lr * np.sign(h["beta1"] * s.m + (1 - h["beta1"]) * g)
    s.m = h["beta2"] * s.m + (1 - h["beta2"]) * g
    return w


def goes_right(shape):
    return shape[0] >= shape[1]  # a square matrix too


def norm(x, axis=None, keepdims=False):
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims))


def apollo(s, w, g, lr, h):
    """s.p is the projection, s.limiter the norm remembered by the norm-growth limiter; leaves s.factors."""
    right = goes_right(g.shape)
    r = g @ s.p.T if right else s.p.T @ g
    c1, c2 = adam_moments(s, r, h)
    rt = s.m / (np.sqrt(s.v) + h["eps"])
    axis = None if h["scale_type"] == "tensor" else 1 if right else 0
    s.factors = norm(rt, axis) / (norm(r, axis) + 1e-8)
    u = g * (s.factors[:, None] if axis == 1 else s.factors)
    root = math.sqrt(h["scale"])
    if h["scale_front"]:
        u = u * root
    if not h["disable_nl"]:
        if s.limiter is not None:
            u = u / (max(norm(u) / (s.limiter + 1e-8), 1.01) / 1.01)
        s.limiter = norm(u)
    if not h["scale_front"]:
        u = u * root
    w = w - lr * math.sqrt(c2) / c1 * u
    return (1 - lr * h["weight_decay"]) * w


def down(g, s, side):
    if side == "full":
        return s.p.T @ g @ s.p2.T
    return g @ s.p.T if side == "right" else s.p.T @ g


def up(x, s, side):
    if side == "full":
        return s.p @ x @ s.p2
    return x @ s.p if side == "right" else s.p @ x


def side_of(shape, rule):
    """rule: std, reverse_std, right, left, full"""
    right = {"std": goes_right(shape), "reverse_std": not goes_right(shape)}
    return {True: "right", False: "left"}[right[rule]] if rule in right else rule


def galore(s, w, g, lr, h):
    side = side_of(g.shape, h["proj_type"])
    c1, c2 = adam_moments(s, down(g, s, side), h)
    w = w - lr * math.sqrt(c2) / c1 * h["scale"] * up(s.m / (np.sqrt(s.v) + h["eps"]), s, side)
    return (1 - lr * h["weight_decay"]) * w


def frugal_rule(s, g, h):
    """The direction of the rule of the subspace."""
    if "momentum" in h:
        s.t += 1
        s.m = h["momentum"] * (g if s.t == 1 else s.m) + (1 - h["dampening"]) * g  # the authors' buffer begins as a copy of the gradient
        return s.m
    if "eps" not in h:
        update = np.sign(h["beta1"] * s.m + (1 - h["beta1"]) * g)
        s.t, s.m = s.t + 1, h["beta2"] * s.m + (1 - h["beta2"]) * g
        return update
    c1, c2 = adam_moments(s, g, h)
    return s.m / c1 / (np.sqrt(s.v / c2) + h["eps"])


def state_free(e, h):
    return h["inactive_lr_scale"] * {"no": 0 * e, "sgd": e, "sign_sgd": np.sign(e)}[h["rule"]]


def frugal(s, w, g, lr, h):
    """s.indices or s.p, s.p2 is the subspace; leaves the residual s.e. A caller that begins a new subspace calls frugal_refresh first."""
    a = lr * h["proj_params_lr_scale"]
    if "choice" in h:
        where = {"columns": (slice(None), s.indices), "rows": (s.indices, slice(None)), "randk": np.unravel_index(s.indices, g.shape)}[h["choice"]]
        update, s.e = np.zeros_like(g), g.copy()
        update[where] = frugal_rule(s, g[where], h)
        s.e[where] = 0
    else:
        side = side_of(g.shape, h["proj_side"])
        low = down(g, s, side)
        update, s.e = up(frugal_rule(s, low, h), s, side), g - up(low, s, side)
    return (1 - lr * h["weight_decay"]) * w - a * (update + state_free(s.e, h))


def frugal_refresh(s, h):
    if h["reset"]:
        s.t, s.m, s.v = 0, 0.0, 0.0


def frugal_count(h, shape):
    """int() for coordinates, round() to even for everything else."""
    if "choice" in h:
        return int({"columns": shape[1], "rows": shape[0], "randk": shape[0] * shape[1]}[h["choice"]] * h["density"])
    side = side_of(shape, h["proj_side"])
    return round({"right": shape[1], "left": shape[0], "full": min(shape)}[side] * h["density"])


def frugal_blocks(order, tensors, count, random):
    """Yields the active tensors of refresh 0, 1, ..., sorted. random(n) gives a permutation."""
    start = {"descending": tensors - 1}.get(order, 0)
    half = tensors // 2
    while True:
        if order == "random":
            active = list(random(tensors)[:count])
        elif order == "mirror":  # of an odd number of tensors the middle one is never active
            low = [i % half for i in range(start, start + count // 2)]
            active = low + [tensors - 1 - i for i in low]
            start += count // 2
            start -= half if start >= half else 0
        else:
            sign = -1 if order == "descending" else 1
            active = [(start + sign * i) % tensors for i in range(count)]
            start += sign * count
            start += tensors if start < 0 else -tensors if start >= tensors else 0
        yield sorted(int(i) for i in active)


def badam_blocks(mode, layers, every, random):
    """Yields the layer trained in step 1, 2, ...: the first one a step less than the others. A permutation is used from its end."""
    order, block, t = [], {"descending": layers - 1, "ascending": 0}.get(mode), 0
    while True:
        if t == 0 or (t + 1) % every == 0:
            if mode == "random":
                order = order or [int(i) for i in random(layers)]
                block = order.pop()
            elif t:
                block = (block + (1 if mode == "ascending" else -1)) % layers
        t += 1
        yield block


# --- 8-bit states and NF4 ---

NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
                -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
                0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0])


def dynamic_map(signed):
    """The middles of 2^i (unsigned 2^(i+1)) equal parts of [0.1, 1], times 10^(i-6), for i = 0..6; 0 and 1."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = np.linspace(0.1, 1, (2**i if signed else 2 ** (i + 1)) + 1)
        middles = (edges[1:] + edges[:-1]) / 2 * 10.0 ** (i - 6)
        values += [*middles, *(-middles if signed else ())]
    return np.sort(values)


def blocks_absmax(x, block):
    x = np.pad(x.ravel(), (0, -x.size % block)).reshape(-1, block)
    return np.abs(x).max(axis=1)


def quantize(x, values, block):
    absmax = blocks_absmax(x, block)
    scale = np.repeat(absmax, block)[: x.size].reshape(x.shape)
    scaled = np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)
    return np.searchsorted((values[1:] + values[:-1]) / 2, scaled), absmax  # a value at a middle takes the lower code


def dequantize(codes, absmax, values, block):
    return values[codes] * np.repeat(absmax, block)[: codes.size].reshape(codes.shape)


def cpu_quantize(x, values, block):
    """As bitsandbytes on a CPU, which first rounds to 65536 values, in float32."""
    absmax = blocks_absmax(x, block)
    one = np.float32(1)
    scaled = x.astype(np.float32) * (one / np.repeat(absmax, block)[: x.size].reshape(x.shape).astype(np.float32))
    grid = np.floor((scaled + one) * np.float32(32767.5) + np.float32(0.5)) / 32767.5 - 1
    return np.searchsorted((values[1:] + values[:-1]) / 2, grid), absmax


# --- Random numbers ---


def mt19937(seed):
    """A function that gives n 32-bit draws of std::mt19937 seeded with the low 32 bits."""
    generator = np.random.MT19937()
    generator._legacy_seeding(seed & 0xFFFFFFFF)
    return lambda n=None: int(generator.random_raw()) if n is None else generator.random_raw(n)


def torch_randn(n, seed):
    draw = mt19937(seed)
    if n < 16:
        result = []
        while len(result) < n:
            u1, u2 = (((draw() << 32 | draw()) & (2**53 - 1)) * 2.0**-53 for _ in range(2))
            radius = math.sqrt(-2 * math.log1p(-u2))
            result += [radius * math.cos(2 * math.pi * u1), radius * math.sin(2 * math.pi * u1)]
        return np.array(result[:n])

    def normal(u):  # of 16 uniform numbers; radius and angle are float32, and a rounding of the angle costs 1e-6 of the result
        u = u.astype(np.float32)
        radius, angle = np.sqrt(np.float32(-2) * np.log(np.float32(1) - u[:8])), np.float32(2 * np.pi) * u[8:]
        radius, angle = radius.astype(np.float64), angle.astype(np.float64)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])

    u = (draw(n) & 0xFFFFFF) * 2.0**-24
    result = u.copy()
    for at in range(0, n - 15, 16):
        result[at : at + 16] = normal(u[at : at + 16])
    if n % 16:
        result[-16:] = normal((draw(16) & 0xFFFFFF) * 2.0**-24)
    return result


def permute(n, draw):
    result = list(range(n))
    for i in range(n - 1):
        j = i + draw() % (n - i)
        result[i], result[j] = result[j], result[i]
    return result


def randn_difference(got, want):
    """Relative for numbers above 1."""
    return float((np.abs(got - want) / np.maximum(1.0, np.abs(want))).max())


def next_seed(seed):
    draws = [int(x) for x in mt19937(seed)(30)]
    return (draws[28] << 32 | draws[29]) % (2**63 - 1)
