#!/usr/bin/env python3
"""The GPU kernels that must give the host's bits are made of the roundings that their formula names, and of no other.

    tests/structure/ptx_test.py --nvcc /usr/local/cuda/bin/nvcc

Reads the PTX that nvcc makes with contraction allowed: the sources may not depend on the flags of the build, which forbids it
too. An instruction with an explicit rounding (mul.rn.f32) is never fused by later stages; one without (mul.f32) may be.
"""
import argparse
import collections
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77
FLAGS = ("-std=c++20", "-O3", "-arch=sm_80", "-fmad=true", "--expt-relaxed-constexpr", f"-I{ROOT}", "--ptx")
FLOATS = {"f16", "f16x2", "bf16", "bf16x2", "tf32", "f32", "f32x2", "f64"}
MOVES = {"ld", "st", "mov", "selp", "shfl"}  # they change no bit

# What one element takes, by a part of the kernel's mangled name; and what a kernel does once beside its elements.
ADAMW = {"mul.rn.f32": 4, "sub.rn.f32": 1, "fma.rn.f32": 4, "div.rn.f32": 1, "sqrt.rn.f32": 1}
MOMENTS = {"mul.rn.f32": 2, "sub.rn.f32": 1, "add.rn.f32": 1, "fma.rn.f32": 2, "div.rn.f32": 1, "sqrt.rn.f32": 1}
SQUARE = {"cvt.f64.f32": 1, "mul.rn.f64": 1, "add.rn.f64": 1}
TREE = {"add.rn.f64": 11}  # over the 16 lanes of a norm block, of which a thread has 4
SQUARES = {"add.rn.f64": 4, "setp.nan.f64": 1}  # of a row, from its 16 lanes
CHANGE = {"sub.rn.f32": 2, "div.rn.f32": 1, "mul.rn.f32": 1, "add.rn.f32": 1, "cvt.rzi.s32.f32": 1, "min.f32": 1, "neg.f32": 1,
          "setp.eq.f32": 1, "setp.lt.f32": 1, "setp.geu.f32": 1}
LION = {"mul.rn.f32": 4, "fma.rn.f32": 3}
FROM_F16 = {"cvt.rn.f32.u16": 1, "mul.f32": 1}  # a denormal: an integer below 2^10 times 2^-24, exact


def frugal(element):
    """What it takes with states and, beside it, without: a copy for each of the three rules, of which one does not look at the gradient."""
    return {opcode: 3 * n + {"mul.rn.f32": 5, "fma.rn.f32": 3}.get(opcode, 0) for opcode, n in element.items()}


