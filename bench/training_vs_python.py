#!/usr/bin/env python3
"""Trains one LLaMA shape on real text with Strata and with PyTorch and the authors' optimizers, and compares the loss of every step.

    bench/training_vs_python.py --strata build/host-release/strata --python VENV/bin/python --work /tmp/beside           # every setting
    bench/training_vs_python.py --strata ... --python ... --work ... --only apollo --lr 0.02                             # one, at another rate

Both sides have the same initial weights (Strata's, exported), samples, learning rates and, with APOLLO, projections (`proj_seeds: authors`); each has its
own model, gradients and optimizer, in f32. The same Python in float64 is the control: what f32 alone does to the curve, as training at a high
rate carries a rounding error further with every step. Only the interpreter named by --python (or STRATA_ORACLE_PYTHON) needs torch, numpy and
apollo-torch (bench/python_training.py). Text, and how runs are put into the result file, are those of bench/optimizer_comparison.py; results go to
bench/results/<cpu>/training_vs_python.{json,md,svg}.
"""
import argparse
import concurrent.futures
import datetime
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

from line_chart import chart, line
from optimizer_comparison import SETTINGS, as_yaml, call, common_part, configuration, metric_rows, prepare, program_commit
from results_file import HERE, check_common, cpu_name, json_of, merge_run, open_result, write_page
from sample_order import first_tokens, token_count

# The rates at which training is calm, then those of the papers.
RATES = {"adamw": [3e-4, 1e-3], "apollo": [3e-3, 1e-2], "apollo_mini": [1e-3, 1e-2]}
SIDES = {"strata": "Strata", "python": "Python", "python_float64": "Python in float64"}
BAR = 0.5   # per cent of the loss of a step
TAIL = 50   # steps at the end whose means are compared too
FROZEN = '["* lr_scale=0 weight_decay=0"]'


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strata", default="strata", help="the program")
    parser.add_argument("--python", default=os.environ.get("STRATA_ORACLE_PYTHON"),
                        help="an interpreter with torch, numpy and apollo-torch (default: STRATA_ORACLE_PYTHON)")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for text, tokens and runs")
    parser.add_argument("--text", type=pathlib.Path, help="a text file or a folder of them, instead of the distribution's")
    parser.add_argument("--only", action="append", choices=list(RATES), help="this setting; may be given several times")
    parser.add_argument("--lr", type=float, action="append", help="learning rates, instead of those of each setting")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seq-length", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4, help="sequences of a step")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--timeout", type=float, default=7200, help="seconds of one run")
    parser.add_argument("--table", action="store_true", help="runs nothing: writes page and picture of the result file anew")
    parser.add_argument("--output", type=pathlib.Path, help="result file (default: bench/results/<cpu>/training_vs_python.json)")
    # What optimizer_comparison.configuration() wants besides.
    parser.set_defaults(set={}, precision="fp32", backend="host", eval_interval=0, eval_iters=1)
    options = parser.parse_args()
    options.micro_batch = options.batch
    if options.text and not options.text.exists():
        parser.error(f"--text: there is no {options.text}")
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    if not options.table:
        if not options.python:
            parser.error("--python is missing (or STRATA_ORACLE_PYTHON): an interpreter with torch, numpy and apollo-torch")
        if shutil.which(options.python) is None:
            parser.error(f"--python: {options.python} cannot be run")
    return options


