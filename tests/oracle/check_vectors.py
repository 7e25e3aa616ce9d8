#!/usr/bin/env python3
"""Replays the vector files in tests/optim/vectors with the optimizers written anew in float64 (methods.py). Fails where the two differ by more than
the tolerance beside each file's name in main().

    python tests/oracle/check_vectors.py [--folder FOLDER] [--verbose]

Needs numpy. Prints per kind of case the worst relative difference of each quantity. An element's difference is taken relative to the largest
value that this element has had in the run; where matrices are multiplied (apollo, galore) to at least 1e-2 of the largest in its row, because a
sum that cancels keeps the rounding of its terms.
"""
import argparse
import math
import pathlib
import sys

import numpy as np

import vector_file
from methods import (
    NF4, adamw_a, adamw_b, adamw_deepspeed, apollo, badam_blocks, blocks_absmax, cpu_quantize, dequantize, dynamic_map,
    frugal, frugal_blocks, frugal_count, frugal_refresh, frugal_rule, galore, goes_right, lion, mt19937, new_state, next_seed,
    norm, permute, quantize, randn_difference, sgd, side_of, state_free, torch_randn,
)

# --- Comparing ---


class Worst:
    """The worst difference of each quantity, and whether it is in the tolerance."""

    def __init__(self, verbose):
        self.table, self.failures, self.verbose, self.seen, self.row_floor = {}, [], verbose, {}, 0.0

    def track(self, where, quantity, value):
        """The largest values so far of the elements of a case's quantity, which are also told of the values that the file does not have."""
        key, peak = (where.rsplit("/", 1)[0], quantity), np.abs(value)
        if key in self.seen and self.seen[key].shape == peak.shape:
            peak = np.maximum(peak, self.seen[key])
        self.seen[key] = peak
        return peak

    def difference(self, where, quantity, got, want, tolerance, skip=None):
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        if got.shape != want.shape:
            self.failures.append(f"{where} {quantity}: shape {got.shape}, the file has {want.shape}")
            return
        peak = self.track(where, quantity, want)
        scale = np.maximum(peak, self.row_floor * peak.max(axis=-1, keepdims=True)) if peak.ndim == 2 and peak.size else peak
        error = np.abs(got - want)
        relative = np.divide(error, scale, out=np.where(error > 0, np.inf, 0.0), where=scale > 0)
        if skip is not None:
            relative = np.where(skip, 0.0, relative)
        self.record(where, quantity, float(relative.max(initial=0.0)), tolerance)

    def record(self, where, quantity, value, tolerance):
        kind = "/".join(where.split("/")[:2] if self.verbose else where.split("/")[:1])
        worst, limit, _ = self.table.get((kind, quantity), (0.0, tolerance, ""))
        self.table[kind, quantity] = max((worst, tolerance, where), (value, tolerance, where))
        if not value <= tolerance:
            self.failures.append(f"{where} {quantity}: {value:.3g}, allowed {tolerance:g}")

    def equal(self, where, quantity, got, want):
        same = np.array_equal(got, want)
        self.record(where, quantity, 0.0 if same else math.inf, 0.0)


class Case:
    def __init__(self, entries, name):
        self.entries, self.name = entries, name
        prefix = f"{name}/h/"
        self.h = {k[len(prefix) :]: v if isinstance(v, str) else float(v) for k, v in entries.items() if k.startswith(prefix)}
        self.lr = entries.get(f"{name}/lr")

    def get(self, key):
        return self.entries.get(f"{self.name}/{key}")

    def array(self, key):
        value = self.get(key)
        return None if value is None else value.astype(np.float64) if value.dtype == np.float32 else value

    def gradient(self, t, tensor=""):
        return self.entries[f"gradients/{self.get(tensor + 'gradients')}/step{t}"].astype(np.float64)

    def steps(self):
        """(t, learning rate)"""
        return enumerate(map(float, self.lr), 1)


def cases(entries, *families):
    names = {k.removesuffix("/w0") for k in entries if k.endswith("/w0") and "/tensor" not in k and k.split("/")[0] in families}
    if not names:
        sys.exit(f"no cases {families}")
    return [Case(entries, name) for name in sorted(names)]


