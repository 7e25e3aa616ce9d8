"""What the PyTorch halves of the benchmarks share: models, timing and the form of the results. Importing it needs no torch."""
import json
import statistics
import time

# As launcher/bench_models.cpp has them; letters are those of runtime/tensor.h.
MODELS = {
    "gpt2-124m": {"kind": "gpt2", "V": 50257, "C": 768, "L": 12, "N": 12, "K": 12, "H": 64, "F": 3072},
    "gpt2-1.6b": {"kind": "gpt2", "V": 50257, "C": 1600, "L": 48, "N": 25, "K": 25, "H": 64, "F": 6400},
    "llama-1b": {"kind": "llama", "V": 128256, "C": 2048, "L": 16, "N": 32, "K": 8, "H": 64, "F": 8192},
    "llama-7b": {"kind": "llama", "V": 32000, "C": 4096, "L": 32, "N": 32, "K": 32, "H": 128, "F": 11008},
    "tiny": {"kind": "gpt2", "V": 257, "C": 32, "L": 2, "N": 4, "K": 4, "H": 8, "F": 128},  # for tests
    "tiny-llama": {"kind": "llama", "V": 257, "C": 32, "L": 2, "N": 4, "K": 2, "H": 8, "F": 64},
}
SAMPLE_SECONDS = 0.01


def with_layers(model, layers):
    """The model with as many blocks, or with its own where that is 0."""
    return {**model, "L": layers or model["L"]}


def linear_shapes(model):
    """(name, inputs, outputs) of the linear layers of one block, and of the head."""
    E, gated = model["N"] * model["H"], model["kind"] == "llama"
    return [("qkv", model["C"], E + 2 * model["K"] * model["H"]), ("output", E, model["C"]),
            ("gate and up" if gated else "up", model["C"], (2 if gated else 1) * model["F"]),
            ("down", model["F"], model["C"]), ("head", model["C"], model["V"])]


def model_flops(model, tokens, length):
    """What a step must multiply and add: the formula of launcher/bench_models.h."""
    weights = sum(i * o * (1 if name == "head" else model["L"]) for name, i, o in linear_shapes(model))
    return 6.0 * (weights + model["L"] * model["N"] * model["H"] * length) * tokens


def start_torch(options):
    """torch, set up as the options ask: threads, TF32, seed. Ends the program with one line where the device is not there."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no GPU")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(options.tf32)
    torch.manual_seed(1234)
    return torch


def machine(torch, device):
    """Framework, device and versions, as they go into every result."""
    found = {"framework": f"torch {torch.__version__}", "backend": device, "threads": torch.get_num_threads()}
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def synchronize(torch, device):
    if device == "cuda":
        torch.cuda.synchronize()


class Timer:
    """Seconds of one call of `work`, of which so many lie between two synchronisations that these do not count."""

    def __init__(self, torch, device, work):
        self.torch, self.device, self.work, self.count = torch, device, work, 1
        self.seconds(1)  # loads code, fills caches
        took = self.seconds(1)
        while took < SAMPLE_SECONDS and self.count < 1 << 16:
            wanted = int(1.2 * self.count * SAMPLE_SECONDS / max(took, 1e-7)) + 1
            self.count = max(self.count + 1, min(wanted, 16 * self.count, 1 << 16))
            took = self.seconds(self.count)

    def seconds(self, count):
        synchronize(self.torch, self.device)
        begin = time.perf_counter()
        for _ in range(count):
            self.work()
        synchronize(self.torch, self.device)
        return time.perf_counter() - begin

    def samples(self, repeats):
        return [self.seconds(self.count) / self.count for _ in range(repeats)]


def measurement(name, unit, samples):
    """One entry of "measurements", as `strata bench ... --json` prints it."""
    median = statistics.median(samples)
    return {"name": name, "unit": unit, "median": median, "spread": statistics.median(abs(s - median) for s in samples),
            "min": min(samples), "max": max(samples), "n": len(samples), "samples": samples}


def print_result(benchmark, found, parameters, measurements, notes=()):
    result = {"benchmark": benchmark, "machine": found, "parameters": parameters, "measurements": measurements}
    if notes:
        result["notes"] = list(notes)
    print(json.dumps(result))
