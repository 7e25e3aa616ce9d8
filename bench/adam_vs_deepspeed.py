#!/usr/bin/env python3
"""Times the AdamW update of Strata and DeepSpeed's CPU Adam in turns (A B C, C B A ...), prints the ratios and stores all.

    bench/adam_vs_deepspeed.py --strata build/host-release/strata --python /path/to/venv/bin/python

Only the interpreter named by --python needs torch and deepspeed (bench/deepspeed_adam.py). Both update as many fp32 parameters, in
one flat array with fp32 gradients and moments, on as many threads. DeepSpeed runs twice: in memory as torch allocates it, and
"placed" in memory as Strata's. Medians are over all rounds. A run during which other processes took more than --quiet cores is
repeated. Results are written to bench/results/<cpu>/adam_deepspeed.json, with every sample, the commit, the load of the machine before
each run and what others took during it.
"""
import argparse
import os
import pathlib
import statistics
import sys
import time

from results_file import json_of, store

HERE = pathlib.Path(__file__).resolve().parent
SIDES = ("strata", "deepspeed", "deepspeed placed")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strata", default="strata", help="the program")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch and deepspeed")
    parser.add_argument("--parameters", type=int, default=1 << 26)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cases", default="fp32,bf16", help="bf16: a 16-bit copy of the parameters is written too")
    parser.add_argument("--rounds", type=int, default=7, help="how often they take turns in each case")
    parser.add_argument("--repeats", type=int, default=7, help="timed updates of each run")
    parser.add_argument("--quiet", type=float, default=0.15, help="cores that others may take during a run")
    parser.add_argument("--tries", type=int, default=200, help="of a run, until it was quiet")
    parser.add_argument("--timeout", type=float, default=900, help="seconds of one run")
    parser.add_argument("--output", type=pathlib.Path, help="file to write (default: bench/results/<cpu>/adam_deepspeed.json)")
    options = parser.parse_args()
    options.cases = options.cases.split(",")
    if not set(options.cases) <= {"fp32", "bf16"}:
        parser.error("--cases wants fp32, bf16 or both")
    return options


def busy_seconds():
    """Seconds that the processors were busy, and those that our finished children took of them."""
    user, nice, system, _idle, _wait, *rest = (int(x) for x in open("/proc/stat").readline().split()[1:9])
    times = os.times()
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK"), times.children_user + times.children_system


def run(side, options, precision):
    """What one run printed, with the load before it and the cores that others took during it."""
    for _ in range(options.tries):
        load, (busy, ours), begin = os.getloadavg()[0], busy_seconds(), time.monotonic()
        result = run_once(side, options, precision)
        busy_after, ours_after = busy_seconds()
        others = max(0.0, busy_after - busy - (ours_after - ours)) / (time.monotonic() - begin)
        if others <= options.quiet:
            return {"load_before": load, "cores_of_others": others, **result}
        print(f"{side}: others took {others:.2f} cores, again", file=sys.stderr)
        time.sleep(5)
    sys.exit(f"the machine was not quiet in {options.tries} tries")


def run_once(side, options, precision):
    if side == "strata":
        words = [options.strata, "bench", "adam", "--json", "--backend", "host"]
    else:
        words = [options.python, str(HERE / "deepspeed_adam.py"), "--memory", "placed" if side.endswith("placed") else "torch"]
    words += ["--precision", precision, "--parameters", str(options.parameters), "--threads", str(options.threads), "--repeats",
              str(options.repeats)]
    # torch's builder of extensions looks for ninja on the path; a virtual environment has it beside its interpreter.
    path = os.pathsep.join([str(pathlib.Path(options.python).parent), os.environ.get("PATH", "")])
    return json_of(side, words, options.threads, options.timeout, {"PATH": path})


def samples_of(result, name="update"):
    return next(m for m in result["measurements"] if m["name"] == name)["samples"]


def summary(runs):
    """Parameters per second over all rounds."""
    samples = [s for r in runs for s in samples_of(r)]
    median = statistics.median(samples)
    return {"median": median, "spread": statistics.median(abs(s - median) for s in samples) / median, "max": max(samples),
            "n": len(samples)}


def measure(options):
    cases = []
    for precision in options.cases:
        runs = {side: [] for side in SIDES}
        for turn in range(options.rounds):
            # Whoever is first in one round is last in the next: a drift of the machine favours nobody.
            for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
                runs[side].append(run(side, options, precision))
                median = statistics.median(samples_of(runs[side][-1]))
                print(f"{precision} round {turn + 1}/{options.rounds} {side}: {median / 1e9:.2f} G parameters/s", file=sys.stderr)
        case = {"precision": precision, "sides": {side: summary(runs[side]) for side in SIDES}, "ratios": {}, "runs": runs}
        # Of the rounds' ratios to the bound, which was measured in the same run.
        case["measured_over_bound"] = statistics.median(
            m["ratio"] for r in runs["strata"] for m in r["measurements"] if m["name"] == "update, traffic")
        for side in SIDES[1:]:
            case["ratios"][side] = case["sides"]["strata"]["median"] / case["sides"][side]["median"]
        cases.append(case)
    return cases


def main():
    options = parse_arguments()
    cases = measure(options)
    print(f"{'case':<6}{'side':<18}{'G parameters/s':>22}{'n':>5}{'strata is':>11}")
    for case in cases:
        for side, s in case["sides"].items():
            ratio = f"{case['ratios'][side]:.2f} x" if side in case["ratios"] else ""
            print(f"{case['precision']:<6}{side:<18}{s['median'] / 1e9:13.2f} +-{100 * s['spread']:5.1f}%{s['n']:>5}{ratio:>11}")
        print(f"{case['precision']:<6}strata is at {case['measured_over_bound']:.2f} of the bound of `strata bench adam`")
    store(options.output, "adam_deepspeed", "adam against DeepSpeed", {
        "threads": options.threads,
        "parameters": options.parameters,
        "deepspeed": cases[0]["runs"]["deepspeed"][0]["machine"]["framework"],
        "cases": cases,
    })


if __name__ == "__main__":
    main()
