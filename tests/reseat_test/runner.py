"""Collects all tests, runs each in a worker process of its own, reports.

A worker is the parent and subreaper of everything that its test starts; we are the subreaper of the workers, each of
which is in a PID namespace of its own where we may make one. So when a
test hangs, its worker and all descendants can be found and ended by PID, and nothing that any test has started can be
left unseen at the end.
"""

import argparse
import fnmatch
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from . import context as context_module
from . import isolation
from .context import Context, Failure, Skip, process_descendants, process_name, process_state
from .matrix import MODES, find_subjects, run_subject

TESTS = Path(__file__).resolve().parent.parent
USUAL_TIMEOUT = 30


class Test:
    """Something with a name that can be called with a context; passes by returning. `cases`, if it returns a list, are
    several outcomes in one: (name, outcome, text)."""

    def __init__(self, name, run, timeout=USUAL_TIMEOUT, alone=False):
        self.name, self.run, self.timeout, self.alone = name, run, timeout, alone


# ---- what there is ----


def subject_tests(build, without_reseat):
    tests = []
    for subject in find_subjects(build):
        for mode in ["plain"] if without_reseat else subject.modes():
            tests.append(Test(f"{subject.title}[{mode}]", lambda c, s=subject, m=mode: run_subject(c, s, m),
                              alone="alone" in subject.flags))
    return tests


def unit_tests(build):
    """Every program in tests/unit of the build directory; cmocka is asked to report each case (TAP)."""
    programs = [path for path in sorted(Path(build, "tests/unit").glob("*"))
                if path.is_file() and os.access(path, os.X_OK) and not path.suffix]
    return [Test(f"unit/{path.name}", lambda c, p=path: run_unit(c, p), 120) for path in programs]


def run_unit(context, program):
    result = context.run([program], status=None, seconds=110, environment={"CMOCKA_MESSAGE_OUTPUT": "TAP"})
    cases = []
    for line in result.stdout.splitlines():
        if found := re.match(r"(not )?ok \d+ (?:- )?(.*)", line):
            skipped = "# SKIP" in line
            outcome = "skipped" if skipped else "failed" if found[1] else "passed"
            cases.append((found[2], outcome, str(result) if outcome == "failed" else line if skipped else ""))
    if result.status != 0 and all(outcome != "failed" for _, outcome, _ in cases):
        raise Failure(f"the program failed: {result}")
    return cases or None


def python_tests():
    tests = []
    for path in sorted(TESTS.glob("test_*.py")) + sorted(TESTS.glob("programs/*.py")):
        if path.name.startswith("_"):
            continue
        name = str(path.relative_to(TESTS).with_suffix(""))
        try:
            module = load(path, name)
        except Exception:
            text = traceback.format_exc()
            tests.append(Test(name, lambda c, t=text: raise_failure(f"cannot be loaded\n{t}")))
            continue
        for function_name, function in vars(module).items():
            if not function_name.startswith("test_") or not callable(function):
                continue
            seconds = getattr(function, "timeout", getattr(module, "timeout_seconds", USUAL_TIMEOUT))
            for arguments in getattr(function, "arguments", [{}]):
                inside = ",".join(str(value) for value in arguments.values())
                title = f"{name}/{function_name.removeprefix('test_')}" + (f"[{inside}]" if inside else "")
                tests.append(Test(title, lambda c, f=function, a=arguments: f(c, **a), seconds,
                                  getattr(function, "alone", False)))
    return tests


def raise_failure(text):
    raise Failure(text)


def load(path, name):
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.pop(0)
    return module


# ---- one test, in its worker ----


def work(test, build, directory, verbose):
    """Returns the outcomes of a test: a list of (name, outcome, text)."""
    context = Context(build, directory, verbose)
    cases = None
    try:
        cases = test.run(context)
        outcome, text = "passed", ""
    except Skip as reason:
        outcome, text = "skipped", str(reason)
    except Failure as failure:
        outcome, text = "failed", str(failure)
    except Exception:
        outcome, text = "failed", traceback.format_exc()
    try:
        complaints = context.clean_up()
    except Exception:
        complaints = [traceback.format_exc()]
    if complaints and outcome != "skipped":
        outcome, text = "failed", "\n".join(filter(None, [text, *complaints]))
    if (outcome == "failed" or verbose) and context.transcript:
        text = "\n".join(filter(None, [text, *context.transcript]))
    if isinstance(cases, list) and outcome == "passed":
        return [(f"{test.name}/{name}", *rest) for name, *rest in cases]
    return [(test.name, outcome, text)]


