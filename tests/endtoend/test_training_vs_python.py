"""bench/training_vs_python.py without PyTorch: a stand-in for the other interpreter answers with the losses of Strata's run, a little off."""
import math
import pathlib
import xml.etree.ElementTree

from harness import *

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))
import line_chart
import sample_order
import training_vs_python

# Answers as python_training.py does, from the specification alone, once it has checked that what it would load is there.
STAND_IN = """#!{python}
import json, pathlib, sys
if sys.argv[1] == "-c":
    sys.exit(0)
given = json.loads(pathlib.Path(sys.argv[2]).read_text())
head = pathlib.Path(given["weights"]).read_bytes()
header = json.loads(head[8:8 + int.from_bytes(head[:8], "little")])
assert header["lm_head.weight"]["dtype"] == "F32" and pathlib.Path(given["tokens"]).exists()
off = 1.001 if sys.argv[4] == "float64" else 1.0
print(json.dumps({{"machine": {{"framework": "none", "threads": 1}}, "parameters": 5, "given": given,
                  "losses": [5.0 * off for _ in given["learning_rates"]]}}))
"""


class Beside(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="strata_beside_")
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)

    def compare(self, *arguments):
        words = [sys.executable, str(BENCH / "training_vs_python.py"), "--strata", STRATA, "--work", str(self.folder / "work"), *arguments]
        return subprocess.run(words, env={k: v for k, v in environment().items() if k != "STRATA_ORACLE_PYTHON"}, capture_output=True, text=True, timeout=160)

    def stand_in(self):
        path = self.folder / "python"
        path.write_text(STAND_IN.format(python=sys.executable))
        path.chmod(0o755)
        return str(path)

    def text(self):
        path = self.folder / "text.txt"
        path.write_text(prose(3000))
        return str(path)

    def test_wrong_calls_are_refused_before_anything_runs(self):
        for arguments, message in ((("--text", "/nowhere"), "there is no /nowhere"), ((), "--python is missing (or STRATA_ORACLE_PYTHON)"),
                                   (("--python", "/nowhere"), "/nowhere cannot be run"), (("--only", "lion"), "invalid choice"), (("--steps", "0"), "--steps")):
            done = self.compare(*arguments)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(message, done.stderr)
        bare = self.folder / "bare"
        bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
        bare.chmod(0o755)
        done = self.compare("--python", str(bare))
        self.assertEqual(done.returncode, 1)
        self.assertIn("lacks torch, numpy or apollo-torch", done.stderr)
        done = self.compare("--table", "--output", str(self.folder / "none.json"))
        self.assertIn("there is no ", done.stderr)
        self.assertFalse((self.folder / "work").exists())

    def test_a_run_of_each_side_gives_a_row(self):
        output = self.folder / "results/found.json"
        same = ("--python", self.stand_in(), "--text", self.text(), "--output", str(output), "--hidden-size", "64", "--layers", "1", "--seq-length", "16",
                "--batch", "2", "--only", "apollo", "--lr", "0.01")
        done = self.compare(*same, "--steps", "20")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        (run,) = json.loads(output.read_text())["runs"]
        self.assertEqual((run["name"], run["lr"], run["losses"]["python"], run["losses"]["python_float64"]), ("apollo", 0.01, [5.0] * 20, [5.005] * 20))
        self.assertEqual(len(run["losses"]["strata"]), 20)
        self.assertLess(abs(run["losses"]["strata"][0] - math.log(257)), 0.2)
        page = output.with_suffix(".md").read_text()
        self.assertRegex(page, r"\| APOLLO \| 0\.01 \| .*\| \d\.\de\+01 \| 1\.0e-01 \| 20 \| 0 \|.*\| missed \|")
        self.assertEqual(xml.etree.ElementTree.parse(output.with_suffix(".svg")).getroot().tag, "{http://www.w3.org/2000/svg}svg")
        done = self.compare(*same, "--steps", "21")
        self.assertEqual(done.returncode, 1)
        self.assertIn("made with another training", done.stderr)

    def test_differences_are_of_the_other_side(self):
        run = {"losses": {"strata": [2.0, 1.01, math.nan], "python": [1.0, 1.0, 1.0]}}
        found = training_vs_python.differences(run, "strata", "python")
        self.assertAlmostEqual(found[0], 100.0)
        self.assertAlmostEqual(found[1], 1.0)
        self.assertEqual(found[2], math.inf)  # never below the bar

    def test_the_order_of_samples_is_a_permutation_of_each_epoch(self):
        # Random123's vector of Philox4x32-10.
        self.assertEqual(sample_order.philox((0, 0, 0, 0), (0, 0)), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8))
        firsts = sample_order.first_tokens(10 * 7 + 3, 7, 5, 20)
        for epoch in (firsts[:10], firsts[10:]):
            self.assertEqual(sorted(epoch), list(range(0, 70, 7)))
        self.assertNotEqual(firsts[:10], firsts[10:])

    def test_a_line_stays_inside_the_chart(self):
        lines = [line_chart.line("a", [(0, 0.0), (5, 1e-3), (10, 1e9)]), line_chart.line("", [(0, 1.0)], dashes="2 3")]
        drawn = xml.etree.ElementTree.fromstring(line_chart.chart(lines, 10, "y", 1e-4, 1.0, log=True))
        first, second = drawn.findall("{http://www.w3.org/2000/svg}polyline")
        bottom, top = line_chart.HEIGHT - line_chart.BOTTOM, line_chart.TOP
        self.assertEqual([float(point.split(",")[1]) for point in first.get("points").split()], [bottom, round(bottom - (bottom - top) / 4, 1), top])
        self.assertEqual((first.get("stroke-dasharray"), second.get("stroke-dasharray")), (None, "2 3"))
        texts = [one.text for one in drawn.findall("{http://www.w3.org/2000/svg}text")]
        self.assertEqual([one for one in texts if one.startswith("1e")], ["1e-4", "1e-3", "1e-2", "1e-1", "1e0"])
        self.assertEqual(texts.count("a"), 1)


if __name__ == "__main__":
    unittest.main()
