"""Programs of the terminal: started from an interactive bash in a tmux pane, checkpointed from outside, put back with
`reseat restore --attach` that is typed into that very shell, or into another one on another terminal."""

import os
import re
import shlex
import signal
import time

from programs.driving import need, read_text
from reseat_test import each
from reseat_test.context import process_children

PROMPT = "ready>"


class Tmux:
    """A tmux server of our own; each pane has a bash with job control."""

    def __init__(self, context):
        self.context = context
        self.tmux = [need("tmux"), "-L", f"reseat-{os.getpid()}", "-f", "/dev/null"]
        self.environment = {"TMUX_TMPDIR": str(context.directory), "TMUX": "", "HISTFILE": "",
                            "LANG": "C.UTF-8"}
        context.defer(self.end)

    def run(self, *words):
        return self.context.run([*self.tmux, *words], environment=self.environment).stdout

    def new_pane(self, name, columns=80, lines=24):
        words = ["new-session", "-d", "-s", name, "-x", columns, "-y", lines, f"exec env PS1='{PROMPT} ' bash --norc --noprofile -i"]
        self.run(*words)
        return Pane(self, name)

    def end(self):
        self.context.run([*self.tmux, "kill-server"], environment=self.environment, status=None)


class Pane:
    def __init__(self, tmux, name):
        self.tmux, self.name, self.context = tmux, name, tmux.context
        self.shell, self.terminal = tmux.run("display-message", "-p", "-t", name, "#{pane_pid} #{pane_tty}").split()
        self.wait_for(PROMPT)
        self.type("unset HISTFILE; bind 'set enable-bracketed-paste off'; clear", "Enter")

    def type(self, text, *keys):
        """Types the text as it is, then keys that tmux knows by name."""
        if text:
            self.tmux.run("send-keys", "-t", self.name, "-l", "--", text)
        if keys:
            self.tmux.run("send-keys", "-t", self.name, *keys)

    def screen(self):
        return self.tmux.run("capture-pane", "-p", "-t", self.name).rstrip("\n")

    def wait_for(self, pattern, seconds=10.0):
        """Waits until the screen matches the regular expression."""
        shown = [""]

        def matches():
            shown[0] = self.screen()
            return re.search(pattern, shown[0], re.MULTILINE)

        try:
            return self.context.until(matches, f"{pattern!r} on the screen", seconds)
        except AssertionError as failure:
            raise AssertionError(f"{failure}; the screen:\n{shown[0]}\n{self.processes()}") from failure

    def wait_for_screen(self, expected):
        shown = [""]

        def is_it():
            shown[0] = self.screen()
            return shown[0] == expected

        try:
            self.context.until(is_it, "the screen")
        except AssertionError as failure:
            raise AssertionError(f"the screen was\n{expected}\n-- and is\n{shown[0]}\n{self.processes()}") from failure

    def processes(self):
        """For a failure: what is on the terminal and in which state."""
        return self.context.run(["ps", "-eo", "pid,ppid,pgid,sid,tpgid,tty,stat,wchan:20,args"], status=None).stdout

    def child(self, name):
        """The PID of the shell's child of that name."""

        def find():
            for pid in read_text(f"/proc/{self.shell}/task/{self.shell}/children").split():
                try:
                    if read_text(f"/proc/{pid}/comm").strip() == name:
                        return int(pid)
                except (FileNotFoundError, ProcessLookupError):  # another one, of a moment
                    pass
            return None

        return self.context.until(find, f"a child {name} of the shell")

    def wait_for_shell(self):
        """Waits until nothing is in the foreground but the shell."""
        self.context.until(lambda: foreground(self.shell), "the shell to have its terminal back")

    def ask(self, command):
        """What the shell prints for a command."""
        file = self.context.path("asked")
        if os.path.exists(file):
            os.unlink(file)
        self.type(f"{command} > {shlex.quote(file)}.new; mv {shlex.quote(file)}.new {shlex.quote(file)}", "Enter")
        try:
            self.context.until(lambda: os.path.exists(file), f"the shell to run {command}", 5)
        except AssertionError as failure:
            raise AssertionError(f"{failure}; the screen:\n{self.screen()}\n{self.processes()}") from failure
        return read_text(file)

    def restore(self, directory, *options):
        self.type(f"{shlex.quote(self.context.command)} restore --attach {directory} {' '.join(options)}", "Enter")


