"""Where benchmarks that run the program keep their results: bench/results/<cpu>/<name>.json, with what they were measured on."""
import datetime
import json
import os
import pathlib
import re
import subprocess

HERE = pathlib.Path(__file__).resolve().parent


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
