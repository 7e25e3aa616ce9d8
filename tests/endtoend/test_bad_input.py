"""Bad input: one clear error each, exit code 2 or 1, nothing corrupted."""
import struct

from harness import *


class BadInput(EndToEnd):
    def test_unknown_key_names_the_nearest_and_the_line(self):
        with open(self.config, "a") as f:
            f.write("training_: {}\n")
        self.assertOneError(self.train(check=None), 2, "training_", "training", "small.yaml:")
        self.assertOneError(run("train", self.config, "training.step=3"), 2, "training.step", "training.steps")

    def test_a_backend_that_is_not_there_is_refused_with_the_reason(self):
        if any(" GPU " in line and line.startswith("  ok") for line in run("doctor").stdout.splitlines()):
            self.skipTest("this machine has a GPU")
        self.assertOneError(self.train("device.backend=cuda", check=None), 2, "device.backend", "is cuda, but", "set auto or host")

    def test_wrong_type_says_what_was_expected(self):
        self.assertOneError(self.train("training.steps=many", check=None), 2, "training.steps", "many")

    def test_batch_sizes_that_contradict_print_the_equation(self):
        done = self.train("training.micro_batch_size=3", "training.gradient_accumulation_steps=3", "training.global_batch_size=12", check=None)
        self.assertOneError(done, 2, "12", "3")
        self.assertRegex(done.stderr, r"3\s*[*x]\s*3")

    def test_missing_data(self):
        done = self.train(f"data.train=[{self.folder}/nothing]", check=None)
        self.assertOneError(done, 1, f"{self.folder}/nothing")

    def test_truncated_idx(self):
        with open(f"{self.folder}/text_train.idx", "r+b") as f:
            f.truncate(40)
        done = self.train(check=None)
        self.assertOneError(done, done.returncode, "text_train.idx")
        self.assertIn(done.returncode, (1, 2))

    def test_safetensors_with_a_header_that_lies(self):
        hf = f"{self.folder}/hf"
        os.makedirs(hf)
        with open(f"{hf}/config.json", "w") as f:
            json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 16,
                       "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32,
                       "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
                       "tie_word_embeddings": True}, f)
        header = json.dumps({"model.embed_tokens.weight": {"dtype": "F32", "shape": [64, 16], "data_offsets": [0, 999999999]}}).encode()
        with open(f"{hf}/model.safetensors", "wb") as f:
            f.write(struct.pack("<Q", len(header)) + header + b"\0" * 100)
        done = run("model", "import", hf, f"{self.folder}/imported")
        self.assertOneError(done, 1, "model.safetensors", "model.embed_tokens.weight")
        self.assertFalse(os.path.exists(f"{self.folder}/imported/step_0"))

    def test_loss_that_is_not_finite_names_step_and_tensor(self):
        done = self.train("optimizer.lr=1e30", "scheduler.warmup_steps=0", check=None, ranks=2)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"step \d+: loss .* first offending tensor: \w+")

    def test_budget_too_small_says_by_how_much(self):
        done = self.train("memory.gpu=256KiB", check=None, ranks=2)
        self.assertOneError(done, 2, "memory.gpu", "too much", "training.recompute")
        self.assertFalse(os.path.exists(f"{self.folder}/run/metrics.jsonl"))
        self.assertOneError(run("plan", self.config, "memory.gpu=256KiB"), 2, "memory.gpu", "too much")

    @unittest.skipUnless(os.geteuid() != 0, "root may write everywhere; test_unwritable_run_folder_as_file covers it")
    def test_unwritable_run_folder(self):
        os.makedirs(f"{self.folder}/locked", mode=0o500)
        self.assertOneError(self.train(f"run.folder={self.folder}/locked/run", check=None), 1, "locked/run")

    def test_run_folder_that_is_a_file(self):
        with open(f"{self.folder}/file", "w") as f:
            f.write("x")
        done = run("train", self.config, f"run.folder={self.folder}/file/run", ranks=2)
        self.assertOneError(done, 1, f"{self.folder}/file/run")

    def test_an_invalid_config_under_mpirun_is_said_once(self):
        self.assertOneError(run("train", self.config, "training.steps=0", ranks=3), 2, "training.steps")
        self.assertOneError(run("train", self.config, "training.global_batch_size=13", ranks=3), 2, "13")

    def test_tokens_outside_the_vocabulary_are_refused_before_training(self):
        for part in ("train", "validation"):
            path = f"{self.folder}/text_{part}.bin"
            with open(path, "rb") as f:
                whole = f.read()
            with open(path, "wb") as f:
                f.write(whole[:100] + b"\xff\x7f" + whole[102:])
            done = run("train", self.config, f"run.folder={self.folder}/{part}", ranks=2)
            self.assertOneError(done, 2, f"data.{part} holds token 32767", "model.vocab_size")
            with open(path, "wb") as f:
                f.write(whole)

    def small_disk(self, size):
        """A file system of `size` bytes; needs root and mount."""
        path = f"{self.folder}/disk"
        os.makedirs(path)
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True).returncode != 0:
            self.skipTest("mounting a small file system needs root")
        self.addCleanup(subprocess.run, ["umount", path], check=False)
        return path

    def test_disk_full_under_the_nvme_path(self):
        disk = self.small_disk(300 * 1024)
        done = self.train(f"nvme.path={disk}/nvme", check=None)
        self.assertOneError(done, 1, disk, "No space left on device")

    def test_disk_full_under_the_checkpoint_path(self):
        disk = self.small_disk(1500 * 1024)
        done = run("train", self.config, f"run.folder={disk}/run", f"nvme.path={self.folder}/nvme", "checkpoint.keep_last=0", ranks=2)
        self.assertOneError(done, 1, "No space left on device", "checkpoint of step")
        listed = run("checkpoint", "verify", f"{disk}/run", check=0)  # what was committed before is whole
        self.assertIn("every checksum is right", listed.stdout)
        self.assertEqual([n for n in os.listdir(f"{disk}/run/checkpoints") if n.endswith(".tmp")], [])


