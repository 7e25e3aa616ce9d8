"""State files, file systems and processes that go wrong in the middle of a run: one clear error, and a restart that ends with the
digest of a run to which nothing happened."""
import re
import shutil

from harness import *

FAULTS = os.environ.get("STRATA_IO_FAULTS", "")  # tests/endtoend/io_faults.cpp says what it can do
STATE_FILE = "state_rank_00000.bin"

TINY = """
run: {{name: tiny, folder: {folder}/run, seed: 5}}
model: {{type: llama, vocab_size: 257, hidden_size: 16, num_layers: 1, num_heads: 2, num_kv_heads: 1, head_dim: 8, ffn_size: 32, tie_embeddings: true}}
data: {{train: [{folder}/text_train]}}
training: {{steps: 3, seq_length: 16, micro_batch_size: 1, global_batch_size: 2}}
optimizer: {{lr: 5.0e-3}}
offload: {{optimizer: {{device: nvme, record_size: 8192}}}}
device: {{threads: 1}}
checkpoint: {{interval: 1, keep_last: 1}}
logging: {{progress: "off"}}
"""


def text_of(path):
    try:
        with open(path) as f:
            return f.read()
    except FileNotFoundError:
        return ""


class Tiny(EndToEnd):
    """A run of three steps with a checkpoint after each."""

    def setUp(self):
        super().setUp()
        with open(self.config, "w") as f:
            f.write(TINY.format(folder=self.folder))

    def reference(self, *overrides, name="reference"):
        self.train(*overrides, name=name)
        return self.digest(name)

    def assertResumes(self, name, wanted, *overrides):
        done = self.train(*overrides, name=name)
        self.assertTrue("resumed from" in done.stdout or "nothing to resume" in done.stdout, done.stdout)
        self.assertEqual(self.digest(name), wanted, name)
        steps = [m["step"] for m in self.metrics(name)]
        self.assertEqual(steps, list(range(1, len(steps) + 1)), name)
        self.assertEqual([n for n in os.listdir(f"{self.folder}/{name}/checkpoints") if not re.fullmatch(r"step_\d+", n)], [])
        shutil.rmtree(f"{self.folder}/{name}")


@unittest.skipUnless(FAULTS, "STRATA_IO_FAULTS names no library to preload")
class EveryOperation(Tiny):
    """Each transfer of the state file of a run goes wrong once, from the making of the file to the last checkpoint."""

    def faulty(self, name, *overrides, **environment_of_faults):
        return run("train", self.config, f"run.folder={self.folder}/{name}", "nvme.engine=threads", *overrides,
                   env={"LD_PRELOAD": FAULTS, **environment_of_faults})

    def setUp(self):
        super().setUp()
        self.wanted = self.reference()
        listed = f"{self.folder}/operations"
        self.assertEqual(self.faulty("counted", STRATA_FAULT_LIST=listed).returncode, 0)
        self.assertEqual(self.digest("counted"), self.wanted)
        with open(listed) as f:
            operations = [line.split() for line in f]
        self.operations = len(operations)
        # The file is tried and filled with zeros from its beginning; the first version of a record lies behind that of the second.
        self.making = next(i for i, (_, _, offset) in enumerate(operations) if offset != "0")
        self.assertGreater(self.operations, self.making + 3 * 3 * 3)

    def each(self, kind, check, *overrides):
        """Checks how the run ended, for every operation, and whether it belongs to a record. Then the run is resumed."""
        for i in range(self.operations):
            with self.subTest(kind=kind, operation=i):
                name = f"{kind}{i}"
                check(self.faulty(name, *overrides, STRATA_FAULT=f"{kind}:{i}"), i >= self.making)
                self.assertResumes(name, self.wanted)

    def assertNamesThePlace(self, done, of_record, *fragments):
        self.assertOneError(done, 1, f"nvme/{STATE_FILE}", *fragments)
        if of_record:
            self.assertRegex(done.stderr, r"record \d+, version \d+")
            self.assertRegex(done.stderr, r"at offset \d+")


class Failing(EveryOperation):
    def test_an_io_error(self):
        self.each("fail", lambda done, of_record: self.assertNamesThePlace(done, of_record, "Input/output error"))

    def test_a_full_device(self):
        self.each("full", lambda done, of_record: self.assertNamesThePlace(done, of_record, "No space left on device", "make room"))


