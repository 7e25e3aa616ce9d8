#!/usr/bin/env python3
"""Training steps in PyTorch: forward, backward, clipping and AdamW, as `strata bench step` times them.

Prints one JSON object with the fields of `strata bench step --json`. Needs torch. The models are those of pytorch_models.py; weight
decay on matrices only; the optimizer is torch's fused AdamW. With --compile the model goes through torch.compile: `full` as a
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

from pytorch_common import MODELS, machine, model_flops, start_torch, synchronize, with_layers
from pytorch_models import build_model, compile_model, parameter_groups


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(MODELS), default="gpt2-124m")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--layers", type=int, default=0, help="blocks; 0: the model's")
    parser.add_argument("--recompute", action="store_true", help="blocks keep their inputs alone")
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


class Training:
    def __init__(self, torch, options, how):
        self.torch, self.options = torch, options
        sizes = with_layers(MODELS[options.model], options.layers)
        device = torch.device(options.device)
        with device:
            self.model = build_model(torch, sizes, max(1024, options.seq_length), recompute=options.recompute)
            tokens = torch.randint(sizes["V"], (options.batch, options.seq_length + 1))
        compile_model(self.model, how)
        self.inputs, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        kind = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}}[options.optimizer]
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model), lr=1e-4, **kind)

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
    sizes = with_layers(MODELS[options.model], options.layers)
    flops = model_flops(sizes, tokens, options.seq_length)
    result = {
        "benchmark": "step",
        "model": options.model,
        "layers": sizes["L"],
        "recompute": options.recompute,
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
