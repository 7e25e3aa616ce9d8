"""One run of tests/run_gpu: tests, measurements in turns with PyTorch, results in a file that is whole at any time.

Standard library only; PyTorch is used where the interpreter of --python has it.
"""
import datetime
import glob
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import time

from gpu_measurements import all_measurements
from gpu_processes import json_result, run
from gpu_table import table, targets
from gpu_tests import run_tests

# Programs that test a GPU when they are asked to, and which of their tests. Nearly all of runtime is about kernels; elsewhere the
# name of a test says it.
TESTS = {"runtime": "*", "parallel": "*Gpu*", "optim": "*Gpu*", "model": "*Gpu*", "trainer": "*Gpu*"}
KERNEL_TESTS = "*Attention*:*Norm*:CrossEntropy*:Embedding*:Rope*:Gelu*:Swiglu*:Add*:Cast*:SumSquares*"


def add_arguments(parser):
    parser.add_argument("--python", default=sys.executable, help="an interpreter, with torch for PyTorch's side")
    parser.add_argument("--seconds", type=float, default=470, help="for everything (default %(default)s)")
    parser.add_argument("--test-seconds", type=float, default=90, help="at most for each test program (default %(default)s)")
    parser.add_argument("--silence", type=float, default=40, help="a test that takes longer hangs (default %(default)s)")
    parser.add_argument("--only", help="tests, or words of the measurements to make, separated by commas: tests,copy,llama-7b")
    parser.add_argument("--without-pytorch", action="store_true")
    parser.add_argument("--sanitize", action="store_true", help="kernel tests under compute-sanitizer, after everything else")
    parser.add_argument("--output", type=pathlib.Path, help="file to write (default: bench/results/<gpu>/gpu.json)")


