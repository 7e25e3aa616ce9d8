#!/usr/bin/env python3
"""Trains one LLaMA shape on real text with each optimizer, all else equal, and keeps loss curves and bytes of state.

    bench/optimizer_comparison.py --strata build/host-release/strata --work /tmp/comparison            # every setting
    bench/optimizer_comparison.py --strata ... --work ... --only apollo --lr 0.003                     # one, at another learning rate

Text comes from a package of the distribution (launcher/fetch_text.py) or from --text, and is cut into bytes. Every run has the same data in
the same order, seed, batch, schedule and length; what differs is in SETTINGS. Each finished run is put into the result file at once, with
its own date and commit, in the place of an older one with the same name and learning rate; a file that was made with another shape,
text or length is refused. The result file, a page with the table and a picture of the curves (SVG, written here) go to
bench/results/<cpu>/optimizer_comparison.{json,md,svg}. Needs the standard library only.
"""
import argparse
import datetime
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import statistics
import struct
import subprocess
import sys
import time

from line_chart import chart, line
from results_file import HERE, check_common, cpu_name, merge_run, open_result, write_page

ADAMW = {"beta1": 0.9, "beta2": 0.999, "weight_decay": 0}
APOLLO = {**ADAMW, "update_proj_gap": 200}
# Of each setting the learning rates that are tried, the paper's first. Both papers compare at weight decay 0 and without clipping.
SETTINGS = {
    "adamw": {"label": "AdamW", "lr": [1e-3, 3e-3, 3e-4], "optimizer": {"type": "adamw", **ADAMW}},
    "frugal_25": {"label": "FRUGAL .25", "lr": [1e-3, 3e-4, 3e-3], "optimizer": {"type": "frugal", **ADAMW, "density": 0.25, "update_gap": 200}},
    "frugal_0": {"label": "FRUGAL 0", "lr": [1e-3, 3e-4, 3e-3], "optimizer": {"type": "frugal", **ADAMW, "density": 0, "update_gap": 200}},
    # rank: a quarter of the width.
    "apollo": {"label": "APOLLO", "lr": [1e-2, 3e-3], "rank_divisor": 4, "optimizer": {"type": "apollo", **APOLLO}},
    "apollo_mini": {"label": "APOLLO-Mini", "lr": [1e-2, 3e-3], "optimizer": {"type": "apollo", "scale_type": "tensor", **APOLLO}},
}
BASELINE = "adamw"
MARGIN = 0.03  # of AdamW's loss, that the others may be above it
TAIL = 50      # steps at the end whose mean is the final training loss


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strata", default="strata", help="the program")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for text, tokens and runs")
    parser.add_argument("--text", type=pathlib.Path, help="a text file or a folder of them, instead of the distribution's")
    parser.add_argument("--only", action="append", choices=list(SETTINGS), help="this setting; may be given several times")
    parser.add_argument("--lr", type=float, action="append", help="learning rates, instead of the first one of each setting")
    parser.add_argument("--sweep", action="store_true", help="every learning rate of each setting")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the section optimizer, for all settings that run")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--hidden-size", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--seq-length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8, help="sequences of a step")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--eval-interval", type=int, default=100)
    parser.add_argument("--eval-iters", type=int, default=20, help="micro-batches of a validation")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--backend", choices=("auto", "host", "cuda"), default="auto")
    parser.add_argument("--table", action="store_true", help="runs nothing: writes page and picture of the result file anew")
    parser.add_argument("--output", type=pathlib.Path, help="result file (default: bench/results/<cpu>/optimizer_comparison.json)")
    options = parser.parse_args()
    if options.text and not options.text.exists():
        parser.error(f"--text: there is no {options.text}")
    if options.lr and options.sweep:
        parser.error("--lr and --sweep exclude each other")
    options.set = dict(pair.split("=", 1) if "=" in pair else parser.error(f"--set wants KEY=VALUE, not {pair}") for pair in options.set)
    return options


