#!/usr/bin/env python3
"""Each folder includes only folders above it in the house (DESIGN.md, section 3), and the YAML, MPI and io_uring libraries stay in
the files that wrap them. Prints every edge that goes another way."""
import pathlib
import re
import sys
import tempfile

# folder: what it may include besides itself, without the folders that those may include
MAY_INCLUDE = {
    "runtime": [],
    "nvme": ["runtime"],
    "parallel": ["runtime"],
    "optim": ["runtime", "parallel"],
    "offload": ["runtime", "nvme", "parallel", "optim"],
    "model": ["runtime", "parallel"],
    "trainer": ["runtime", "nvme", "parallel", "optim", "offload", "model"],
    "launcher": ["runtime", "nvme", "parallel", "optim", "offload", "model", "trainer"],
}
# library header: folders whose files may include it
WRAPPED = {
    r"yaml-cpp/": ["runtime"],
    r"mpi\.h$": ["parallel", "launcher"],  # launcher: doctor asks for versions
    r"liburing": ["nvme"],
    r"(oneapi/)?dnnl": ["runtime", "launcher"],
    r"hwloc": ["runtime"],
    r"CLI/": ["launcher"],
    r"cuda|cublas": ["runtime", "parallel"],
    r"cudnn": ["runtime"],
    r"nccl\.h$": ["parallel"],
    r"openssl/": ["trainer"],
    r"Eigen/": ["optim"],
}
# headers that never appear in a header of ours: they would reach every file that includes it
ONLY_IN_SOURCES = [r"yaml-cpp/", r"hwloc", r"liburing", r"(oneapi/)?dnnl", r"nlohmann/json\.hpp$", r"openssl/", r"Eigen/"]
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)


def problems_of(root, path, text):
    folder = path.parts[0]
    for match in INCLUDE.finditer(text):
        name = match[2]
        line = text.count("\n", 0, match.start()) + 1
        target = name.split("/")[0]
        ours = match[1] == '"' or ("/" in name and (root / name).exists())
        if ours and target in MAY_INCLUDE and target != folder and target not in MAY_INCLUDE[folder]:
            yield f"{path}:{line}: {folder}/ includes {name}; it may include {', '.join(MAY_INCLUDE[folder]) or 'nothing of ours'}"
        if match[1] == "<" and ours:
            yield f"{path}:{line}: {name} is ours: write it in quotes"
        if match[1] == '"' and "/" not in name and name != "strata_build_info.h":
            yield f"{path}:{line}: {name}: write the path from the root of the tree"
        for library, folders in WRAPPED.items():
            if re.match(library, name) and folder not in folders:
                yield f"{path}:{line}: {name} is wrapped by {', '.join(folders)}/; use that"
        if path.suffix == ".h" and any(re.match(library, name) for library in ONLY_IN_SOURCES):
            yield f"{path}:{line}: a header must not include {name}"


def problems(root):
    files = [p for folder in MAY_INCLUDE for p in sorted((root / folder).rglob("*")) if p.suffix in (".h", ".cpp", ".inl", ".cu")]
    if not files:
        yield f"no sources under {root}"
    for path in files:
        yield from problems_of(root, path.relative_to(root), path.read_text())


def self_test():
    """The check finds what it is for."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "runtime").mkdir()
        (root / "runtime/good.cpp").write_text('#include "runtime/good.h"\n#include <vector>\n#include <yaml-cpp/yaml.h>\n')
        assert list(problems(root)) == [], list(problems(root))
        (root / "runtime/bad.h").write_text('// x\n#include "nvme/format.h"\n#include "status.h"\n#include <mpi.h>\n#include <yaml-cpp/yaml.h>\n')
        found = list(problems(root))
        assert len(found) == 4 and found[0].startswith("runtime/bad.h:2: runtime/ includes nvme/format.h"), found
        (root / "nvme").mkdir()
        (root / "nvme/format.h").write_text("")
        (root / "runtime/bad.h").write_text("#include <nvme/format.h>\n#include <nvme/of_a_library.h>\n")
        found = list(problems(root))
        assert len(found) == 2 and "runtime/ includes nvme/format.h" in found[0] and "in quotes" in found[1], found


def main():
    self_test()
    found = list(problems(pathlib.Path(__file__).resolve().parents[2]))
    print("\n".join(found) or "every include goes up the house")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
