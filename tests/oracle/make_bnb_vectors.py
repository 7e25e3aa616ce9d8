#!/usr/bin/env python3
"""Writes tests/optim/vectors/bnb.bin: bitsandbytes' 8-bit maps, block-wise quantisation, 8-bit AdamW and NF4, all on a CPU.

    python tests/oracle/make_bnb_vectors.py [--output FILE]

Needs torch 2.9 or later, numpy and bitsandbytes 0.50 or later: before that the 8-bit optimizer runs on a GPU only. The layout and the common
names are in vector_file.py. On a CPU decay comes before the update and the codes of the first moment keep no sign, unlike on a GPU.

The package has two quantisers here. The portable one, for devices without an own, gives the nearest code, as the GPU's does. The CPU's rounds
x / absmax to a grid of 65536 values from -1 to 1 before it looks for the nearest: no code for less than 1.5e-5 is ever given, and 0 becomes the
code for 1.5e-5 (131 of the signed ones). Its results are in the entries that are named cpu; everything else is made with the portable one. Entries:
  map/{signed,unsigned}         the 256 values of the codes
  quantize/{signed,unsigned}/   x, codes, codes_cpu, absmax for each 256 elements
  adamw8/CASE/...               stepT/{code_m,code_v,absmax_m,absmax_v} after the step
  adamw8_cpu/CASE/...           the same with the CPU's quantiser
  nf4/                          w, packed (the first element in the high nibble), absmax for each 64 elements
  nf4_double/                   absmax_code, absmax2 for each 256 of these, offset: absmax = map[absmax_code] absmax2 + offset
"""
import bitsandbytes as bnb
import bitsandbytes.functional as F
import torch

import parity_inputs as inputs
import vector_file
from bitsandbytes.backends.cpu import ops

CPU_REQUANTIZE = ops._quant_blockwise_fp32_direct


def nearest(x, code, blocksize):
    """The portable quantiser: the kernel that a device has for which none is registered."""
    kernel = torch.library.get_kernel("bitsandbytes::quantize_blockwise", "MPS")
    return kernel.call_boxed(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), x, code, blocksize)


def requantize_nearest(x, code, absmax_out, codes_out, blocksize):
    codes, absmax = nearest(x, code, blocksize)
    codes_out.copy_(codes)
    absmax_out.copy_(absmax)


def adamw8(writer, name, gradients, peak=1e-2, weight_decay=0.0, steps=8):
    case = vector_file.Case(writer, name)
    p = torch.nn.Parameter(inputs.weights(gradients))
    optimizer = bnb.optim.AdamW8bit([p], lr=1.0, eps=1e-8, weight_decay=weight_decay, min_8bit_size=0)
    case.hyper(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=weight_decay)
    rates = inputs.learning_rates(peak, steps)
    case.add(gradients=gradients, lr=rates, w0=p)
    for t, (lr, g) in enumerate(zip(rates, inputs.add_gradients(writer, gradients, steps)), 1):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = g.clone()
        optimizer.step()
        state = optimizer.state[p]
        case.step(t, w=p, code_m=state["state1"], code_v=state["state2"], absmax_m=state["absmax1"], absmax_v=state["absmax2"])


def check_claims():
    for size, dtype in ((4095, torch.float32), (4096, torch.uint8)):
        p = torch.nn.Parameter(torch.zeros(size))
        p.grad = torch.ones(size)
        optimizer = bnb.optim.AdamW8bit([p])
        optimizer.step()
        assert optimizer.state[p]["state1"].dtype == dtype, "tensors of less than 4096 elements keep float32 states"


def build(writer):
    check_claims()
    random = inputs.rng("bnb")
    for name, signed in (("signed", True), ("unsigned", False)):
        code = F.create_dynamic_map(signed=signed)
        writer.add(f"map/{name}", code.clone())
        x = torch.from_numpy((random.randn(256 * 3 + 40) * 10.0 ** random.uniform(-4, 1, 256 * 3 + 40)).astype("float32"))
        x = x if signed else x.abs()
        x[256:512] = torch.linspace(-1 if signed else 0, 1, 256)
        codes, absmax = nearest(x, code, 256)
        cpu, _ = torch.ops.bitsandbytes.quantize_blockwise.default(x, code.clone(), 256)
        for key, value in (("x", x), ("codes", codes), ("codes_cpu", cpu), ("absmax", absmax)):
            writer.add(f"quantize/{name}/{key}", value)
    ops._quant_blockwise_fp32_direct = requantize_nearest
    adamw8(writer, "adamw8/plain", "odd")
    adamw8(writer, "adamw8/decay", "odd_heavy", weight_decay=0.1)
    adamw8(writer, "adamw8/zerofirst", "odd_zerofirst", weight_decay=0.1, steps=3)
    ops._quant_blockwise_fp32_direct = CPU_REQUANTIZE
    adamw8(writer, "adamw8_cpu/decay", "odd_heavy", weight_decay=0.1, steps=4)
    w = torch.from_numpy((0.02 * random.randn(64 * 258 + 40)).astype("float32"))
    packed, state = F.quantize_4bit(w, blocksize=64, compress_statistics=False, quant_type="nf4")
    for key, value in (("w", w), ("packed", packed.flatten()), ("absmax", state.absmax)):
        writer.add(f"nf4/{key}", value)
    offset = state.absmax.mean()
    absmax_code, absmax2 = nearest(state.absmax - offset, F.create_dynamic_map(True), 256)
    for key, value in (("offset", offset), ("absmax_code", absmax_code), ("absmax2", absmax2)):
        writer.add(f"nf4_double/{key}", value)
    cpu, double = F.quantize_4bit(w, blocksize=64, compress_statistics=True, quant_type="nf4")
    assert torch.equal(cpu, packed) and torch.equal(double.offset, offset) and torch.equal(double.state2.absmax, absmax2)
    return inputs.versions("torch", "numpy", "bitsandbytes")


if __name__ == "__main__":
    vector_file.main(__doc__, "bnb.bin", build)
