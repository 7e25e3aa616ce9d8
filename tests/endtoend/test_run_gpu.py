"""tests/run_gpu over an installed tree whose programs are stand-ins: what it does with tests that pass, fail, crash or hang,
without a GPU, without PyTorch and without time, and what it writes."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GPU = "NVIDIA H100 80GB HBM3"

# Answers with a file: strata bench copy -> answers/copy.json, bench step --model M ... -> answers/step-M.json.
STRATA = """#!/bin/sh
here=$(dirname "$0")/../answers
echo "strata $*" >> "$here/calls"
case "$1" in
  --version) echo "strata 0.1.0 (stand-in)"; exit 0 ;;
  doctor) cat "$here/doctor.json"; exit 0 ;;
esac
name=$2
case "$*" in *--model\\ gpt2-124m\\ *|*--model\\ gpt2-1.6b\\ *|*--model\\ llama-7b\\ *)
  [ "$2" = step ] && name=step-$(echo "$*" | sed 's/.*--model \\([^ ]*\\).*/\\1/') ;;
esac
case "$*" in *--recompute*) name=$name-recompute ;; esac
[ -e "$here/$name.json" ] && exec cat "$here/$name.json"
echo "strata: error: no answer for $*" >&2
exit 1
"""

# An interpreter: answers the question for torch, and runs "scripts" by their name and first word.
PYTHON = """#!/bin/sh
here=$(dirname "$0")/../answers
echo "python $*" >> "$here/calls"
case "$2" in
  *sysconfig*) exit 0 ;;
  *deepspeed*) [ -e "$here/deepspeed.json" ] && exec cat "$here/deepspeed.json"; echo "ModuleNotFoundError: No module named 'deepspeed'" >&2; exit 1 ;;
  *torch*) [ -e "$here/torch.json" ] && exec cat "$here/torch.json"; echo "ModuleNotFoundError: No module named 'torch'" >&2; exit 1 ;;
esac
script=$(basename "$1" .py)
[ "$script" = pytorch_gpu ] && exec cat "$here/pytorch-$2.json"
[ "$script" = deepspeed_step ] && name=deepspeed-step || name=pytorch-step
case "$*" in *--layers*) name=$name-layers ;; *--model\\ llama-7b\\ *) [ $name = pytorch-step ] && name=pytorch-step-llama-7b ;; esac
if ! [ -e "$here/$name.json" ]; then echo "torch.OutOfMemoryError: CUDA out of memory" >&2; exit 1; fi
exec cat "$here/$name.json"
"""

PASSING = """#!/bin/sh
[ "$STRATA_TEST_MACHINE" = cuda ] || exit 3
[ -n "$STRATA_TEST_TREE" ] || exit 4
echo "$(basename "$0") $2" >> "$(dirname "$0")/../../answers/calls"
report=$(echo "$1" | sed 's/--gtest_output=json://')
echo '[ RUN      ] Add.Sums'; echo '[       OK ] Add.Sums (1 ms)'
echo '[ RUN      ] Add.NeedsTwo'; echo '[  SKIPPED ] Add.NeedsTwo (0 ms)'
echo '{"testsuites": [{"name": "Add", "testsuite": [
  {"name": "Sums", "classname": "Add", "status": "RUN", "result": "COMPLETED"},
  {"name": "NeedsTwo", "classname": "Add", "status": "RUN", "result": "SKIPPED"}]}]}' > "$report"
"""
FAILING = """#!/bin/sh
report=$(echo "$1" | sed 's/--gtest_output=json://')
echo '[ RUN      ] Norm.Equals'; echo '[  FAILED  ] Norm.Equals (1 ms)'
echo '[ RUN      ] Norm.Refuses'; echo '[       OK ] Norm.Refuses (1 ms)'
echo '{"testsuites": [{"name": "Norm", "testsuite": [
  {"name": "Equals", "classname": "Norm", "status": "RUN", "result": "COMPLETED", "failures": [{"failure": "1.5 is not 2"}]},
  {"name": "Refuses", "classname": "Norm", "status": "RUN", "result": "COMPLETED"}]}]}' > "$report"
exit 1
"""
# Ends in the middle of its second test, and goes on behind it when it is started again without the first two.
CRASHING = """#!/bin/sh
case "$2" in "--gtest_filter="*"*-Step.First:Step.Breaks")
  echo '[ RUN      ] Step.Last'; echo '[       OK ] Step.Last (1 ms)'; exit 0 ;;