class Commands(EndToEnd):
    def test_every_command_has_help(self):
        for command_name in ("train", "plan", "probe", "data", "model", "checkpoint", "generate", "bench", "doctor"):
            done = run(command_name, "--help", check=0)
            self.assertIn("Usage", done.stdout)

    def test_generate_continues_a_prompt(self):
        self.train("training.steps=5")
        done = run("generate", f"{self.folder}/run", "--prompt", "Anne ", "--tokens", "10", check=0)
        self.assertTrue(done.stdout.startswith("Anne "))
        again = run("generate", f"{self.folder}/run", "--prompt", "Anne ", "--tokens", "10", check=0)
        self.assertEqual(done.stdout, again.stdout)

    def test_import_export_round_trip_of_a_trained_model_is_exact(self):
        self.train("training.steps=5")
        run("model", "export", f"{self.folder}/run", f"{self.folder}/hf1", check=0)
        run("model", "import", f"{self.folder}/hf1", f"{self.folder}/ck", check=0)
        run("model", "export", f"{self.folder}/ck", f"{self.folder}/hf2", check=0)
        with open(f"{self.folder}/hf1/model.safetensors", "rb") as a, open(f"{self.folder}/hf2/model.safetensors", "rb") as b:
            self.assertEqual(a.read(), b.read())

    def test_import_and_export_of_hugging_face_folders_lose_nothing_by_default(self):
        vectors = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "vectors")
        dtypes = set()
        for case in sorted(os.listdir(vectors)):
            original = f"{vectors}/{case}/hf"
            run("model", "import", original, f"{self.folder}/{case}_ck", check=0)
            run("model", "export", f"{self.folder}/{case}_ck", f"{self.folder}/{case}_hf", check=0)
            before, after = tensors_of(f"{original}/model.safetensors"), tensors_of(f"{self.folder}/{case}_hf/model.safetensors")
            self.assertEqual(sorted(before), sorted(after), case)
            for name, tensor in before.items():
                self.assertEqual(tensor, after[name], f"{case}: {name}")
                dtypes.add(tensor[0])
        self.assertEqual(dtypes, {"F32", "BF16", "F16"})

    def test_training_goes_on_from_an_imported_model(self):
        self.train("training.steps=5")
        run("model", "export", f"{self.folder}/run", f"{self.folder}/hf1", check=0)
        with open(self.config) as f:
            text = f.read().split("\n")
        text = [line if not line.startswith("model:") else f"model: {{hf: {self.folder}/hf1}}" for line in text]
        with open(self.config, "w") as f:
            f.write("\n".join(text))
        done = self.train("training.steps=3", ranks=2, name="tuned")
        self.assertIn("importing", done.stdout)
        self.assertLess(self.metrics("tuned")[0]["loss"], self.metrics("run")[0]["loss"])

    def test_plan_prints_the_memory_table_and_json(self):
        done = run("plan", self.config, "--ranks", "2", check=0)
        for word in ("gpu", "cpu", "nvme", "activations", "parameters"):
            self.assertIn(word, done.stdout)
        self.assertGreater(json.loads(run("plan", self.config, "--json", check=0).stdout)["nvme"]["peak"], 0)

    def test_doctor_never_fails(self):
        self.assertIn("io_uring", run("doctor", check=0).stdout)

    def test_trace_is_json_with_every_lane(self):
        self.train("logging.trace=true", "training.steps=6", "logging.trace_steps=2", "checkpoint.interval=0")
        with open(f"{self.folder}/run/trace.json") as f:
            events = json.load(f)["traceEvents"]
        names = {e["args"]["name"] for e in events if e["ph"] == "M"}
        self.assertTrue({"compute", "cpu update", "nvme read", "nvme write"} <= names, names)


if __name__ == "__main__":
    unittest.main()