def foreground(pid):
    fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[2] == fields[5]


class Session:
    """One program in a pane, with what must be as before when it has ended."""

    def __init__(self, context, command, name, ready=None):
        """`ready`: what the program shows when it has started."""
        need(name)
        self.context = context
        self.tmux = Tmux(context)
        self.pane = self.tmux.new_pane("first")
        self.modes = self.pane.ask("stty -a")
        self.pane.type(f"clear; {command}", "Enter")
        if ready:
            self.pane.wait_for(ready)
        self.pid = self.pane.child(name)

    def checkpoint(self, *options):
        directory = self.context.new_name("checkpoint")
        self.context.reseat("checkpoint", self.pid, "--live", *options, "-o", directory)
        if not options:
            self.pane.wait_for_shell()
        return directory

    def is_over(self, pane=None):
        """The program has ended under `restore --attach`: the shell has its terminal back, in the modes as before."""
        pane = pane or self.pane
        try:
            self.context.until(lambda: not os.path.exists(f"/proc/{self.pid}"), f"PID {self.pid} to end")
            pane.wait_for_shell()
            assert pane.ask("echo $?") == "0\n", "another exit status"
        except AssertionError as failure:
            raise AssertionError(f"{failure}; the screen:\n{pane.screen()}\n{pane.processes()}") from failure
        assert pane.ask("stty -a") == self.modes if pane is self.pane else "isig icanon" in pane.ask("stty -a")
        assert self.pane.ask("jobs") == ""
        assert self.tmux.run("display-message", "-p", "-t", pane.name, "#{alternate_on}").strip() == "0"


def start_vim(context):
    file = context.path("text")
    session = Session(context, f"vim -u NONE -i NONE -N -n {shlex.quote(file)}", "vim")
    pane = session.pane
    pane.wait_for(r"text.*\[New\]")
    pane.type("ifirst line", "Enter")
    pane.type("second line", "Escape")
    pane.type("yyp")
    pane.wait_for("second line\nsecond line\n~")
    session.file = file
    return session


def finish_vim(session, pane):
    """Undoes what was done before the checkpoint, writes, suspends, goes on, ends."""
    pane.type("u")
    pane.wait_for("first line\nsecond line\n~")
    pane.type("othird line", "Escape")
    pane.type(":w", "Enter")
    pane.wait_for("written")
    assert read_text(session.file) == "first line\nsecond line\nthird line\n"
    pane.type("", "C-z")
    pane.wait_for("Stopped")
    assert pane.ask("echo the shell is back") == "the shell is back\n"
    pane.type("fg", "Enter")
    pane.wait_for("third line\n~")
    pane.type("ofourth line", "Escape")
    pane.type(":wq", "Enter")
    session.is_over(pane)
    assert read_text(session.file) == "first line\nsecond line\nthird line\nfourth line\n"


def test_vim(context):
    session = start_vim(context)
    before = session.pane.screen()
    directory = session.checkpoint()
    session.pane.restore(directory)
    session.pane.wait_for_screen(before)
    finish_vim(session, session.pane)


def test_vim_twice(context):
    """Another checkpoint of what was restored with --attach: that `restore` sees it end."""
    session = start_vim(context)
    before = session.pane.screen()
    for _ in range(2):
        directory = session.checkpoint()
        session.pane.type("clear", "Enter")
        session.pane.restore(directory)
        session.pane.wait_for_screen(before)
    finish_vim(session, session.pane)


def test_vim_copy(context):
    """Left running, ended without saving, and put back as it was at the checkpoint."""
    session = start_vim(context)
    before = session.pane.screen()
    directory = session.checkpoint("--leave-running")
    session.pane.type("oa line that will be forgotten", "Escape")
    session.pane.wait_for("forgotten")
    session.pane.type(":q!", "Enter")
    session.pane.wait_for_shell()
    session.pane.restore(directory)
    session.pane.wait_for_screen(before)
    finish_vim(session, session.pane)


