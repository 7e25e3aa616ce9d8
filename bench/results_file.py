"""Where benchmarks that run the program keep their results: bench/results/<cpu>/<name>.json, with what they were measured on."""
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def json_of(side, words, threads, timeout, env):
    """Runs a program and gives the JSON of its last line; ends this one where that fails or worked with other threads. side: whose it is."""
    words = [str(word) for word in words]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, env={**os.environ, **env})
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"{' '.join(words)}: {error}")
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr.strip()}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    if result["machine"]["threads"] != threads:
        sys.exit(f"{side} worked with {result['machine']['threads']} threads instead of {threads}")
    return result


def cpu_name():
    try:
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "unknown"


def results_folder():
    """Of this processor."""
    return HERE / "results" / re.sub(r"[^a-z0-9]+", "-", cpu_name().lower()).strip("-")


def commit_name():
    done = subprocess.run(["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def store(output, name, benchmark, results):
    """Writes to `output`, or if that is None to this processor's folder, and says so."""
    output = output or results_folder() / f"{name}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({
        "benchmark": benchmark,
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "commit": commit_name(),
        **results,
    }, indent=1) + "\n")
    print(f"written to {output}")


def open_result(options, name, write):
    """Path and content of the result file of a benchmark that adds run after run. With --table: writes what is made of it anew, and ends the program."""
    path = options.output or results_folder() / f"{name}.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    if options.table:
        if not result:
            sys.exit(f"there is no {path}")
        write(path, result)
        sys.exit()
    return path, result


def write_page(path, result, draw, page):
    """Writes a result file with its picture and its page. draw: gives an SVG of the result; page: text of it and of the picture's name."""
    write_runs(path, result)
    path.with_suffix(".svg").write_text(draw(result))
    path.with_suffix(".md").write_text(page(result, path.with_suffix(".svg").name))


def check_common(result, common):
    """Ends the program when a run cannot stand beside those of a result."""
    different = sorted(key for key in {*result["common"], *common} if result["common"].get(key) != common.get(key))
    if different:
        sys.exit(f"the result file was made with another {', '.join(different)}: give --output, or the options of its runs")


def merge_run(result, benchmark, common, run, names):
    """Puts a run into a result, in the place of one with the same name and learning rate. names: of all runs, in their order."""
    if result:
        check_common(result, common)
    runs = [one for one in result.get("runs", []) if (one["name"], one["lr"]) != (run["name"], run["lr"])] + [run]
    runs.sort(key=lambda one: (names.index(one["name"]), one["lr"]))
    return {"benchmark": benchmark, "common": common, "runs": runs}


def write_runs(path, result):
    """A line a run: curves of hundreds of steps would be as many lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({key: value for key, value in result.items() if key != "runs"}, indent=1)
    path.write_text(head[:-2] + ',\n "runs": [\n' + ",\n".join("  " + json.dumps(run) for run in result["runs"]) + "\n ]\n}\n")