class Worker:
    def __init__(self, test, build, top, verbose, isolated):
        self.test = test
        self.directory = tempfile.mkdtemp(dir=top)
        os.chmod(self.directory, 0o755)  # some subjects drop root and still have to reach it
        self.deadline = time.monotonic() + test.timeout * context_module.patience
        self.results, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.be_worker(build, writer, verbose, isolated)
        os.close(writer)

    def be_worker(self, build, writer, verbose, isolated):
        status = 1
        try:
            os.close(self.results)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if isolated:
                isolation.enter()
            outcomes = work(self.test, build, self.directory, verbose)
            os.write(writer, json.dumps(outcomes).encode()[:60000] if len(json.dumps(outcomes)) < 60000 else json.dumps(
                [(name, outcome, text[:2000]) for name, outcome, text in outcomes]).encode())
            status = 0
        except Exception:
            os.write(writer, json.dumps([(self.test.name, "failed", traceback.format_exc())]).encode())
        finally:
            os._exit(status)

    def finish(self):
        data = b""
        while chunk := os.read(self.results, 65536):
            data += chunk
        os.close(self.results)
        os.waitpid(self.pid, 0)
        shutil.rmtree(self.directory, ignore_errors=True)
        return json.loads(data) if data else [(self.test.name, "failed", "its worker died")]

    def give_up(self):
        """Ends a test that takes too long, and all that it has started."""
        left = process_descendants(self.pid)
        text = [f"not done after {self.test.timeout * context_module.patience} s; what was running:"]
        for pid in left:
            text.append(f"  {pid} {process_name(pid)} {process_state(pid)}")
        for pid in left + [self.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        os.close(self.results)
        os.waitpid(self.pid, 0)
        reap_orphans()
        shutil.rmtree(self.directory, ignore_errors=True)
        return [(self.test.name, "failed", "\n".join(text))]


def reap_orphans():
    """Takes in what has come to us from a worker that was ended."""
    for pid in process_descendants(os.getpid()):
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


# ---- all of them ----


SECOND_TRIES = 4


class Report:
    def __init__(self, verbose):
        self.verbose = verbose
        self.colour = sys.stdout.isatty()
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failures = []
        self.second_tries = []

    def add(self, name, outcome, text):
        self.counts[outcome] += 1
        if outcome == "failed":
            self.failures.append(name)
        if outcome == "passed" and not self.verbose:
            if self.colour:
                print(f"\r\033[K{sum(self.counts.values())} {name}", end="", flush=True)
            return
        if self.colour:
            print("\r\033[K", end="")
        print(f"{outcome}: {name}" + (f": {text}" if outcome == "skipped" and text else ""))
        if text and outcome != "skipped":
            print("    " + text.replace("\n", "\n    "))
        sys.stdout.flush()

    def wants_second_try(self, test, outcomes):
        """A machine with other work makes a test late now and then (a repaint, a number that is taken): what fails is
        tried once more, alone, and said. Where much fails, it is not the machine."""
        failed = [outcome for outcome in outcomes if outcome[1] == "failed"]
        if not failed or test.name in self.second_tries or len(self.second_tries) >= SECOND_TRIES:
            return False
        self.second_tries.append(test.name)
        print(f"once more, alone: {test.name}, which failed:")
        print("    " + failed[0][2].replace("\n", "\n    "), flush=True)
        return True

    def close(self):
        if self.colour:
            print("\r\033[K", end="")
        for name in self.second_tries:
            if not any(f"{failure}/".startswith(f"{name}/") for failure in self.failures):
                print(f"failed once, and passed alone: {name}")
        for name in self.failures if len(self.failures) > 1 else []:
            print(f"failed: {name}")
        print(f"{self.counts['passed']} passed, {self.counts['failed']} failed, {self.counts['skipped']} skipped")
        return 1 if self.counts["failed"] or not self.counts["passed"] else 0


def run_all(tests, options, top, report):
    waiting, running = sorted(tests, key=lambda test: test.alone), []  # those that must be alone come last
    try:
        while waiting or running:
            while waiting and len(running) < (1 if waiting[0].alone else options.jobs):
                running.append(Worker(waiting.pop(0), options.build, top, options.verbose, options.isolated))
            ready = select.select([worker.results for worker in running], [], [], 0.2)[0]
            for worker in list(running):
                if worker.results in ready:
                    outcomes = worker.finish()
                elif time.monotonic() > worker.deadline:
                    outcomes = worker.give_up()
                else:
                    continue
                running.remove(worker)
                if report.wants_second_try(worker.test, outcomes):
                    worker.test.alone = True
                    waiting.append(worker.test)
                    continue
                for outcome in outcomes:
                    report.add(*outcome)
    except KeyboardInterrupt:
        for worker in running:
            worker.give_up()
        print("interrupted", file=sys.stderr)
        report.counts["failed"] += 1


def check_nothing_left(top, report):
    reap_orphans()
    for pid in process_descendants(os.getpid()):
        report.add("nothing is left", "failed", f"{process_name(pid)}, PID {pid}, was")
        os.kill(pid, signal.SIGKILL)
    if left := os.listdir(top):
        report.add("nothing is left", "failed", f"in {top}: {' '.join(left)}")
    shutil.rmtree(top, ignore_errors=True)


def matches(name, pattern):
    return pattern in name or fnmatch.fnmatch(name, pattern)


def parse(arguments):
    parser = argparse.ArgumentParser(prog="tests/run", description="Runs the tests of Reseat: unit tests, every "
                                     "subject in every mode, and the tests written in Python.")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="only tests whose name contains or matches one")
    parser.add_argument("--build", default=str(TESTS.parent / "build"), help="the build directory (build)")
    parser.add_argument("-j", "--jobs", type=int, default=min(4, (os.cpu_count() or 1)), help="how many at a time")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what passed, and every command that was run")
    parser.add_argument("--modes", default="", help=f"only these modes, with commas: {', '.join(MODES)}")
    parser.add_argument("--without-reseat", action="store_true", help="only the subjects, each run without a checkpoint")
    parser.add_argument("--sabotage", choices=["fork", "stop"], help="with --without-reseat: a plain fork of the "
                        "subject goes on in its place, or it is stopped and continued by signals; a subject that still "
                        "passes checks nothing that these would not keep")
    parser.add_argument("--together", action="store_true", help="do not give each test a PID namespace of its own")
    parser.add_argument("--patience", type=int, default=1, metavar="N", help="wait N times as long for everything: on "
                        "a slow machine")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    return parser.parse_args(arguments)