def test_vim_suspended(context):
    """Stopped by ^Z when it is checkpointed: --attach continues it, as fg would have."""
    session = start_vim(context)
    session.pane.type("", "C-z")
    session.pane.wait_for("Stopped")
    directory = session.checkpoint()
    session.pane.ask("jobs")  # in which the shell says that it was killed
    session.pane.restore(directory)
    session.pane.wait_for("second line\nsecond line\n~")
    finish_vim(session, session.pane)


@each(how=["attach", "beside"])
def test_vim_on_another_terminal(context, how):
    """`attach`: typed into a shell on the other terminal; `beside`: from outside, onto a terminal where nobody reads."""
    session = start_vim(context)
    other = session.tmux.new_pane("second", columns=60, lines=16)
    directory = session.checkpoint()
    slots = [f"--slot {slot}={other.terminal}" for slot in (0, 1, 2)]
    if how == "attach":
        other.restore(directory, *slots)
    else:
        other.type("clear; stty raw -echo; exec sleep 1000", "Enter")
        context.until(lambda: read_text(f"/proc/{other.shell}/comm") == "sleep\n", "nobody to read from the terminal")
        context.restore(directory, *" ".join(slots).split())
        os.kill(session.pid, signal.SIGWINCH)  # nobody told it that it is on a terminal of another size
    other.wait_for("first line\nsecond line\nsecond line\n~")
    assert session.pane.ask("echo undisturbed") == "undisturbed\n"
    if how == "attach":
        finish_vim(session, other)
        return
    other.type("u")
    other.wait_for("first line\nsecond line\n~")
    other.type(":wq", "Enter")
    context.until(lambda: not os.path.exists(f"/proc/{session.pid}"), "vim to end")
    assert read_text(session.file) == "first line\nsecond line\n"


@each(way=["heir", "copy-restored"])
def test_less(context, way):
    text = context.path("numbers")
    with open(text, "w", encoding="utf-8") as file:
        file.writelines(f"line {number}\n" for number in range(1, 1001))
    session = Session(context, f"less {shlex.quote(text)}", "less")
    check_less(context, session, way)


def test_less_in_pipeline(context):
    """Its process group is led by a process that has ended, and its input is a pipe with nobody at the other end."""
    session = Session(context, "seq -f 'line %g' 1000 | less", "less")
    check_less(context, session, "heir")


def check_less(context, session, way):
    pane = session.pane
    pane.wait_for("^line 5$")
    pane.type("400g")
    pane.wait_for("^line 422$")
    before = pane.screen()
    directory = session.checkpoint(*(["--leave-running"] if way != "heir" else []))
    if way != "heir":
        pane.type("q")
        pane.wait_for_shell()
    pane.restore(directory)
    pane.wait_for_screen(before)
    pane.type("/line 7.7", "Enter")
    pane.wait_for("^line 729$")
    pane.type("", "C-z")
    pane.wait_for("Stopped")
    pane.type("fg", "Enter")
    pane.wait_for("^line 729$")
    pane.type("q")
    session.is_over()


@each(way=["heir", "copy-restored"])
def test_top(context, way):
    session = Session(context, "top -d 0.5", "top")
    check_monitor(context, session, way, "load average")


@each(way=["heir", "copy-restored"])
def test_htop(context, way):
    need("htop")
    session = Session(context, "htop -d 5", "htop")
    check_monitor(context, session, way, "Load average")


def check_monitor(context, session, way, text):
    pane = session.pane
    pane.wait_for(text)
    directory = session.checkpoint(*(["--leave-running"] if way != "heir" else []))
    if way != "heir":
        pane.type("q")
        pane.wait_for_shell()
    pane.type("clear", "Enter")
    pane.restore(directory)
    pane.wait_for(text)
    first = pane.screen()
    context.until(lambda: pane.screen() != first, "the screen to change")
    pane.wait_for(text)
    pane.type("q")
    session.is_over()


