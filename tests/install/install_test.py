#!/usr/bin/env python3
"""The installed package is complete: a program outside the tree finds it, builds, links and trains, and the installed program runs.

    tests/install/install_test.py --build build/host-release [--cmake cmake] [--compiler g++]
"""
import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*command, cwd=None):
    done = subprocess.run([str(c) for c in command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--cmake", default="cmake")
    parser.add_argument("--compiler", default="g++")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        run(options.cmake, "--install", options.build, "--prefix", work / "first")
        # The package does not know where it lies, and the example does not see the tree.
        (work / "first").rename(work / "prefix")
        shutil.copytree(ROOT / "examples/custom_model", work / "example")
        run(options.cmake, "-S", work / "example", "-B", work / "build", f"-DCMAKE_PREFIX_PATH={work}/prefix", f"-DCMAKE_CXX_COMPILER={options.compiler}",
            "-DCMAKE_BUILD_TYPE=Release")
        run(options.cmake, "--build", work / "build", "--parallel", "2")
        output = run(work / "build/custom_model", work / "run", "30", cwd=work)
        if "validation loss" not in output:
            sys.exit(f"custom_model did not report a validation loss:\n{output}")
        version = run(work / "prefix/bin/strata", "--version", cwd=work)
        print(output.splitlines()[-1], version, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
