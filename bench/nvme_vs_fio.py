#!/usr/bin/env python3
"""Times direct reads, writes and both at once by `strata bench nvme` and by fio in turns, prints the ratios and stores both.

    bench/nvme_vs_fio.py --strata build/host-release/strata --path /mnt/nvme

Both use io_uring with registered files and buffers, the same block size, queue depth, file size and file system. Medians are over
all rounds. Results are written to bench/results/<cpu>/nvme_fio.json, with every sample, the commit and the load of the machine before
each run. Scratch files are removed.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

from results_file import store

HERE = pathlib.Path(__file__).resolve().parent
# Name in our report -> fio's pattern.
PATTERNS = {"read": "read", "write": "write", "read and write": "rw"}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strata", default="strata", help="the program")
    parser.add_argument("--path", required=True, help="folder on the drive that is measured")
    parser.add_argument("--mib", type=int, default=1024, help="size of the scratch file")
    parser.add_argument("--block-kib", type=int, default=1024)
    parser.add_argument("--queue-depth", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3, help="of each pattern and turn")
    parser.add_argument("--rounds", type=int, default=7, help="how often the two take turns")
    parser.add_argument("--output", type=pathlib.Path, help="file to write (default: bench/results/<cpu>/nvme_fio.json)")
    options = parser.parse_args()
    if shutil.which("fio") is None:
        parser.error("fio is not installed")
    return options


def run(words):
    # glibc then gives fio's buffers huge pages, as ours have: with small ones a request is 256 pieces of memory instead of one.
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"{' '.join(words)}: {error}")
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


def run_strata(options, folder):
    """Bytes per second by pattern. With as much memory as fio has, a buffer for each request in flight: where the host of a
    virtual machine copies what is read, memory that stays in its caches is faster."""
    report = json.loads(run([options.strata, "bench", "nvme", "--json", "--engine", "io_uring", "--path", folder,
                             "--bytes", f"{options.mib}MiB", "--block-size", f"{options.block_kib}KiB", "--queue-depth",
                             str(options.queue_depth), "--window", f"{options.queue_depth * options.block_kib}KiB", "--seconds", str(options.seconds), "--repeats", "1"]))
    if report["parameters"]["direct"] != "yes":
        sys.exit(f"{options.path} has no direct I/O")
    return {m["name"]: m["samples"][0] for m in report["measurements"]}


def run_fio(options, folder):
    """Bytes per second by pattern, on a file that one pass of writes has made before, as in `strata bench nvme`. No time is
    spent on changing what is written."""
    common = ["fio", "--name=strata", f"--filename={folder}/fio", f"--size={options.mib << 20}", f"--bs={options.block_kib << 10}",
              f"--iodepth={options.queue_depth}", "--ioengine=io_uring", "--direct=1", "--fixedbufs=1", "--registerfiles=1",
              "--iomem=malloc", "--scramble_buffers=0",
              "--output-format=json"]
    rates = {}
    run(common + ["--rw=write"])
    try:
        for name in ("write", "read", "read and write"):
            out = run(common + [f"--rw={PATTERNS[name]}", "--time_based", f"--runtime={options.seconds}"])
            job = json.loads(out[out.index("{"):])["jobs"][0]
            rates[name] = sum(job[way]["io_bytes"] / (job[way]["runtime"] / 1e3) for way in ("read", "write") if job[way]["runtime"])
    finally:
        pathlib.Path(f"{folder}/fio").unlink(missing_ok=True)
    return rates


def summary(samples):
    median = statistics.median(samples)
    return {"median": median, "spread": statistics.median(abs(s - median) for s in samples) / median, "n": len(samples),
            "samples": samples}


def measure(options, folder):
    sides = {"strata": run_strata, "fio": run_fio}
    samples = {name: {side: [] for side in sides} for name in PATTERNS}
    loads = []
    for turn in range(options.rounds):
        # Whoever is first in one round is last in the next: a drift of the drive favours nobody.
        for side in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
            loads.append(os.getloadavg()[0])
            rates = sides[side](options, folder)
            for name in PATTERNS:
                samples[name][side].append(rates[name])
            print(f"round {turn + 1}/{options.rounds} {side}: " +
                  ", ".join(f"{name} {rates[name] / 1e9:.2f} GB/s" for name in PATTERNS), file=sys.stderr)
    cases = []
    for name, by_side in samples.items():
        case = {"traffic": name, **{side: summary(values) for side, values in by_side.items()}}
        case["ratio"] = case["strata"]["median"] / case["fio"]["median"]
        case["ratio_of_best"] = max(by_side["strata"]) / max(by_side["fio"])
        cases.append(case)
    return cases, loads


def main():
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="strata-fio-", dir=options.path) as folder:
        cases, loads = measure(options, folder)
    print(f"{'traffic':<16}{'strata, GB/s':>22}{'fio, GB/s':>22}{'n':>4}{'ratio':>8}{'of best':>9}")
    for case in cases:
        columns = "".join(f"{case[side]['median'] / 1e9:12.2f} +-{100 * case[side]['spread']:5.1f}%" for side in ("strata", "fio"))
        print(f"{case['traffic']:<16}{columns:>44}{case['fio']['n']:>4}{case['ratio']:8.2f}{case['ratio_of_best']:9.2f}")
    store(options.output, "nvme_fio", "nvme against fio", {
        "fio": run(["fio", "--version"]).strip(),
        "file_mib": options.mib,
        "block_kib": options.block_kib,
        "queue_depth": options.queue_depth,
        "seconds": options.seconds,
        "load_before": loads,
        "cases": cases,
    })


if __name__ == "__main__":
    main()