KERNELS = {
    "optim/gpu/updates.cu": {
        "9AdamWRule": (ADAMW, {}),
        "TransformersAdamWRule": ({"mul.rn.f32": 4, "sub.rn.f32": 1, "add.rn.f32": 1, "fma.rn.f32": 3, "div.rn.f32": 1, "sqrt.rn.f32": 1}, {}),
        "LionRule": (LION, {}),
        "SgdRule": ({"mul.rn.f32": 1, "fma.rn.f32": 2}, {}),
        "MomentumRule": ({"mul.rn.f32": 1, "fma.rn.f32": 3}, {}),
        "NesterovRule": ({"mul.rn.f32": 1, "fma.rn.f32": 4}, {}),
    },
    "optim/gpu/updates_8bit.cu": {
        # Decoding and encoding of both states; their scales.
        "9AdamWRule": (ADAMW | {"mul.rn.f32": ADAMW["mul.rn.f32"] + 4}, {"div.rn.f32": 2, "setp.gt.f32": 2, "setp.lt.f32": 2}),
    },
    "optim/gpu/low_rank.cu": {
        # A thread has 16 sums, and adds 16 products to each between two barriers.
        "14project_kernel": ({"mul.rn.f32": 1}, {"fma.rn.f32": 256}),
        "19project_back_kernel": ({"mul.rn.f32": 1, "fma.rn.f32": 1}, {"fma.rn.f32": 256}),
        # Copies for the three rules of the residual, of which one does not look at it, with and without a bf16 copy of p.
        "17split_back_kernel": ({"mul.rn.f32": 10, "sub.rn.f32": 4, "fma.rn.f32": 12}, {"fma.rn.f32": 512}),
        "AdamWDirection": ({"mul.rn.f32": 2, "sub.rn.f32": 1, "fma.rn.f32": 3, "sqrt.rn.f32": 1, "div.rn.f32": 1}, {}),
        "LionDirection": ({"mul.rn.f32": 2, "fma.rn.f32": 2}, {}),
        "MomentumDirection": ({"fma.rn.f32": 1}, {}),
        "14moments_kernel": (MOMENTS, {}),
        "18row_factors_kernel": (
            MOMENTS | {opcode: 2 * n for opcode, n in SQUARE.items()},
            {"add.rn.f64": 9, "setp.nan.f64": 2, "sqrt.rn.f64": 2, "div.rn.f64": 1, "cvt.rn.f32.f64": 1},
        ),
        "18row_squares_kernel": (SQUARE | {"mul.rn.f32": 1}, SQUARES),
        "17scale_rows_kernel": ({"mul.rn.f32": 2, "fma.rn.f32": 1}, {"cvt.f64.f32": 1, "mul.rn.f64": 1, "cvt.rn.f32.f64": 1}),
    },
    "optim/gpu/projection.cu": {
        # A thread has two pairs.
        "13normal_kernel": ({"add.rn.f32": 1, "sub.rn.f32": 1, "mul.rn.f32": 8, "fma.rn.f32": 18, "sqrt.rn.f32": 1, "cvt.rn.f32.s32": 3}, {}),
    },
    "optim/gpu/frugal.cu": {
        "AdamWRule": (frugal(ADAMW), {}),
        "LionRule": (frugal(LION), {}),
        "FrugalMomentumRule": (frugal({"mul.rn.f32": 2, "fma.rn.f32": 2}), {}),
    },
    "runtime/gpu/kernels/elementwise.cu": {
        "add_kernelIf": ({"add.rn.f32": 1}, {}),
        "add_kernelINS_4bf16": ({"add.rn.f32": 1}, {}),
        "cast_kernelIf": ({}, {}),
        "cast_kernelINS_4bf16": ({}, {}),
        "cast_kernelINS_3f16": (FROM_F16, {}),
        "sum_squares_kernelIv": (SQUARE, TREE),
        "sum_squares_kernelINS_4bf16": (SQUARE, TREE),
        "sum_changes_kernel": (CHANGE, {}),
        "add_changes_kernel": ({}, {}),
    },
    "runtime/gpu/kernels/column_sums.cu": {
        "block_sums_kernel": ({"add.rn.f32": 1}, {}),
        "total_sums_kernel": ({"add.rn.f32": 1}, {}),
    },
    "runtime/gpu/kernels/embedding.cu": {"embedding_forward_kernel": ({"add.rn.f32": 1}, {})},
    "runtime/gpu/kernels/embedding_backward.cu": {
        "add_token_rows_kernel": ({"add.rn.f32": 1}, {}),
        "add_position_rows_kernel": ({"add.rn.f32": 1}, {}),
    },
    "parallel/gpu/rank_sum.cu": {"rank_sum_kernel": ({"add.rn.f32": 1}, {})},
}


def arithmetic_by_kernel(ptx):
    """Name of each kernel in `ptx` -> how often it has each instruction that computes with floating-point numbers, or calls."""
    kernels = {}
    for name, body in re.findall(r"\.entry\s+(\w+)\s*\(.*?\)[^{]*\{(.*?)\n\}", ptx, re.DOTALL):
        counts = kernels.setdefault(name, collections.Counter())
        for opcode in re.findall(r"^\s*(?:@!?%\w+\s+)?([a-z]\w*(?:\.[\w:]+)*)\s[^;]*;", body, re.MULTILINE):
            parts = opcode.split(".")
            if parts[0] == "call" or (FLOATS & set(parts) and parts[0] not in MOVES):
                counts[opcode] += 1
    return kernels


