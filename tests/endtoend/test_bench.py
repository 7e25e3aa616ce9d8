"""`strata bench ...` with tiny shapes: on the host, and with the emulator as the GPU of the same program."""
import pathlib
import xml.etree.ElementTree

from harness import *

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"
EMULATED = os.environ.get("STRATA_EMULATED", "build/host-release/tests/strata_emulated")
KERNELS = ["embedding forward", "embedding backward", "layernorm forward", "layernorm backward", "rmsnorm forward", "rmsnorm backward",
           "head norm forward", "head norm backward", "rope", "gelu forward", "gelu backward", "swiglu forward", "swiglu backward",
           "cross-entropy", "add", "cast f32 to bf16", "cast bf16 to f32", "sum of squares",
           "cast with sum of squares"]
METHODS = ["adamw", "adamw-bf16", "adamw-8bit", "lion", "sgd", "sgd-momentum", "frugal-columns", "frugal-rows", "frugal-randk", "frugal-0", "apollo",
           "apollo-mini", "galore"]
TINY_OPTIMIZERS = ("optimizers", "--rows", "48", "--columns", "64", "--rank", "16")
LAYERS = ["qkv", "output", "gate and up", "down", "head"]
TINY_KERNELS = ("kernels", "--model", "tiny", "--batch", "2", "--seq-length", "16", "--bytes", "65536")
TINY_ATTENTION = ("attention", "--batch", "1", "--seq-length", "48", "--heads", "4", "--kv-heads", "2", "--head-dim", "16")
TINY_GEMM = ("gemm", "--model", "tiny", "--rows", "24", "--square", "96")
TINY_STEP = ("step", "--model", "tiny", "--batch", "2", "--seq-length", "24", "--steps", "3", "--peak-tflops", "1")


