#!/usr/bin/env python3
"""Times GPT-2 124M training steps in Strata and in PyTorch eager in turns (A B A B ...), prints the ratios and stores both.

    bench/step_vs_pytorch.py --strata build/host-release/strata --python /path/to/venv/bin/python

Only the interpreter named by --python needs torch. Medians are over the steps of all rounds. Results are written to
bench/results/<cpu>/step.json, with every sample, the commit and the load of the machine before each run.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from results_file import store

HERE = pathlib.Path(__file__).resolve().parent
CASES = "fp32:4:1024,fp32:4:64,bf16:4:1024,bf16:4:64"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strata", default="strata", help="the program")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch")
    parser.add_argument("--cases", default=CASES, help="precision:B:T,... (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often the two take turns in each case")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=1800, help="seconds of one run")
    parser.add_argument("--only", choices=("both", "strata", "pytorch"), default="both")
    parser.add_argument("--output", type=pathlib.Path, help="file to write (default: bench/results/<cpu>/step.json)")
    options = parser.parse_args()
    try:
        options.cases = [(p, int(b), int(t)) for p, b, t in (case.split(":") for case in options.cases.split(","))]
    except ValueError:
        parser.error("--cases wants precision:B:T[,precision:B:T...]")
    return options


def command(side, options, case):
    precision, batch, length = case
    start = [options.strata, "bench", "step", "--json", "--backend", "host"] if side == "strata" else [options.python, str(HERE / "pytorch_step.py")]
    return start + ["--precision", precision, "--batch", str(batch), "--seq-length", str(length), "--threads",
                    str(options.threads), "--steps", str(options.steps)]


def run(side, options, case):
    words = command(side, options, case)
    load = os.getloadavg()[0]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=options.timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"{' '.join(words)}: {error}")
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr.strip()}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    result["load_before"] = load
    return result


def summary(case, runs):
    """Tokens per second of the median step over all rounds, its spread, and the largest peak of memory."""
    seconds = [s for r in runs for s in r["step_seconds"]]
    median = statistics.median(seconds)
    return {
        "tokens_per_s": case[1] * case[2] / median,
        "spread": statistics.median(abs(s - median) for s in seconds) / median,
        "n": len(seconds),
        "peak_rss_bytes": max(r["peak_rss_bytes"] for r in runs),
    }


def measure(options):
    sides = ("strata", "pytorch") if options.only == "both" else (options.only,)
    cases = []
    for case in options.cases:
        runs = {side: [] for side in sides}
        for turn in range(options.rounds):
            for side in sides:
                runs[side].append(run(side, options, case))
                print(f"{case[0]} B={case[1]} T={case[2]} round {turn + 1}/{options.rounds} {side}: "
                      f"{runs[side][-1]['tokens_per_s']:.0f} tokens/s", file=sys.stderr)
        entry = {"precision": case[0], "B": case[1], "T": case[2], "runs": runs}
        entry.update({side: summary(case, runs[side]) for side in sides})
        if len(sides) == 2:
            entry["ratio"] = entry["strata"]["tokens_per_s"] / entry["pytorch"]["tokens_per_s"]
        cases.append(entry)
    return sides, cases


def print_table(sides, cases):
    def side_columns(entry, side):
        s = entry[side]
        return f"{s['tokens_per_s']:9.0f} +-{100 * s['spread']:4.1f}%  {s['peak_rss_bytes'] / 2**30:6.2f} GiB"

    titles = "".join(f"  {side + ' tokens/s':>17}  {'peak memory':>10}" for side in sides)
    print(f"{'case':<18}{titles}  {'n':>3}" + ("  ratio" if len(sides) == 2 else ""))
    for entry in cases:
        name = f"{entry['precision']} B={entry['B']} T={entry['T']}"
        line = f"{name:<18}" + "".join("  " + side_columns(entry, side) for side in sides)
        print(line + f"  {entry[sides[0]]['n']:>3}" + (f"  {entry['ratio']:5.2f}" if "ratio" in entry else ""))
    rates = {(e["precision"], e["B"], e["T"], side): e[side]["tokens_per_s"] for e in cases for side in sides}
    for (precision, batch, length, side), rate in rates.items():
        single = rates.get(("fp32", batch, length, side))
        if precision == "bf16" and single:
            print(f"{side}, B={batch} T={length}: bf16 is {rate / single:.2f} x fp32")


def main():
    options = parse_arguments()
    sides, cases = measure(options)
    print_table(sides, cases)
    store(options.output, "step", "step against PyTorch eager", {
        "threads": options.threads,
        "cases": cases,
    })


if __name__ == "__main__":
    main()
