#!/usr/bin/env python3
"""What the compiled GPU kernels need of a multiprocessor: nothing spills from registers to memory, and every kernel can be launched.

    tests/structure/resources_test.py --build build/cuda-release --nvcc /usr/local/cuda/bin/nvcc [--exact] [--list]

Compiles the device code of every .cu file with the build's flags (compile_commands.json) for each of its architectures, and reads
what ptxas says. All machine code is made from the PTX of the oldest architecture, which takes half the time and has had the
same registers; --exact makes it as the build does. A kernel has as many threads as its launch bounds allow, or as its launches in the
source say.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77
REGISTERS = 65536  # of a multiprocessor, and the most of a block, since sm_50
WARP = 32
GRANULARITY = 256  # registers that a warp gets at a time
STATIC_SHARED = 48 * 1024

# Kernels that may have a stack, for spills or for arrays that registers cannot hold, by a part of the mangled name: most bytes of
# either.
# Heads of 256: sums and fragments fill the 255 registers that a thread can have; one word does not fit, and in the keys' kernel,
# whose sums are those of dk and dv, four.
ALLOWED = {
    "attention_forward_kernelILi256E": 8,
    "attention_backward_keys_kernelILi256E": 32,
    "attention_backward_queries_kernelILi256E": 8,
}
# Kernels that are launched with a number of threads that is no constant: the most. Launch bounds would change their code.
THREADS = {"rope_kernel": 256}

Kernel = collections.namedtuple("Kernel", "name arch registers stack spills shared")


def kernels_of(log):
    """What ptxas -v says of each kernel."""
    found = []
    for part in re.split(r"^ptxas info\s*: Compiling entry function ", log, flags=re.MULTILINE)[1:]:
        head = re.match(r"'(\w+)' for '(\w+)'", part)
        memory = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        used = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        if not (head and memory and used):
            sys.exit(f"ptxas says something that this test does not understand:\n{part[:500]}")
        found.append(Kernel(head[1], head[2], int(used[1]), int(memory[1]), int(memory[2]) + int(memory[3]),
                            int(shared[1]) if shared else 0))
    return found


def bounds_of(ptx):
    """Name -> most threads of a block, of the kernels with launch bounds."""
    entries = re.findall(r"\.entry\s+(\w+)\s*\([^)]*\)([^{]*)\{", ptx)
    bounds = {name: re.search(r"\.maxntid\s+(\d+)(?:,\s*(\d+),\s*(\d+))?", directives) for name, directives in entries}
    return {name: int(b[1]) * int(b[2] or 1) * int(b[3] or 1) for name, b in bounds.items() if b}


def constants_of(sources):
    """Values of `constexpr int kName = 123;`; None where two files have two values for a name."""
    values = {}
    for text in sources:
        for name, value in re.findall(r"constexpr int (k\w+) = (\d+);", text):
            values[name] = int(value) if values.get(name, int(value)) == int(value) else None
    return values


def arguments_at(text, begin):
    """The arguments of a call whose opening parenthesis is before `begin`, at its outermost commas."""
    text = text.replace("->", "..")  # its bracket closes nothing
    depth, start, found = 0, begin, []
    for i in range(begin, len(text)):
        c = text[i]
        if depth == 0 and c in ",)":
            found.append(text[start:i].strip())
            start = i + 1
            if c == ")":
                return found
        depth += {"(": 1, "{": 1, "[": 1, "<": 1, ")": -1, "}": -1, "]": -1, ">": -1}.get(c, 0)
    return found


def launched_threads(text, constants):
    """Kernel -> numbers of threads it is launched with in a source; None where that is not a constant."""
    launched = collections.defaultdict(set)
    for call in re.finditer(r"\blaunch\(queue, ", text):
        arguments = arguments_at(text, call.start() + len("launch("))
        launched[arguments[1].split("<")[0]].add(constants.get(arguments[3]))
    return launched


def threads_of(kernel, bounds, launched):
    """The most threads of a block, or None."""
    if kernel.name in bounds:
        return bounds[kernel.name]
    for name, threads in launched.items():
        if f"{len(name)}{name}" in kernel.name:
            return THREADS.get(name) if None in threads else max(threads)
    return None


def problems(kernel, threads):
    allowed = next((most for part, most in ALLOWED.items() if part in kernel.name), 0)
    where = f"{kernel.name} for {kernel.arch}"
    if max(kernel.stack, kernel.spills) > allowed:
        yield f"{where} has {kernel.spills} bytes of spills and a stack of {kernel.stack} bytes a thread, allowed are {allowed}"
    if threads is None:
        yield f"{where}: its launches do not name a constant number of threads: give it STRATA_LAUNCH_BOUNDS, or a line in THREADS"
        return
    a_warp = -(-kernel.registers * WARP // GRANULARITY) * GRANULARITY
    if a_warp * -(-threads // WARP) > REGISTERS:
        yield f"{where} cannot be launched: {threads} threads of {kernel.registers} registers"
    if kernel.shared > STATIC_SHARED:
        yield f"{where} cannot be launched: {kernel.shared} bytes of static shared memory"


def of_one_ptx(words):
    """The words of a command that makes the machine code of all its architectures from the PTX of the oldest."""
    makes = [word for word in words if word.startswith("--generate-code=")]
    virtual = min((int(v), v) for word in makes for v in re.findall(r"arch=compute_(\d+)", word))[1]
    machine = sorted({m for word in makes for m in re.findall(r"\bsm_\w+", word)})
    return [word for word in words if word not in makes] + [f"--generate-code=arch=compute_{virtual},code=[{','.join(machine)}]"]


def compile_device_code(command, folder, exact, *more):
    """(what ptxas said, PTX) of one of the build's commands."""
    words = shlex.split(command)
    words = words[next(i for i, word in enumerate(words) if pathlib.Path(word).name == "nvcc"):]  # behind a compiler cache
    at = words.index("-o")
    words = [word for word in words[:at] + words[at + 2:] if word != "-c"]
    words = words if exact else of_one_ptx(words)
    with tempfile.TemporaryDirectory() as kept:
        done = subprocess.run([*words, "--fatbin", "-Xptxas", "-v", *more, "--keep", "--keep-dir", kept, "-o", f"{kept}/out.fatbin"], cwd=folder,
                              capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr, "".join(path.read_text() for path in pathlib.Path(kept).glob("*.ptx"))


def self_test():
    log = ("ptxas info    : 0 bytes gmem\nptxas info    : Compiling entry function '_Z1a' for 'sm_80'\n"
           "ptxas info    : Function properties for _Z1a\n    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n"
           "ptxas info    : Used 128 registers, used 1 barriers, 8 bytes stack, 512 bytes smem, 384 bytes cmem[0]\n")
    (kernel,) = kernels_of(log)
    assert kernel == Kernel("_Z1a", "sm_80", 128, 8, 16, 512), kernel
    assert "spills" in list(problems(kernel, 256))[0]
    clean = kernel._replace(stack=0, spills=0)
    assert not list(problems(clean, 512)) and len(list(problems(clean, 513))) == 1
    assert not list(problems(clean._replace(registers=255), 256)) and list(problems(clean._replace(registers=255), 288))
    assert list(problems(clean, None)) and list(problems(clean._replace(shared=STATIC_SHARED + 1), 32))
    both = ["nvcc", "--generate-code=arch=compute_90,code=[compute_90,sm_90]", "--generate-code=arch=compute_80,code=[sm_80]"]
    assert of_one_ptx(both) == ["nvcc", "--generate-code=arch=compute_80,code=[sm_80,sm_90]"], of_one_ptx(both)
    assert bounds_of(".visible .entry _Z1a(\n.param .u64 x\n)\n.maxntid 128, 2, 1\n.minnctapersm 1\n{\n}\n.entry _Z1b()\n{\n}") == {"_Z1a": 256}
    source = "launch(queue, a_kernel<T, f(1, 2)>, {.x = g(n, 3), .y = 1}, kThreads, 0, x);\nlaunch(queue, b_kernel, grid, plan.threads, 0);"
    launched = launched_threads(source, {"kThreads": 256})
    assert launched == {"a_kernel": {256}, "b_kernel": {None}}, launched
    assert threads_of(kernel._replace(name="_Z8a_kernelv"), {}, launched) == 256
    assert threads_of(kernel._replace(name="_Z8b_kernelv"), {}, launched) is None
    assert threads_of(kernel._replace(name="_Z8b_kernelv"), {"_Z8b_kernelv": 64}, launched) == 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--nvcc", help="that of the build, where it has one")
    parser.add_argument("--exact", action="store_true", help="from the PTX of each architecture")
    parser.add_argument("--list", action="store_true", help="print every kernel")
    options = parser.parse_args()
    self_test()
    if options.nvcc is None or shutil.which(options.nvcc) is None:
        print(f"skipped: there is no CUDA compiler {options.nvcc} here" if options.nvcc else "skipped: built without a CUDA toolkit")
        return SKIPPED
    commands = [entry for entry in json.loads((options.build / "compile_commands.json").read_text())
                if entry["file"].endswith(".cu") and re.search(r"(^|/)nvcc ", entry["command"])]
    if not commands:
        sys.exit(f"{options.build}/compile_commands.json compiles nothing with nvcc")
    headers = [path.read_text() for folder in ("runtime", "optim", "parallel") for path in (ROOT / folder / "gpu").rglob("*.h")]
    kernels, found = [], []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        # The slowest first.
        commands.sort(key=lambda entry: "attention" not in entry["file"])
        compiled = {entry["file"]: pool.submit(compile_device_code, entry["command"], entry["directory"], options.exact) for entry in commands}
        starved = next(entry for entry in commands if entry["file"].endswith("elementwise.cu"))
        starved = pool.submit(compile_device_code, starved["command"], starved["directory"], options.exact, "-maxrregcount=32")
        for file, future in compiled.items():
            log, ptx = future.result()
            text = pathlib.Path(file).read_text()
            bounds, launched = bounds_of(ptx), launched_threads(text, constants_of([*headers, text]))
            for kernel in kernels_of(log):
                threads = threads_of(kernel, bounds, launched)
                kernels.append((kernel, threads))
                found += problems(kernel, threads)
        assert any(kernel.spills for kernel in kernels_of(starved.result()[0])), "32 registers spill nothing: the test reads nothing"
    for part in THREADS:
        if not any(part in kernel.name for kernel, _ in kernels):
            found.append(f"there is no kernel {part}: the test looks for a name that is gone")
    for part in ALLOWED:
        if not any(part in kernel.name and max(kernel.stack, kernel.spills) > 0 for kernel, _ in kernels):
            found.append(f"{part} may have a stack and has none")
    if options.list:
        for kernel, threads in sorted(kernels):
            print(f"{kernel.arch} {kernel.registers:>4} registers {threads or 0:>5} threads {kernel.spills:>4} B spills {kernel.stack:>4} B stack"
                  f" {kernel.shared:>6} B shared  {kernel.name}")
    archs = sorted({kernel.arch for kernel, _ in kernels})
    print("\n".join(found) or f"{len(kernels)} kernels for {', '.join(archs)}: none spills but the {len(ALLOWED)} that may, and each can be launched")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
