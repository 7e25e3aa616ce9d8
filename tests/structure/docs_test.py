#!/usr/bin/env python3
"""What README.md, CONTRIBUTING.md and docs/*.md put in backticks exists: files and folders, commands of the program, C++ names, and
configuration keys. Words of other programs are listed on the page in a comment: <!-- not ours: word other_word -->"""
import pathlib
import re
import sys
import tempfile

SOURCE_SUFFIXES = {".h", ".cpp", ".cu", ".py", ".txt", ".cmake", ".json", ".yaml", ".in", ".inl", ".sh", ""}
NOT_SOURCES = {"build", "runs", "data", ".git", "docs", "__pycache__"}
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w.*-]+(/[\w.*-]+)+/?|[\w.*-]+/")
NAME = re.compile(r"[A-Za-z_][\w.:-]*(\(\))?")


def sources(root):
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if relative.parts[0] in NOT_SOURCES or not path.is_file() or path.suffix not in SOURCE_SUFFIXES:
            continue
        if path.stat().st_size < 1 << 20:
            yield path.read_text(errors="replace")


def subcommands(text):
    return set(re.findall(r'add_subcommand\(\s*"([\w-]+)"', text)) | set(re.findall(r'add\(bench, "([\w-]+)"', text))


class Tree:
    def __init__(self, root):
        self.root = root
        text = "\n".join(sources(root))
        self.text = text
        self.words = set(re.findall(r"[A-Za-z_]\w*", text))
        self.commands = subcommands(text)
        keys = root / "tests/golden/config_keys.txt"
        self.keys = set(keys.read_text().split()) if keys.exists() else set()
        self.sections = {key.rsplit(".", n)[0] for key in self.keys for n in (1, 2)}

    def problem(self, span):
        """What is wrong with a span, or None."""
        if re.match(r"strata [a-z]", span):
            words = re.findall(r"[a-z][a-z-]*", span[len("strata "):].split("[")[0])
            first = words[0] if words else ""
            return None if not words or first in self.commands else f"the program has no command {first}"
        span = span.removeprefix("strata ")
        if re.fullmatch(r"--[\w-]+", span):
            return None if span in self.text else "no program takes this option"
        if PATH.fullmatch(span) and (self.root / span.split("/")[0]).exists():
            return None if any(self.root.glob(span.rstrip("/"))) else "no such file or folder"
        if not NAME.fullmatch(span) or span in self.keys or span in self.sections:
            return None
        name = span.removesuffix("()")
        if name.split(".")[0] in {s.split(".")[0] for s in self.sections} and re.fullmatch(r"[a-z_]+(\.[a-z0-9_]+)+", name):
            return None if name in self.text else "no such configuration key"
        missing = [part for part in re.findall(r"[A-Za-z_]\w*", name) if part not in self.words and part != "strata"]
        return f"{missing[0]} appears nowhere in the tree" if missing and name not in self.text else None


def problems(root):
    tree = Tree(root)
    for page in [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]:
        if not page.exists():
            continue
        text = page.read_text()
        foreign = set(" ".join(re.findall(r"<!-- not ours:(.*?)-->", text, re.DOTALL)).split())
        prose = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
        for match in SPAN.finditer(prose):
            span = match[1].strip()
            if span in foreign:
                continue
            what = tree.problem(span)
            if what:
                yield f"{page.relative_to(root)}:{prose.count(chr(10), 0, match.start()) + 1}: `{span}`: {what}"


def self_test():
    """The check finds what it is for, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in ("docs", "runtime", "tests/golden"):
            (root / name).mkdir(parents=True)
        (root / "runtime/tensor.h").write_text('class Tensor { int shape_of(); };  app.add_subcommand("train");')
        (root / "tests/golden/config_keys.txt").write_text("zero.stage\n")
        good = "`runtime/tensor.h` `runtime/*.h` `Tensor::shape_of()` `zero.stage` `zero` `strata train x.yaml` `a + b`\n```\n`gone`\n```\n"
        (root / "docs/page.md").write_text(good + "`theirs` <!-- not ours: theirs -->\n")
        assert list(problems(root)) == [], list(problems(root))
        bad = ["runtime/gone.h", "Tensor::gone()", "zero.stages", "strata fly x", "gone_word", "--gone"]
        (root / "docs/page.md").write_text("\n".join(f"`{word}`" for word in bad))
        found = list(problems(root))
        assert len(found) == len(bad) and found[0].startswith("docs/page.md:1: `runtime/gone.h`"), found


def main():
    self_test()
    found = list(problems(pathlib.Path(__file__).resolve().parents[2]))
    print("\n".join(found) or "the pages speak of what exists")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