def replay(worst, case, method, tolerance, before_step=None, after_step=None, skip=None, restart_from_file=False, moments=("m", "v")):
    """Runs the case and compares what is stored. skip(s, t): elements of the weights not to compare at this step; with restart_from_file each
    step begins with the stored weights, so that they do not count in later steps either."""
    w, s = case.array("w0"), new_state()
    s.limiter = None
    worst.track(f"{case.name}/w0", "w", w)
    for t, lr in case.steps():
        where, want = f"{case.name}/step{t}", case.array(f"step{t}/w")
        if case.get(f"step{t}/skipped") is None:
            if before_step:
                before_step(s, t)
            w = method(s, w, case.gradient(t), lr, case.h)
            for quantity in moments:
                stored = case.array(f"step{t}/{quantity}")
                worst.track(where, quantity, getattr(s, quantity))
                if stored is not None:
                    worst.difference(where, quantity, getattr(s, quantity), stored, tolerance)
            if after_step:
                after_step(s, t)
        worst.difference(where, "w", w, want, tolerance, skip(s, t) if skip else None)
        if restart_from_file:
            w = want
    return w


# --- The files ---


def check_simple(worst, e, tolerance):
    for family, method in {"sgd": sgd, "lion": lion, "adamw_a": adamw_a, "adamw_b": adamw_b}.items():
        for case in cases(e, family):
            replay(worst, case, method, tolerance)
    a, b = (Case(e, f"adamw_{family}/small").get("step2/w") for family in "ab")
    if np.allclose(a, b, rtol=1e-3):
        worst.failures.append("eps makes no difference between the families")


def check_deepspeed(worst, e, tolerance):
    for case in cases(e, "adamw_ds"):
        replay(worst, case, adamw_deepspeed, tolerance)


def refresh_from(case):
    """Gives the stored projection to the state at the steps that begin with a new one, and checks that these are the steps that should."""
    done = [0]

    def before_step(s, t):
        stored = case.array(f"step{t}/p")
        if (stored is not None) != (done[0] % int(case.h["gap"]) == 0):
            raise AssertionError(f"{case.name}/step{t}: a new projection is expected when the steps done are a multiple of gap, and only then")
        if stored is not None:
            s.p, s.p2 = stored, case.array(f"step{t}/p2")
        done[0] += 1

    return before_step


def check_apollo(worst, e, tolerance):
    worst.row_floor = 1e-2
    for case in cases(e, "apollo", "mini", "limiter", "zero", "unit", "svd"):

        def after_step(s, t):
            where = f"{case.name}/step{t}"
            worst.difference(where, "s", s.factors, case.array(f"step{t}/s"), tolerance)
            if not case.h["disable_nl"]:
                worst.difference(where, "limiter", s.limiter, case.array(f"step{t}/limiter"), tolerance)
            seed = case.get(f"step{t}/seed")
            if seed is not None and case.name.split("/")[0] != "unit":
                check_projection(worst, case, where, t, s.p, seed)

        replay(worst, case, apollo, tolerance, refresh_from(case), after_step)
    for case in cases(e, "regular"):
        replay(worst, case, adamw_b, tolerance)
    check_apollo_seeds(worst, e)
    check_apollo_closed_forms(worst, e)
    for case in cases(e, "bf16"):
        check_bf16(worst, case)


