"""strata probe: measures this machine, writes a file that plans and runs read, and says in one line what it cannot."""
from harness import *

RATES = ("cpu_update", "nvme_read", "nvme_write", "compute_unit")


class Probe(EndToEnd):
    def setUp(self):
        super().setUp()
        # Small arrays and files: not the rates are tested here.
        self.small = ("device.backend=host", "memory.nvme=8MiB", f"nvme.path={self.folder}/drive/nvme")

    def probe(self, *arguments, ranks=0, check=0):
        return run("probe", self.config, *self.small, *arguments, ranks=ranks, check=check)

    def test_the_file_that_it_writes_is_what_a_run_plans_with(self):
        file = f"{self.folder}/machine.yaml"
        printed = self.probe("--output", file).stdout
        self.assertFalse(os.path.exists(f"{self.folder}/drive"), "what was not there before")
        with open(file) as f:
            lines = f.read().splitlines()
        comments, values = [line for line in lines if line.startswith("#")], [line for line in lines if not line.startswith("#")]
        given = dict(line.split(": ") for line in values)
        self.assertEqual(tuple(given), RATES)
        for rate in RATES:
            self.assertRegex(printed, rf"(?m)^{rate} +[0-9.]+ .*s +[0-9.]+ .*s$")
        self.assertIn("not measured: h2d, d2h, gpu_update: the host computes", printed)
        for said in ("Measured by `strata probe`", "UTC", "1 thread a rank, 1 rank", "micro-batches of 1 x 48 tokens", "Each alone"):
            self.assertIn(said, "\n".join(comments))
        self.assertIn("forecast from the rates given", run("plan", self.config, f"device.hardware={file}", check=0).stdout)
        self.train(f"device.hardware={file}", "training.steps=3")
        with open(f"{self.folder}/run/config.resolved.yaml") as f:
            self.assertIn(f"cpu_update: {given['cpu_update']}", f.read())

    def test_a_plan_that_measures_says_so_and_its_json_stays_json(self):
        printed = run("plan", self.config, *self.small, "device.hardware=probe", check=0).stdout
        self.assertRegex(printed, r"^measured, all at once: cpu_update .*, nvme_read .*, nvme_write .*, compute_unit ")
        self.assertIn("forecast from the rates given", printed)
        json.loads(run("plan", self.config, *self.small, "device.hardware=probe", "--json", check=0).stdout)

    def test_ranks_measure_together_and_one_of_them_prints(self):
        printed = self.probe(ranks=2).stdout
        self.assertEqual(printed.count("compute_unit"), 1)
        self.assertOneError(self.probe("device.emulate.h2d=1GB/s", ranks=2, check=None), 2, "device.emulate", "device.hardware")

    def test_one_error_and_exit_code_2_for_what_the_configuration_can_mend(self):
        self.assertOneError(self.probe("training.step=3", check=None), 2, "training.step", "training.steps")
        self.assertOneError(run("probe", f"{self.folder}/none.yaml"), 2, "none.yaml: cannot be opened")
        self.assertOneError(self.probe(f"nvme.path={self.config}/nvme", check=None), 2, "nvme.path", f"{self.config}/nvme")
        self.assertOneError(self.train("device.hardware=probe", f"nvme.path={self.config}/nvme", check=None), 2, "nvme.path", f"{self.config}/nvme")

    def test_a_file_that_cannot_be_written_is_an_error(self):
        self.assertOneError(self.probe("--output", f"{self.folder}/no/machine.yaml", check=None), 1, f"{self.folder}/no/machine.yaml")

    def test_a_drive_without_room_is_one_error_and_is_left_as_it_was(self):
        disk = f"{self.folder}/disk"
        os.makedirs(disk)
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode != 0:
            self.skipTest("mounting a small file system needs root")
        self.addCleanup(subprocess.run, ["umount", disk], check=False)
        self.assertOneError(self.probe(f"nvme.path={disk}/nvme", check=None), 2, "nvme.path", disk, "make room")
        self.assertEqual(os.listdir(disk), [])


if __name__ == "__main__":
    unittest.main()