class Session:
    """One run: the time that is left, the results so far and the file they go to."""

    def __init__(self, options, tree):
        self.options, self.tree = options, tree
        self.begin = time.monotonic()
        self.document = {"benchmark": "gpu", "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                         "seconds_allowed": options.seconds, "complete": False, "tests": {}, "measurements": {}, "dropped": []}
        self.output = options.output
        self.environment = {**os.environ, "OMP_WAIT_POLICY": "passive", **library_path(tree, options.python)}

    def left(self):
        return self.options.seconds - (time.monotonic() - self.begin)

    def wants(self, name):
        return self.options.only is None or any(word in name for word in self.options.only.split(","))

    def save(self):
        self.document["seconds"] = round(time.monotonic() - self.begin, 1)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        new = self.output.with_name(self.output.name + ".new")
        new.write_text(json.dumps(self.document, indent=1) + "\n")
        new.replace(self.output)

    def say(self, text):
        print(f"[{time.monotonic() - self.begin:6.1f} s] {text}", flush=True)

    def strata(self, *arguments, limit=60):
        return run([self.tree.strata, *arguments], limit, self.environment)


def library_path(tree, python):
    """LD_LIBRARY_PATH with the folders that hold cuBLASLt: of the tree, of a toolkit, of the interpreter's packages."""
    asked = run([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], 30)["stdout"].strip()
    places = [*map(str, tree.libraries), *glob.glob("/usr/local/cuda*/lib64"), *(glob.glob(f"{asked}/nvidia/*/lib") if asked else [])]
    found = [place for place in places if glob.glob(f"{place}/libcublasLt.so.*")]
    given = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": ":".join([*([given] if given else []), *found])} if found else {}


def driver_version():
    program = shutil.which("nvidia-smi")
    if program:
        done = run([program, "--query-gpu=driver_version,name,clocks.max.sm,power.limit", "--format=csv,noheader"], 20)
        if done["exit_code"] == 0 and done["stdout"].strip():
            return done["stdout"].strip().splitlines()[0]
    try:
        return re.search(r"\d+\.\d+[.\d]*", pathlib.Path("/proc/driver/nvidia/version").read_text())[0]
    except (OSError, TypeError):
        return "unknown"


def find_gpu(session):
    """The GPU's name; or ends the program where there is none."""
    done = session.strata("doctor", "--json")
    findings, reason = json_result(session_tail(done))
    if findings is None:
        raise SystemExit(f"run_gpu: {session.tree.strata} doctor --json: {reason}")
    gpus = [f for f in findings["findings"] if f["topic"].startswith("GPU")]
    usable = [f for f in gpus if f["present"]]
    if not usable:
        print(f"no GPU: {gpus[0]['found'] if gpus else 'strata doctor names none'}")
        sys.exit(77)
    session.document["doctor"] = findings["findings"]
    return usable[0]["found"].split(",")[0]


def session_tail(done):
    """doctor prints its object over many lines; json_result reads the last one."""
    return {**done, "stdout": done["stdout"].replace("\n", " ")}


def find_pytorch(session):
    if session.options.without_pytorch:
        return {"missing": "left out by --without-pytorch"}
    program = ("import json, torch; "
               "print(json.dumps({'version': torch.__version__, 'cuda': torch.version.cuda, 'gpu': torch.cuda.is_available()}))")
    found, reason = json_result(run([session.options.python, "-c", program], 120))
    if found is None:
        return {"missing": f"{session.options.python} has no torch: {reason}"}
    return found if found["gpu"] else {"missing": f"torch {found['version']} sees no GPU"}


def find_deepspeed(session, torch):
    if "missing" in torch:
        return {"missing": torch["missing"]}
    # What it prints as it is imported is none of ours.
    program = "import json, deepspeed; print(); print(json.dumps({'version': deepspeed.__version__}))"
    found, reason = json_result(run([session.options.python, "-c", program], 120))
    return found or {"missing": f"{session.options.python} has no deepspeed: {reason}"}


def describe(session):
    document = session.document
    document["gpu"] = find_gpu(session)
    if session.output is None:
        folder = re.sub(r"[^a-z0-9]+", "-", document["gpu"].lower()).strip("-")
        session.output = session.tree.results_folder() / folder / "gpu.json"
    document["driver"] = driver_version()
    document["strata"] = session.strata("--version")["stdout"].strip().replace("\n", "; ")
    document["pytorch"] = find_pytorch(session)
    document["deepspeed"] = find_deepspeed(session, document["pytorch"])
    print(f"GPU: {document['gpu']}\ndriver: {document['driver']}\n{document['strata']}\nPyTorch: {document['pytorch']}\n"
          f"DeepSpeed: {document['deepspeed']}")
    for finding in document["doctor"]:
        print(f"{'  ok' if finding['present'] else 'lack'}  {finding['topic']}: {finding['found']}")
    session.save()


def test_all(session):
    environment = {**session.environment, "STRATA_TEST_MACHINE": "cuda", "STRATA_TEST_TREE": str(session.tree.test_tree)}
    for name, pattern in TESTS.items():
        program = session.tree.tests / f"test_{name}"
        limit = min(session.options.test_seconds, session.left())
        session.document["tests"][name] = result = run_tests(program, pattern, environment, limit, session.options.silence)
        session.say(f"test_{name}: {result['passed']} passed, {result['failed']} failed, {result['skipped']} skipped; {result['result']}")
        session.save()


def run_once(session, one):
    """One run with its fallbacks, as it goes into the results."""
    tried = []
    for extra in [[], *one.fallbacks]:
        limit = min(session.left(), 4 * one.expected + 30)
        if limit < 1:
            break
        if one.side == "strata":
            done = session.strata(*one.arguments, *extra, limit=limit)
        else:
            done = run([session.options.python, session.tree.bench / one.arguments[0], *one.arguments[1:], *extra], limit, dict(os.environ))
        result, reason = json_result(done)
        entry = {"side": one.side, "command": done["command"], "seconds": done["seconds"], "exit_code": done["exit_code"]}
        if result is not None:
            if "--layers" in extra:
                result["fewer_layers"] = True
            return {**entry, "result": result, **({"tried": tried} if tried else {})}
        tried.append({**entry, "error": reason, "stderr": done["stderr"]})
        if done["stopped"]:
            break
    return {**tried[-1], "tried": tried[:-1]} if tried else {"side": one.side, "error": "no time was left"}


def measure(session, measurement):
    runs, known = [], set()  # known: sides that failed once
    entry = session.document["measurements"][measurement.name] = {"expected_seconds": measurement.expected, "runs": runs}
    for one in measurement.runs:
        missing = session.document.get(one.side, {}).get("missing") if one.side != "strata" else None
        if missing:
            runs.append({"side": one.side, "error": missing})
        elif one.side not in known:
            runs.append(run_once(session, one))
            if "error" in runs[-1]:
                known.add(one.side)
                session.say(f"{measurement.name}, {one.side}: {runs[-1]['error']}")
        session.save()
    entry["seconds"] = round(sum(r.get("seconds", 0.0) for r in runs), 1)
    session.say(f"{measurement.name}: {entry['seconds']:.0f} s")


def measure_all(session):
    for measurement in all_measurements():
        if not session.wants(measurement.name):
            continue
        sides = [side for side in ("pytorch", "deepspeed") if "missing" not in session.document[side]] + ["strata"]
        needed = sum(r.expected for r in measurement.runs if r.side in sides)
        if needed > session.left():
            why = f"it takes about {needed:.0f} s, and {max(session.left(), 0):.0f} s were left"
            session.document["dropped"].append({"name": measurement.name, "why": why})
            session.say(f"{measurement.name}: left out: {why}")
            session.save()
            continue
        measure(session, measurement)


def sanitize(session):
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    environment = {**session.environment, "STRATA_TEST_MACHINE": "cuda"}
    for tool in ("memcheck", "racecheck"):
        name, limit = f"compute-sanitizer {tool}", min(200, session.left())
        if program is None or limit < 20:
            why = "compute-sanitizer is not on PATH" if program is None else "no time was left"
            session.document["dropped"].append({"name": name, "why": why})
            session.say(f"{name}: left out: {why}")
        else:
            done = run([program, "--tool", tool, "--error-exitcode", "99", session.tree.tests / "test_runtime",
                        f"--gtest_filter={KERNEL_TESTS}"], limit, environment)
            words = re.findall(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard", done["stdout"] + done["stderr"])
            found = sum(int(a or b) for a, b in words)
            state = f"stopped ({done['stopped']})" if done["stopped"] else "passed" if done["exit_code"] == 0 else "failed"
            session.document.setdefault("sanitizer", {})[tool] = {"result": state, "errors": found, "seconds": done["seconds"],
                                                                  "exit_code": done["exit_code"], "output": done["stdout"][-20000:],
                                                                  "stderr": done["stderr"]}
            session.say(f"{name}: {state}, {found} errors")
        session.save()


def finish(session, complete):
    document = session.document
    document["complete"] = complete
    document["targets"] = targets(document)
    document["table"] = table(document)
    session.save()
    print("\n" + "\n".join(document["table"]))
    print(f"written to {session.output}" + ("" if complete else "; interrupted: not everything was measured"))
    good = all(t["failed"] == 0 and t["result"] == "passed" for t in document["tests"].values())
    clean = all(s["result"] != "failed" for s in document.get("sanitizer", {}).values())
    return 0 if good and clean else 1


def run_session(options, tree):
    """The exit code of the program."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    session = Session(options, tree)
    describe(session)
    try:
        if session.wants("tests"):
            test_all(session)
        measure_all(session)
        if options.sanitize:
            sanitize(session)
    except KeyboardInterrupt:
        finish(session, complete=False)
        return 130
    return finish(session, complete=True)
