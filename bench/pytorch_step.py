#!/usr/bin/env python3
"""Training steps of GPT-2 124M in PyTorch eager: forward, backward, clipping and AdamW, as `strata bench step` times them.

Prints one JSON object: tokens_per_s (of the median step), step_seconds, peak_rss_bytes, precision, B, T, threads. Needs torch.
The same arithmetic as Strata's model: learned positions, LayerNorm, tanh GELU, biases, tied head, no dropout; weight decay on
matrices only. Attention is torch's scaled_dot_product_attention, the optimizer its fused AdamW: the fastest that eager offers.
"""
import argparse
import contextlib
import json
import os
import resource
import statistics
import time

LAYERS, HEADS, C, V, POSITIONS = 12, 12, 768, 50257, 1024


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq-length", type=int, default=1024)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="timed steps, after one that warms up")
    parser.add_argument("--optimizer", choices=("fused", "foreach", "loop"), default="fused")
    return parser.parse_args()


def build_model(torch):
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
            self.qkv, self.projection = nn.Linear(C, 3 * C), nn.Linear(C, C)
            self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

        def forward(self, x):
            B, T, _ = x.shape
            q, k, v = (t.view(B, T, HEADS, C // HEADS).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(C, dim=2))
            o = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.projection(o.transpose(1, 2).reshape(B, T, C))
            return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class GPT2(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(V, C), nn.Embedding(POSITIONS, C)
            self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
            self.norm = nn.LayerNorm(C)
            for parameter in self.parameters():
                if parameter.dim() >= 2:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, tokens, targets):
            x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
            logits = functional.linear(self.norm(self.blocks(x)), self.tokens.weight)
            return functional.cross_entropy(logits.view(-1, V), targets.view(-1))

    return GPT2()


def measure(torch, options):
    torch.set_num_threads(options.threads)
    torch.manual_seed(1234)
    model = build_model(torch)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    kind = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}}[options.optimizer]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, **kind)
    tokens = torch.randint(V, (options.batch, options.seq_length + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if options.precision == "bf16" else contextlib.nullcontext()
    seconds = []
    for step in range(options.steps + 1):
        begin = time.perf_counter()
        with autocast:
            loss = model(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step > 0:
            seconds.append(time.perf_counter() - begin)
    return sum(p.numel() for p in model.parameters()), float(loss), seconds


def main():
    options = parse_arguments()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    import torch

    after_import = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    parameters, loss, seconds = measure(torch, options)
    median = statistics.median(seconds)
    print(json.dumps({
        "benchmark": "step",
        "model": "gpt2-124m",
        "framework": f"torch {torch.__version__}",
        "optimizer": options.optimizer,
        "precision": options.precision,
        "B": options.batch,
        "T": options.seq_length,
        "threads": options.threads,
        "parameters": parameters,
        "tokens_per_s": options.batch * options.seq_length / median,
        "step_seconds": seconds,
        "spread_seconds": statistics.median(abs(s - median) for s in seconds),
        "n": len(seconds),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rss_after_import_bytes": after_import,
        "last_loss": loss,
    }))


if __name__ == "__main__":
    main()