def collect(options):
    tests = subject_tests(options.build, options.without_reseat)
    if not options.without_reseat:
        tests = unit_tests(options.build) + tests + python_tests()
    if options.patterns:
        tests = [test for test in tests if any(matches(test.name, pattern) for pattern in options.patterns)]
    if options.modes:
        tests = [test for test in tests if any(test.name.endswith(f"[{mode}]") for mode in options.modes.split(","))]
    return tests


def command_for_all(build, top):
    """Tests run reseat as other users, too, who may not get into root's home: a copy then, where they may."""
    command = Path(build, "reseat")
    if os.geteuid() != 0 or not command.exists() or all(path.stat().st_mode & 1 for path in [command, *command.parents]):
        return None
    return shutil.copy(command, top)


def main(arguments):
    options = parse(arguments)
    options.build = os.path.abspath(options.build)
    options.isolated = isolation.is_possible() and not options.together
    tests = collect(options)
    if options.list:
        print("\n".join(test.name for test in tests))
        return 0
    if options.sabotage:
        os.environ["SUBJECT_SABOTAGE"] = options.sabotage
    os.environ["LC_ALL"] = "C.UTF-8"
    context_module.become_subreaper()
    context_module.patience = options.patience
    top = tempfile.mkdtemp(prefix="reseat-tests-")
    os.chmod(top, 0o755)
    context_module.command = command_for_all(options.build, top)
    report = Report(options.verbose)
    run_all(tests, options, top, report)
    if context_module.command:
        os.unlink(context_module.command)
    check_nothing_left(top, report)
    return report.close()
