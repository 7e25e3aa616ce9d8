#!/usr/bin/env python3
"""The installed package is complete: a program outside the tree finds it, builds, links and trains, and the installed program runs
where nothing but the C library is.

    tests/install/install_test.py --build build/host-release [--cmake cmake] [--compiler g++]
"""
import argparse
import json
import os
import pathlib
import re
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


# Of the C library, which every machine has.
SYSTEM = re.compile(r"(linux-vdso|ld-linux|lib(c|m|dl|rt|pthread|resolv|util)\.so)")
LARGEST_BYTES = 64 << 20


def libraries_of(program):
    """Name and file of every shared library that the loader would load."""
    found = {}
    for line in run("ldd", program).splitlines():
        words = line.split()
        found[os.path.basename(words[0])] = words[2] if "=>" in words and len(words) > 2 else words[0]
    return found


def check_libraries(prefix, program):
    for name, file in libraries_of(program).items():
        if not SYSTEM.match(name) and not pathlib.Path(file).resolve().is_relative_to(prefix.resolve()):
            sys.exit(f"{program} takes {name} from {file}, not from its own tree")


def check_bundle(prefix):
    check_libraries(prefix, prefix / "bin/strata")
    size = sum(f.lstat().st_size for f in prefix.rglob("*"))
    if size > LARGEST_BYTES:
        sys.exit(f"{prefix} has {size} bytes, {LARGEST_BYTES} are the most")
    return size


def run_alone(prefix, root):
    """Runs the program in a file system that holds the prefix and the C library."""
    libraries = libraries_of(prefix / "bin/strata")
    shutil.copytree(prefix, root / "opt/strata", symlinks=True)
    for name, file in libraries.items():
        if SYSTEM.match(name) and os.path.isabs(file):
            target = root / file.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    for folder in ("tmp", "proc"):
        (root / folder).mkdir()
    # With /proc, where the loader reads which file it started.
    alone = ("unshare", "--mount", "sh", "-c", 'mount -t proc proc "$0/proc" && exec chroot "$0" /opt/strata/bin/strata "$@"', root)
    for words, wanted in ((["--version"], "strata"), (["doctor", "/tmp"], "GPU"), (["config", "keys"], "training.seq_length")):
        output = run(*alone, *words)
        if wanted not in output:
            sys.exit(f"strata {' '.join(words)}, alone, does not speak of {wanted}:\n{output}")


def check_gpu_tests(prefix):
    """What another machine is given to test its GPU."""
    programs = sorted((prefix / "libexec/strata").glob("test_*"))
    if [p.name for p in programs] != ["test_model", "test_optim", "test_parallel", "test_runtime", "test_trainer"]:
        sys.exit(f"test programs in {prefix}: {programs}")
    for program in programs:
        check_libraries(prefix, program)
        if "Gpu" not in run(program, "--gtest_list_tests"):
            sys.exit(f"{program} has no test of a GPU")
    run(prefix / "libexec/strata/run_gpu", "--help")


OWN_OPTIMIZER = """
run: {{name: own}}
model: {{type: llama, vocab_size: 257, hidden_size: 64, num_layers: 2, num_heads: 2}}
data: {{train: ["{text}"], format: bytes}}
training: {{seq_length: 64, micro_batch_size: 4, global_batch_size: 4}}
optimizer: {{lr: 2.0e-3, groups: ["*norm* lr_scale=0.5"]}}
offload: {{optimizer: {{device: nvme, record_size: 16384}}}}
"""


def build_example(name, work, options):
    """Builds examples/NAME against the installed package; the program."""
    shutil.copytree(ROOT / "examples" / name, work / "examples" / name)
    build = work / "build" / name
    run(options.cmake, "-S", work / "examples" / name, "-B", build, f"-DCMAKE_PREFIX_PATH={work}/prefix",
        f"-DCMAKE_CXX_COMPILER={options.compiler}", "-DCMAKE_BUILD_TYPE=Release")
    run(options.cmake, "--build", build, "--parallel", "2")
    return build / name


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--cmake", default="cmake")
    parser.add_argument("--compiler", default="g++")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        run(options.cmake, "--install", options.build, "--prefix", work / "program", "--strip", "--component", "program")
        (work / "program").rename(work / "moved")
        print(f"{check_bundle(work / 'moved')} bytes")
        if os.geteuid() == 0:
            run_alone(work / "moved", work / "root")
        else:
            print("not root: the program was not run alone")
        run(options.cmake, "--install", options.build, "--prefix", work / "moved", "--component", "gpu_tests")
        check_gpu_tests(work / "moved")
        run(options.cmake, "--install", options.build, "--prefix", work / "first")
        # The package does not know where it lies, and the example does not see the tree.
        (work / "first").rename(work / "prefix")
        output = run(build_example("custom_model", work, options), work / "run", "30", cwd=work)
        if "validation loss" not in output:
            sys.exit(f"custom_model did not report a validation loss:\n{output}")
        (work / "own.yaml").write_text(OWN_OPTIMIZER.format(text=ROOT / "README.md"))
        program = build_example("custom_optimizer", work, options)
        first = run(program, "own.yaml", "training.steps=20", cwd=work)
        run(program, "own.yaml", "training.steps=40", cwd=work)
        manifest = json.loads((work / "runs/own/checkpoints/step_40/manifest.json").read_text())
        if (manifest["optimizer"], manifest["states"]) != ("rmsprop", ["mean_square"]):
            sys.exit(f"custom_optimizer did not save its own state:\n{first}")
        losses = [json.loads(line)["loss"] for line in (work / "runs/own/metrics.jsonl").read_text().splitlines() if "loss" in line]
        if len(losses) != 40 or not losses[-1] < losses[0] - 0.5:
            sys.exit(f"custom_optimizer does not learn: {losses}")
        version = run(work / "prefix/bin/strata", "--version", cwd=work)
        print(output.splitlines()[-1], version, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