def test_nano(context):
    need("nano")
    file = context.path("text")
    session = Session(context, f"nano -I {shlex.quote(file)}", "nano")
    pane = session.pane
    pane.wait_for("New File")
    pane.type("written before")
    pane.wait_for("written before")
    directory = session.checkpoint()
    pane.type("clear", "Enter")
    pane.restore(directory)
    pane.wait_for("written before")
    pane.type(" and after")
    pane.type("", "C-o", "Enter")
    pane.wait_for("Wrote 1 line")
    pane.type("", "C-x")
    session.is_over()
    assert read_text(file) == "written before and after\n"


def test_shell(context):
    """An interactive bash with job control of its own, inside the other one."""
    session = Session(context, "env PS1='inner> ' bash --norc --noprofile -i", "bash", "^inner>")
    pane = session.pane
    pane.type("number=41; clear", "Enter")
    pane.wait_for(r"\Ainner>\Z")
    children = f"/proc/{session.pid}/task/{session.pid}/children"  # one that has not been waited for would be lost
    context.until(lambda: not read_text(children), "it to have waited for clear")
    directory = session.checkpoint()
    pane.type("clear", "Enter")
    pane.restore(directory)
    context.until(lambda: os.path.exists(f"/proc/{session.pid}") and foreground(session.pid), "it to be in the foreground")
    pane.type("echo value $((number + 1))", "Enter")
    pane.wait_for("^value 42$")
    pane.type("sleep 0.1 & wait $!; echo waited $?", "Enter")
    pane.wait_for("^waited 0$")
    pane.type("sleep 100", "Enter")
    context.until(lambda: not foreground(session.pid), "sleep to be in the foreground")
    pane.type("", "C-c")
    pane.type("echo interrupted $?", "Enter")
    pane.wait_for("^interrupted 130$")
    pane.type("true; exit", "Enter")
    session.is_over()


def test_python_prompt(context):
    """Python's prompt, which has the terminal in the modes of readline: a line is half typed at the checkpoint."""
    session = Session(context, "/usr/bin/python3 -q", "python3")
    pane = session.pane
    pane.wait_for("^>>>")
    pane.type("number = 41", "Enter")
    pane.type("print('value', numb")
    pane.wait_for("numb$")
    directory = session.checkpoint()
    pane.type("clear", "Enter")
    pane.restore(directory)
    context.until(lambda: os.path.exists(f"/proc/{session.pid}") and foreground(session.pid), "it to be in the foreground")
    pane.type("er + 1)", "Enter")
    pane.wait_for("^value 42$")
    pane.type("exit()", "Enter")
    session.is_over()


def is_alone(pid, seconds):
    """Whether it has no child, for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process_children(pid):
            return False
        time.sleep(0.01)
    return True


def test_emacs(context):
    need("emacs")
    file = context.path("text")
    session = Session(context, f"emacs -nw -Q {shlex.quote(file)}", "emacs")
    pane = session.pane
    pane.wait_for("New file")
    pane.type("written before")
    pane.wait_for("written before")
    # It may compile what it has loaded, in a child.
    context.until(lambda: is_alone(session.pid, seconds=1), "emacs to be alone", seconds=60)
    directory = session.checkpoint()
    pane.type("clear", "Enter")
    pane.restore(directory)
    pane.wait_for("written before")
    pane.type(" and after")
    pane.type("", "C-x", "C-s")
    pane.wait_for("Wrote")
    pane.type("", "C-x", "C-c")
    session.is_over()
    assert read_text(file).strip() == "written before and after"


def test_cat(context):
    """A program that leaves the terminal in the shell's own modes, and reads whole lines."""
    session = Session(context, "cat", "cat")
    pane = session.pane
    pane.type("whole line", "Enter")
    pane.wait_for("whole line\nwhole line")
    directory = session.checkpoint()
    pane.restore(directory)
    context.until(lambda: os.path.exists(f"/proc/{session.pid}"), "cat to be restored")
    context.until(lambda: foreground(session.pid), "cat to be in the foreground")
    pane.type("another line", "Enter")
    pane.wait_for("another line\nanother line")
    pane.type("", "C-d")
    session.is_over()
