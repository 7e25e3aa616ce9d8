"""Programs with a limit: one that hangs, crashes or prints nothing stops nobody else."""
import json
import os
import signal
import subprocess
import tempfile
import time

TAIL_CHARACTERS = 4000


def end_group(process):
    """Ends a process that was started as the leader of its own group, and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run(command, limit, environment=None, silence=None, folder=None):
    """Runs `command` for at most `limit` seconds, and at most `silence` seconds without a word on its standard output.

    Returns command, seconds, exit_code (negative: the signal that ended it; None: it could not be started), stopped ("", "limit" or
    "silence"), stdout whole, and the end of stderr.
    """
    result = {"command": [str(word) for word in command], "seconds": 0.0, "exit_code": None, "stopped": "", "stdout": "", "stderr": ""}
    begin = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(result["command"], stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment, cwd=folder,
                                       start_new_session=True)
        except OSError as error:
            result["stderr"] = str(error)
            return result
        try:
            result["stopped"] = wait(process, out, begin, limit, silence)
        finally:  # also when this program is asked to end
            end_group(process)
        result["exit_code"] = process.returncode
        result["seconds"] = round(time.monotonic() - begin, 3)
        for name, file in (("stdout", out), ("stderr", err)):
            file.seek(0)
            result[name] = file.read().decode(errors="replace")
    result["stderr"] = result["stderr"][-TAIL_CHARACTERS:]
    return result


def wait(process, out, begin, limit, silence):
    spoke, length = begin, 0
    while process.poll() is None:
        now = time.monotonic()
        written = os.fstat(out.fileno()).st_size
        if written > length:
            spoke, length = now, written
        if now - begin > limit:
            return "limit"
        if silence is not None and now - spoke > silence:
            return "silence"
        time.sleep(0.02)
    return ""


def json_result(done):
    """The JSON object on the last line of the standard output, or what went wrong in one line: (object or None, reason)."""
    if done["stopped"]:
        return None, f"stopped after {done['seconds']:.0f} s ({done['stopped']})"
    if done["exit_code"] != 0:
        said = [line for line in done["stderr"].splitlines() if line.strip()]
        return None, f"{ended_by(done['exit_code'])}: {said[-1] if said else 'no message'}"
    lines = done["stdout"].strip().splitlines()
    try:
        return json.loads(lines[-1]), ""
    except (IndexError, ValueError):
        return None, "no JSON on its standard output"


def ended_by(code):
    if code is None:
        return "could not be started"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"
