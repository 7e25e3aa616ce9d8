#!/usr/bin/env python3
"""Times one update of a matrix by each method, Strata's and the authors' Python in turns, prints the ratios and stores all.

    bench/optimizers_vs_python.py --strata build/host-release/strata --python VENV/bin/python --frugal CHECKOUT

Only the interpreter named by --python needs torch and the authors' packages (bench/python_optimizers.py), and what of them is absent is left
out and noted. Both sides update the same fp32 matrix with as many threads, method after method, nothing drawn anew; they take turns
(A B, B A, ...). AdamW stands beside PyTorch's fused one. Medians are over all rounds. A run during which other processes took more than
--quiet cores is repeated up to --tries times; after that the quietest counts, and the result says what others took. Results go
to bench/results/<cpu>/optimizers_python.json, and a page with the table beside it.
"""
import argparse
import os
import pathlib
import statistics
import sys
import time

from adam_vs_deepspeed import busy_seconds
from results_file import HERE, cpu_name, json_of, results_folder, store

# What has no peer has no entry: states in bf16 beside weights in f32.
OFFICIAL = {"adamw": "torch.optim.AdamW, fused", "adamw-8bit": "bitsandbytes' AdamW8bit", "sgd": "torch.optim.SGD, fused",
            "sgd-momentum": "torch.optim.SGD, fused", "lion": "FRUGAL's Lion", "frugal-columns": "FRUGAL's CoordAdamW",
            "frugal-rows": "FRUGAL's CoordAdamW", "frugal-randk": "FRUGAL's CoordAdamW", "frugal-0": "FRUGAL's CoordAdamW, density 0",
            "apollo": "apollo-torch", "apollo-mini": "apollo-torch", "galore": "galore-torch"}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strata", default="strata", help="the program")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch and the authors' packages")
    parser.add_argument("--frugal", type=pathlib.Path, help="a checkout of github.com/fzmushko/FRUGAL")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--density", type=float, default=0.25)
    parser.add_argument("--backend", choices=("host", "cuda"), default="host")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5, help="how often they take turns")
    parser.add_argument("--repeats", type=int, default=5, help="timed updates of each method and run")
    parser.add_argument("--quiet", type=float, default=0.15, help="cores that others may take during a run")
    parser.add_argument("--tries", type=int, default=3, help="of a run, until it was quiet")
    parser.add_argument("--timeout", type=float, default=900, help="seconds of one run")
    parser.add_argument("--output", type=pathlib.Path, help="file to write (default: bench/results/<cpu>/optimizers_python.json)")
    return parser.parse_args()


def run_once(side, options):
    shape = ["--rows", options.rows, "--columns", options.columns, "--rank", options.rank, "--density", options.density, "--threads",
             options.threads, "--repeats", options.repeats]
    if side == "strata":
        words = [options.strata, "bench", "optimizers", "--json", "--backend", options.backend, *shape]
    else:
        words = [options.python, HERE / "python_optimizers.py", "--device", {"host": "cpu", "cuda": "cuda"}[options.backend], *shape]
        words += ["--frugal", options.frugal] if options.frugal else []
    return json_of(side, words, options.threads, options.timeout, {"OMP_NUM_THREADS": str(options.threads)})


def run(side, options):
    """The first quiet run, or the quietest of all tries, with the load before it and the cores that others took during it."""
    best = None
    for _ in range(options.tries):
        load, (busy, ours), begin = os.getloadavg()[0], busy_seconds(), time.monotonic()
        result = run_once(side, options)
        busy_after, ours_after = busy_seconds()
        others = max(0.0, busy_after - busy - (ours_after - ours)) / (time.monotonic() - begin)
        if best is None or others < best["cores_of_others"]:
            best = {"load_before": load, "cores_of_others": others, **result}
        if others <= options.quiet:
            break
    return best


