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
        for name in ("config.resolved.yaml", "plan.json"):
            self.assertTrue(os.path.exists(f"{self.folder}/run/{name}"), name)


class Resuming(EndToEnd):
    def reference(self):
        self.train(ranks=2, name="reference")
        return self.digest("reference")

    def start(self, name, *overrides):
        return subprocess.Popen(command(2, "train", self.config, f"run.folder={self.folder}/{name}", *overrides),
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

    def test_usr1_saves_and_exits_cleanly(self):
        process = self.start("signalled", "training.steps=100000", "checkpoint.interval=0")
        deadline = time.time() + 60
        while time.time() < deadline:
            try:
                if len(self.metrics("signalled")) > 3:
                    break
            except (OSError, ValueError):
                pass
            time.sleep(0.02)
        mpirun = subprocess.run(["pgrep", "-f", f"^mpirun.*{self.folder}/signalled"], capture_output=True, text=True).stdout.split()
        for pid in mpirun:
            os.kill(int(pid), signal.SIGUSR1)
        output = process.communicate(timeout=60)[0]
        self.assertEqual(process.returncode, 0, output)
        self.assertIn("stopped by a signal", output)
        run("checkpoint", "verify", f"{self.folder}/signalled", check=0)

    def test_a_killed_rank_stops_the_others_and_is_named(self):
        process = self.start("lost", "training.steps=100000")
        deadline = time.time() + 60
        while time.time() < deadline and not os.path.exists(f"{self.folder}/lost/checkpoints/step_5/manifest.json"):
            time.sleep(0.02)
        ranks = subprocess.run(["pgrep", "-f", f"^{STRATA} train.*{self.folder}/lost"], capture_output=True, text=True).stdout.split()
        self.assertEqual(len(ranks), 2)
        begin = time.time()
        os.kill(int(ranks[1]), signal.SIGKILL)
        output = process.communicate(timeout=60)[0]
        self.assertLess(time.time() - begin, 60)
        self.assertNotEqual(process.returncode, 0)
        self.assertRegex(output, r"rank [01].*(died|exited|signal 9)")


if __name__ == "__main__":
    unittest.main()