class Bench(EndToEnd):
    program, backend = STRATA, "host"

    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="strata_bench_")
        self.addCleanup(temporary.cleanup)
        self.folder = temporary.name

    def start(self, *arguments, program=None):
        return subprocess.run([program or self.program, "bench", *arguments], env=environment(), capture_output=True, text=True, timeout=160)

    def result(self, *arguments):
        done = self.start(*arguments, "--backend", self.backend, "--threads", "2", "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""), f"{arguments}: {done.stdout}")
        return json.loads(done.stdout)

    def measurements(self, *arguments, repeats=2):
        """name -> measurement of a command that prints a list of them, each checked."""
        result = self.result(*arguments, "--repeats", str(repeats))
        self.assertEqual(result["benchmark"], arguments[0])
        self.assertEqual(result["machine"]["backend"], self.backend)
        self.assertEqual("gpu" in result["machine"], self.backend == "cuda")
        for m in result["measurements"]:
            self.assertGreater(m["median"], 0.0, m)
            self.assertEqual(len(m["samples"]), m["n"], m)
            if "bound" in m:
                self.assertAlmostEqual(m["ratio"], m["median"] / m["bound"])
                self.assertTrue(m["bound_name"])
        return {m["name"]: m for m in result["measurements"]}

    def check_adam(self):
        for precision in ("fp32", "bf16"):
            found = self.measurements("adam", "--parameters", "3000", "--precision", precision)
            self.assertGreater(found["update, traffic"]["ratio"], 0.0)
            bytes_a_parameter = found["update, traffic"]["max"] / found["update"]["max"]
            self.assertAlmostEqual(bytes_a_parameter, {"fp32": 28.0, "bf16": 30.0}[precision], places=3)

    def check_optimizers(self):
        found = self.measurements(*TINY_OPTIMIZERS)
        # Of work a parameter: states are read and written, 8 bytes each; of FRUGAL's for a quarter of the matrix; of APOLLO's (two
        # passes, the gradient twice) and GaLore's for 64 rows. Products: 2 operations an entry and direction.
        work = {"adamw": 28, "adamw-bf16": 20, "adamw-8bit": 12 + 4 * 260 / 256, "lion": 20, "sgd": 12, "sgd-momentum": 20, "frugal-columns": 16,
                "frugal-rows": 16, "frugal-randk": 16, "frugal-0": 12, "apollo": 2 * 16, "apollo-mini": 16 + 16 / 48, "galore": 4 * 16}
        self.assertEqual(list(work), METHODS)
        self.assertEqual([name for name in found if name in METHODS], METHODS)
        for name, expected in work.items():
            kind = "products" if name in ("apollo", "galore") else "traffic"
            other = found[f"{name}, {kind}"]
            self.assertAlmostEqual(other["max"] / found[name]["max"], expected, places=6, msg=name)
            self.assertEqual("bound" in other, kind == "traffic", name)
        found = self.measurements(*TINY_OPTIMIZERS, "--method", "frugal-rows,galore", "--density", "0.5")
        self.assertEqual([name for name in found if name in METHODS], ["frugal-rows", "galore"])
        self.assertAlmostEqual(found["frugal-rows, traffic"]["max"] / found["frugal-rows"]["max"], 12 + 8, places=6)

    def check_kernels(self, names):
        for precision in ("fp32", "bf16"):
            found = self.measurements(*TINY_KERNELS, "--precision", precision)
            self.assertEqual([name for name in found if not name.startswith("copy")], names)
            for name in names:
                self.assertGreater(found[name]["ratio"], 0.0, name)

    def check_gemm(self, bound):
        found = self.measurements(*TINY_GEMM, "--precision", "bf16")
        names = [f"tiny {layer}, {way}" for layer in LAYERS for way in ("forward", "input gradient", "weight gradient")]
        self.assertEqual(list(found)[:-1], names)
        for name in names:
            self.assertIn(bound, found[name]["bound_name"])
            self.assertGreater(found[name]["ratio"], 0.0, name)

    def check_attention(self):
        for precision in ("fp32", "bf16"):
            found = self.measurements(*TINY_ATTENTION, "--precision", precision)
            self.assertEqual(list(found), ["forward", "backward", "forward and backward"])

    def check_step(self, *homes):
        losses = set()
        for home in homes:
            result = self.result(*TINY_STEP, "--optimizer", home, "--path", self.folder)
            self.assertEqual((result["backend"], result["optimizer"], result["model"]), (self.backend, home, "tiny"))
            self.assertEqual(len(result["step_seconds"]), 3)
            self.assertAlmostEqual(result["tokens_per_s"], 48 / result["median_seconds"])
            # Weights of the products: 2 blocks of 32 x (64 + 32 + 192) and a head of 32 x 257; attention 2 x 32 x 24.
            self.assertEqual(result["model_flops"], 6 * (2 * 32 * (64 + 32 + 192) + 32 * 257 + 2 * 32 * 24) * 48)
            self.assertAlmostEqual(result["mfu"], result["model_flops"] / result["median_seconds"] / 1e12)
            self.assertGreater(result["peak_gpu_bytes"], 0)
            self.assertLessEqual(result["peak_gpu_bytes"], result["planned_gpu_bytes"])
            self.assertLessEqual(result["peak_cpu_bytes"], result["planned_cpu_bytes"])
            self.assertEqual(result["nvme_bytes"] > 0, home == "nvme")
            largest = max(result["busy_seconds"].values())
            if largest > 0:
                self.assertAlmostEqual(result["step_over_largest"], result["median_seconds"] / largest)
                self.assertEqual(result["busy_seconds"][result["largest_resource"]], largest)
            losses.add(result["last_loss"])
        self.assertEqual(len(losses), 1, losses)  # placement changes no bit
        self.assertEqual(os.listdir(self.folder), [])


class Host(Bench):
    def test_copy_has_a_best_kind(self):
        found = self.measurements("copy", "--bytes", "1MiB")
        self.assertEqual(max(m["ratio"] for m in found.values()), 1.0)

    def test_adam_is_measured_against_the_copy(self):
        self.check_adam()

    def test_every_optimizer_updates_a_matrix(self):
        self.check_optimizers()

    def test_every_kernel_is_measured_against_the_copy(self):
        self.check_kernels(KERNELS)

    def test_gemm_is_measured_against_the_units(self):
        self.check_gemm("peak of")

    def test_attention_counts_operations(self):
        self.check_attention()

    def test_steps_with_the_state_at_every_home(self):
        self.check_step("none", "cpu", "nvme")
        self.assertGreater(self.result(*TINY_STEP)["busy_seconds"]["compute"], 0.0)

    def test_steps_with_fewer_layers_and_more_micro_batches(self):
        result = self.result(*TINY_STEP, "--layers", "1", "--micro-batches", "2", "--recompute", "--precision", "bf16")
        self.assertEqual((result["layers"], result["micro_batches"]), (1, 2))
        self.assertAlmostEqual(result["tokens_per_s"], 96 / result["median_seconds"])

    def test_text_names_the_bound(self):
        done = self.start(*TINY_KERNELS, "--backend", "host", "--repeats", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"rope .* of .*copy")
        done = self.start(*TINY_STEP, "--backend", "host")
        self.assertRegex(done.stdout, r"note: \d+ tokens/s\n.*planned .*, measured ")

    def compare(self, *arguments):
        words = [sys.executable, str(BENCH / "optimizer_comparison.py"), "--strata", STRATA, "--work", f"{self.folder}/work", "--text", f"{self.folder}/text",
                 "--output", f"{self.folder}/results/found.json", "--steps", "4", "--hidden-size", "64", "--layers", "1", "--seq-length", "16",
                 "--batch", "2", "--micro-batch", "2", "--eval-interval", "2", "--eval-iters", "1", "--threads", "1", "--backend", "host", *arguments]
        return subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=160)

    def test_optimizers_are_compared_run_by_run(self):
        os.mkdir(f"{self.folder}/text")
        pathlib.Path(f"{self.folder}/text/one.txt").write_text(prose(3000))
        for arguments in (("--only", "frugal_0"), ("--only", "adamw", "--lr", "0.01", "--lr", "1e-5"), ("--only", "adamw", "--lr", "1e-5")):
            done = self.compare(*arguments)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        found = json.loads(pathlib.Path(f"{self.folder}/results/found.json").read_text())
        # The third call's run is in the place of the second's.
        self.assertEqual([(one["name"], one["lr"]) for one in found["runs"]], [("adamw", 1e-5), ("adamw", 0.01), ("frugal_0", 1e-3)])
        projected = 4 * 64 * 64 + 3 * 64 * 192
        for one in found["runs"]:
            self.assertEqual((len(one["losses"]), [step for step, _ in one["validation"]]), (4, [2, 4]))
            self.assertEqual(one["parameters"], projected + 2 * 257 * 64 + 3 * 64)
            self.assertEqual(one["state_bytes"], 8 * (one["parameters"] - (projected if one["name"] == "frugal_0" else 0)))
            self.assertGreaterEqual(one["planned_optimizer_bytes"], one["state_bytes"])
        # Equal data and weights: the first loss is that of no update, and only the rate tells the runs apart.
        self.assertEqual(len({one["losses"][0] for one in found["runs"]}), 1)
        self.assertLess(found["runs"][1]["losses"][-1], found["runs"][0]["losses"][-1])
        page = pathlib.Path(f"{self.folder}/results/found.md").read_text()
        self.assertRegex(page, r"\| AdamW \| 0\.01 \| .*\| 1\.000 \|.*\n\| FRUGAL 0 \|")  # of AdamW's two the better
        self.assertEqual(xml.etree.ElementTree.parse(f"{self.folder}/results/found.svg").getroot().tag, "{http://www.w3.org/2000/svg}svg")
        done = self.compare("--only", "adamw", "--steps", "5")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("made with another training", done.stderr)

    def test_updates_beside_python_are_compared_by_rounds(self):
        sys.path.insert(0, str(BENCH))
        from optimizers_vs_python import summarise

        def run_of(**medians):
            return {"measurements": [{"name": name, "unit": "parameters/s", "median": median, "samples": [median]} for name, median in medians.items()]
                    + [{"name": f"{name}, traffic", "unit": "B/s", "ratio": 0.5} for name in medians]}

        # The machine was three times as fast in the second round, whatever ran.
        ours = [run_of(**{"adamw": 2.0, "lion": 4.0, "adamw-bf16": 3.0}), run_of(**{"adamw": 6.0, "lion": 12.0, "adamw-bf16": 9.0})]
        adamw, lion, bf16 = summarise({"strata": ours, "python": [run_of(adamw=1.0), run_of(adamw=3.0)]})
        self.assertEqual((adamw["ratio"], adamw["round_ratios"], adamw["to_adamw"], adamw["measured_over_bound"]), (2.0, [2.0, 2.0], 1.0, 0.5))
        self.assertEqual((lion["ratio"], lion["python"], lion["to_adamw"], lion["official"]), (None, None, 2.0, "FRUGAL's Lion"))
        self.assertEqual((bf16["python"], bf16["official"]), (None, "no peer"))

    def needs_no_gpu(self):
        if any(" GPU " in line and line.startswith("  ok") for line in run("doctor").stdout.splitlines()):
            self.skipTest("this machine has a GPU")

    def test_a_gpu_that_is_not_there_is_one_error(self):
        self.needs_no_gpu()
        for arguments in (("copy",), ("adam",), TINY_OPTIMIZERS, TINY_GEMM, TINY_KERNELS, TINY_ATTENTION, TINY_STEP):
            self.assertOneError(self.start(*arguments, "--backend", "cuda", "--json"), 2, "is cuda, but")

    def test_every_command_of_run_gpu_is_understood(self):
        self.needs_no_gpu()
        sys.path.insert(0, str(BENCH))
        from gpu_measurements import all_measurements

        commands = [one for measurement in all_measurements() for one in measurement.runs]
        self.assertGreater(len(commands), 10)
        for one in commands:
            for extra in [[], *one.fallbacks]:
                if one.side == "strata":
                    done = self.start(*one.arguments[1:], *extra)
                    self.assertOneError(done, 2, "is cuda, but")  # and not: unknown option
                    continue
                # No torch in this interpreter's reach: the script gets as far as importing it.
                words = [sys.executable, "-S", "-E", str(BENCH / one.arguments[0]), *one.arguments[1:]]
                done = subprocess.run(words, capture_output=True, text=True)
                self.assertIn("No module named 'torch'", done.stderr, words)

    def test_wrong_shapes_are_refused(self):
        self.assertOneError(self.start("attention", "--heads", "4", "--kv-heads", "3"), 2, "--heads 4", "--kv-heads 3")
        self.assertOneError(self.start("optimizers", "--rows", "8", "--columns", "3", "--rank", "4"), 2, "--rank 4", "--columns 3")
        self.assertEqual(self.start("kernels", "--model", "gpt5").returncode, 2)
        self.assertEqual(self.start("optimizers", "--method", "adamv").returncode, 2)


class Gpu(Bench):
    program, backend = EMULATED, "cuda"

    def test_copies_within_the_device_and_both_ways(self):
        found = self.measurements("copy", "--bytes", "64KiB")
        self.assertEqual(list(found), ["copy in device memory", "host to device", "device to host", "both ways at once, sum"])
        self.assertEqual(found["copy in device memory"]["ratio"], 1.0)

    def test_adam_is_measured_against_the_copy(self):
        self.check_adam()

    def test_every_optimizer_updates_a_matrix(self):
        self.check_optimizers()

    def test_every_kernel_is_measured_against_the_copy(self):
        self.check_kernels([*KERNELS, "bias column sums"])

    def test_gemm_is_measured_against_a_large_product(self):
        self.check_gemm("square product of 96")

    def test_attention_counts_operations(self):
        self.check_attention()

    def test_steps_with_the_state_at_every_home(self):
        self.check_step("none", "cpu", "nvme")

    def test_a_model_that_does_not_fit_says_what_to_do(self):
        done = self.start("step", "--model", "llama-7b", "--layers", "4", "--batch", "1", "--seq-length", "8", "--backend", "cuda")
        self.assertOneError(done, 1, "of the GPU's memory", "--recompute")


if __name__ == "__main__":
    unittest.main()
