#!/usr/bin/env python3
"""DeepSpeed's CPU Adam as `strata bench adam` times the update: one flat fp32 parameter with fp32 gradients and moments.

Prints one JSON object of the form of `strata bench adam --json`. Needs torch and deepspeed, whose kernel is built on first use (ninja
and a C++ compiler; TORCH_EXTENSIONS_DIR says where). The kernel writes no 16-bit parameters: with --precision bf16 a copy to bf16
follows the step, as in ZeRO-Offload. --memory placed gives it arrays as ours are: huge pages, and no distance that is a power of two.
"""
import argparse
import math
import mmap
import os

from pytorch_common import Timer, machine, measurement, print_result

SKEW = 64 << 10  # kArraySkew of launcher/stream_copy.h
PATTERN = 1013


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=1 << 25)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=11, help="timed steps, after those that warm up")
    parser.add_argument("--memory", choices=("torch", "placed"), default="torch", help="who lays out the arrays")
    return parser.parse_args()


class Placed:
    """Tensors of one range of huge pages."""

    def __init__(self, torch, bytes_):
        self.torch, self.at = torch, 0
        self.memory = mmap.mmap(-1, bytes_)
        self.memory.madvise(mmap.MADV_HUGEPAGE)

    def empty(self, n, dtype):
        tensor = self.torch.frombuffer(self.memory, dtype=dtype, count=n, offset=self.at)
        self.at += math.ceil(n * dtype.itemsize / mmap.PAGESIZE) * mmap.PAGESIZE + SKEW
        return tensor


def main():
    options = parse_arguments()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before the first OpenMP library starts
    import torch

    torch.set_num_threads(options.threads)
    import deepspeed
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    n = options.parameters
    placed = Placed(torch, 18 * n + 5 * (SKEW + mmap.PAGESIZE)) if options.memory == "placed" else None

    def empty(dtype=torch.float32):
        return placed.empty(n, dtype) if placed else torch.empty(n, dtype=dtype)

    def filled(scale, offset):
        """The values of `strata bench adam`."""
        tensor = empty()
        pattern = offset + scale * (torch.arange(PATTERN, dtype=torch.float32) / PATTERN - 0.5)
        whole = n // PATTERN * PATTERN
        tensor[:whole].view(-1, PATTERN).copy_(pattern.expand(whole // PATTERN, PATTERN))
        tensor[whole:].copy_(pattern[:n - whole])
        return tensor

    parameter = torch.nn.Parameter(filled(0.02, 0.0))
    state = {"step": 9, "exp_avg": filled(1e-3, 0.0), "exp_avg_sq": filled(1e-6, 1e-6)}
    parameter.grad = filled(1e-3, -2e-4)
    copy = empty(torch.bfloat16).zero_() if options.precision == "bf16" else None
    optimizer = DeepSpeedCPUAdam([parameter], lr=1e-4, weight_decay=0.01, adamw_mode=True)
    optimizer.state[parameter] = state

    def update():
        optimizer.step()
        if copy is not None:
            copy.copy_(parameter.data)

    samples = [n / seconds for seconds in Timer(torch, "cpu", update).samples(options.repeats)]
    found = machine(torch, "cpu")
    found["framework"] = f"deepspeed {deepspeed.__version__}, {found['framework']}"
    print_result("adam", found, {"precision": options.precision, "parameters": str(n), "memory": options.memory},
                 [measurement("update", "parameters/s", samples)])


if __name__ == "__main__":
    main()
