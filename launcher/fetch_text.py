#!/usr/bin/env python3
"""Fetches a few megabytes of free English prose from a package of the distribution.

    launcher/fetch_text.py FOLDER

Writes FOLDER/*.txt. Tries several packages in turn, because not every release has each; installs nothing and needs no root.
The text is the same for the same version of the package. Uses the standard library, apt-get and dpkg-deb only.
"""

import gzip
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib


def austen(root):
    """Six novels of Jane Austen, out of the R package that holds them (public domain)."""
    data = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    while data:
        # A record is the length of what follows unpacked, then a zlib stream: a serialised vector of strings.
        stream = zlib.decompressobj()
        record = stream.decompress(data[4:])
        data = stream.unused_data
        (encoding,) = struct.unpack_from(">I", record, 14)
        at = 18 + encoding
        kind, count = struct.unpack_from(">II", record, at)
        if kind & 0xFF != 16:
            continue
        at += 8
        lines = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", record, at + 4)
            lines.append(record[at + 8 : at + 8 + max(length, 0)].decode("utf-8"))
            at += 8 + max(length, 0)
        yield lines[0].lower().replace(" ", "_"), "\n".join(lines)


def markdown_essays(root):
    """Long essays in Markdown (GPL-2); links and emphasis are taken off."""
    for path in sorted(root.glob("usr/share/doc/anarchism/markdown/sec*.md.gz")):
        text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
        yield path.name.removesuffix(".md.gz"), re.sub(r"[*_\\]", "", text)


def python_manual(root):
    """The manual of Python (PSF licence), as its authors wrote it."""
    for path in sorted(root.glob("usr/share/doc/python3*/html/_sources/**/*.rst.txt")):
        if path.parent.name in ("howto", "tutorial", "library", "reference", "faq", "using"):
            yield f"{path.parent.name}_{path.name.removesuffix('.rst.txt')}", path.read_text("utf-8", "replace")


SOURCES = [
    ("r-cran-janeaustenr", austen),
    ("anarchism", markdown_essays),
    ("python3.11-doc", python_manual),
    ("python3.12-doc", python_manual),
    ("python3.13-doc", python_manual),
]
MIN_BYTES = 2_000_000
MAX_BYTES = 6_000_000  # enough for a run of minutes


def run(command, **kwargs):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)


def fetch(package, extract, scratch):
    """[(name, text)] of a package; raises ValueError with the reason when there is none."""
    command = ["apt-get", "-q", "download", package]
    if os.geteuid() == 0:
        command[1:1] = ["-o", "APT::Sandbox::User=root"]  # the download user may not enter our scratch folder
    result = run(command, cwd=scratch, timeout=300)
    archives = sorted(scratch.glob(f"{package}_*.deb"))
    if result.returncode != 0 or not archives:
        raise ValueError((result.stdout.strip().splitlines() or ["apt-get failed"])[-1])
    root = scratch / "root"
    result = run(["dpkg-deb", "-x", str(archives[-1]), str(root)])
    if result.returncode != 0:
        raise ValueError(result.stdout.strip())
    texts, size = [], 0
    for name, text in extract(root):
        size += len(text.encode())
        texts.append((name, text))
        if size > MAX_BYTES:
            break
    if size < MIN_BYTES:
        raise ValueError(f"holds only {size} bytes of text")
    return texts


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"fetch_text: {folder} exists and is not empty")
    reasons = []
    for package, extract in SOURCES:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                texts = fetch(package, extract, pathlib.Path(scratch))
            except (ValueError, OSError, KeyError, struct.error, zlib.error, subprocess.SubprocessError) as error:
                reasons.append(f"  {package}: {error}")
                continue
        partial = folder.with_name(folder.name + ".partial")  # all of the text or none
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, text in texts:
            (partial / (name + ".txt")).write_text(text, "utf-8")
        partial.rename(folder)
        size = sum(len(text.encode()) for _, text in texts)
        print(f"{package}: {len(texts)} texts, {size} bytes -> {folder}")
        return
    sys.exit("fetch_text: no package with English text could be had:\n" + "\n".join(reasons) +
             "\n  (apt-get update may be needed; any other text serves as well)")


if __name__ == "__main__":
    main()
