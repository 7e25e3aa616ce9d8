"""Runs a GoogleTest program to its end whatever happens: after a crash or a hang it is started again without the tests that were run."""
import json
import os
import re
import tempfile

from gpu_processes import TAIL_CHARACTERS, ended_by, run

MOST_STARTS = 6
EVENT = re.compile(r"^\[ *(RUN|OK|FAILED|SKIPPED) *\] (\S+?)(?:,? .*)?$", re.MULTILINE)


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


def run_tests(program, environment, limit, silence, wanted="*"):
    """Counts of one program's tests that `wanted` (a filter of GoogleTest) names, what failed and why, and every start of it."""
    outcomes, messages, starts, left = {}, {}, [], limit
    while left > 0 and len(starts) < MOST_STARTS:
        with tempfile.TemporaryDirectory() as folder:
            report = os.path.join(folder, "report.json")
            command = [program, f"--gtest_output=json:{report}", f"--gtest_filter={wanted}" + ("-" + ":".join(outcomes) if outcomes else "")]
            done = run(command, left, environment, silence)
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
        if not culprits or done["stopped"] == "limit":
            break
    return summary(outcomes, messages, starts)


def summary(outcomes, messages, starts):
    def count(*kinds):
        return sum(outcome in kinds for outcome in outcomes.values())

    last = starts[-1] if starts else {"exit_code": None, "stopped": "limit"}
    result = {"passed": count("passed"), "failed": count("failed", "hung", "crashed"), "skipped": count("skipped"),
              "seconds": round(sum(s["seconds"] for s in starts), 1), "messages": messages, "starts": starts,
              "not_passed": {name: outcome for name, outcome in outcomes.items() if outcome not in ("passed", "skipped")}}
    if last["stopped"]:
        result["result"] = f"stopped ({last['stopped']})"
    elif result["failed"]:
        result["result"] = "failed"
    elif last["exit_code"] != 0:
        result["result"] = ended_by(last["exit_code"])
    else:
        result["result"] = "passed" if result["passed"] else "no test ran"
    return result
