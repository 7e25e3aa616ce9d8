#!/usr/bin/env python3
"""Every kernel that nvcc compiled was run by the tests, over the emulator: their lists against the libraries' symbols.

    tests/fake_cuda/launched_test.py --nm nm --libraries build/cuda-release/libstrata_*.a --launched LIST...
"""
import argparse
import pathlib
import re
import subprocess
import sys

# A kernel's function on the host has its name; what its stub keeps tells how many there are.
FUNCTION = re.compile(r"^[0-9a-f]+ [tT] (?:void )?(strata::gpu_cuda::.*)$")  # only templates' names have their type
HANDLE = re.compile(r"__device_stub__.*__handle$")


def short_name(name):
    """As tests/emulator/kernel_name.cpp shortens it."""
    for space in ("(anonymous namespace)::", "strata::gpu_cuda::", "strata::"):
        name = name.replace(space, "")
    depth = 0
    for i, c in enumerate(name):
        depth += {"<": 1, ">": -1}.get(c, 0)
        if depth == 0 and c == "(":
            return name[:i]
    return name


def kernels_of(symbols):
    """The kernels among the lines of `nm -C`, and how many there have to be."""
    names, handles = set(), 0
    for line in symbols.splitlines():
        if HANDLE.search(line):
            handles += 1
        match = FUNCTION.match(line)
        if match and not match[1].endswith("]"):  # [clone .cold]
            name = short_name(match[1])
            if re.search(r"_kernel(<|$)", name):
                names.add(name)
    return names, handles


def self_test():
    space = "strata::gpu_cuda::(anonymous namespace)::"
    symbols = (f"0000000000000010 T {space}sort_kernel(int const*, long)\n0000000000000048 b __device_stub__ZN6sort(int const*)::__handle\n"
               f"0000000000000280 t void {space}update_kernel<strata::Rule<{space}Ops>, strata::bf16>(strata::Slice)\n"
               f"0000000000000020 t void {space}update_kernel<strata::Rule<{space}Ops>, strata::bf16>(strata::Slice) [clone .cold]\n"
               f"0000000000000010 t void {space}gather<int>(int)\n0000000000000040 b __device_stub__ZN6strata(int)::__handle\n")
    assert kernels_of(symbols) == ({"sort_kernel", "update_kernel<Rule<Ops>, bf16>"}, 2), kernels_of(symbols)


def problems(options):
    compiled = set()
    for library in options.libraries:
        symbols = subprocess.run([options.nm, "-C", str(library)], capture_output=True, text=True, check=True).stdout
        names, handles = kernels_of(symbols)
        if len(names) != handles:
            yield f"{library.name} has {handles} kernels, and {len(names)} that are named *_kernel: name them so"
        compiled |= names
    launched = set()
    for path in options.launched:
        if not path.exists():
            yield f"{path} is not there: the test that writes it has failed, or was not run"
            return
        launched.update(path.read_text().splitlines())
    if not compiled:
        yield "the libraries have no kernels"
    for name in sorted(compiled - launched):
        yield f"{name} was compiled and never run: test it, or do not instantiate it"


def main():
    self_test()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nm", default="nm")
    parser.add_argument("--libraries", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--launched", type=pathlib.Path, nargs="+", required=True)
    found = list(problems(parser.parse_args()))
    print("\n".join(found) or "every kernel was run")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
