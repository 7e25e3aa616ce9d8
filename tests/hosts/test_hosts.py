"""One MPI job over several hosts with TCP between them: the digest of one machine; and what a user reads when a host cannot be reached.
Mutations that must fail: no timeout where ranks of other hosts are waited for; an error that does not name the host."""
import os
import subprocess
import sys
import time
import unittest

import hosts

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "endtoend"))
import harness


# What docs/cluster.md tells users of mpirun: slower than parallel.timeout, so that the ranks say first what is wrong.
KEEPALIVE = [word for key, seconds in (("time", 15), ("intvl", 5), ("probes", 3)) for word in ("--mca", f"oob_tcp_keepalive_{key}", str(seconds))]


class Hosts(harness.EndToEnd):
    def setUp(self):
        super().setUp()
        self.hosts = hosts.Hosts(4)
        self.hosts.__enter__()
        self.addCleanup(self.hosts.__exit__)
        self.agent = self.hosts.remote_shell(f"{self.folder}/rsh")

    def start(self, name, ranks, *overrides):
        """Ranks in turn over the hosts, mpirun on the first of them."""
        where = ",".join(f"{self.hosts.address(h)}:{ranks // 4}" for h in self.hosts.names)
        argv = ["mpirun", "--mca", "plm_rsh_agent", self.agent, "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", *KEEPALIVE, "--host", where,
                "-n", str(ranks), "--wdir", os.getcwd(), os.path.abspath(harness.STRATA), "train", self.config, f"run.folder={self.folder}/{name}",
                *overrides]
        return subprocess.Popen(["timeout", "-k", "5", "150", *self.hosts.command("h0", *argv)], env=harness.environment(),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")

    def test_four_hosts_train_to_the_digest_of_one(self):
        self.train("training.steps=10", ranks=4, name="alone")
        for ranks in (4, 8):
            name = f"over{ranks}"
            process = self.start(name, ranks, "training.steps=10", "training.global_batch_size=24" if ranks == 8 else "training.steps=10")
            output = process.communicate(timeout=160)[0]
            self.assertEqual(process.returncode, 0, output)
        self.assertEqual(self.digest("over4"), self.digest("alone"))
        self.train("training.steps=10", "training.global_batch_size=24", ranks=8, name="alone8")
        self.assertEqual(self.digest("over8"), self.digest("alone8"))

    def test_a_host_whose_link_is_cut_ends_the_job_and_is_named(self):
        self.hosts.set("net.ipv4.tcp_retries2", 6)
        process = self.start("cut", 4, "training.steps=100000", "checkpoint.interval=0", "parallel.timeout=10s", "logging.log_interval=100000")
        for _ in range(600):
            if os.path.exists(f"{self.folder}/cut/metrics.jsonl") and len(self.metrics("cut")) >= 5:
                break
            time.sleep(0.1)
        self.assertIsNone(process.poll(), "ended before its link was cut")
        begin = time.time()
        self.hosts.cut("h2")
        output = process.communicate(timeout=100)[0]
        self.assertLess(time.time() - begin, 60, output)
        self.assertNotEqual(process.returncode, 0, output)
        for rank in (0, 1, 3):
            said = [line for line in output.splitlines() if f"strata: error: rank {rank}: " in line]
            self.assertEqual(len(said), 1, output)
            self.assertRegex(said[0], r"rank 2 \(on host h2\) did not arrive in (all_gather|reduce_scatter) \w+ within 10 s: ")


if __name__ == "__main__":
    hosts.main_or_skip(unittest, hosts.why_not())
