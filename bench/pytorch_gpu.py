#!/usr/bin/env python3
"""PyTorch's side of `strata bench copy`, `gemm` and `attention`: what its libraries give on the same GPU. Needs torch.

    bench/pytorch_gpu.py attention --batch 4 --seq-length 4096 --heads 16 --head-dim 128
    bench/pytorch_gpu.py --device cpu --small gemm           # tries the script where there is no GPU

Prints one JSON object of the form of `strata bench ... --json`, with the same names where the same is measured.
"""
import argparse

from pytorch_common import MODELS, Timer, linear_shapes, machine, measurement, print_result, start_torch


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("attention", "copy", "gemm"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--tf32", action="store_true", help="products of fp32 on tensor cores")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq-length", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--kv-heads", type=int, default=0, help="0: as many as heads")
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--bytes", type=int, default=1 << 28)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--square", type=int, default=8192)
    parser.add_argument("--model", default="gpt2-124m,gpt2-1.6b,llama-7b")
    options = parser.parse_args()
    if options.small:
        options.batch, options.seq_length, options.heads, options.head_dim = 2, 64, 2, 16
        options.bytes, options.rows, options.square, options.model, options.repeats = 1 << 16, 32, 64, "tiny", 2
    options.kv_heads = options.kv_heads or options.heads
    for name in options.model.split(","):
        if name not in MODELS:
            parser.error(f"--model: {name} is none of {', '.join(MODELS)}")
    return options


def dtype_of(torch, options):
    return torch.bfloat16 if options.precision == "bf16" else torch.float32


def measure_copy(torch, options):
    n, measurements = options.bytes, []

    def add(name, work, moved):
        samples = Timer(torch, options.device, work).samples(options.repeats)
        measurements.append(measurement(name, "B/s", [moved / s for s in samples]))

    a, b = (torch.ones(n, dtype=torch.uint8, device=options.device) for _ in range(2))
    add("copy in device memory" if options.device == "cuda" else "copy", lambda: b.copy_(a), 2 * n)
    if options.device == "cuda":
        host = torch.ones(n, dtype=torch.uint8, pin_memory=True)
        add("host to device", lambda: a.copy_(host, non_blocking=True), n)
        add("device to host", lambda: host.copy_(a, non_blocking=True), n)
    return {"bytes": str(n)}, measurements, []


def measure_gemm(torch, options):
    dtype, measurements = dtype_of(torch, options), []

    def make(*shape, scale=1.0):
        return torch.randn(*shape, device=options.device, dtype=dtype) * scale

    def add(name, work, flops):
        samples = Timer(torch, options.device, work).samples(options.repeats)
        measurements.append(measurement(name, "FLOP/s", [flops / s for s in samples]))

    for model in options.model.split(","):
        for name, inputs, outputs in linear_shapes(MODELS[model]):
            flops = 2.0 * options.rows * inputs * outputs
            x, w, dy = make(options.rows, inputs), make(outputs, inputs, scale=0.02), make(options.rows, outputs, scale=1e-3)
            add(f"{model} {name}, forward", lambda: x @ w.t(), flops)
            add(f"{model} {name}, input gradient", lambda: dy @ w, flops)
            add(f"{model} {name}, weight gradient", lambda: dy.t() @ x, flops)
            del x, w, dy
    n = options.square
    a, b = make(n, n), make(n, n, scale=0.02)
    add(f"square product of {n}", lambda: a @ b.t(), 2.0 * n**3)
    parameters = {"precision": options.precision, "tf32": "yes" if options.tf32 else "no", "rows": str(options.rows)}
    return parameters, measurements, []


def attention_backends(torch, device):
    """Names and backends of scaled_dot_product_attention to measure."""
    kinds = torch.nn.attention.SDPBackend
    if device == "cpu":
        return [("flash", kinds.FLASH_ATTENTION), ("math", kinds.MATH)]
    return [("cuDNN", kinds.CUDNN_ATTENTION), ("flash", kinds.FLASH_ATTENTION)]


def measure_attention(torch, options):
    """Operations as `strata bench attention` counts them: causal, forward 2 B N T^2 H, backward 5 B N T^2 H."""
    dtype, measurements, notes = dtype_of(torch, options), [], []
    B, T, N, K, H = options.batch, options.seq_length, options.heads, options.kv_heads, options.head_dim
    q = torch.randn(B, N, T, H, device=options.device, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(B, K, T, H, device=options.device, dtype=dtype, requires_grad=True) for _ in range(2))
    do = torch.randn(B, N, T, H, device=options.device, dtype=dtype) * 1e-2
    grouped = {"enable_gqa": True} if K != N else {}
    product = float(B * N) * T * T * H

    def forward():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, **grouped)

    for name, kind in attention_backends(torch, options.device):
        try:
            with torch.nn.attention.sdpa_kernel(kind):
                o = forward()
                cases = [("forward", forward, 2), ("backward", lambda: torch.autograd.grad(o, (q, k, v), do, retain_graph=True), 5),
                         ("forward and backward", lambda: torch.autograd.grad(forward(), (q, k, v), do), 7)]
                for what, work, products in cases:
                    samples = Timer(torch, options.device, work).samples(options.repeats)
                    measurements.append(measurement(f"{name}, {what}", "FLOP/s", [products * product / s for s in samples]))
        except RuntimeError as error:  # a backend that does not do these shapes
            notes.append(f"{name}: {str(error).splitlines()[0]}")
    parameters = {"precision": options.precision, "B": str(B), "T": str(T), "heads": str(N), "kv_heads": str(K), "head_dim": str(H)}
    return parameters, measurements, notes


def main():
    options = parse_arguments()
    torch = start_torch(options)
    measure = {"attention": measure_attention, "copy": measure_copy, "gemm": measure_gemm}[options.what]
    parameters, measurements, notes = measure(torch, options)
    print_result(options.what, machine(torch, options.device), parameters, measurements, notes)


if __name__ == "__main__":
    main()