def rates(runs):
    """Method -> summary of its parameters a second over all runs."""
    samples = {}
    for one in runs:
        for m in one["measurements"]:
            if m["unit"] == "parameters/s":
                samples.setdefault(m["name"], []).extend(m["samples"])
    found = {}
    for name, values in samples.items():
        median = statistics.median(values)
        found[name] = {"median": median, "spread": statistics.median(abs(s - median) for s in values) / median, "max": max(values),
                       "n": len(values)}
    return found


def round_ratios(strata, python, name):
    """Of each round the ratio of the two medians: a drift of the machine is the same for both."""
    def median(one):
        return next((m["median"] for m in one["measurements"] if m["name"] == name and m["unit"] == "parameters/s"), None)
    pairs = [(median(a), median(b)) for a, b in zip(strata, python)]
    return [a / b for a, b in pairs if a and b]


def summarise(runs):
    ours, theirs = rates(runs["strata"]), rates(runs["python"])
    work = {m["name"].split(", ")[0]: m for m in runs["strata"][0]["measurements"] if m["unit"] in ("B/s", "FLOP/s") and ", " in m["name"]}
    rows = []
    for name, rate in ours.items():
        other, ratios = theirs.get(name), round_ratios(runs["strata"], runs["python"], name)
        bounds = [m["ratio"] for one in runs["strata"] for m in one["measurements"] if m["name"] == f"{name}, traffic"]
        rows.append({"method": name, "strata": rate, "to_adamw": rate["median"] / ours["adamw"]["median"],
                     "measured_over_bound": statistics.median(bounds) if bounds else None, "work": work[name]["name"] if name in work else None,
                     "python": other, "official": OFFICIAL.get(name, "no peer"),
                     "ratio": statistics.median(ratios) if ratios else None, "round_ratios": ratios})
    return rows


def page(options, rows, runs):
    others = [one["cores_of_others"] for side in runs.values() for one in side]
    lines = ["# Updates beside the authors' Python", "", "Written by `bench/optimizers_vs_python.py`; do not edit.", "",
             f"One update of a {options.rows} x {options.columns} matrix, f32, {options.threads} threads, rank {options.rank} (apollo-mini 1), density "
             f"{options.density:g}, {options.rounds} rounds in turns of {options.repeats} samples; {cpu_name()},"
             f" {runs['python'][0]['machine']['framework']}. Other processes took {min(others):.2f} to {max(others):.2f} cores during the runs "
             f"(median {statistics.median(others):.2f}). The ratio is the median of the rounds'; parameters/s in millions, with their spread.", "",
             "| method | Strata | to our AdamW | measured / bound | theirs | M parameters/s | Strata is |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        s, p = row["strata"], row["python"]
        bound = f"{row['measured_over_bound']:.2f}" if row["measured_over_bound"] else ""
        theirs = f"{p['median'] / 1e6:.0f} ({100 * p['spread']:.0f} %)" if p else ""
        ratio = f"{row['ratio']:.2f} x" if row["ratio"] else ""
        lines.append(f"| {row['method']} | {s['median'] / 1e6:.0f} ({100 * s['spread']:.0f} %) | {row['to_adamw']:.2f} | {bound} | "
                     f"{row['official']} | {theirs} | {ratio} |")
    for note in runs["python"][0].get("notes", []):
        lines.append(f"\nNot measured: {note}.")
    return "\n".join(lines) + "\n"


def main():
    options = parse_arguments()
    runs = {"strata": [], "python": []}
    for turn in range(options.rounds):
        # Whoever is first in one round is second in the next.
        for side in ("strata", "python")[:: 1 if turn % 2 == 0 else -1]:
            runs[side].append(run(side, options))
            print(f"round {turn + 1}/{options.rounds} {side}: others took {runs[side][-1]['cores_of_others']:.2f} cores", file=sys.stderr)
    rows = summarise(runs)
    text = page(options, rows, runs)
    print(text)
    path = options.output or results_folder() / "optimizers_python.json"
    store(path, path.stem, "optimizer updates against the authors' Python", {
        **{key: getattr(options, key) for key in ("rows", "columns", "rank", "density", "threads", "backend")}, "methods": rows, "runs": runs})
    path.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
