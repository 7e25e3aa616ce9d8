"""Runs a GoogleTest program to its end whatever happens: after a crash or a hang it is started again without the tests that were run,
and after an error that leaves a process without its GPU, for the tests that failed behind it."""
import json
import os
import re
import tempfile

from gpu_processes import TAIL_CHARACTERS, ended_by, run

MOST_STARTS = 6
EVENT = re.compile(r"^\[ *(RUN|OK|FAILED|SKIPPED) *\] (\S+?)(?:,? .*)?$", re.MULTILINE)
# Errors of CUDA after which every call of the process fails.
LOST_GPU = re.compile(r"illegal|misaligned|launch (failure|timed out)|unspecified|uncorrectable|hardware stack")


def outcomes_of(stdout):
    """What a program said of each test, in order: name -> passed, failed, skipped or, where it said nothing more, running."""
    found = {}
    for event, name in EVENT.findall(stdout):
        if "." not in name:
            continue  # a suite
        if event == "RUN":
            found[name] = "running"
        elif found.get(name) == "running":  # the list at the end repeats what failed
            found[name] = {"OK": "passed", "FAILED": "failed", "SKIPPED": "skipped"}[event]
    return found


def outcomes_of_report(path):
    """The same from the program's JSON report, with the messages of failures; nothing where there is none."""
    try:
        with open(path) as f:
            report = json.load(f)
    except (OSError, ValueError):
        return {}, {}
    found, messages = {}, {}
    for suite in report.get("testsuites", []):
        for test in suite.get("testsuite", []):
            name = f"{test.get('classname', suite['name'])}.{test['name']}"
            if test.get("failures"):
                found[name] = "failed"
                messages[name] = [failure.get("failure", "")[:TAIL_CHARACTERS] for failure in test["failures"]]
            elif test.get("status") == "RUN":
                found[name] = "skipped" if test.get("result") == "SKIPPED" else "passed"
    return found, messages


def run_tests(program, pattern, environment, limit, silence):
    """Counts of those tests of one program that match the pattern, what failed and why, and every start of it."""
    outcomes, messages, starts, left = {}, {}, [], limit
    while left > 0 and len(starts) < MOST_STARTS:
        with tempfile.TemporaryDirectory() as folder:
            report = os.path.join(folder, "report.json")
            rest = f"{pattern}-{':'.join(outcomes)}" if outcomes else pattern
            done = run([program, f"--gtest_output=json:{report}", f"--gtest_filter={rest}"], left, environment, silence)
            found, why = outcomes_of_report(report)
        left -= max(done["seconds"], 1.0)
        said = outcomes_of(done["stdout"])
        outcomes |= said | found
        messages |= why
        starts.append({"seconds": done["seconds"], "exit_code": done["exit_code"], "stopped": done["stopped"], "stderr": done["stderr"],
                       "stdout_tail": done["stdout"][-TAIL_CHARACTERS:]})
        culprits = [name for name, outcome in said.items() if outcome == "running" and name not in found]
        for name in culprits:
            outcomes[name] = "hung" if done["stopped"] else "crashed"
            messages[name] = [f"stopped after {done['seconds']:.0f} s ({done['stopped']})" if done["stopped"] else ended_by(done["exit_code"])]
        behind = failed_behind_a_lost_gpu({**said, **found}, why)
        for name in behind:
            del outcomes[name]
        if not (culprits or behind) or done["stopped"] == "limit":
            break
    outcomes = {**dict.fromkeys(behind, "failed"), **outcomes} if starts else {}  # not run again, for there were no starts left
    return summary(outcomes, messages, starts)


def failed_behind_a_lost_gpu(outcomes, messages):
    """The tests that failed after one of the same process had lost the GPU."""
    failed = [name for name, outcome in outcomes.items() if outcome == "failed"]
    lost = next((i for i, name in enumerate(failed) if LOST_GPU.search("".join(messages.get(name, [])))), len(failed))
    return failed[lost + 1:]


def summary(outcomes, messages, starts):
    def count(*kinds):
        return sum(outcome in kinds for outcome in outcomes.values())

    not_passed = {name: outcome for name, outcome in outcomes.items() if outcome not in ("passed", "skipped")}
    last = starts[-1] if starts else {"exit_code": None, "stopped": "limit"}
    result = {"passed": count("passed"), "failed": count("failed", "hung", "crashed"), "skipped": count("skipped"),
              "seconds": round(sum(s["seconds"] for s in starts), 1), "not_passed": not_passed,
              "messages": {name: messages[name] for name in not_passed if name in messages}, "starts": starts}
    if last["stopped"]:
        result["result"] = f"stopped ({last['stopped']})"
    elif result["failed"]:
        result["result"] = "failed"
    elif last["exit_code"] != 0:
        result["result"] = ended_by(last["exit_code"])
    else:
        result["result"] = "passed" if result["passed"] else "no test ran"
    return result