class Damaging(EveryOperation):
    def test_a_short_transfer_is_continued(self):
        self.each("shorten", lambda done, _: self.assertEqual(done.returncode, 0, done.stderr))

    def test_a_flipped_bit(self):
        def check(done, of_record):
            if of_record:
                self.assertNamesThePlace(done, True)
                self.assertRegex(done.stderr, "its payload has checksum|there is no record header")
            else:
                self.assertEqual(done.returncode, 0, done.stderr)  # nobody reads what was there before
        self.each("corrupt", check)


class Hanging(EveryOperation):
    def test_a_call_that_never_returns(self):
        self.each("hang", lambda done, of_record: self.assertNamesThePlace(done, of_record, "nothing was heard for 200 ms", "nvme.timeout"),
                  "nvme.timeout=200ms")

    def test_a_process_that_was_stopped_does_not_blame_the_device(self):
        for operation in (self.making - 1, self.making, self.making + 9):
            with self.subTest(operation=operation):
                name, listed = f"stopped{operation}", f"{self.folder}/listed{operation}"
                process = subprocess.Popen(
                    [STRATA, "train", self.config, f"run.folder={self.folder}/{name}", "nvme.engine=threads", "nvme.timeout=1s"],
                    env={**environment(), "LD_PRELOAD": FAULTS, "STRATA_FAULT": f"slow:{operation}", "STRATA_FAULT_LIST": listed},
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                deadline = time.time() + 60
                while time.time() < deadline and text_of(listed).count("\n") <= operation:
                    time.sleep(0.01)
                process.send_signal(signal.SIGSTOP)
                time.sleep(1.5)
                process.send_signal(signal.SIGCONT)
                output = process.communicate(timeout=60)[0]
                self.assertEqual(process.returncode, 0, output)
                self.assertResumes(name, self.wanted)


@unittest.skipUnless(FAULTS, "STRATA_IO_FAULTS names no library to preload")
class AllOnNvme(Tiny):
    """Parameters, gradients and activations in files of their own beside the optimizer's: a fault in any of them."""
    PLACED = ["model.num_layers=3", "training.global_batch_size=1", "precision.compute=bf16", "precision.gradients=bf16",
              "offload.param.device=nvme", "offload.gradient.device=nvme", "offload.activation.device=nvme", "nvme.engine=threads", "nvme.timeout=200ms"]
    FILES = ("state", "parameters", "gradients", "activations")

    def faulty(self, name, files, **environment_of_faults):
        return run("train", self.config, f"run.folder={self.folder}/{name}", *self.PLACED,
                   env={"LD_PRELOAD": FAULTS, "STRATA_FAULT_FILES": f"/{files}_rank_", **environment_of_faults})

    def test_a_fault_in_any_file(self):
        wanted = self.reference(*self.PLACED)
        for files in self.FILES:
            listed = f"{self.folder}/{files}"
            self.assertEqual(self.faulty(f"counted-{files}", files, STRATA_FAULT_LIST=listed).returncode, 0)
            self.assertEqual(self.digest(f"counted-{files}"), wanted)
            count = text_of(listed).count("\n")
            self.assertGreater(count, 20, files)
            for kind, text in (("fail", "Input/output error"), ("hang", "nothing was heard for 200 ms")):
                for i in range(5, count, count // 4):
                    with self.subTest(files=files, kind=kind, operation=i):
                        name = f"{files}-{kind}{i}"
                        done = self.faulty(name, files, STRATA_FAULT=f"{kind}:{i}")
                        self.assertOneError(done, 1, f"nvme/{files}_rank_00000.bin", text)
                        self.assertResumes(name, wanted, *self.PLACED)


class Killed(EveryOperation):
    def test_in_the_middle_of_any_operation(self):
        self.each("tear", lambda done, _: self.assertEqual(done.returncode, -signal.SIGKILL, done.stderr))

    def test_at_fifty_random_moments(self):
        longer = ("training.steps=20",)
        begin = time.time()
        wanted = self.reference(*longer, name="longer")
        whole = time.time() - begin
        rng = random.Random(int(os.environ.get("STRATA_KILL_SEED", "7")))
        kills, generation = 0, 0
        while kills < 50:
            name = f"random{generation}"
            process = subprocess.Popen([STRATA, "train", self.config, f"run.folder={self.folder}/{name}", *longer],
                                       env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                errors = process.communicate(timeout=rng.uniform(0, whole))[1]
            except subprocess.TimeoutExpired:
                kills += 1
                process.kill()
                process.communicate()
                continue
            self.assertEqual(process.returncode, 0, errors)
            self.assertResumes(name, wanted, *longer)
            generation += 1
        self.assertResumes(f"random{generation}", wanted, *longer)


class OwnMounts:
    """A mount namespace for file systems that vanish with it. Files in it are seen under `seen`."""

    def __init__(self, test, script):
        self.root = os.geteuid() == 0
        rights = [] if self.root else ["--user", "--map-root-user"]
        self.where = f"{test.folder}/mounts"
        os.makedirs(self.where, exist_ok=True)
        if any(shutil.which(tool) is None for tool in ("unshare", "nsenter")):
            test.skipTest("file systems of one's own need unshare and nsenter")
        self.holder = subprocess.Popen(["unshare", *rights, "--mount", "sh", "-ec", f"cd {self.where}; {script}; echo mounted; exec sleep 600"],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        test.addCleanup(self.end)
        if self.holder.stdout.readline() != "mounted\n":
            test.skipTest("small file systems cannot be mounted here: " + " ".join(self.holder.stderr.read().split()))
        self.seen = f"/proc/{self.holder.pid}/root{self.where}"

    def end(self):
        self.holder.kill()
        self.holder.communicate()

    def command(self, *words):
        enter = ["nsenter", "--target", str(self.holder.pid), "--mount"] + ([] if self.root else ["--user", "--preserve-credentials"])
        return [*enter, *words]

    def run(self, *args):
        return subprocess.run(self.command(os.path.abspath(STRATA), *args), env=environment(), capture_output=True, text=True, timeout=160)

    def freeze(self, folder, on):
        return subprocess.run(self.command("fsfreeze", "-f" if on else "-u", f"{self.where}/{folder}"), capture_output=True).returncode == 0

    def leave_free(self, folder, left):
        """Fills the file system until `left` bytes can be written."""
        zeros, size = bytes(4096), 0
        with open(f"{self.seen}/{folder}/ballast", "wb", buffering=0) as f:
            try:
                while True:
                    size += f.write(zeros)
            except OSError:
                pass
            f.truncate(max(0, size - left))

    def make_room(self, folder):
        os.remove(f"{self.seen}/{folder}/ballast")


TMPFS = "mkdir small; mount -t tmpfs -o size=8m tmpfs small"
EXT4 = "mkdir small; truncate -s 16M image; mkfs.ext4 -q -F -m 0 image; mount -o loop image small"
# An image that promises 64 MiB in a memory of 8 MiB. The loop device calls a write a success of which a part found room, so that the
# lack may show a little later than when the file is made.
THIN = ("mkdir memory small; mount -t tmpfs -o size=8m tmpfs memory; truncate -s 64M memory/image; "
        "mkfs.ext4 -q -F -m 0 -O ^has_journal memory/image; mount -o loop,nodiscard memory/image small")


class Full(Tiny):
    """File systems that are really full."""

    def train_in(self, mounts, name, *overrides, run_folder=None, check=None):
        done = mounts.run("train", self.config, f"run.folder={run_folder or f'{self.folder}/{name}'}", *overrides)
        if check is not None:
            self.assertEqual(done.returncode, check, done.stdout + done.stderr)
        return done

    def digest_in(self, mounts, folder):
        done = mounts.run("checkpoint", "digest", folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def refused_then_resumed(self, mounts, filled, left, *fragments):
        wanted = self.reference()
        path = f"nvme.path={mounts.where}/small/nvme"
        os.makedirs(f"{mounts.seen}/small/nvme")
        os.sync()
        mounts.leave_free(filled, left)
        done = self.train_in(mounts, "run", path)
        self.assertOneError(done, 1, f"{mounts.where}/small/nvme/{STATE_FILE}: ", "No space left on device; make room ", *fragments)
        self.assertEqual(os.listdir(f"{mounts.seen}/small/nvme"), [])
        mounts.make_room(filled)
        self.train_in(mounts, "run", path, check=0)
        self.assertEqual(self.digest("run"), wanted)

    def test_tmpfs_under_nvme_path(self):
        self.refused_then_resumed(OwnMounts(self, TMPFS), "small", 100 << 10, "cannot allocate 144.0 KiB", "free are", "nvme.path on a larger")

    def test_ext4_under_nvme_path(self):
        self.refused_then_resumed(OwnMounts(self, EXT4), "small", 100 << 10, "cannot allocate 144.0 KiB", "free are", "nvme.path on a larger")

    def test_an_image_that_promises_more_than_it_has_under_nvme_path(self):
        self.refused_then_resumed(OwnMounts(self, THIN), "memory", 0)

    def test_a_file_system_that_freezes_under_nvme_path(self):
        longer = ("training.steps=100",)
        wanted = self.reference(*longer)
        mounts = OwnMounts(self, EXT4)
        for engine in ("io_uring", "threads"):
            with self.subTest(engine=engine):
                self.frozen(mounts, engine, longer)
                self.assertResumes(engine, wanted, *longer)

    def frozen(self, mounts, engine, longer):
        words = ["train", self.config, f"run.folder={self.folder}/{engine}", f"nvme.path={mounts.where}/small", f"nvme.engine={engine}",
                 "nvme.timeout=1s", *longer]
        with open(f"{self.folder}/errors", "w+") as errors:
            process = subprocess.Popen(mounts.command(os.path.abspath(STRATA), *words), env=environment(), stdout=subprocess.DEVNULL,
                                       stderr=errors)
            try:
                steps = f"{self.folder}/{engine}/metrics.jsonl"
                self.wait_until(lambda: process.poll() is not None or text_of(steps).count("\n") >= 5)
                if process.poll() is not None and "io_uring is not available" in text_of(errors.name):
                    self.skipTest("io_uring is not allowed here")
                if not mounts.freeze("small", True):
                    self.skipTest("file systems cannot be frozen here")
                # Said while the device hangs; the process ends when its calls have returned.
                self.wait_until(lambda: "nothing was heard for 1000 ms" in text_of(errors.name))
            finally:
                mounts.freeze("small", False)
            self.assertEqual(process.wait(timeout=60), 1)
            text = text_of(errors.name)
            self.assertEqual(text.count("strata: error:"), 1, text)
            self.assertRegex(text, r"record \d+, version \d+: .*(read|write) of \d+ bytes at offset \d+: " + f"{mounts.where}/small/{STATE_FILE}")

    def wait_until(self, condition):
        deadline = time.time() + 60
        while not condition():
            self.assertLess(time.time(), deadline, "waited for 60 s")
            time.sleep(0.002)

    def test_what_fills_the_disk_later_takes_no_space_from_the_state(self):
        mounts = OwnMounts(self, TMPFS)
        wanted = self.reference()
        mounts.leave_free("small", 144 * 1024)  # exactly
        self.train_in(mounts, "run", f"nvme.path={mounts.where}/small/nvme", check=0)
        self.assertEqual(self.digest("run"), wanted)

    def full_run_folder(self, script, sizes):
        """Ends with the first size that is enough."""
        mounts = OwnMounts(self, script)
        wanted = self.reference()
        folder = f"{mounts.where}/small/run"
        refused = 0
        for left in sizes:
            mounts.leave_free("small", left)
            done = self.train_in(mounts, "run", f"nvme.path={self.folder}/nvme", run_folder=folder)
            mounts.make_room("small")
            if done.returncode == 0:
                self.assertEqual(self.digest_in(mounts, folder), wanted)
                return refused
            refused += 1
            with self.subTest(left=left):
                self.assertOneError(done, 1, folder, "No space left on device; make room there and start again")
                self.train_in(mounts, "run", f"nvme.path={self.folder}/nvme", run_folder=folder, check=0)
                self.assertEqual(self.digest_in(mounts, folder), wanted)
                with open(f"{mounts.seen}/small/run/metrics.jsonl") as f:
                    self.assertEqual([json.loads(line)["step"] for line in f], [1, 2, 3])
                self.assertEqual(os.listdir(f"{mounts.seen}/small/run/checkpoints"), ["step_3"])
            shutil.rmtree(f"{mounts.seen}/small/run")
        self.fail("no size was enough")

    def test_tmpfs_under_the_run_folder_at_any_point(self):
        # Two checkpoints of 84 KiB and some small files, page by page.
        self.assertGreater(self.full_run_folder(TMPFS, range(0, 1 << 20, 4096)), 30)

    def test_ext4_under_the_run_folder(self):
        self.assertGreater(self.full_run_folder(EXT4, range(0, 1 << 20, 24 << 10)), 4)


if __name__ == "__main__":
    unittest.main()