esac
echo '[ RUN      ] Step.First'; echo '[       OK ] Step.First (1 ms)'
echo '[ RUN      ] Step.Breaks'
%s
"""
# Its first test leaves the process without the GPU; the second one is right when it is run alone.
LOSING = """#!/bin/sh
report=$(echo "$1" | sed 's/--gtest_output=json://')
case "$2" in *-*Rope.Breaks*)
  echo '[ RUN      ] Rope.Works'; echo '[       OK ] Rope.Works (1 ms)'; exit 0 ;;
esac
for test in Breaks Works; do echo "[ RUN      ] Rope.$test"; echo "[  FAILED  ] Rope.$test (1 ms)"; done
echo '{"testsuites": [{"name": "Rope", "testsuite": [
  {"name": "Breaks", "classname": "Rope", "status": "RUN", "failures": [{"failure": "an illegal memory access was encountered"}]},
  {"name": "Works", "classname": "Rope", "status": "RUN", "failures": [{"failure": "an illegal memory access was encountered"}]}]}]}' > "$report"
exit 1
"""


def rates(*names, benchmark="copy", bound=None, value=2e12):
    entries = [{"name": n, "unit": "B/s", "median": value, "samples": [value, value, value * 1.5],
                **({"bound": bound, "bound_name": "copy in device memory", "ratio": value / bound} if bound else {})} for n in names]
    return {"benchmark": benchmark, "measurements": entries}


def step(seconds, model="gpt2-124m", **more):
    return {"benchmark": "step", "model": model, "precision": "bf16", "B": 16, "T": 1024, "micro_batches": 1, "optimizer": "none",
            "layers": 12, "step_seconds": [seconds, seconds, seconds], "model_flops": 1e13, "peak_gpu_bytes": 3 << 30,
            "peak_cpu_bytes": 1 << 30, "busy_seconds": {"compute": 0.0, "cpu_update": 0.0}, **more}


ATTENTION = ("forward", "backward", "forward and backward")
ANSWERS = {
    "doctor": {"findings": [{"topic": "processor", "present": True, "found": "x"},
                            {"topic": "GPU 0", "present": True, "found": f"{GPU}, compute capability 9.0, 79.2 GiB"}]},
    "torch": {"version": "2.9.0", "cuda": "13.0", "gpu": True},
    "copy": rates("copy in device memory", "host to device", value=2.5e12),
    "adam": rates("update, traffic", bound=2.5e12, value=2.25e12),
    "kernels": rates("rope", "add", bound=2.5e12, value=2e12),
    "attention": rates(*ATTENTION, value=4e14),
    "gemm": rates("gpt2-124m qkv, forward", "square product of 8192", value=6e14),
    "step-gpt2-124m": step(0.030),
    "step-gpt2-1.6b": step(0.30, "gpt2-1.6b"),
    "step-llama-7b": step(1.1, "llama-7b", optimizer="cpu", busy_seconds={"compute": 0.0, "cpu_update": 1.0}, largest_resource="cpu_update"),
    "pytorch-copy": rates("copy in device memory", value=2.4e12),
    "pytorch-attention": rates(*(f"{b}, {w}" for b in ("cuDNN", "flash") for w in ATTENTION), value=5e14),
    "pytorch-gemm": rates("gpt2-124m qkv, forward", value=5e14),
    "pytorch-step": step(0.036, compiled="full"),
    "pytorch-step-llama-7b": step(0.9, "llama-7b", compiled="blocks"),
    "deepspeed": {"version": "0.18.1"},
    "deepspeed-step": step(2.2, "llama-7b", optimizer="cpu"),
}


class RunGpu(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="strata_run_gpu_")
        self.addCleanup(temporary.cleanup)
        self.prefix = pathlib.Path(temporary.name) / "prefix"
        self.answers = self.prefix / "answers"
        self.tests = self.prefix / "libexec/strata"
        for folder in (self.answers, self.tests, self.prefix / "bin", self.prefix / "share/strata"):
            folder.mkdir(parents=True)
        (self.prefix / "share/strata/bench").symlink_to(ROOT / "bench")
        shutil.copy(ROOT / "tests/run_gpu", self.tests / "run_gpu")
        self.program("bin/strata", STRATA)
        self.program("bin/python", PYTHON)
        for name in ("runtime", "parallel", "optim", "model", "trainer"):
            self.program(f"libexec/strata/test_{name}", PASSING)
        for name, answer in ANSWERS.items():
            self.answer(name, answer)
        self.output = pathlib.Path(temporary.name) / "out/gpu.json"

    def program(self, path, text):
        file = self.prefix / path
        file.write_text(text)
        file.chmod(0o755)

    def answer(self, name, answer):
        (self.answers / f"{name}.json").write_text(json.dumps(answer))

    def command(self, *arguments):
        return [sys.executable, str(self.tests / "run_gpu"), "--python", str(self.prefix / "bin/python"), "--output", str(self.output),
                *arguments]

    def run_gpu(self, *arguments, check):
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, check, done.stdout + done.stderr)
        return done.stdout

    def document(self):
        return json.loads(self.output.read_text())

    def line(self, printed, *words):
        """The one line with all of the words."""
        found = [line for line in printed.splitlines() if all(word in line for word in words)]
        self.assertEqual(len(found), 1, f"{words} in:\n{printed}")
        return found[0].split()

    def targets(self):
        return {t["name"]: (t["value"], t["state"]) for t in self.document()["targets"]}

    def test_a_whole_run_fills_the_table_and_the_file(self):
        printed = self.run_gpu(check=0)
        document = self.document()
        self.assertTrue(document["complete"])
        self.assertEqual(document["gpu"], GPU)
        self.assertEqual(document["dropped"], [])
        self.assertEqual({n: (t["passed"], t["failed"], t["skipped"]) for n, t in document["tests"].items()},
                         {n: (1, 0, 1) for n in ("runtime", "parallel", "optim", "model", "trainer")})
        self.assertIn("test_trainer --gtest_filter=*Gpu*\n", (self.answers / "calls").read_text())
        self.assertEqual([run["side"] for run in document["measurements"]["step gpt2-124m bf16"]["runs"]], ["strata", "pytorch", "strata"])
        self.assertEqual(document["measurements"]["copy"]["runs"][0]["result"], ANSWERS["copy"])
        self.assertEqual(document["table"], printed[printed.index(document["table"][0]):].splitlines()[:len(document["table"])])

        self.assertEqual(self.line(printed, "rope (bf16 llama-7b)")[-3:], ["2000.0", "0.80", "-"])
        self.assertEqual(self.line(printed, "copy in device memory")[-2:], ["2500.0", "2400.0"])
        self.assertEqual(self.line(printed, "bf16 gpt2-124m qkv, forward")[-3:], ["600.0", "500.0", "1.20"])
        self.assertEqual(self.line(printed, "bf16 square product")[-3:], ["600.0", "-", "-"])
        self.assertEqual(self.line(printed, "forward and backward   ")[-3:], ["400.0", "500.0", "500.0"])
        # 1e13 operations in 30 ms are 333.3 TFLOP/s, 0.337 of the data sheet's 989.
        ours = next(l for l in printed.splitlines() if l.startswith("gpt2-124m bf16 16x1024") and "Strata" in l)
        self.assertEqual(ours.split()[-6:], ["30.0", "546133", "333.3", "0.337", "3.00", "1.00"])
        theirs = next(l for l in printed.splitlines() if l.startswith("gpt2-124m bf16 16x1024") and "PyTorch, compiled" in l)
        self.assertEqual(theirs.split()[-6:-2], ["36.0", "455111", "277.8", "0.281"])

        found = self.targets()
        self.assertEqual(found["AdamW bf16: bytes/s over copy bandwidth"], (0.9, "met"))
        self.assertEqual(found["attention T=4096 H=128, forward and backward, over cuDNN's"], (0.8, "missed"))
        self.assertEqual(found["gpt2-124m bf16: tokens/s over PyTorch (compiled)"][1], "met")
        self.assertAlmostEqual(found["gpt2-124m bf16: tokens/s over PyTorch (compiled)"][0], 1.2)
        self.assertEqual(found["gpt2-1.6b bf16: tokens/s over PyTorch (compiled)"][1], "missed")
        self.assertEqual(found["llama-7b: step over its largest resource (cpu_update)"], (1.1, "met"))
        self.assertEqual(self.line(printed, "llama-7b: step over its largest resource")[-4:], ["<=", "1.15", "1.10", "met"])
        # 1.1 s beside DeepSpeed's 2.2 s.
        self.assertEqual(found["llama-7b: step over DeepSpeed ZeRO-Offload's"], (0.5, "missed"))
        self.assertEqual(self.line(printed, "llama-7b: step over DeepSpeed")[-4:], ["<=", "0.40", "0.50", "missed"])
        self.assertEqual(self.line(printed, "DeepSpeed ZeRO-Offload  ")[-6:-4], ["2200.0", "7447"])
        self.assertEqual(self.line(printed, "llama-7b", "PyTorch, compiled by block")[-6], "900.0")

    def test_a_step_that_is_fast_enough_beside_deepspeed_meets_its_target(self):
        self.answer("deepspeed-step", step(2.75, "llama-7b", optimizer="cpu"))
        self.run_gpu("--only", "llama-7b", check=0)
        self.assertEqual(self.targets()["llama-7b: step over DeepSpeed ZeRO-Offload's"], (0.4, "met"))

    def test_without_deepspeed_its_line_says_why(self):
        (self.answers / "deepspeed.json").unlink()
        printed = self.run_gpu("--only", "llama-7b", check=0)
        self.assertIn("DeepSpeed: not measured: ", printed)
        self.assertEqual(self.targets()["llama-7b: step over DeepSpeed ZeRO-Offload's"], (None, "not measured"))
        self.assertIn("No module named 'deepspeed'", " ".join(self.line(printed, "llama-7b: step over DeepSpeed")))
        self.assertNotIn("deepspeed_step", (self.answers / "calls").read_text())

    def test_a_deepspeed_that_fails_says_why(self):
        (self.answers / "deepspeed-step.json").unlink()
        printed = self.run_gpu("--only", "llama-7b", check=0)
        self.assertIn("out of memory", " ".join(self.line(printed, "llama-7b: step over DeepSpeed")))

    def test_models_of_other_sizes_are_not_compared(self):
        (self.answers / "deepspeed-step.json").unlink()
        self.answer("deepspeed-step-layers", step(1.0, "llama-7b", optimizer="cpu", layers=16))
        printed = self.run_gpu("--only", "llama-7b", check=0)
        self.assertEqual(self.targets()["llama-7b: step over DeepSpeed ZeRO-Offload's"], (None, "not measured"))
        self.assertIn("Strata ran 12 blocks, DeepSpeed 16", printed)
        self.assertIn("llama-7b bf16 16x1024, 16 blocks", printed)

    def test_a_failing_test_is_named_and_stops_nothing(self):
        self.program("libexec/strata/test_optim", FAILING)
        printed = self.run_gpu(check=1)
        result = self.document()["tests"]["optim"]
        self.assertEqual((result["passed"], result["failed"], result["result"]), (1, 1, "failed"))
        self.assertEqual(result["messages"], {"Norm.Equals": ["1.5 is not 2"]})
        self.assertIn("failed: Norm.Equals", printed)
        self.assertEqual(self.document()["tests"]["trainer"]["result"], "passed")
        self.assertEqual(self.targets()["AdamW fp32: bytes/s over copy bandwidth"], (0.9, "met"))

    def test_a_crash_is_named_and_the_tests_behind_it_are_run(self):
        self.program("libexec/strata/test_runtime", CRASHING % "kill -SEGV $$")
        printed = self.run_gpu("--only", "tests", check=1)
        result = self.document()["tests"]["runtime"]
        self.assertEqual((result["passed"], result["failed"], result["result"]), (2, 1, "failed"))
        self.assertEqual(result["messages"], {"Step.Breaks": ["ended by SIGSEGV"]})
        self.assertEqual([s["exit_code"] for s in result["starts"]], [-signal.SIGSEGV, 0])
        self.assertIn("crashed: Step.Breaks", printed)
        self.assertEqual(self.document()["tests"]["optim"]["result"], "passed")

    def test_what_fails_behind_a_lost_gpu_is_run_again(self):
        self.program("libexec/strata/test_runtime", LOSING)
        self.run_gpu("--only", "tests", check=1)
        result = self.document()["tests"]["runtime"]
        self.assertEqual((result["passed"], result["failed"], result["not_passed"]), (1, 1, {"Rope.Breaks": "failed"}))
        self.assertEqual(list(result["messages"]), ["Rope.Breaks"])

    def test_a_hanging_test_is_stopped_and_the_tests_behind_it_are_run(self):
        self.program("libexec/strata/test_trainer", CRASHING % "sleep 60 & sleep 60")
        begin = time.monotonic()
        self.run_gpu("--only", "tests", "--silence", "1", check=1)
        self.assertLess(time.monotonic() - begin, 30)
        result = self.document()["tests"]["trainer"]
        self.assertEqual((result["passed"], result["failed"], result["not_passed"]), (2, 1, {"Step.Breaks": "hung"}))

    def test_a_program_past_its_limit_is_stopped_with_what_it_started(self):
        self.program("libexec/strata/test_trainer", CRASHING % f"sh -c 'sleep 3; touch {self.prefix}/lived' & while :; do echo .; sleep 0.1; done")
        self.run_gpu("--only", "tests", "--test-seconds", "1", check=1)
        result = self.document()["tests"]["trainer"]
        self.assertEqual((result["passed"], result["failed"], result["result"]), (1, 1, "stopped (limit)"))
        time.sleep(3)
        self.assertFalse((self.prefix / "lived").exists())

    def test_a_missing_test_program_is_a_failure(self):
        (self.tests / "test_optim").unlink()
        self.run_gpu("--only", "tests", check=1)
        self.assertEqual(self.document()["tests"]["optim"]["result"], "could not be started")

    def test_without_a_gpu_one_line_says_why(self):
        self.answer("doctor", {"findings": [{"topic": "GPU", "present": False, "found": "none; no NVIDIA driver is running"}]})
        self.assertEqual(self.run_gpu(check=77), "no GPU: none; no NVIDIA driver is running\n")
        self.assertFalse(self.output.exists())

    def test_without_pytorch_its_columns_say_so(self):
        (self.answers / "torch.json").unlink()
        printed = self.run_gpu(check=0)
        self.assertIn("PyTorch: not measured: ", printed)
        self.assertIn("No module named 'torch'", printed)
        self.assertEqual(self.line(printed, "bf16 gpt2-124m qkv, forward")[-3:], ["600.0", "-", "-"])
        self.assertEqual(self.targets()["gpt2-124m bf16: tokens/s over PyTorch"], (None, "not measured"))
        self.assertNotIn("pytorch_step", (self.answers / "calls").read_text())

    def test_a_measurement_that_fails_says_why_and_stops_nothing(self):
        (self.answers / "attention.json").unlink()
        (self.answers / "step-llama-7b.json").unlink()
        self.answer("step-llama-7b-recompute", {**ANSWERS["step-llama-7b"], "step_seconds": [1.3], "busy_seconds": {"compute": 0.5, "cpu_update": 1.0}})
        printed = self.run_gpu(check=0)
        self.assertIn("strata: error: no answer for bench attention", printed)
        self.assertEqual(self.targets()["attention T=4096 H=128, forward and backward, over cuDNN's"], (None, "not measured"))
        self.assertEqual(self.targets()["llama-7b: step over its largest resource (cpu_update)"], (1.3, "missed"))
        run = self.document()["measurements"]["step llama-7b"]["runs"][0]
        self.assertEqual((run["command"][-1], len(run["tried"])), ("--recompute", 1))
        # A side that failed is not asked again.
        self.assertEqual([r["side"] for r in self.document()["measurements"]["attention bf16"]["runs"]], ["strata", "pytorch"])

    def test_a_resource_that_nobody_counted_may_be_the_largest(self):
        self.answer("step-llama-7b", {**ANSWERS["step-llama-7b"], "step_seconds": [1.3]})
        printed = self.run_gpu("--only", "llama-7b", check=0)
        self.assertEqual(self.targets()["llama-7b: step over its largest resource (cpu_update)"], (None, "not measured"))
        self.assertIn("at most 1.30 times cpu_update", printed)

    def test_the_least_important_is_left_out_when_time_is_short(self):
        printed = self.run_gpu("--seconds", "60", check=0)
        dropped = [d["name"] for d in self.document()["dropped"]]
        self.assertIn("step llama-7b", dropped)
        self.assertNotIn("attention bf16", dropped)
        self.assertIn("left out: step llama-7b: it takes about 90 s", printed)

    def test_an_interruption_loses_nothing(self):
        self.program("libexec/strata/test_trainer", "#!/bin/sh\nexec sleep 60\n")
        process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(process.stdout.close)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (self.output.exists() and "model" in self.document()["tests"]):
            time.sleep(0.05)
        self.assertEqual(set(self.document()["tests"]), {"runtime", "parallel", "optim", "model"})  # written while the last one runs
        process.send_signal(signal.SIGTERM)
        printed = process.stdout.read()
        self.assertEqual(process.wait(), 130, printed)
        self.assertFalse(self.document()["complete"])
        self.assertIn("interrupted: not everything was measured", printed)

    def test_a_tree_without_the_program_is_an_error(self):
        (self.prefix / "bin/strata").unlink()
        done = subprocess.run(self.command(), capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (2, f"run_gpu: there is no {self.prefix.resolve()}/bin/strata; give --prefix or --build\n"))


if __name__ == "__main__":
    unittest.main()
