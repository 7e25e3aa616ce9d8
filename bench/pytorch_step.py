#!/usr/bin/env python3
"""Training steps of GPT-2 in PyTorch: forward, backward, clipping and AdamW, as `strata bench step` times them.

Prints one JSON object with the fields of `strata bench step --json`. Needs torch. The same arithmetic as Strata's model:
learned positions, LayerNorm, tanh GELU, biases, tied head, no dropout; weight decay on matrices only. Attention is torch's
scaled_dot_product_attention, the optimizer its fused AdamW. With --compile the model goes through torch.compile: `full` as a
whole, `blocks` block by block, which compiles the one block that all are and so takes seconds instead of minutes. Where it
cannot compile (no C compiler) the eager model is timed, and `compiled` says why.
"""
import argparse
import contextlib
import json
import os
import resource
import statistics
import sys
import time

from pytorch_common import MODELS, machine, model_flops, start_torch, synchronize


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=[name for name, model in MODELS.items() if model["kind"] == "gpt2"], default="gpt2-124m")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq-length", type=int, default=1024)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast")
    parser.add_argument("--tf32", action="store_true", help="on cuda: products of fp32 on tensor cores")
    parser.add_argument("--compile", choices=("none", "blocks", "full"), default="none")
    parser.add_argument("--threads", type=int, default=2, help="0: torch decides")
    parser.add_argument("--warmup", type=int, default=1, help="steps before those that are timed")
    parser.add_argument("--steps", type=int, default=5, help="timed steps")
    parser.add_argument("--optimizer", choices=("fused", "foreach", "loop"), default="fused")
    options = parser.parse_args()
    if options.small:
        options.model = "tiny"
    return options


def build_model(torch, sizes, positions):
    nn, functional = torch.nn, torch.nn.functional
    V, C, heads = sizes["V"], sizes["C"], sizes["N"]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
            self.qkv, self.projection = nn.Linear(C, 3 * C), nn.Linear(C, C)
            self.up, self.down = nn.Linear(C, sizes["F"]), nn.Linear(sizes["F"], C)

        def forward(self, x):
            B, T, _ = x.shape
            q, k, v = (t.view(B, T, heads, C // heads).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(C, dim=2))
            o = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.projection(o.transpose(1, 2).reshape(B, T, C))
            return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class GPT2(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(V, C), nn.Embedding(positions, C)
            self.blocks = nn.Sequential(*(Block() for _ in range(sizes["L"])))
            self.norm = nn.LayerNorm(C)
            for parameter in self.parameters():
                if parameter.dim() >= 2:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, tokens, targets):
            x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
            logits = functional.linear(self.norm(self.blocks(x)), self.tokens.weight)
            return functional.cross_entropy(logits.view(-1, V), targets.view(-1))

    return GPT2()


def compiled(model, how):
    if how == "full":
        model.compile()
    elif how == "blocks":
        for block in model.blocks:
            block.compile()


class Training:
    def __init__(self, torch, options, how):
        self.torch, self.options = torch, options
        sizes = MODELS[options.model]
        device = torch.device(options.device)
        with device:
            self.model = build_model(torch, sizes, max(1024, options.seq_length))
            tokens = torch.randint(sizes["V"], (options.batch, options.seq_length + 1))
        compiled(self.model, how)
        self.inputs, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        kind = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}}[options.optimizer]
        groups = [{"params": [p for p in self.model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
                  {"params": [p for p in self.model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, **kind)

    def step(self):
        bf16 = self.options.precision == "bf16"
        with self.torch.autocast(self.options.device, dtype=self.torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = self.model(self.inputs, self.targets)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def timed_steps(self):
        """Loss of the last step, and the seconds of each: on a GPU between marks at their ends, as nothing there waits."""
        if self.options.device == "cpu":
            seconds = []
            for _ in range(self.options.steps):
                begin = time.perf_counter()
                loss = self.step()
                seconds.append(time.perf_counter() - begin)
            return float(loss.detach()), seconds
        marks = [self.torch.cuda.Event(enable_timing=True) for _ in range(self.options.steps + 1)]
        marks[0].record()
        for mark in marks[1:]:
            loss = self.step()
            mark.record()
        self.torch.cuda.synchronize()
        return float(loss.detach()), [a.elapsed_time(b) / 1e3 for a, b in zip(marks, marks[1:])]


def warm_up(torch, options):
    """A training that has made its first steps, compiled if that can be done; and what became of compiling."""
    if options.compile != "none":
        training = Training(torch, options, options.compile)
        try:
            for _ in range(options.warmup):
                training.step()
            return training, options.compile
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # of torch.compile, whose errors have no common type
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            print(f"eager, for it cannot be compiled: {reason}", file=sys.stderr)
            del training
            torch._dynamo.reset()
            if options.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            outcome = f"no: {reason}"
    else:
        outcome = "none"
    training = Training(torch, options, "none")
    for _ in range(options.warmup):
        training.step()
    return training, outcome


def main():
    options = parse_arguments()
    if options.threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    torch = start_torch(options)
    after_import = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begin = time.perf_counter()
    training, outcome = warm_up(torch, options)
    synchronize(torch, options.device)
    warmup_seconds = time.perf_counter() - begin
    loss, seconds = training.timed_steps()
    median = statistics.median(seconds)
    tokens = options.batch * options.seq_length
    flops = model_flops(MODELS[options.model], tokens, options.seq_length)
    result = {
        "benchmark": "step",
        "model": options.model,
        **machine(torch, options.device),
        "compiled": outcome,
        "optimizer": options.optimizer,
        "precision": options.precision,
        "tf32": options.tf32,
        "B": options.batch,
        "T": options.seq_length,
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "tokens_per_s": tokens / median,
        "step_seconds": seconds,
        "median_seconds": median,
        "spread_seconds": statistics.median(abs(s - median) for s in seconds),
        "n": len(seconds),
        "warmup_seconds": warmup_seconds,
        "model_flops": flops,
        "model_tflops_per_s": flops / median / 1e12,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rss_after_import_bytes": after_import,
        "last_loss": loss,
    }
    if options.device == "cuda":
        result["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
        result["peak_gpu_reserved_bytes"] = torch.cuda.max_memory_reserved()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
