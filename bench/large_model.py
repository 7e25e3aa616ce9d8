#!/usr/bin/env python3
"""Trains a Llama shape of 1.3 billion parameters, 21 GB of states, with little memory and a drive, and says what it took.

    bench/large_model.py --strata build/host-release/strata --path /mnt/nvme [--units nvme]

Within 6 GiB with parameters and gradients in memory, within 1.25 GiB with those and the activations on the drive too (--units nvme). The
drive needs 38 GB. Written to bench/results/<cpu>/large_model.json or large_model_nvme.json: the plan, every step, the process's peak resident memory and the
load of the machine. The text is bytes of the documentation; nothing is said about what the model learns in so few steps.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from results_file import store

HERE = pathlib.Path(__file__).resolve().parent
CONFIG = """
run: {{folder: {folder}/run}}
model: {{type: llama, vocab_size: 8192, hidden_size: 1536, num_layers: 46, num_heads: 12, ffn_size: 4096, tie_embeddings: false}}
data: {{train: [{text}], format: bytes}}
training: {{steps: {steps}, seq_length: {tokens}, micro_batch_size: 1, global_batch_size: 1, recompute: full, clip_grad: 0}}
precision: {{compute: bf16, gradients: bf16}}
optimizer: {{lr: 3.0e-5}}
offload: {{optimizer: {{device: nvme, record_size: 2Mi}}, {units}}}
checkpoint: {{save_final: false}}
device: {{hardware: probe}}
logging: {{progress: "off"}}
"""
PLACES = {
    "cpu": ("param: {device: cpu}, gradient: {device: cpu}}\nmemory: {gpu: 640MiB, cpu: 5200MiB", 6 << 30, "large_model"),
    "nvme": ("param: {device: nvme}, gradient: {device: nvme}, activation: {device: nvme}}\nmemory: {gpu: 640MiB, cpu: 400MiB",
             5 << 28, "large_model_nvme"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strata", default="strata", help="the program")
    parser.add_argument("--path", required=True, help="folder on the drive")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=512, help="of a step")
    parser.add_argument("--units", choices=PLACES, default="cpu", help="home of parameters, gradients and, on nvme, activations")
    parser.add_argument("--output", type=pathlib.Path, help="file to write (default: bench/results/<cpu>/large_model.json)")
    options = parser.parse_args()
    units, limit, name = PLACES[options.units]
    with tempfile.TemporaryDirectory(dir=options.path, prefix="strata-large-") as folder:
        config = f"{folder}/large.yaml"
        with open(config, "w") as file:
            file.write(CONFIG.format(folder=folder, steps=options.steps, tokens=options.tokens, units=units, text=HERE.parent / "docs" / "config.md"))
        plan = json.loads(subprocess.run([options.strata, "plan", config, "--json"], check=True, capture_output=True, text=True).stdout)
        load = os.getloadavg()[0]
        process = subprocess.Popen([options.strata, "train", config])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"{options.strata} train: exit code {process.returncode}")
        with open(f"{folder}/run/metrics.jsonl") as file:
            steps = [json.loads(line) for line in file]
    resident = usage.ru_maxrss * 1024
    print(f"{plan['parameters'] / 1e9:.2f} G parameters, {16 * plan['parameters'] / 1e9:.1f} GB of states; at most {resident / 2**30:.2f} GiB "
          f"resident of {limit / 2**30:.2f} GiB")
    store(options.output, name, "a large model on little memory", {
        "state_bytes": 16 * plan["parameters"],
        "peak_resident_bytes": resident,
        "load_before": load,
        "plan": plan,
        "steps": steps,
    })
    return 0 if resident <= limit else 1


if __name__ == "__main__":
    sys.exit(main())
