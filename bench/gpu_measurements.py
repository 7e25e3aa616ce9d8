"""What tests/run_gpu measures, the most important first: where time runs out, the last ones are left out.

A measurement is a few runs in turns (ours, PyTorch's, ours), each of which prints one JSON object.
"""
import dataclasses

ATTENTION = ["--batch", "4", "--seq-length", "4096", "--heads", "16", "--head-dim", "128", "--precision", "bf16"]
MODELS = "gpt2-124m,gpt2-1.6b,llama-7b"


@dataclasses.dataclass
class Run:
    side: str  # "strata", "pytorch" or "deepspeed"
    arguments: list
    expected: float  # seconds on a fast GPU, start of the program included
    # What to add where the run fails, one after the other, until one succeeds.
    fallbacks: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Measurement:
    name: str
    runs: list

    @property
    def expected(self):
        return sum(run.expected for run in self.runs)


def strata(expected, *arguments, fallbacks=()):
    return Run("strata", ["bench", *arguments, "--backend", "cuda", "--json"], expected, [list(f) for f in fallbacks])


def pytorch(expected, script, *arguments, fallbacks=()):
    return Run("pytorch", [f"{script}.py", *arguments, "--device", "cuda"], expected, [list(f) for f in fallbacks])


def deepspeed(expected, *arguments, fallbacks=()):
    return Run("deepspeed", ["deepspeed_step.py", *arguments, "--device", "cuda"], expected, [list(f) for f in fallbacks])


def step(name, model, precision, batch, length, compile_as, seconds, pytorch_seconds, steps=10):
    """Steps with everything on the GPU, ours before and after PyTorch's."""
    shape = ["--model", model, "--batch", str(batch), "--seq-length", str(length), "--steps", str(steps), "--warmup", "3",
             "--precision", "bf16" if precision == "bf16" else "fp32", *(["--tf32"] if precision == "tf32" else [])]
    ours = strata(seconds, "step", *shape, "--optimizer", "none")
    theirs = pytorch(pytorch_seconds, "pytorch_step", *shape, "--compile", compile_as, "--threads", "0")
    return Measurement(name, [ours, theirs, ours])


def gemm(precision, seconds):
    given = ["--precision", "bf16" if precision == "bf16" else "fp32", "--rows", "8192", "--model", MODELS, "--repeats", "3",
             *(["--tf32"] if precision == "tf32" else [])]
    return Measurement(f"gemm {precision}", [strata(seconds, "gemm", *given), pytorch(seconds + 8, "pytorch_gpu", "gemm", *given)])


def kernels(precision, model, batch, length, seconds):
    return Measurement(f"kernels {precision} {model}",
                       [strata(seconds, "kernels", "--precision", precision, "--model", model, "--batch", str(batch), "--seq-length",
                               str(length), "--repeats", "5")])


def attention():
    ours = strata(5, "attention", *ATTENTION)
    return Measurement("attention bf16", [ours, pytorch(14, "pytorch_gpu", "attention", *ATTENTION), ours])


LLAMA_7B = ["--model", "llama-7b", "--batch", "4", "--seq-length", "2048", "--steps", "4"]
# Where the GPU's memory does not hold all activations they are made again; where the host's does not hold the state, the model has
# fewer blocks.
LESS = (["--recompute"], ["--layers", "16"], ["--layers", "8", "--recompute"])


def llama_7b():
    """State in the host's memory."""
    return Measurement("step llama-7b", [strata(90, "step", *LLAMA_7B, "--warmup", "1", "--precision", "bf16", "--optimizer", "cpu",
                                                fallbacks=LESS)])


def llama_7b_of_deepspeed():
    return Measurement("step llama-7b ZeRO-Offload", [deepspeed(180, *LLAMA_7B, "--warmup", "1", fallbacks=LESS)])


def llama_7b_of_pytorch():
    """With everything in the GPU's memory, where that holds 16 bytes a parameter: what offloading costs."""
    return Measurement("step llama-7b on the GPU", [pytorch(60, "pytorch_step", *LLAMA_7B, "--warmup", "2", "--precision", "bf16",
                                                            "--compile", "blocks", "--threads", "0", fallbacks=LESS[:1])])


def all_measurements():
    return [
        Measurement("copy", [strata(4, "copy"), pytorch(10, "pytorch_gpu", "copy")]),
        Measurement("adam fp32", [strata(3, "adam", "--precision", "fp32", "--parameters", str(1 << 27))]),
        Measurement("adam bf16", [strata(3, "adam", "--precision", "bf16", "--parameters", str(1 << 27))]),
        attention(),
        step("step gpt2-124m bf16", "gpt2-124m", "bf16", 16, 1024, "full", 7, 50, steps=20),
        kernels("bf16", "llama-7b", 8, 1024, 8),
        step("step gpt2-1.6b bf16", "gpt2-1.6b", "bf16", 8, 1024, "blocks", 18, 45),
        gemm("bf16", 10),
        llama_7b(),
        llama_7b_of_deepspeed(),
        kernels("fp32", "gpt2-1.6b", 16, 1024, 10),
        gemm("tf32", 12),
        step("step gpt2-124m tf32", "gpt2-124m", "tf32", 16, 1024, "full", 8, 50),
        gemm("fp32", 25),
        llama_7b_of_pytorch(),
        step("step gpt2-124m fp32", "gpt2-124m", "fp32", 16, 1024, "full", 12, 55),
    ]
