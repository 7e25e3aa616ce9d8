#!/usr/bin/env python3
"""No function or variable is defined in two folders: the linker would take either, and never say so.

    tests/structure/duplicate_symbols_test.py --build build/host-release [--nm nm]
"""
import argparse
import collections
import pathlib
import subprocess
import sys

FOLDERS = ("runtime", "nvme", "parallel", "optim", "offload", "model", "trainer")
STRONG = "TDBRG"  # external code and data; inline functions and templates are weak


def strong_symbols(listing):
    """Names of external definitions in the output of nm."""
    lines = (line.split(" ", 2) for line in listing.splitlines())
    return {words[2] for words in lines if len(words) == 3 and words[1] in STRONG}


def problems(symbols_of):
    owners = collections.defaultdict(list)
    for archive, symbols in sorted(symbols_of.items()):
        for symbol in symbols:
            owners[symbol].append(archive)
    for symbol, archives in sorted(owners.items()):
        if len(archives) > 1:
            yield f"{symbol} is defined in {' and in '.join(archives)}"


def self_test():
    """The check finds what it is for, and nothing else."""
    one = strong_symbols("a.cpp.o:\n0000000000000000 T f(int)\n0000000000000010 W g()\n0000000000000000 t h()\n")
    two = strong_symbols("0000000000000020 T f(int)\n0000000000000000 W g()\n0000000000000000 t h()\n0000000000000000 B table\n")
    assert two == {"f(int)", "table"}, two
    assert list(problems({"one.a": one, "two.a": two})) == ["f(int) is defined in one.a and in two.a"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--nm", default="nm")
    options = parser.parse_args()
    self_test()
    symbols_of = {}
    for folder in FOLDERS:
        archive = options.build / f"libstrata_{folder}.a"
        done = subprocess.run([options.nm, "-C", "--defined-only", str(archive)], capture_output=True, text=True)
        symbols_of[archive.name] = strong_symbols(done.stdout)
        if done.returncode != 0 or not symbols_of[archive.name]:
            sys.exit(f"{archive}: no symbols to read: {done.stderr.strip()}")
    found = list(problems(symbols_of))
    print("\n".join(found) or f"{sum(map(len, symbols_of.values()))} symbols, each defined once")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
