"""Machines on one machine: network namespaces with their own names and addresses, joined by a switch. Needs root. Standard library only."""
import itertools
import os
import shutil
import subprocess
import sys

_numbers = itertools.count()


def why_not():
    """Why this machine cannot have any; None where it can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    for tool in ("ip", "nsenter", "unshare"):
        if shutil.which(tool) is None:
            return f"no {tool}"
    done = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return None if done.returncode == 0 else f"namespaces are forbidden: {done.stderr.strip()}"


class Hosts:
    """h0 to h<count - 1> at 10.77.0.10 and up, and `control` at 10.77.0.1, at the switch. Nothing of them is visible outside."""

    def __init__(self, count):
        self.prefix = f"strata{os.getpid()}n{next(_numbers)}"
        self.names = [f"h{i}" for i in range(count)]
        self.switch = self._space("control")

    def __enter__(self):
        try:
            self._ip("netns", "add", self.switch)
            self._ip("-n", self.switch, "link", "set", "lo", "up")
            self._ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
            self._ip("-n", self.switch, "addr", "add", "10.77.0.1/24", "dev", "br0")
            self._ip("-n", self.switch, "link", "set", "br0", "up")
            for i, name in enumerate(self.names):
                space = self._space(name)
                self._ip("netns", "add", space)
                self._ip("-n", self.switch, "link", "add", f"p{i}", "type", "veth", "peer", "name", "eth0", "netns", space)
                self._ip("-n", self.switch, "link", "set", f"p{i}", "master", "br0", "up")
                self._ip("-n", space, "link", "set", "lo", "up")
                self._ip("-n", space, "link", "set", "eth0", "up")
                self._ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in [*self.names, "control"]:
            space = self._space(name)
            pids = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True).stdout.split()
            if pids:
                subprocess.run(["kill", "-9", *pids], capture_output=True)
            subprocess.run(["ip", "netns", "del", space], capture_output=True)

    def address(self, name):
        return "10.77.0.1" if name == "control" else f"10.77.0.{10 + self.names.index(name)}"

    def command(self, name, *argv, binds=()):
        """argv, as it is run on a host: its network and name. binds: pairs of folders; the host sees the first one at the second."""
        mounts = "".join(f'mount --bind "{source}" "{target}" && ' for source, target in binds)
        return ["nsenter", f"--net=/run/netns/{self._space(name)}", "unshare", "--uts", *(["--mount"] if binds else []), "bash", "-c",
                f'hostname "$0" && {mounts}exec "$@"', name, *argv]

    def remote_shell(self, path):
        """Writes what mpirun takes for rsh (--mca plm_rsh_agent): it starts daemons on the hosts by their addresses."""
        with open(path, "w") as f:
            f.write('#!/bin/bash\n# [OPTIONS] ADDRESS COMMAND...\nwhile [[ $1 == -* ]]; do shift; done\ni=$((${1##*.} - 10))\nshift\n'
                    f'exec nsenter --net=/run/netns/{self.prefix}h$i unshare --uts bash -c "hostname h$i; $*"\n')
        os.chmod(path, 0o755)
        return path

    def set(self, key, value):
        """sysctl of the network, on all hosts."""
        for name in self.names:
            subprocess.run(self.command(name, "sysctl", "-q", "-w", f"{key}={value}"), check=True)

    def cut(self, name):
        """Nothing passes its link any more."""
        self._ip("-n", self.switch, "link", "set", f"p{self.names.index(name)}", "down")

    def _space(self, name):
        return f"{self.prefix}{name}"

    def _ip(self, *args):
        done = subprocess.run(["ip", *args], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"ip {' '.join(args)}: {done.stderr.strip()}")


def main_or_skip(unittest, reason):
    """unittest's main; where the tests cannot run, exit code 77 and the reason as the last line."""
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    unittest.main()
