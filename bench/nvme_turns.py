#!/usr/bin/env python3
"""Compares ranks that read and write a folder at will with ranks that take turns (nvme.exclusive), for several numbers of ranks and
sizes of records, and stores every sample.

    bench/nvme_turns.py --strata build/host-release/strata --path /mnt/nvme

Each case is `strata bench nvme --ranks`: processes with direct I/O and files of their own, both ways in turns. Rates are of all ranks
together, checksums included; ratios are medians over pairs of samples that follow each other. Results are written to
bench/results/<cpu>/nvme_turns.json with the load of the machine before each case.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys

from results_file import store

PATTERNS = ["read", "write", "both"]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strata", default="strata", help="the program")
    parser.add_argument("--path", required=True, help="folder on the drive that is measured")
    parser.add_argument("--ranks", default="1,2,4", help="numbers of processes")
    parser.add_argument("--records", default="64MiB,4MiB", help="sizes of records")
    parser.add_argument("--bytes", default="512MiB", help="of a rank's files, once for each way")
    parser.add_argument("--seconds", type=float, default=11, help="of each pattern and way")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--output", type=pathlib.Path, help="file to write (default: bench/results/<cpu>/nvme_turns.json)")
    return parser.parse_args()


def run_case(options, ranks, record):
    words = [options.strata, "bench", "nvme", "--json", "--path", options.path, "--ranks", ranks, "--record-size", record, "--bytes",
             options.bytes, "--seconds", str(options.seconds), "--repeats", str(options.repeats)]
    load = os.getloadavg()[0]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=3600)
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"{' '.join(words)}: {error}")
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr.strip()}")
    return {"load": load, **json.loads(done.stdout)}


def main():
    options = parse_arguments()
    cases = []
    print(f"{'ranks':<6}{'record':<8}{'pattern':<16}{'at will':>12}{'by turns':>12}  ratio (least to most)")
    for record in options.records.split(","):
        for ranks in options.ranks.split(","):
            case = run_case(options, ranks, record)
            cases.append(case)
            rows = case["measurements"]
            for pattern, will, turns in zip(PATTERNS, rows[0::2], rows[1::2]):
                print(f"{ranks:<6}{record:<8}{pattern:<16}{will['median'] / 1e9:>7.2f} GB/s{turns['median'] / 1e9:>7.2f} GB/s  "
                      f"{case['parameters']['turns_ratio_' + pattern]}", flush=True)
    store(options.output, "nvme_turns", "turns at a drive", {"cases": cases})


if __name__ == "__main__":
    main()
