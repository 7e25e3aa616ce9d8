"""launcher/slurm/train.sbatch on a real Slurm of two nodes. Mutations that must fail: a script that does not requeue, or passes no signal
on; a run that ends by a signal with exit code 0."""
import os
import re
import sys
import tempfile
import time
import unittest

import cluster
from cluster import hosts, wait_until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "endtoend"))
import harness

SCRIPT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "launcher", "slurm", "train.sbatch"))


class Slurm(harness.EndToEnd):
    def start(self, settings="SlurmctldParameters=preempt_send_user_signal"):
        temporary = tempfile.TemporaryDirectory(prefix="slurm")
        self.addCleanup(temporary.cleanup)
        self.cluster = cluster.Cluster(2, temporary.name, settings)
        self.cluster.__enter__()
        self.addCleanup(self.cluster.__exit__)

    def submit(self, name, *options, steps=300):
        self.output = f"{self.folder}/{name}.out"
        return self.cluster.submit("--nodes=2", "--ntasks-per-node=1", "--time=60", f"--output={self.output}",
                                   f"--export=ALL,STRATA={os.path.abspath(harness.STRATA)}", *options, SCRIPT, self.config,
                                   f"run.folder={self.folder}/{name}", f"training.steps={steps}", "checkpoint.interval=0",
                                   "logging.log_interval=20")

    def text(self):
        try:
            with open(self.output) as f:
                return f.read()
        except OSError:
            return ""

    def explain(self):
        return self.text() + self.cluster.logs()

    def steps(self, name):
        try:
            return len(self.metrics(name))
        except (OSError, ValueError):
            return 0

    def finish(self, job, code="0:0"):
        states = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        wait_until(lambda: self.cluster.job(job).get("JobState") in states, f"the end of job {job}", 120, self.explain)
        self.assertEqual(self.cluster.job(job)["ExitCode"], code, self.explain())

    def start_now(self, job):
        """Slurm waits two minutes before it starts a job again, and some seconds are needed: nodes refuse what they were told to end."""
        wait_until(lambda: self.cluster.job(job)["JobState"] == "PENDING", "requeued", 60, self.explain)
        time.sleep(4)
        self.cluster.slurm("scontrol", "update", f"JobId={job}", "StartTime=now", check=True)

    def preempt(self, name):
        """Submits a run, and another job in its way; waits until the run has ended all the same."""
        job = self.submit(name)
        wait_until(lambda: self.steps(name) >= 20, "20 steps", 60, self.explain)
        self.finish(self.cluster.submit("--partition=urgent", "--nodes=2", "--exclusive", "--time=10", "--wrap", "sleep 2"))
        self.start_now(job)
        self.finish(job)
        text = self.text()
        self.assertEqual(len(re.findall("stopped by a signal after step", text)), 1, text)
        self.assertIn("start 2: srun --mpi=pmix", text)
        self.assertEqual(self.cluster.job(job)["Restarts"], "1")
        self.assertEqual([m["step"] for m in self.metrics(name)], list(range(1, 301)))

    def test_a_preempted_run_goes_on_by_itself_to_the_same_digest(self):
        self.start()
        self.finish(self.submit("whole"))
        self.assertIn("start 1: srun --mpi=pmix", self.text())
        self.assertIn("step 300/300", self.text())

        self.preempt("parts")
        self.assertEqual(self.digest("parts"), self.digest("whole"))

    def test_a_controller_that_sends_only_sigterm_does_the_same(self):
        self.start(settings="")
        self.preempt("parts")

    def test_a_signal_to_the_job_does_the_same_under_mpirun(self):
        self.start()
        job = self.submit("signalled", "--export=ALL,STRATA_LAUNCH=mpirun --allow-run-as-root --bind-to none -n 2,"
                          f"STRATA={os.path.abspath(harness.STRATA)}", steps=200)
        wait_until(lambda: self.steps("signalled") >= 20, "20 steps", 60, self.explain)
        self.cluster.slurm("scancel", "--batch", "--signal=USR1", job, check=True)
        self.start_now(job)
        self.finish(job)
        self.assertIn("start 2: mpirun", self.text())
        self.assertEqual(len(self.metrics("signalled")), 200)

    def test_a_wrong_configuration_is_not_tried_again(self):
        self.start()
        job = self.submit("wrong", steps=0)
        self.finish(job, code="2:0")
        self.assertEqual(self.text().count("strata: error:"), 1, self.text())
        self.assertEqual(self.cluster.job(job)["Restarts"], "0")


if __name__ == "__main__":
    hosts.main_or_skip(unittest, cluster.why_not())