def check_projection(worst, case, where, t, p, seed_after):
    """P and the next seed, of the chain that begins with the tensor's number."""
    seed = int(case.get("seed0"))
    for _ in range(int((t - 1) // case.h["gap"])):
        seed = next_seed(seed)
    worst.equal(where, "seed", next_seed(seed), seed_after)
    error = randn_difference(torch_randn(p.size, seed).reshape(p.shape), p * math.sqrt(case.h["rank"]))
    worst.record(where, "projection", error, 1e-6)


def check_apollo_seeds(worst, e):
    for i in range(3):
        case = Case(e, f"seeds/matrix{i}")
        worst.equal(case.name, "first seed", case.get("seed0"), 20 + i)
        seed = 20 + i
        for t in (1, 2, 3):
            p = case.array(f"step{t}/p")
            error = randn_difference(torch_randn(p.size, seed).reshape(p.shape), p * 2.0)
            worst.record(f"{case.name}/step{t}", "projection", error, 1e-6)
            seed = next_seed(seed)
            worst.equal(f"{case.name}/step{t}", "next seed", case.get(f"step{t}/seed"), seed)


def check_apollo_closed_forms(worst, e):
    for case in cases(e, "unit"):  # at the first step |Rt_i| is sqrt(r) times a constant, where eps is nothing beside R
        g, lr, right = case.gradient(1), float(case.lr[0]), goes_right(case.gradient(1).shape)
        r = int(case.h["rank"])
        projected = g[:, :r] if right else g[:r].T
        rows = np.abs(projected).min(axis=1) > 0.1
        assert rows.any()
        g_rows = (g if right else g.T)[rows]
        want = -lr * math.sqrt(case.h["scale"] * r) * g_rows / norm(projected[rows], 1, True)
        moved = case.array("step1/w") - case.array("w0")
        worst.difference(f"{case.name}/step1", "closed form", (moved if right else moved.T)[rows], want, 1e-3)
    for name in ("limiter/channel", "limiter/tensor"):
        p = [float(Case(e, name).get(f"step{t}/limiter")) for t in range(1, 13)]
        growth = p[4] / p[3]
        worst.record(f"{name}/step5", "growth - 1.01", abs(growth - 1.01), 2e-6)
        if not min(b / a for a, b in zip(p, p[1:])) < 0.9:
            worst.failures.append(f"{name}: the limiter did not let the norm drop")
    p = [float(Case(e, "zero/matrix").get(f"step{t}/limiter")) for t in range(1, 13)]
    for t, norm_ in enumerate(p):  # after a first gradient of 0 the norm may only grow as this: 1,388 more steps to 1
        worst.record(f"zero/matrix/step{t + 1}", "lock-up", abs(norm_ - 1.01e-6 * (1.01**t - 1)), 1e-6 * 1.2e-7)


def check_bf16(worst, case):
    """Ours in float64 from gradients rounded to bfloat16: the direction of the whole way."""
    w0 = case.array("w0")
    w, s = w0, new_state()
    s.limiter = None
    before_step = refresh_from(case)
    for t, lr in case.steps():
        before_step(s, t)
        w = apollo(s, w, to_bf16(case.gradient(t)), lr, case.h)
        official = case.array(f"step{t}/w") - w0
    cosine = float(np.sum((w - w0) * official) / (norm(w - w0) * norm(official)))
    worst.record(f"{case.name}/step{t}", "1 - cosine", 1 - cosine, 1e-3)


def check_galore(worst, e, tolerance):
    worst.row_floor = 1e-2
    for case in cases(e, "galore", "svd", "proj_type"):
        before_step = refresh_from(case)

        def compare_subspace(s, t):
            before_step(s, t)
            if case.name.startswith("svd/") and case.get(f"step{t}/p") is not None:
                left, _, right = np.linalg.svd(case.gradient(t), full_matrices=False)
                rank = int(case.h["rank"])
                ours, theirs = (right[:rank].T, s.p.T) if goes_right(case.gradient(t).shape) else (left[:, :rank], s.p)
                worst.record(f"{case.name}/step{t}", "subspace", float(norm(ours @ ours.T - theirs @ theirs.T)), 1e-4)

        replay(worst, case, galore, tolerance, compare_subspace)


def check_frugal(worst, e, tolerance, projected_tolerance):
    excluded = [0, 0]
    for case in cases(e, "coord", "lion", "sgd", "edge", "project"):
        gap, projected = int(case.h["gap"]), case.name.startswith("project/")
        exact = case.h.get("proj_type") == "randperm"  # the residual is the gradient's or exactly 0
        worst.row_floor = 1e-2 if projected and not exact else 0.0
        shape = case.get("w0").shape

        def before_step(s, t):
            if (t - 1) % gap == 0:
                frugal_refresh(s, case.h)
                s.indices, s.p, s.p2 = case.get(f"step{t}/indices"), case.array(f"step{t}/p"), case.array(f"step{t}/p2")
                count = frugal_count(case.h, shape)
                size = len(s.indices) if not projected else s.p.shape[0 if side_of(shape, case.h["proj_side"]) == "right" else 1]
                worst.equal(f"{case.name}/step{t}", "count", size, count)

        def skip(s, t):  # whose sign is rounding
            if not projected or exact or case.h["rule"] != "sign_sgd":
                return None
            small = np.abs(s.e) <= 1e-6 * np.abs(s.e).max()
            excluded[0] += int(small.sum())
            excluded[1] += small.size
            return small

        replay(worst, case, frugal, projected_tolerance if projected else tolerance, before_step, None, skip, projected)
        if not projected and case.h["reset"] and case.h["inactive_lr_scale"] == 1 and case.h["rule"] == "sign_sgd" and "eps" in case.h:
            for t in range(1, len(case.lr) + 1, gap):  # the first step in a subspace is the sign of the gradient everywhere
                w, g, lr = case.array(f"step{t - 1}/w" if t > 1 else "w0"), case.gradient(t), float(case.lr[t - 1])
                moved = case.array(f"step{t}/w") - (1 - lr * case.h["weight_decay"]) * w
                sure = np.abs(g) > 1e-4
                worst.difference(f"{case.name}/step{t}", "signSGD", np.where(sure, moved, 0), np.where(sure, -lr * np.sign(g), 0), 2e-4)
    worst.row_floor = 0.0
    worst.table["project", "signs left out"] = (excluded[0], excluded[1], "elements")
    replay(worst, Case(e, "regular/vector"), adamw_a, tolerance)
    replay(worst, Case(e, "edge/density1"), adamw_a, tolerance, moments=())  # whose columns are in another order
    for name in sorted({k.split("/h/")[0] for k in e if k.startswith("block/") and "/h/" in k}):
        check_frugal_block(worst, Case(e, name), tolerance)


def permutations(seed):
    draw = mt19937(seed)
    return lambda n: permute(n, draw)


def check_frugal_block(worst, case, tolerance):
    h, n = case.h, int(case.get("tensors"))
    worst.equal(case.name, "count", case.get("count"), round(n * h["density"]))
    sequence = frugal_blocks(h["block_order"], n, int(case.get("count")), permutations(int(case.get("seed"))))
    w, states = [case.array(f"tensor{i}/w0") for i in range(n)], {}
    for i in range(n):
        worst.track(f"{case.name}/w0", f"w{i}", w[i])
    for t, lr in case.steps():
        if (t - 1) % int(h["gap"]) == 0:  # every state goes, whatever "reset" says
            states = {i: new_state() for i in next(sequence)}
            worst.equal(f"{case.name}/step{t}", "active", case.get(f"step{t}/active"), sorted(states))
        for i in range(n):
            g = case.gradient(t, f"tensor{i}/")
            update = frugal_rule(states[i], g, h) if i in states else state_free(g, h)
            w[i] = (1 - lr * h["weight_decay"]) * w[i] - lr * h["proj_params_lr_scale"] * update
            worst.difference(f"{case.name}/step{t}", f"w{i}", w[i], case.array(f"step{t}/tensor{i}/w"), tolerance)


def to_bf16(x):
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def check_schedules(worst, e, tolerance):
    for name in sorted({k.rsplit("/", 1)[0] for k in e if k.startswith("order/") and k.endswith("/count")}):
        case, (_, order, rho) = Case(e, name), name.split("/")
        worst.equal(name, "count", case.get("count"), round(21 * float(rho.removeprefix("rho"))))
        sequence = frugal_blocks(order, 21, int(case.get("count")), permutations(int(case.get("seed"))))
        for k in range(9):
            worst.equal(f"{name}/refresh{k}", "active", case.get(f"refresh{k}/active"), next(sequence))
    for mode in ("descending", "ascending", "random"):
        check_badam(worst, Case(e, f"badam/{mode}"), mode, tolerance)
    for seed in (0, 42):
        case = Case(e, f"lisa/draw/seed{seed}")
        random = np.random.RandomState(seed)
        for row in case.get("active"):
            worst.equal(case.name, "active", row, random.permutation(int(case.get("layers")))[: int(case.get("gamma"))])
    for rule in ("keep", "drop", "restart"):
        check_lisa(worst, Case(e, f"lisa/{rule}"), rule, tolerance)


def check_badam(worst, case, mode, tolerance):
    every, layers = int(case.get("K")), int(case.get("layers"))
    blocks = badam_blocks(mode, layers, every, permutations(int(case.get("seed"))))
    weights = {i: case.array(f"tensor{i}/w0") for i in range(int(case.get("tensors")))}
    masters, states = {}, {}
    for t, lr in case.steps():
        block = next(blocks)
        worst.equal(f"{case.name}/step{t}", "block", case.get("blocks")[t - 1], block)
        if case.get("blocks")[t - 1] != block:
            return
        tensors = (2 * block, 2 * block + 1)
        if t == 1 or t % every == 0:
            masters, states = {i: weights[i] for i in tensors}, {i: new_state() for i in tensors}
            for i in tensors:
                worst.track(f"{case.name}/tensor{i}/w0", "master", weights[i])
        for i in tensors:
            masters[i] = adamw_a(states[i], masters[i], case.array(f"step{t}/tensor{i}/g"), lr, case.h)
            weights[i] = to_bf16(masters[i])
            worst.difference(f"{case.name}/tensor{i}/step{t}", "master", masters[i], case.array(f"step{t}/tensor{i}/master"), tolerance)
            worst.equal(f"{case.name}/step{t}", "bf16 weights", case.array(f"step{t}/tensor{i}/w"), weights[i])


def check_lisa(worst, case, rule, tolerance):
    layers, n = int(case.get("layers")), int(case.get("tensors"))
    w, states = [case.array(f"tensor{i}/w0") for i in range(n)], [new_state() for _ in range(n)]
    for i in range(n):
        worst.track(f"{case.name}/w0", f"w{i}", w[i])
    for t, lr in case.steps():
        if (t - 1) % int(case.get("K")) == 0:
            active = set(case.get("active")[(t - 1) // int(case.get("K"))]) | set(range(layers, n))
            for i in range(n):
                if rule == "restart" or (rule == "drop" and i not in active):
                    states[i] = new_state()
        for i in range(n):
            if i in active:
                w[i] = adamw_a(states[i], w[i], case.gradient(t, f"tensor{i}/"), lr, case.h)
            worst.difference(f"{case.name}/step{t}", f"w{i}", w[i], case.array(f"step{t}/tensor{i}/w"), tolerance)


def check_seeds(worst, e):
    for name, want in e.items():
        kind, *rest = name.split("/")
        if kind == "versions":
            continue
        seed = int(rest[0].removeprefix("seed"))
        if kind == "randn":
            worst.record(name, "randn", randn_difference(torch_randn(want.size, seed), want), 1e-6)
        elif kind == "randperm":
            worst.equal(name, "randperm", permute(want.size, mt19937(seed)), want)
        else:
            for value in want:
                seed = next_seed(seed)
                worst.equal(name, "next seed", value, seed)


def check_bnb(worst, e, tolerance):
    maps = {name: dynamic_map(name == "signed") for name in ("signed", "unsigned")}
    for name, values in maps.items():
        worst.record(f"map/{name}", "map (absolute)", float(np.abs(values - e[f"map/{name}"]).max()), 1e-7)
        x = e[f"quantize/{name}/x"].astype(np.float64)
        codes, absmax = quantize(x, values, 256)
        worst.equal(f"quantize/{name}", "absmax", absmax, e[f"quantize/{name}/absmax"])
        compare_codes(worst, f"quantize/{name}", codes, e[f"quantize/{name}/codes"])
        compare_codes(worst, f"quantize/{name} on a CPU", cpu_quantize(x, values, 256)[0], e[f"quantize/{name}/codes_cpu"])
    signed, unsigned = maps["signed"], maps["unsigned"]
    for case in cases(e, "adamw8", "adamw8_cpu"):
        again = cpu_quantize if case.name.startswith("adamw8_cpu") else quantize
        s, w = new_state(), case.array("w0")
        worst.track(f"{case.name}/w0", "w", w)
        for t, lr in case.steps():
            where = f"{case.name}/step{t}"
            if t > 1:  # from the stored codes, so that a code at a threshold counts once
                s.m, s.v = (dequantize(case.get(f"step{t - 1}/code_{q}"), case.array(f"step{t - 1}/absmax_{q}"), values, 256)
                            for q, values in (("m", signed), ("v", unsigned)))
            w = adamw_a(s, w, case.gradient(t), lr, case.h)
            worst.difference(where, "w", w, case.array(f"step{t}/w"), tolerance)
            w = case.array(f"step{t}/w")
            for q, value, values in (("m", s.m, signed), ("v", s.v, unsigned)):
                stored = case.array(f"step{t}/absmax_{q}")
                stored = np.where(stored > 1e-37, stored, 0)  # the portable quantiser writes 1e-38 for a last block, shorter than 256, of zeros
                worst.difference(where, f"absmax_{q}", blocks_absmax(value, 256), stored, tolerance)
                if np.all(stored > 0):
                    compare_codes(worst, f"{where} {q}", again(value, values, 256)[0], case.get(f"step{t}/code_{q}"))
    w = e["nf4/w"].astype(np.float64)
    codes, absmax = quantize(w, NF4, 64)
    worst.equal("nf4", "absmax", absmax, e["nf4/absmax"])
    packed = e["nf4/packed"]
    compare_codes(worst, "nf4", codes, np.stack([packed >> 4, packed & 15], 1).ravel())
    stored = e["nf4/absmax"].astype(np.float64)
    worst.record("nf4_double", "offset", abs(float(e["nf4_double/offset"]) / stored.mean() - 1), 1e-6)
    codes, absmax = quantize(stored - float(e["nf4_double/offset"]), signed, 256)
    worst.record("nf4_double", "absmax2", float(np.abs(absmax / e["nf4_double/absmax2"] - 1).max()), 1e-6)
    compare_codes(worst, "nf4_double", codes, e["nf4_double/absmax_code"])


def compare_codes(worst, where, got, want):
    """All but a thousandth equal, or one element; the others beside each other."""
    apart = np.abs(got.astype(int) - want.astype(int))
    worst.record(where, "codes: largest apart", int(apart.max()), 1)
    worst.record(where, "codes: part apart", float((apart > 0).mean()), max(1e-3, 1 / apart.size))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, default=vector_file.FOLDER)
    parser.add_argument("--verbose", action="store_true", help="a line for each case")
    arguments = parser.parse_args()
    failed = False
    for name, check in (("simple", lambda w, e: check_simple(w, e, 1e-6)), ("deepspeed", lambda w, e: check_deepspeed(w, e, 1e-6)),
                        ("apollo", lambda w, e: check_apollo(w, e, 1e-5)),
                        ("galore", lambda w, e: check_galore(w, e, 1e-5)), ("frugal", lambda w, e: check_frugal(w, e, 1e-6, 1e-5)),
                        ("schedules", lambda w, e: check_schedules(w, e, 1e-6)), ("seeds", check_seeds),
                        ("bnb", lambda w, e: check_bnb(w, e, 1e-5))):
        worst = Worst(arguments.verbose)
        entries = vector_file.read(arguments.folder / f"{name}.bin")
        check(worst, entries)
        print(f"{name}.bin ({entries['versions']})")
        for (kind, quantity), (value, tolerance, where) in sorted(worst.table.items()):
            print(f"  {kind:26} {quantity:22} {value:9.2e} of {tolerance:g}  at {where}")
        for failure in worst.failures[:20]:
            print(f"  FAILED {failure}")
        failed = failed or bool(worst.failures)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
