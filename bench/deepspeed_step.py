#!/usr/bin/env python3
"""Training steps with the state in CPU memory by DeepSpeed: ZeRO-Offload (stage 2, CPU Adam), bf16, one GPU.

    bench/deepspeed_step.py --model llama-7b --batch 4 --seq-length 2048 [--recompute] [--layers 16]
    bench/deepspeed_step.py --device cpu --model tiny-llama --batch 2 --seq-length 16      # tries the script where there is no GPU

Prints one JSON object with the fields of `strata bench step --json`. Needs torch and deepspeed, whose CPU Adam is built on first
use (ninja and a C++ compiler). Parameters and gradients are bf16 on the GPU, f32 parameters, moments and the gradients of the
update in page-locked CPU memory. The model is that of pytorch_models.py, block by block through torch.compile unless that fails.
"""
import argparse
import gc
import json
import os
import pathlib
import resource
import socket
import statistics
import sys
import time

from pytorch_common import MODELS, machine, model_flops, start_torch, synchronize, with_layers
from pytorch_models import build_model, compile_model, parameter_groups


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(MODELS), default="llama-7b")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--layers", type=int, default=0, help="blocks; 0: the model's")
    parser.add_argument("--recompute", action="store_true", help="blocks keep their inputs alone")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq-length", type=int, default=2048)
    parser.add_argument("--compile", choices=("none", "blocks"), default="blocks")
    parser.add_argument("--threads", type=int, default=0, help="0: torch decides")
    parser.add_argument("--warmup", type=int, default=1, help="steps before those that are timed")
    parser.add_argument("--steps", type=int, default=4, help="timed steps")
    return parser.parse_args()


def configuration(options):
    return {
        "train_micro_batch_size_per_gpu": options.batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "zero_optimization": {
            "stage": 2,
            "offload_optimizer": {"device": "cpu", "pin_memory": options.device == "cuda"},
            "overlap_comm": True,
            "contiguous_gradients": True,
        },
        "steps_per_print": 1 << 30,
    }


def start_deepspeed(options):
    """deepspeed, in a group of this process alone."""
    # Its builder of extensions looks for ninja on the path; a virtual environment has it beside its interpreter.
    os.environ["PATH"] = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")])
    if options.device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    import deepspeed

    deepspeed.init_distributed(dist_backend="nccl" if options.device == "cuda" else "gloo", auto_mpi_discovery=False)
    return deepspeed


class Training:
    def __init__(self, torch, deepspeed, options, how):
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        sizes = with_layers(MODELS[options.model], options.layers)
        # In bf16 from the beginning: an f32 model of 7 billion parameters is 27 GB.
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(options.device):
            model = build_model(torch, sizes, max(1024, options.seq_length), recompute=options.recompute)
            tokens = torch.randint(sizes["V"], (options.batch, options.seq_length + 1))
        torch.set_default_dtype(torch.float32)
        compile_model(model, how)
        self.inputs, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        self.parameters = sum(p.numel() for p in model.parameters())
        optimizer = DeepSpeedCPUAdam(parameter_groups(model), lr=1e-4, adamw_mode=True)
        self.engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=configuration(options))

    def step(self):
        loss = self.engine(self.inputs, self.targets)
        self.engine.backward(loss)
        self.engine.step()
        return loss


def warm_up(torch, deepspeed, options):
    """A training that has made its first steps, compiled if that can be done; and what became of compiling."""
    how, outcome = options.compile, options.compile
    while True:
        training = None
        try:
            training = Training(torch, deepspeed, options, how)
            for _ in range(options.warmup):
                training.step()
            return training, outcome
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of torch.compile, whose errors have no common type
            if how == "none":
                raise
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            print(f"eager, for it cannot be compiled: {reason}", file=sys.stderr)
            how, outcome = "none", f"no: {reason}"
        del training
        torch._dynamo.reset()
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def timed_steps(torch, training, options):
    """Loss of the last step, and the seconds of each: its end is when the GPU has the new parameters."""
    seconds = []
    for _ in range(options.steps):
        begin = time.perf_counter()
        loss = training.step()
        synchronize(torch, options.device)
        seconds.append(time.perf_counter() - begin)
    return float(loss.detach()), seconds


def main():
    options = parse_arguments()
    options.tf32 = False
    torch = start_torch(options)
    deepspeed = start_deepspeed(options)
    begin = time.perf_counter()
    training, outcome = warm_up(torch, deepspeed, options)
    synchronize(torch, options.device)
    warmup_seconds = time.perf_counter() - begin
    loss, seconds = timed_steps(torch, training, options)
    sizes, tokens = with_layers(MODELS[options.model], options.layers), options.batch * options.seq_length
    flops, median = model_flops(sizes, tokens, options.seq_length), statistics.median(seconds)
    found = machine(torch, options.device)
    result = {
        "benchmark": "step",
        "model": options.model,
        "layers": sizes["L"],
        **found,
        "framework": f"deepspeed {deepspeed.__version__}, {found['framework']}",
        "compiled": outcome,
        "optimizer": "cpu",
        "precision": "bf16",
        "recompute": options.recompute,
        "B": options.batch,
        "T": options.seq_length,
        "parameters": training.parameters,
        "tokens_per_s": tokens / median,
        "step_seconds": seconds,
        "median_seconds": median,
        "spread_seconds": statistics.median(abs(s - median) for s in seconds),
        "n": len(seconds),
        "warmup_seconds": warmup_seconds,
        "model_flops": flops,
        "model_tflops_per_s": flops / median / 1e12,
        "peak_cpu_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "last_loss": loss,
    }
    if options.device == "cuda":
        result["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
        result["peak_gpu_reserved_bytes"] = torch.cuda.max_memory_reserved()
    torch.distributed.destroy_process_group()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
