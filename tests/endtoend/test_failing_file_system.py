"""A run on file systems that really fail, so that faults reach io_uring too, through the kernel: one clear error, and a restart that
ends with the digest of a run to which nothing happened. What FUSE or loop mounts are needed for is skipped where there are none:
exit code 77 when that is everything."""
import collections
import shlex
import shutil

from harness import *
from test_io_faults import EXT4, STATE_FILE, OwnMounts, Tiny, text_of

PROGRAM = os.environ.get("STRATA_FAILING_FILE_SYSTEM", "")  # failing_file_system.cpp says what it can do
SKIPPED = 77

Operation = collections.namedtuple("Operation", "kind bytes offset fault")


class FailingMount(OwnMounts):
    """The folder `small` does what is asked of it. It vanishes with this process, however that ends."""

    def __init__(self, test, asynchronous=""):
        if not os.path.exists(PROGRAM):
            test.skipTest("built without libfuse3-dev: there is no failing file system")
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            test.skipTest("/dev/fuse is not there or not for us")
        super().__init__(test, f"mkdir behind small; exec {shlex.quote(os.path.abspath(PROGRAM))} behind small {asynchronous}")

    def ask(self, line):
        self.holder.stdin.write(line + "\n")
        self.holder.stdin.flush()
        answer = []
        while not answer or answer[-1] not in ("done", "what?", ""):
            answer.append(self.holder.stdout.readline().rstrip("\n"))
        if answer.pop() != "done":
            raise AssertionError(f"{line}: {self.holder.poll()} {answer}")
        return answer

    def operations(self):
        return [Operation(kind, int(size), int(offset), fault) for kind, size, offset, fault in map(str.split, self.ask("report"))]


class Faults(Tiny):
    """Faults under nvme.path: what their heirs need."""
    engine, asynchronous = "", ""
    stride = 1  # between the operations of records that a kind of fault strikes, beside the first and the last one
    strikes_making = True
    mount = None

    def setUp(self):
        super().setUp()
        self.wanted = self.reference()
        self.mount = FailingMount(self, self.asynchronous)
        self.state = f"{self.mount.where}/small/nvme/{STATE_FILE}"
        counted = self.start("counted")
        if "io_uring is not available" in counted.stderr:
            self.skipTest("io_uring is not allowed here")
        self.assertEqual(counted.returncode, 0, counted.stderr)
        self.assertEqual(self.digest("counted"), self.wanted)
        operations = self.mount.operations()
        # The file is tried and filled with zeros from its beginning; the first version of a record lies behind that of the second.
        self.making = next(i for i, operation in enumerate(operations) if operation.offset != 0)
        self.count = len(operations)
        self.assertGreater(self.count, self.making + 3 * 3 * 3)

    def words(self, name, *overrides):
        return ["train", self.config, f"run.folder={self.folder}/{name}", f"nvme.path={self.mount.where}/small/nvme",
                f"nvme.engine={self.engine}", *overrides]

    def start(self, name, *overrides):
        return self.mount.run(*self.words(name, *overrides))

    def train(self, *overrides, name="run", check=0):
        if self.mount is None:
            return super().train(*overrides, name=name, check=check)
        done = self.start(name, *overrides)
        self.assertEqual(done.returncode, check, done.stdout + done.stderr)
        return done

    def indices(self, kind, stride):
        """Each kind begins elsewhere, so that together they strike more operations."""
        first = self.making + sum(map(ord, kind)) % stride
        making = {0, self.making - 1} if self.strikes_making else set()
        return sorted({*making, self.making, *range(first, self.count, stride), self.count - 1})

    def each(self, kind, check, *overrides, stride=None, start=None):
        """Checks the end of a run for every chosen operation, given the operation and whether it was a record's. Then resumes it there."""
        for i in self.indices(kind, stride or self.stride):
            with self.subTest(kind=kind, operation=i):
                self.mount.ask("clear")
                self.mount.ask(f"any {i} {kind}")
                done = (start or self.start)(f"{kind}{i}", *overrides)
                self.seen = self.mount.operations()
                struck = [operation for operation in self.seen if operation.fault == kind]
                self.mount.ask("clear")
                self.assertEqual(len(struck), 1)
                check(done, struck[0], i >= self.making)
                self.assertResumes(f"{kind}{i}", self.wanted)

    def assertNamesThePlace(self, done, operation, of_record, *fragments):
        self.assertOneError(done, 1, self.state, *fragments)
        if of_record:
            place = f"{operation.kind} of {operation.bytes} bytes at offset {operation.offset}: {self.state}: "
            self.assertRegex(done.stderr, rf"record \d+, version \d+: (.*: )?{place}")

    def assertGoesOn(self, done, operation, of_record):
        self.assertEqual(done.returncode, 0, done.stderr)


class Hanging(Faults):
    SILENT = "nothing was heard for 500 ms"

    def hanging(self, name, *overrides):
        """The error is said while the operation hangs; a process may have to wait for it to end."""
        with open(f"{self.folder}/errors", "w+") as errors:
            process = subprocess.Popen(self.mount.command(os.path.abspath(STRATA), *self.words(name, *overrides)), env=environment(),
                                       stdout=subprocess.DEVNULL, stderr=errors)
            try:
                deadline = time.time() + 30
                while process.poll() is None and "strata: error:" not in text_of(errors.name):
                    self.assertLess(time.time(), deadline, "no error in 30 s")
                    time.sleep(0.01)
                said = text_of(errors.name)
                struck = self.mount.operations()
            finally:
                self.mount.ask("release")
                process.wait(timeout=60)
            self.assertIn(self.SILENT, said, struck)
            return subprocess.CompletedProcess([], process.returncode, "", text_of(errors.name))

    def test_an_operation_that_never_returns(self):
        self.each("hang", lambda *ended: self.assertNamesThePlace(*ended, self.SILENT, "nvme.timeout"), "nvme.timeout=500ms",
                  stride=5 * self.stride, start=self.hanging)


