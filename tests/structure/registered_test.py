#!/usr/bin/env python3
"""No test is written and never run: every *_test.cpp is compiled, and every *_test.py and test_*.py is in a ctest command.

    tests/structure/registered_test.py --build build/host-release [--ctest ctest]
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def problems(build, ctest):
    compiled = {pathlib.Path(c["file"]).resolve() for c in json.loads((build / "compile_commands.json").read_text())}
    written = sorted((ROOT / "tests").rglob("*_test.cpp"))
    if not written:
        yield "no tests found"
    for path in written:
        if path not in compiled:
            yield f"{path.relative_to(ROOT)} belongs to no target: its folder is not one that tests/CMakeLists.txt reads"

    listed = subprocess.run([ctest, "--test-dir", str(build), "--show-only=json-v1"], capture_output=True, text=True)
    if listed.returncode != 0:
        yield f"ctest cannot list the tests: {listed.stderr.strip()}"
        return
    words = set()
    for test in json.loads(listed.stdout[listed.stdout.index("{"):])["tests"]:
        words.update(re.split(r"[^\w]+", " ".join(test.get("command", []))))
    for path in sorted({*(ROOT / "tests").rglob("*_test.py"), *(ROOT / "tests").rglob("test_*.py")}):
        if path.stem not in words:
            yield f"{path.relative_to(ROOT)} is in no ctest command"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--ctest", default="ctest")
    options = parser.parse_args()
    found = list(problems(options.build, options.ctest))
    print("\n".join(found) or "every test is run")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
