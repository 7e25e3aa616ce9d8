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


def store(output, name, benchmark, results):
    """Writes to `output`, or if that is None to this processor's folder, and says so."""
    cpu = cpu_name()
    output = output or HERE / "results" / re.sub(r"[^a-z0-9]+", "-", cpu.lower()).strip("-") / f"{name}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*"], capture_output=True, text=True)
    output.write_text(json.dumps({
        "benchmark": benchmark,
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "commit": commit.stdout.strip() or "unknown",
        **results,
    }, indent=1) + "\n")
    print(f"written to {output}")
