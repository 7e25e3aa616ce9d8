"""Drives the strata program as a user would: real processes, real files, mpirun. Standard library only."""
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest

STRATA = os.environ.get("STRATA_PROGRAM", "build/host-release/strata")
MPI_ENV = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

CONFIG = """
run: {{name: small, folder: {folder}/run, seed: 5}}
model: {{type: llama, vocab_size: 257, hidden_size: 48, num_layers: 3, num_heads: 4, num_kv_heads: 2, head_dim: 12, ffn_size: 100, tie_embeddings: true}}
data: {{train: [{folder}/text_train], validation: [{folder}/text_validation]}}
training: {{steps: 20, seq_length: 48, micro_batch_size: 1, global_batch_size: 12, clip_grad: 1.0, eval_iters: 2}}
optimizer: {{lr: 5.0e-3}}
scheduler: {{type: cosine, warmup_steps: 3}}
zero: {{stage: 3}}
offload: {{optimizer: {{device: nvme, record_size: 8192}}}}
device: {{threads: 1}}
checkpoint: {{interval: 5, keep_last: 2}}
logging: {{progress: "off", log_interval: 5}}
"""


def environment():
    return {**os.environ, **MPI_ENV, "OMP_NUM_THREADS": "1"}


def command(ranks, *args):
    if ranks == 0:
        return [STRATA, *args]
    return ["timeout", "-k", "5", "150", "mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), STRATA, *args]


def run(*args, ranks=0, check=None, timeout=160, env=None):
    done = subprocess.run(command(ranks, *args), env={**environment(), **(env or {})}, capture_output=True, text=True, errors="replace", timeout=timeout)
    if check is not None and done.returncode != check:
        raise AssertionError(f"{' '.join(args)}: exit code {done.returncode}, expected {check}\n{done.stdout}\n{done.stderr}")
    return done


def tensors_of(path):
    """Name -> (dtype, shape, bytes) of a safetensors file."""
    with open(path, "rb") as f:
        data = f.read()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    body = data[8 + length:]
    return {name: (t["dtype"], t["shape"], body[slice(*t["data_offsets"])]) for name, t in header.items() if name != "__metadata__"}


def prose(words, seed=1):
    """Text with structure that a small model can learn."""
    rng = random.Random(seed)
    names = ["Anne", "Emma", "Mr Knightley", "the captain", "her sister"]
    verbs = ["walked to", "thought of", "wrote to", "could not forget", "smiled at"]
    places = ["the garden", "Bath", "the old house", "the letter", "her friend"]
    out = []
    while len(out) < words:
        out.append(f"{rng.choice(names)} {rng.choice(verbs)} {rng.choice(places)}.")
    return " ".join(out)


class EndToEnd(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="strata_e2e_")
        self.addCleanup(self.temporary.cleanup)
        self.folder = self.temporary.name
        with open(f"{self.folder}/text.txt", "w") as f:
            f.write(prose(3000))
        run("data", "prepare", "--input", f"{self.folder}/text.txt", "--output", f"{self.folder}/text", check=0)
        self.config = f"{self.folder}/small.yaml"
        with open(self.config, "w") as f:
            f.write(CONFIG.format(folder=self.folder))

    def train(self, *overrides, ranks=0, check=0, name="run"):
        return run("train", self.config, f"run.folder={self.folder}/{name}", *overrides, ranks=ranks, check=check)

    def digest(self, name="run"):
        return run("checkpoint", "digest", f"{self.folder}/{name}", check=0).stdout.strip()

    def metrics(self, name="run"):
        with open(f"{self.folder}/{name}/metrics.jsonl") as f:
            return [json.loads(line) for line in f]

    def assertOneError(self, done, code, *fragments):
        """One clear error, the promised exit code, nothing of a crash."""
        text = done.stdout + done.stderr
        self.assertEqual(done.returncode, code, text)
        self.assertEqual(done.stderr.count("strata: error:"), 1, text)
        for fragment in fragments:
            self.assertIn(fragment, done.stderr)
        for bad in ("terminate called", "Segmentation", "core dumped", "violated:"):
            self.assertNotIn(bad, text)