def problems(ptx, expected):
    """Sentences about the kernels of `ptx` that have other arithmetic than a whole number of elements takes."""
    kernels = arithmetic_by_kernel(ptx)
    for part, (element, once) in expected.items():
        names = [name for name in kernels if part in name]
        if not names:
            yield f"there is no kernel {part}: the test looks for a name that is gone"
        for name in names:
            found = kernels[name] - collections.Counter(once)
            elements = min((found[opcode] // n for opcode, n in element.items()), default=1)
            if elements < 1 or found != collections.Counter({opcode: elements * n for opcode, n in element.items()}):
                yield f"{name} has {dict(kernels[name])}, expected {element} for each element and {once} once"
    for name in kernels:
        if not any(part in name for part in expected):
            yield f"nobody says which arithmetic {name} should have"


def compile_ptx(nvcc, source, *flags):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "kernel.ptx"
        done = subprocess.run([nvcc, *FLAGS, *flags, str(source), "-o", str(out)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{source} does not compile:\n{done.stdout}{done.stderr}")
        return out.read_text()


def with_plain_operators(source):
    """updates.cu, with its operations in it, as it would look to somebody who has not read device.h."""
    include = '#include "optim/gpu/update_ops.h"'
    assert include in source
    source = source.replace(include, (ROOT / "optim/gpu/update_ops.h").read_text().replace("#pragma once", ""))
    for name, operator in (("mul", "*"), ("sub", "-"), ("div", "/")):
        source = source.replace(f"{name}_rn(a, b)", f"a {operator} b")
    return source.replace("fma_rn(a, b, c)", "a * b + c")


def check_that_it_can_fail(nvcc, good, pool):
    expected = KERNELS["optim/gpu/updates.cu"]
    source = ROOT / "optim/gpu/updates.cu"
    with tempfile.TemporaryDirectory() as folder:
        plain = pathlib.Path(folder) / "plain.cu"
        plain.write_text(with_plain_operators(source.read_text()))
        compiled = {
            "plain operators": pool.submit(compile_ptx, nvcc, plain),
            "--use_fast_math": pool.submit(compile_ptx, nvcc, source, "--use_fast_math"),
        }
        mutants = {what: ptx.result() for what, ptx in compiled.items()}
    for before, after in (
        ("div.rn.f32", "div.full.f32"),
        ("sqrt.rn.f32", "sqrt.approx.f32"),
        ("mul.rn.f32", "mul.f32"),
        ("mul.rn.f32", "mul.rn.ftz.f32"),
        ("mul.rn.f32", "fma.rn.f32"),
        ("mul.rn.f32", "call.uni"),
        ("AdamWRule", "RenamedRule"),
    ):
        assert before in good, before
        mutants[f"{after} for {before}"] = good.replace(before, after, 1)
    for what, ptx in mutants.items():
        assert list(problems(ptx, expected)), f"{what} was not noticed"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", default="nvcc")
    options = parser.parse_args()
    nvcc = shutil.which(options.nvcc)
    if nvcc is None:
        print(f"skipped: there is no CUDA compiler {options.nvcc} here")
        return SKIPPED
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = {name: pool.submit(compile_ptx, nvcc, ROOT / name) for name in KERNELS}
        ptx = {name: future.result() for name, future in compiled.items()}
        check_that_it_can_fail(nvcc, ptx["optim/gpu/updates.cu"], pool)
    found = [f"{name}: {problem}" for name, expected in KERNELS.items() for problem in problems(ptx[name], expected)]
    print("\n".join(found) or f"{sum(map(len, map(arithmetic_by_kernel, ptx.values())))} kernels round as their formula says")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