def call(words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def program_commit(strata):
    """What the program was built from."""
    found = re.search(r"commit ([\w-]+)", call([strata, "--version"]))
    return found.group(1) if found else "unknown"


def prepare(options):
    """Prefixes of the token files, and what they were made of."""
    text = options.text
    if text is None:
        text = options.work / "text"
        if not text.exists():
            print(call([sys.executable, HERE.parent / "launcher/fetch_text.py", text]).strip())
    files = sorted(text.rglob("*")) if text.is_dir() else [text]
    digest, size = hashlib.sha256(), 0
    for path in files:
        if path.is_file():
            data = path.read_bytes()
            digest.update(data)
            size += len(data)
    prefix = options.work / f"tokens_{digest.hexdigest()[:16]}"
    if not prefix.with_name(prefix.name + "_train.idx").exists():
        call([options.strata, "data", "prepare", "--input", text, "--output", prefix, "--validation-fraction", "0.05"])
    return prefix, {"text_bytes": size, "text_sha256": digest.hexdigest()}


def configuration(options, prefix, setting, lr):
    """The run as the sections of a configuration."""
    optimizer = {**setting["optimizer"], "lr": lr, **options.set}
    if "rank_divisor" in setting:
        optimizer.setdefault("rank", options.hidden_size // setting["rank_divisor"])
    return {
        "run": {"seed": options.seed},
        "model": {"type": "llama", "vocab_size": 257, "hidden_size": options.hidden_size, "num_layers": options.layers,
                  "num_heads": max(1, options.hidden_size // 64), "ffn_size": math.ceil(options.hidden_size * 8 / 3 / 64) * 64},
        "data": {"train": f"{prefix}_train", "validation": f"{prefix}_validation"},
        "training": {"steps": options.steps, "seq_length": options.seq_length, "micro_batch_size": options.micro_batch,
                     "global_batch_size": options.batch, "clip_grad": 0, "eval_interval": options.eval_interval,
                     "eval_iters": options.eval_iters},
        "precision": {"compute": options.precision},
        "optimizer": optimizer,
        # As both papers' scripts: a tenth of warm-up, then a cosine to a tenth.
        "scheduler": {"type": "cosine", "warmup_steps": options.steps // 10, "min_lr": lr / 10},
        "device": {"threads": options.threads, "backend": options.backend},
        "checkpoint": {"keep_last": 1},
        "logging": {"log_interval": 50, "progress": '"off"'},
    }


def as_yaml(sections):
    """Numbers as YAML 1.1 wants them: 1.0e-05, not 1e-05."""
    def value(x):
        text = repr(x) if isinstance(x, float) else str(x)
        return re.sub(r"^(-?\d+)e", r"\1.0e", text)
    return "".join(f"{name}:\n" + "".join(f"  {key}: {value(x)}\n" for key, x in keys.items()) for name, keys in sections.items())


def common_part(sections, data):
    """What must be equal for curves to be compared."""
    training = {key: sections["training"][key] for key in ("steps", "seq_length", "global_batch_size", "clip_grad", "eval_iters", "micro_batch_size")}
    return {"model": sections["model"], "training": training, "precision": sections["precision"]["compute"], "seed": sections["run"]["seed"], **data}


def stored_bytes(checkpoint):
    """Bytes of optimizer state and of parameters in a checkpoint: of the tensors that are there."""
    found = {"state": 0, "parameters": 0}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            begin, end = tensor["data_offsets"]
            found["parameters" if name.split("/")[1] == "p" else "state"] += end - begin
    return found


def metric_rows(path):
    """What was logged of each step. Of one that is there twice (a resumed run) the last counts."""
    steps = {}
    for text in open(path):
        if text.endswith("\n"):
            one = json.loads(text)
            steps[one["step"]] = one
    return [steps[key] for key in sorted(steps)]


def read_metrics(path):
    """Losses of all steps, [step, loss] of the validations, and the median of a step's seconds."""
    rows = metric_rows(path)
    return ([round(one["loss"], 5) for one in rows], [[one["step"], round(one["validation_loss"], 5)] for one in rows if "validation_loss" in one],
            statistics.median(one["step_seconds"] for one in rows))


def train(options, prefix, data, name, lr):
    setting = SETTINGS[name]
    sections = configuration(options, prefix, setting, lr)
    folder = options.work / f"{name}_lr_{lr:g}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sections["run"] |= {"name": folder.name, "folder": folder / "run"}
    config = folder / "config.yaml"
    config.write_text(as_yaml(sections))
    plan = json.loads(call([options.strata, "plan", config, "--json"]))
    begin = time.monotonic()
    print(f"{setting['label']}, lr {lr:g}: {plan['parameters'] / 1e6:.1f} M parameters", flush=True)
    done = subprocess.run([str(options.strata), "train", str(config)])
    if done.returncode != 0:
        sys.exit(f"{setting['label']}: exit code {done.returncode}; the run is in {folder}")
    losses, validation, seconds = read_metrics(folder / "run/metrics.jsonl")
    bytes_ = stored_bytes(max((folder / "run/checkpoints").glob("step_*"), key=lambda path: int(path.name[5:])))
    shutil.rmtree(folder / "run/checkpoints")  # 12 bytes a parameter each
    return common_part(sections, data), {
        "name": name, "label": setting["label"], "lr": lr, "optimizer": {k: v for k, v in sections["optimizer"].items() if k != "lr"},
        "date": datetime.date.today().isoformat(), "commit": program_commit(options.strata), "cpu": cpu_name(), "parameters": plan["parameters"],
        "state_bytes": bytes_["state"], "planned_optimizer_bytes": plan["gpu"].get("optimizer", 0) + plan["cpu"].get("optimizer", 0),
        "seconds": round(time.monotonic() - begin, 1), "median_step_seconds": round(seconds, 4), "validation": validation, "losses": losses,
    }


def final_train(run):
    return statistics.fmean(run["losses"][-TAIL:])


def final_validation(run):
    return run["validation"][-1][1]


def best_runs(runs):
    """Of each setting the run whose last validation loss is least."""
    best = {}
    for run in runs:
        if run["name"] not in best or final_validation(run) < final_validation(best[run["name"]]):
            best[run["name"]] = run
    return best


def page(result, picture):
    common, best = result["common"], best_runs(result["runs"])
    base = best.get(BASELINE)
    model, training = common["model"], common["training"]
    tokens = training["global_batch_size"] * training["seq_length"]
    lines = [
        "# Optimizers on real text", "",
        "Written by `bench/optimizer_comparison.py`; do not edit.", "",
        f"Llama shape of {result['runs'][0]['parameters'] / 1e6:.1f} M parameters ({model['num_layers']} layers of {model['hidden_size']}, bytes as "
        f"tokens), {training['steps']} steps of {tokens} tokens, {common['precision']}, seed {common['seed']}, no clipping, "
        f"{common['text_bytes'] / 1e6:.1f} MB of English text (SHA-256 {common['text_sha256'][:16]}...). Losses are nats a byte; training loss is the mean of the last {TAIL} "
        f"steps. Of each setting the learning rate with the least validation loss counts; all are below.", "",
        f"![loss curves]({picture})", "",
        "| setting | lr | validation loss | to AdamW | training loss | state, bytes | to AdamW | step, s | within 3 % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in best.values():
        loss, state = final_validation(run), run["state_bytes"]
        ratio = loss / final_validation(base) - 1 if base else None
        lines.append(f"| {run['label']} | {run['lr']:g} | {loss:.4f} | " + (f"{100 * ratio:+.1f} %" if base else "") +
                     f" | {final_train(run):.4f} | {state:,} | " + (f"{state / base['state_bytes']:.3f}" if base else "") +
                     f" | {run['median_step_seconds']:.2f} | " + (("yes" if ratio <= MARGIN else "no") if base else "") + " |")
    lines += ["", "Every run:", "", "| setting | lr | validation loss | training loss | planned bytes of the optimizer | date | commit |",
              "| --- | --- | --- | --- | --- | --- | --- |"]
    for run in result["runs"]:
        lines.append(f"| {run['label']} | {run['lr']:g} | {final_validation(run):.4f} | {final_train(run):.4f} | "
                     f"{run['planned_optimizer_bytes']:,} | {run['date']} | {run['commit']} |")
    return "\n".join(lines) + "\n"


def smooth(losses, width=20):
    """(step, mean of the last `width` losses)."""
    return [(i + 1, statistics.fmean(losses[max(0, i + 1 - width):i + 1])) for i in range(0, len(losses), 4)]


def draw(result):
    """An SVG: the training loss of each setting's best run as a line, its validation losses as points."""
    best = list(best_runs(result["runs"]).values())
    steps = max(len(run["losses"]) for run in best)
    curves = [smooth(run["losses"]) for run in best]
    shown = [y for curve in curves for x, y in curve if x > steps / 20] + [y for run in best for _, y in run["validation"]]
    pad = max(0.02, 0.04 * (max(shown) - min(shown)))
    lines = [line(f"{run['label']}, {run['lr']:g}", curve, marks=run["validation"]) for run, curve in zip(best, curves)]
    return chart(lines, steps, "loss, nats a byte", min(shown) - pad, max(shown) + pad, notes=("lines: training, mean of 20", "points: validation"))


def write(path, result):
    write_page(path, result, draw, page)


def main():
    options = parse_arguments()
    path, result = open_result(options, "optimizer_comparison", write)
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    prefix, data = prepare(options)
    for name in options.only or SETTINGS:
        rates = options.lr or SETTINGS[name]["lr"]
        for lr in rates if options.lr or options.sweep else rates[:1]:
            if result:  # before minutes of training, not after them
                check_common(result, common_part(configuration(options, prefix, SETTINGS[name], lr), data))
            common, run = train(options, prefix, data, name, lr)
            result = merge_run(result, "optimizer comparison", common, run, list(SETTINGS))
            write(path, result)
            print(f"{run['label']}, lr {lr:g}: validation {final_validation(run):.4f}, state {run['state_bytes']:,} bytes; written to {path}", flush=True)
    print(page(result, path.with_suffix(".svg").name))


if __name__ == "__main__":
    main()
