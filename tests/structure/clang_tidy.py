#!/usr/bin/env python3
"""Runs clang-tidy (.clang-tidy) on the sources of a build folder within a time limit.

    tests/structure/clang_tidy.py --build build/host-release [--seconds 180] [--jobs 2] [PATH...]

Files that the last commit or the working tree changed come first, then the others, beginning at a place that the commit
chooses, so that what one run has no time for is another's first. PATH: only these files. Exit code 1 on any finding.
"""
import argparse
import concurrent.futures
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("runtime", "nvme", "parallel", "optim", "offload", "model", "trainer", "launcher")


def git(*arguments):
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else []


def compiled_sources(build):
    """Sources of ours, each once (a *_simd.cpp is compiled for several instruction sets)."""
    commands = json.loads((build / "compile_commands.json").read_text())
    paths = {pathlib.Path(c["file"]).resolve() for c in commands}
    ours = sorted(p.relative_to(ROOT) for p in paths if p.is_relative_to(ROOT))
    return [p for p in ours if p.parts[0] in FOLDERS and p.suffix == ".cpp"]  # clang cannot read the CUDA headers of these days


def without_precompiled_headers(build, folder):
    """Writes the build's commands anew to `folder`, without what only the compiler that made them can read."""
    commands = json.loads((build / "compile_commands.json").read_text())
    for command in commands:
        command["command"] = re.sub(r" (-Winvalid-pch|-include \S+/cmake_pch\.hxx)", "", command["command"])
    (folder / "compile_commands.json").write_text(json.dumps(commands))


def ordered(sources):
    changed = {pathlib.Path(p) for p in git("diff", "--name-only", "HEAD~1")}
    first = [p for p in sources if p in changed or p.with_suffix(".h") in changed]
    rest = [p for p in sources if p not in first]
    commit = git("rev-parse", "HEAD")
    start = int(commit[0], 16) % len(rest) if commit and rest else 0
    return first + rest[start:] + rest[:start]


def tool():
    program = shutil.which("clang-tidy")
    if program is None:
        sys.exit("clang-tidy is not installed")
    version = int(re.search(r"version (\d+)", subprocess.run([program, "--version"], capture_output=True, text=True).stdout)[1])
    extra = [] if version >= 16 else [f"--extra-arg=-include{ROOT}/tests/structure/source_location_for_clang14.h"]
    return [program, "--quiet", "--extra-arg=-Wno-everything", *extra]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("paths", nargs="*", type=pathlib.Path)
    options = parser.parse_args()

    sources = compiled_sources(options.build)
    wanted = {p.resolve().relative_to(ROOT) for p in options.paths}
    queue = [p for p in sources if p in wanted] if wanted else ordered(sources)
    deadline = time.monotonic() + options.seconds
    folder = tempfile.TemporaryDirectory(prefix="strata_tidy_")
    without_precompiled_headers(options.build, pathlib.Path(folder.name))
    command = tool() + ["-p", folder.name]

    def check(path):
        if time.monotonic() > deadline:
            return path, None, ""
        done = subprocess.run([*command, str(ROOT / path)], capture_output=True, text=True)
        return path, done.returncode == 0, done.stdout

    checked, failed = 0, []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for path, clean, output in pool.map(check, queue):
            checked += clean is not None
            if clean is False:
                failed.append(path)
                print(output.replace(str(ROOT) + "/", ""), flush=True)
    print(f"clang-tidy: {checked} of {len(queue)} files checked, {len(failed)} with findings")
    return 1 if failed or (queue and not checked) else 0


if __name__ == "__main__":
    sys.exit(main())
