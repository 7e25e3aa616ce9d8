#!/usr/bin/env python3
"""Nothing of ours uses CUDA's default stream, which waits for all others: work goes to a GpuQueue, kernels through launch()."""
import pathlib
import re
import sys
import tempfile

FOLDERS = ("runtime", "nvme", "parallel", "optim", "offload", "model", "trainer", "launcher", "tests")
LAUNCHER = pathlib.PurePath("runtime/gpu/device_cuda.h")  # the one place that launches
# Calls that have no stream, or wait for all of them.
FORBIDDEN = re.compile(r"\bcuda(Memcpy(2D|3D|ToSymbol|FromSymbol|Peer)?|Memset(2D|3D)?|DeviceSynchronize|ThreadSynchronize)\s*\(|"
                       r"\bcudaStream(Legacy|PerThread|Default)\b|\bcuCtxSynchronize\b")
LAUNCH = re.compile(r"<<<")
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def problems_of(path, text):
    code = COMMENT.sub(lambda m: "\n" * m[0].count("\n"), text)
    for pattern, advice in ((FORBIDDEN, "enqueue it on a GpuQueue"), (LAUNCH, "launch kernels by launch()")):
        if pattern is LAUNCH and path == LAUNCHER:
            continue
        for match in pattern.finditer(code):
            yield f"{path}:{code.count(chr(10), 0, match.start()) + 1}: {match[0].rstrip('(')}: {advice}"


def problems(root):
    files = [p for folder in FOLDERS for p in sorted((root / folder).rglob("*")) if p.suffix in (".h", ".cpp", ".cu")]
    if not files:
        yield f"no sources under {root}"
    for path in files:
        yield from problems_of(path.relative_to(root), path.read_text())


def self_test():
    """The check finds what it is for."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "runtime/gpu").mkdir(parents=True)
        (root / LAUNCHER).write_text("kernel<<<grid, 32, 0, stream>>>();  // cudaMemcpy( in a comment\n")
        (root / "runtime/good.cu").write_text("cudaMemcpyAsync(a, b, n, kind, stream);\ncudaStreamSynchronize(stream);\n")
        assert list(problems(root)) == [], list(problems(root))
        (root / "runtime/bad.cu").write_text("\nkernel<<<1, 32>>>();\ncudaMemcpy(a, b, n, kind);\ncudaDeviceSynchronize();\nf(cudaStreamLegacy);\n")
        found = sorted(problems(root))
        assert [line.split(":")[1] for line in found] == ["2", "3", "4", "5"], found


def main():
    self_test()
    found = list(problems(pathlib.Path(__file__).resolve().parents[2]))
    print("\n".join(found) or "nobody uses the default stream")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
