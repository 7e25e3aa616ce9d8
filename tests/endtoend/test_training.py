"""Training under mpirun: digests, resuming, killing, stop signals."""
from harness import *


class Digests(EndToEnd):
    def test_one_digest_for_every_placement_under_mpirun(self):
        digests = {}
        for ranks in (1, 2, 3, 4):
            for i, overrides in enumerate((["zero.stage=0", "offload.optimizer.device=cpu"],
                                           ["zero.stage=1", "training.recompute=full"],
                                           ["zero.stage=3", "offload.optimizer.record_size=4096"],
                                           ["zero.stage=2", "parallel.shared_memory=off"])):
                name = f"r{ranks}_{i}"
                self.train("checkpoint.interval=0", *overrides, ranks=ranks, name=name)
                digests[(ranks, i)] = self.digest(name)
        self.assertEqual(len(set(digests.values())), 1, digests)
        losses = [m["loss"] for m in self.metrics("r2_2")]
        self.assertLess(losses[-1], losses[0] - 0.5)
        self.assertTrue(any(m["clip"] < 1 for m in self.metrics("r2_2")), "clipping must be active")

    def test_metrics_have_one_object_a_step(self):
        self.train(ranks=2)
        metrics = self.metrics()
        self.assertEqual([m["step"] for m in metrics], list(range(1, 21)))
        self.assertIn("validation_loss", metrics[-1])
        for step in metrics:
            (path, traffic), = step["nvme"].items()
            self.assertTrue(path.endswith("/state_rank_00000.bin"), path)
            for way in ("read", "write"):
                self.assertGreater(traffic[way]["bytes"], 0)
                self.assertLessEqual(traffic[way]["p50_seconds"], traffic[way]["p99_seconds"])
                self.assertLessEqual(traffic[way]["p99_seconds"], traffic[way]["max_seconds"])
        for name in ("config.resolved.yaml", "plan.json"):
            self.assertTrue(os.path.exists(f"{self.folder}/run/{name}"), name)


