"""The vector files of tests/optim/vectors that a program in this folder wrote (adamw.bin is older and has a layout of its own).

Little-endian: the bytes "STRV", int32 version 1, int32 number of entries, then per entry int32 length of the name, the name, int32 dtype
(0 float32, 1 float64, 2 int64, 3 text in utf-8, 4 uint8), int32 ndim, int64 dims[ndim], the data in row-major order. A scalar has ndim 0, a text ndim 1.

Names: CASE/h/NAME is a hyper-parameter (float64 or text), CASE/lr the learning rate of every step, CASE/w0 the weights before the first step,
CASE/stepT/x what holds at step T, counted from 1: g the gradient, w the weights after the step, and what the case's program says. A case that
has the text CASE/gradients has its gradients in gradients/TEXT/stepT, which several cases share.
"""
import argparse
import pathlib
import struct

import numpy as np

MAGIC, VERSION, TEXT = b"STRV", 1, 3
DTYPES = {0: np.dtype("<f4"), 1: np.dtype("<f8"), 2: np.dtype("<i8"), 4: np.dtype("u1")}
FOLDER = pathlib.Path(__file__).resolve().parent.parent / "optim" / "vectors"


class Writer:
    def __init__(self):
        self.entries = {}

    def add(self, name, value):
        """value: text, or a number (float -> float64, int or bool -> int64), or an array or tensor of a type of the format."""
        if name in self.entries:
            raise ValueError(f"{name} is in the file already")
        if isinstance(value, str):
            data = value.encode()
            self.entries[name] = struct.pack("<iiq", TEXT, 1, len(data)) + data
            return
        array = np.asarray(value.detach().numpy() if hasattr(value, "detach") else value)
        codes = [code for code, dtype in DTYPES.items() if dtype == array.dtype.newbyteorder("<")]
        if not codes:
            raise TypeError(f"{name}: the format has no {array.dtype}")
        code = codes[0]
        header = struct.pack(f"<ii{array.ndim}q", code, array.ndim, *array.shape)
        self.entries[name] = header + array.astype(DTYPES[code]).tobytes()

    def bytes(self):
        parts = [MAGIC, struct.pack("<ii", VERSION, len(self.entries))]
        for name, data in self.entries.items():
            parts += [struct.pack("<i", len(name.encode())), name.encode(), data]
        return b"".join(parts)


class Case:
    """The entries that begin with CASE/."""

    def __init__(self, writer, name):
        self.writer, self.name = writer, name

    def add(self, **values):
        for key, value in values.items():
            self.writer.add(f"{self.name}/{key}", value)

    def hyper(self, **values):
        for key, value in values.items():
            self.writer.add(f"{self.name}/h/{key}", value if isinstance(value, str) else float(value))

    def step(self, t, **values):
        for key, value in values.items():
            self.writer.add(f"{self.name}/step{t}/{key}", value)


def read(path):
    """{name: numpy array or str}"""
    data = pathlib.Path(path).read_bytes()
    if data[:4] != MAGIC or struct.unpack_from("<i", data, 4)[0] != VERSION:
        raise ValueError(f"{path} is no vector file of version {VERSION}")
    (count,) = struct.unpack_from("<i", data, 8)
    at, entries = 12, {}
    for _ in range(count):
        (length,) = struct.unpack_from("<i", data, at)
        name = data[at + 4 : at + 4 + length].decode()
        code, ndim = struct.unpack_from("<ii", data, at + 4 + length)
        dims = struct.unpack_from(f"<{ndim}q", data, at + 12 + length)
        at += 12 + length + 8 * ndim
        if code == TEXT:
            entries[name] = data[at : at + dims[0]].decode()
            at += dims[0]
            continue
        n = int(np.prod(dims, dtype=np.int64))
        entries[name] = np.frombuffer(data, DTYPES[code], n, at).reshape(dims)
        at += n * DTYPES[code].itemsize
    if at != len(data):
        raise ValueError(f"{path}: {len(data) - at} bytes after the last entry")
    return entries


def main(doc, default_name, build):
    """The command line of every make_*_vectors.py: build(writer) fills the file and returns {package: version}."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=FOLDER / default_name)
    output = parser.parse_args().output
    writer = Writer()
    versions = ", ".join(f"{package} {version}" for package, version in build(writer).items())
    writer.add("versions", versions)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(writer.bytes())
    print(f"{versions}: wrote {output}, {len(writer.entries)} entries, {output.stat().st_size} bytes")