class Failing(Faults):
    def test_an_io_error(self):
        self.each("EIO", lambda *ended: self.assertNamesThePlace(*ended, "Input/output error"))

    def test_no_space_left(self):
        self.each("ENOSPC", lambda *ended: self.assertNamesThePlace(*ended, "No space left on device; make room "))

    def test_a_flipped_bit(self):
        def check(done, operation, of_record):
            if not of_record:
                return self.assertGoesOn(done, operation, of_record)  # nobody reads what was there before
            self.assertOneError(done, 1)
            self.assertRegex(done.stderr, rf"{self.state}: record \d+, version \d+, at offset {operation.offset}: "
                             "(its payload has checksum|there is no record header)")
        self.each("flip", check)

    # What FUSE calls EIO below, it did not get done of an asynchronous write.
    def test_an_operation_that_moves_nothing(self):
        def check(done, operation, of_record):
            if of_record:
                self.assertNamesThePlace(done, operation, True)
                self.assertRegex(done.stderr, "only 0 bytes were transferred|Input/output error")
            elif operation.bytes > 4096:
                self.assertOneError(done, 1, self.state, "No space left on device; make room ")
            else:
                self.assertGoesOn(done, operation, False)  # only tried whether direct I/O is allowed
        self.each("nothing", check)

    def test_a_slow_operation(self):
        self.each("100", self.assertGoesOn, stride=5 * self.stride)


    def test_a_short_transfer(self):
        def check(done, operation, of_record):
            if operation.kind == "write" and of_record and self.asynchronous:
                self.assertNamesThePlace(done, operation, True, "Input/output error")
            else:
                self.assertGoesOn(done, operation, of_record)
                # The digest may be right without the rest: of zeros of the first version, of what the buffer held before.
                end = operation.offset + operation.bytes
                rest = [o for o in self.seen if o.kind == operation.kind and o.offset > operation.offset and o.offset + o.bytes == end]
                self.assertTrue(rest or operation.bytes <= 4096, self.seen)
        self.each("short", check)


class IoUring(Failing, Hanging):
    engine, asynchronous, stride = "io_uring", "async", 8


class IoUringBlocking(Hanging):
    """On a file system that lets the caller wait, of whom io_uring must not be one."""
    engine, stride, strikes_making = "io_uring", 4, False


class Threads(Failing, Hanging):
    engine, stride, strikes_making = "threads", 40, False  # engines do not make files


class RunFolder(Tiny):
    """Faults under run.folder, where checkpoints are written."""

    def test_every_few_operations(self):
        wanted = self.reference()
        mount = FailingMount(self)
        folder = f"{mount.where}/small/run"
        words = ["train", self.config, f"run.folder={folder}", f"nvme.path={self.folder}/nvme"]
        self.assertEqual(mount.run(*words).returncode, 0)
        kinds = [operation.kind for operation in mount.operations()]
        # Not the first write, of the process number into the lock: that the file is locked is what counts.
        for operation, text in (("write", "EIO"), ("write", "ENOSPC"), ("sync", "EIO")):
            count = kinds.count(operation)
            self.assertGreater(count, 3)
            for i in sorted({*range(operation == "write", count, max(1, count // 4)), count - 1}):
                with self.subTest(operation=operation, fault=text, index=i):
                    shutil.rmtree(f"{self.folder}/mounts/behind/run")
                    mount.ask("clear")
                    mount.ask(f"{operation} {i} {text}")
                    done = mount.run(*words)
                    mount.ask("clear")
                    self.assertOneError(done, 1, folder, {"EIO": "Input/output error", "ENOSPC": "No space left on device"}[text])
                    done = mount.run(*words)
                    self.assertEqual(done.returncode, 0, done.stderr)
                    self.assertEqual(run("checkpoint", "digest", f"{self.folder}/mounts/behind/run", check=0).stdout.strip(), wanted)


class FullImage(Tiny):
    def test_no_room_for_the_state_file(self):
        wanted = self.reference()
        mounts = OwnMounts(self, EXT4)
        for engine in ("io_uring", "threads"):
            with self.subTest(engine=engine):
                words = ["train", self.config, f"run.folder={self.folder}/{engine}", f"nvme.path={mounts.where}/small/{engine}",
                         f"nvme.engine={engine}"]
                os.makedirs(f"{mounts.seen}/small/{engine}")
                os.sync()
                mounts.leave_free("small", 100 << 10)
                done = mounts.run(*words)
                mounts.make_room("small")
                if "io_uring is not available" in done.stderr:
                    continue
                self.assertOneError(done, 1, f"{mounts.where}/small/{engine}/{STATE_FILE}: cannot allocate 144.0 KiB", "free are",
                                    "No space left on device; make room or put nvme.path on a larger file system")
                self.assertNotIn("step 1/", done.stdout)
                done = mounts.run(*words)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(self.digest(engine), wanted)


if __name__ == "__main__":
    program = unittest.main(exit=False)
    result = program.result
    if result.wasSuccessful() and result.skipped and result.testsRun <= len(result.skipped):
        print("; ".join(sorted({reason for _, reason in result.skipped})))
        sys.exit(SKIPPED)
    sys.exit(not result.wasSuccessful())