class Rendezvous(EndToEnd):
    """Ranks that are started one by one and meet through files, without MPI."""

    def start_rank(self, rank, world, *overrides, name="met"):
        own = {"STRATA_RENDEZVOUS": f"{self.folder}/meeting", "STRATA_RANK": str(rank), "STRATA_WORLD": str(world)}
        return subprocess.Popen([STRATA, "train", self.config, f"run.folder={self.folder}/{name}", *overrides],
                                env={**environment(), **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def test_they_train_to_the_digest_of_mpirun(self):
        self.train(ranks=2, name="mpi")
        ranks = [self.start_rank(r, 2) for r in (0, 1)]
        outputs = [r.communicate(timeout=150)[0] for r in ranks]
        self.assertEqual([r.returncode for r in ranks], [0, 0], outputs)
        self.assertEqual(self.digest("met"), self.digest("mpi"))

    def test_one_that_does_not_come_is_named(self):
        process = self.start_rank(0, 2, "parallel.timeout=1")
        output = process.communicate(timeout=60)[0]
        self.assertEqual(process.returncode, 1, output)
        self.assertIn("rank 1 did not come", output)

    def test_a_rank_outside_the_world_is_refused(self):
        process = self.start_rank(2, 2)
        output = process.communicate(timeout=60)[0]
        self.assertEqual(process.returncode, 2, output)
        self.assertIn("rank 2 of 2 ranks", output)


class Resuming(EndToEnd):
    def reference(self):
        self.train(ranks=2, name="reference")
        return self.digest("reference")

    def start(self, name, *overrides, ranks=2):
        return subprocess.Popen(command(ranks, "train", self.config, f"run.folder={self.folder}/{name}", *overrides),
                                env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                start_new_session=True)

    def kill_all(self, process):
        """SIGKILL to mpirun and every rank: what a power cut leaves."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        subprocess.run(["pkill", "-9", "-f", self.folder], check=False)
        process.wait()
        process.stdout.close()

    def test_ten_steps_a_kill_and_ten_more_equal_twenty(self):
        wanted = self.reference()
        process = self.start("killed")
        deadline = time.time() + 120
        while time.time() < deadline and not os.path.exists(f"{self.folder}/killed/checkpoints/step_10/manifest.json"):
            time.sleep(0.01)
        self.kill_all(process)
        done = self.train(ranks=2, name="killed")
        self.assertIn("resumed from", done.stdout)
        self.assertEqual(self.digest("killed"), wanted)
        self.assertEqual([m["step"] for m in self.metrics("killed")], list(range(1, 21)))

    def test_twenty_kills_at_random_moments(self):
        wanted = self.reference()
        begin = time.time()
        self.train(ranks=2, name="timing")
        whole = time.time() - begin
        rng = random.Random(int(os.environ.get("STRATA_KILL_SEED", "11")))
        # 20 kills over runs that start anew when one is complete; every restart must go on or say that nothing is there.
        kills, generation = 0, 0
        while kills < 20:
            process = self.start(f"random{generation}")
            time.sleep(rng.uniform(0.05, 1.0) * whole)
            if process.poll() is None:
                kills += 1
                self.kill_all(process)
            else:
                output = process.stdout.read()
                process.stdout.close()
                self.assertEqual(process.returncode, 0, output)
                self.assertEqual(self.digest(f"random{generation}"), wanted)
                generation += 1
        done = self.train(ranks=2, name=f"random{generation}")
        self.assertTrue("resumed from" in done.stdout or "nothing to resume" in done.stdout, done.stdout)
        self.assertEqual(self.digest(f"random{generation}"), wanted)
        leftovers = [n for n in os.listdir(f"{self.folder}/random{generation}/checkpoints") if not n.startswith("step_") or n.endswith((".tmp", ".old"))]
        self.assertEqual(leftovers, [])

    def test_another_world_size_and_stage_go_on(self):
        self.train("training.steps=20", "scheduler.type=constant", ranks=2, name="straight")
        self.train("training.steps=10", "scheduler.type=constant", ranks=2, name="moved")
        self.train("training.steps=20", "scheduler.type=constant", "zero.stage=1", "offload.optimizer.device=cpu", ranks=3, name="moved")
        for a, b in zip(self.metrics("straight"), self.metrics("moved")):
            self.assertAlmostEqual(a["loss"], b["loss"], delta=1e-5 * a["loss"])

    def wait_for_steps(self, name, steps):
        deadline = time.time() + 60
        while time.time() < deadline:
            try:
                if len(self.metrics(name)) >= steps:
                    return
            except (OSError, ValueError):
                pass
            time.sleep(0.02)
        self.fail(f"{name} did not reach step {steps}")

    def pids(self, pattern):
        return [int(pid) for pid in subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True).stdout.split()]

    def test_a_stop_signal_saves_and_says_so(self):
        # mpirun that was asked to end reads nothing for as long as it waits: what its ranks print in the meantime must fit its pipe.
        forever = ("training.steps=100000", "checkpoint.interval=0", "logging.log_interval=100000")
        # It kills them a second after SIGTERM unless told otherwise, and waits as long before.
        os.environ["OMPI_MCA_odls_base_sigkill_timeout"] = "5"
        self.addCleanup(os.environ.pop, "OMPI_MCA_odls_base_sigkill_timeout")
        for name, ranks, asked in (("usr1", 2, signal.SIGUSR1), ("term", 2, signal.SIGTERM), ("alone", 0, signal.SIGTERM)):
            with self.subTest(name):
                process = self.start(name, *forever, ranks=ranks)
                self.wait_for_steps(name, 4)
                target = f"^mpirun.*{self.folder}/{name}" if ranks else f"^{STRATA} train.*{self.folder}/{name}"
                for pid in self.pids(target):
                    os.kill(pid, asked)
                output = process.communicate(timeout=60)[0]
                # mpirun that was asked to end may drop what its ranks print last, and its exit code says that it was asked.
                if asked != signal.SIGTERM or not ranks:
                    self.assertIn("stopped by a signal", output)
                    self.assertEqual(process.returncode, 75, output)
                run("checkpoint", "verify", f"{self.folder}/{name}", check=0)  # there is none but that of the signal

    def test_a_killed_rank_stops_the_others_and_is_named(self):
        for victim in (0, 1):
            with self.subTest(victim=victim):
                name = f"lost{victim}"
                process = self.start(name, "training.steps=100000")
                self.wait_for_steps(name, 5)
                ranks = {}
                for pid in self.pids(f"^{STRATA} train.*{self.folder}/{name}"):
                    with open(f"/proc/{pid}/environ", "rb") as f:
                        ranks[int(dict(v.split(b"=", 1) for v in f.read().split(b"\0") if v)[b"OMPI_COMM_WORLD_RANK"])] = pid
                self.assertEqual(sorted(ranks), [0, 1])
                begin = time.time()
                os.kill(ranks[victim], signal.SIGKILL)
                output = process.communicate(timeout=60)[0]
                self.assertLess(time.time() - begin, 60)
                self.assertNotEqual(process.returncode, 0)
                self.assertRegex(output, rf"strata: error: rank {1 - victim}: .*rank {victim} \(pid {ranks[victim]} on host .*\) died")


if __name__ == "__main__":
    unittest.main()
