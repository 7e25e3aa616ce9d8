"""A Slurm cluster on one machine: a controller and node daemons, each on a host of its own (tests/hosts). Standard library only."""
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "hosts"))
import hosts

TOOLS = ("slurmctld", "slurmd", "sbatch", "srun", "munged")

# Two partitions: what is submitted to `urgent` preempts what runs in `plain`, which is asked to end 60 s before it must.
CONFIG = """
ClusterName=strata
SlurmctldHost=control({control})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
ReturnToService=2
SlurmdTimeout=10
KillWait=5
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{settings}
SlurmdParameters=config_overrides
MailProg=/bin/true
{nodes}
PartitionName=plain Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""


def why_not():
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return hosts.why_not() or (f"no {', '.join(missing)}" if missing else None)


def wait_until(condition, what, seconds, explain=lambda: ""):
    end = time.time() + seconds
    while not condition():
        if time.time() > end:
            raise AssertionError(f"{what}: not within {seconds} s\n{explain()}")
        time.sleep(0.2)


class Cluster:
    """Nodes h0 to h<count - 1>. folder: short, for sockets' paths; empty. settings: more lines of slurm.conf."""

    def __init__(self, count, folder, settings):
        self.hosts = hosts.Hosts(count)
        self.folder = folder
        self.settings = settings

    def __enter__(self):
        self.hosts.__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.hosts.__exit__()  # ends the daemons, all but munge's
        try:
            with open(f"{self.folder}/munge/pid") as f:
                os.kill(int(f.read()), 15)
        except (OSError, ValueError):
            pass

    def _start(self):
        f = self.folder
        for name in ("munge", "state", "spool", "cli", "log", *(f"{host}/{kind}" for host in self.hosts.names for kind in ("spool", "cli"))):
            os.makedirs(f"{f}/{name}")
        with open(f"{f}/munge/key", "wb") as key:
            key.write(os.urandom(1024))
        os.chmod(f"{f}/munge/key", 0o400)
        os.chmod(f, 0o755)
        os.chmod(f"{f}/munge", 0o755)
        self._check(["munged", "--force", f"--key-file={f}/munge/key", f"--socket={f}/munge/socket", f"--pid-file={f}/munge/pid",
                     f"--log-file={f}/munge/log", f"--seed-file={f}/munge/seed"])
        nodes = "\n".join(f"NodeName={n} NodeAddr={self.hosts.address(n)} CPUs=2 RealMemory=4000" for n in self.hosts.names)
        with open(f"{f}/slurm.conf", "w") as conf:
            conf.write(CONFIG.format(folder=f, control=self.hosts.address("control"), nodes=nodes, settings=self.settings))
        with open(f"{f}/mpi.conf", "w") as conf:
            conf.write(f"PMIxCliTmpDirBase={f}/cli\n")
        self._check(self.hosts.command("control", "slurmctld"))
        for name in self.hosts.names:
            binds = [(f"{f}/{name}/spool", f"{f}/spool"), (f"{f}/{name}/cli", f"{f}/cli")]
            self._check(self.hosts.command(name, "slurmd", "-N", name, binds=binds))
        wait_until(lambda: self.slurm("sinfo", "-h", "-N", "-p", "plain", "-o", "%T").split() == ["idle"] * len(self.hosts.names),
                   "idle nodes", 60, self.logs)

    def environment(self):
        return {**os.environ, "SLURM_CONF": f"{self.folder}/slurm.conf"}

    def slurm(self, *argv, check=False):
        """Standard output of a command on the control host."""
        done = subprocess.run(self.hosts.command("control", *argv), env=self.environment(), capture_output=True, text=True, cwd=self.folder)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)}: exit code {done.returncode}: {done.stderr}\n{self.logs()}")
        return done.stdout

    def submit(self, *argv):
        return self.slurm("sbatch", "--parsable", *argv, check=True).strip()

    def job(self, number):
        """What Slurm knows of a job, by its names."""
        text = self.slurm("scontrol", "--oneliner", "show", "job", number)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def logs(self):
        text = self.slurm("squeue") + self.slurm("sinfo")
        for name in sorted(os.listdir(f"{self.folder}/log")):
            with open(f"{self.folder}/log/{name}", errors="replace") as log:
                text += f"-- {name}\n" + "".join(log.readlines()[-15:])
        return text

    def _check(self, argv):
        # Daemons keep the streams that they were given.
        done = subprocess.run(argv, env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: exit code {done.returncode}\n{self.logs()}")
