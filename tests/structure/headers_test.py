#!/usr/bin/env python3
"""Every header compiles alone, twice in one file, without a warning; those of one instruction set as it is compiled.

    tests/structure/headers_test.py --compiler g++ [--jobs 2] [--include FOLDER...] [--cuda FOLDER] [PATH...]

Without the headers of CUDA those of folders named cuda are left out; gpu/device_cuda.h is nvcc's, which compiles it with every kernel.
"""
import argparse
import concurrent.futures
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("runtime", "nvme", "parallel", "optim", "offload", "model", "trainer", "launcher")
FLAGS = ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror", "-ffp-contract=off"]
ISA_FLAGS = re.compile(r"^set\(STRATA_FLAGS_(\w+) (.*)\)$", re.MULTILINE)


def isa_flags(path, text):
    """Flags of the instruction set that a name ends in (simd_avx2.h), as cmake/StrataTargets.cmake has them; else of generic."""
    flags = {isa: words.replace('""', "").split() for isa, words in ISA_FLAGS.findall(text)}
    isa = next((isa for isa in flags if pathlib.Path(path).stem.endswith("_" + isa)), "generic")
    return [*flags[isa], f"-DSTRATA_ISA=isa_{isa}", f"-DSTRATA_ISA_{isa}=1"]


def compile_alone(options, path, text=None):
    text = text or f'#include "{path}"\n#include "{path}"\n'
    targets = (ROOT / "cmake/StrataTargets.cmake").read_text()
    command = [options.compiler, *FLAGS, *isa_flags(path, targets), f"-I{ROOT}", *(f"-idirafter{folder}" for folder in options.include), "-x", "c++", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    return done.stderr.replace(str(ROOT) + "/", "") if done.returncode else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--include", nargs="*", default=[])
    parser.add_argument("--cuda", default="", help="folder of cuda_runtime_api.h")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("paths", nargs="*")
    options = parser.parse_args()
    if not compile_alone(options, "", "Undeclared x;\n"):
        sys.exit("the check itself is broken: it accepts anything")

    if "-mavx2" not in isa_flags("runtime/kernels/simd_avx2.h", (ROOT / "cmake/StrataTargets.cmake").read_text()):
        sys.exit("the check itself is broken: it finds no flags of AVX2")

    if options.cuda:
        options.include.append(options.cuda)
    headers = options.paths or sorted(str(p.relative_to(ROOT)) for folder in FOLDERS for p in (ROOT / folder).rglob("*.h")
                                      if p.name != "device_cuda.h" and (options.cuda or "cuda" not in p.parts))
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for path, problem in zip(headers, pool.map(lambda p: compile_alone(options, p), headers)):
            if problem:
                failed += 1
                print(f"{path} does not compile alone:\n{problem}")
    print(f"{len(headers)} headers, {failed} that do not compile alone")
    return 1 if failed or not headers else 0


if __name__ == "__main__":
    sys.exit(main())