def check_python(options):
    """Before minutes of training: whether the interpreter has what it needs."""
    done = subprocess.run([options.python, "-c", "import torch, numpy, importlib.util as u; assert u.find_spec('apollo_torch'), 'no package apollo_torch'"],
                          capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{options.python} lacks torch, numpy or apollo-torch: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")


def sections_of(options, prefix, name, lr):
    sections = configuration(options, prefix, SETTINGS[name], lr)
    del sections["data"]["validation"], sections["training"]["eval_interval"], sections["training"]["eval_iters"]
    if sections["optimizer"]["type"] == "apollo":
        sections["optimizer"] |= {"proj_seeds": "authors", "nl_floor": 0}
    return sections


def common_of(options, prefix, data):
    sections = sections_of(options, prefix, "adamw", 1.0)
    sections["training"]["eval_iters"] = 0
    return common_part(sections, data)


def started(options, sections, folder, changes):
    """Trains with changed sections; the run's folder."""
    sections = {key: {**section, **changes.get(key, {})} for key, section in sections.items()}
    sections["run"] |= {"name": folder.name, "folder": folder}
    config = folder.with_suffix(".yaml")
    config.write_text(as_yaml(sections))
    call([options.strata, "train", config])
    return folder


def specify(options, prefix, name, lr):
    """Writes what bench/python_training.py is to do, and the weights that a run begins with; the sections, and the specification's path."""
    folder = options.work / f"{name}_lr_{lr:g}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sections = sections_of(options, prefix, name, lr)
    # One step that changes nothing: its checkpoint is the beginning of every run with this seed.
    frozen = {"training": {"steps": 1}, "optimizer": {"groups": FROZEN}, "scheduler": {"warmup_steps": 0}}
    begin = started(options, sections, folder / "begin", frozen)
    call([options.strata, "model", "export", begin, folder / "weights", "--dtype", "f32"])
    model = sections["model"]
    heads = model["num_heads"]
    firsts = first_tokens(token_count(f"{prefix}_train"), options.seq_length, options.seed, options.steps * options.batch)
    path = folder / "specification.json"
    path.write_text(json.dumps({
        "sizes": {"kind": "llama", "V": model["vocab_size"], "C": model["hidden_size"], "L": model["num_layers"], "N": heads, "K": heads,
                  "H": model["hidden_size"] // heads, "F": model["ffn_size"]},
        "seq_length": options.seq_length, "optimizer": sections["optimizer"], "weights": str(folder / "weights/model.safetensors"),
        "tokens": f"{prefix}_train.bin", "learning_rates": learning_rates(sections),
        "first_tokens": [firsts[k:k + options.batch] for k in range(0, len(firsts), options.batch)]}))
    return sections, path


def learning_rates(sections):
    """Of every step: linear warm-up, then a cosine (optim/schedule.h)."""
    steps, warmup = sections["training"]["steps"], sections["scheduler"]["warmup_steps"]
    peak, floor = sections["optimizer"]["lr"], sections["scheduler"]["min_lr"]
    return [peak * step / warmup if step < warmup else
            floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) for step in range(1, steps + 1)]


def train_strata(options, sections, folder):
    rows = metric_rows(started(options, sections, folder / "run", {"checkpoint": {"save_final": "false"}}) / "metrics.jsonl")
    for row, lr in zip(rows, learning_rates(sections), strict=True):
        if abs(row["lr"] - lr) > 1e-9 * sections["optimizer"]["lr"]:
            sys.exit(f"step {row['step']}: Strata's learning rate is {row['lr']}, Python's {lr}")
    return {"losses": [row["loss"] for row in rows]}


def train_python(options, specification, dtype):
    words = [options.python, HERE / "python_training.py", specification, "--dtype", dtype, "--threads", options.threads]
    return json_of(f"Python in {dtype}", words, options.threads, options.timeout, {"OMP_NUM_THREADS": str(options.threads)})


def start_sides(options, pool, prefix, name, lr):
    """The three runs of a setting, as futures."""
    sections, specification = specify(options, prefix, name, lr)
    return {"strata": pool.submit(train_strata, options, sections, specification.parent),
            "python": pool.submit(train_python, options, specification, "float32"),
            "python_float64": pool.submit(train_python, options, specification, "float64")}


def make_run(options, name, lr, results):
    return {"name": name, "label": SETTINGS[name]["label"], "lr": lr, "date": datetime.date.today().isoformat(), "commit": program_commit(options.strata),
            "cpu": cpu_name(), "framework": results["python"]["machine"]["framework"], "parameters": results["python"]["parameters"],
            "losses": {side: [float(f"{loss:.10g}") for loss in results[side]["losses"]] for side in SIDES}}


def differences(run, side, other):
    """Of every step, per cent of the other side's loss."""
    return [100 * abs(a - b) / b if math.isfinite(a) and math.isfinite(b) else math.inf for a, b in zip(run["losses"][side], run["losses"][other], strict=True)]


def tail_difference(run, side, other):
    """Of the mean loss of the last steps, per cent, with its sign."""
    a, b = (statistics.fmean(run["losses"][one][-TAIL:]) for one in (side, other))
    return 100 * (a / b - 1)


def page(result, picture):
    common = result["common"]
    model, training = common["model"], common["training"]
    text = [
        "# Training beside PyTorch and the authors' optimizers", "", "Written by `bench/training_vs_python.py`; do not edit.", "",
        f"Llama shape of {result['runs'][0]['parameters'] / 1e6:.2f} M parameters ({model['num_layers']} layers of {model['hidden_size']}, bytes as tokens), "
        f"{training['steps']} steps of {training['global_batch_size'] * training['seq_length']} tokens, seed {common['seed']}, no clipping, no decay, "
        f"{common['text_bytes'] / 1e6:.1f} MB of English text (SHA-256 {common['text_sha256'][:16]}...). Both sides have the same initial weights, samples, rates "
        f"and projections; {result['runs'][0]['framework']}. AdamW is `torch.optim.AdamW`, APOLLO and APOLLO-Mini are apollo-torch.", "",
        f"Differences are per cent of the loss. Strata: its f32 against Python's f32. Control: the same Python in f32 against itself in float64, which is "
        f"what rounding alone does. The bar is {BAR:g} % at every step.", "",
        f"![differences of the loss]({picture})", "",
        f"| setting | lr | loss, mean of the last {TAIL} | Strata, largest | control, largest | Strata, steps above {BAR:g} % | control, steps above | Strata, last {TAIL} | "
        f"control, last {TAIL} | bar |", "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in result["runs"]:
        ours, control = differences(run, "strata", "python"), differences(run, "python", "python_float64")
        above = [sum(one >= BAR for one in found) for found in (ours, control)]
        verdict = "met" if above[0] == 0 else "missed; by the control too" if above[1] else "missed"
        text.append(f"| {run['label']} | {run['lr']:g} | {statistics.fmean(run['losses']['strata'][-TAIL:]):.4f} | {max(ours):.1e} | {max(control):.1e} | {above[0]} | "
                    f"{above[1]} | {tail_difference(run, 'strata', 'python'):+.1e} | {tail_difference(run, 'python', 'python_float64'):+.1e} | {verdict} |")
    text += ["", "First step at which the difference is above 1e-4, 1e-2 and 0.5 %, and runs:", "",
             "| setting | lr | Strata | control | date | commit |", "| --- | --- | --- | --- | --- | --- |"]
    for run in result["runs"]:
        when = []
        for pair in (("strata", "python"), ("python", "python_float64")):
            found = differences(run, *pair)
            when.append(", ".join(next((str(step) for step, one in enumerate(found, 1) if one >= limit), "never") for limit in (1e-4, 1e-2, BAR)))
        text.append(f"| {run['label']} | {run['lr']:g} | {when[0]} | {when[1]} | {run['date']} | {run['commit']} |")
    return "\n".join(text) + "\n"


def draw(result):
    """An SVG: of each run the difference to Python, and dashed the control's; of each step the largest of so many."""
    steps = result["common"]["training"]["steps"]
    width = max(1, steps // 100)
    lines = [line("", [(0, BAR), (steps, BAR)], color=5, dashes="2 3")]
    for k, run in enumerate(result["runs"]):
        for label, pair, dashes in ((f"{run['label']}, {run['lr']:g}", ("strata", "python"), None), ("", ("python", "python_float64"), "6 4")):
            found = differences(run, *pair)
            lines.append(line(label, [(i + width, max(found[i:i + width])) for i in range(0, len(found), width)], color=k, dashes=dashes))
    return chart(lines, steps, "difference of the loss, %", 1e-7, 1e2, log=True,
                 notes=("solid: Strata to Python", "dashed: Python to its float64", f"dotted: the bar of {BAR:g} %"))


def write(path, result):
    write_page(path, result, draw, page)


def main():
    options = parse_arguments()
    path, result = open_result(options, "training_vs_python", write)
    check_python(options)
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    prefix, data = prepare(options)
    common = common_of(options, prefix, data)
    if result:  # before minutes of training, not after them
        check_common(result, common)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        started_runs = [(name, lr, start_sides(options, pool, prefix, name, lr)) for name in options.only or RATES for lr in options.lr or RATES[name]]
        try:
            for name, lr, sides in started_runs:
                run = make_run(options, name, lr, {side: future.result() for side, future in sides.items()})
                result = merge_run(result, "training beside Python", common, run, list(RATES))
                write(path, result)
                print(f"{run['label']}, lr {lr:g}: largest difference {max(differences(run, 'strata', 'python')):.1e} %, of the control "
                      f"{max(differences(run, 'python', 'python_float64')):.1e} %; written to {path}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    print(page(result, path.with_suffix(".svg").name))


if __name__ == "__main__":
    main()
