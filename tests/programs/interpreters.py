"""Interpreters that are talked to over pipes: what was defined before the checkpoint is there afterwards."""

from programs.driving import COLD_WAYS, Driver, need, take
from reseat_test import each

# name: command, a line that defines, a line that adds 1 to what was defined and prints the result
INTERPRETERS = {
    "bash": (["bash"], "n=0", "echo result $((n += 1))"),
    "dash": (["dash"], "n=0", "n=$((n + 1)); echo result $n"),
    "busybox-sh": (["busybox", "sh"], "n=0", "n=$((n + 1)); echo result $n"),
    "zsh": (["zsh", "-f"], "n=0", "echo result $((n += 1))"),
    "python": (["/usr/bin/python3", "-i", "-u"], "n = [0]", "n[0] += 1; print('result', n[0])"),
    "node": (["node", "-i"], "var n = 0", "console.log('result', ++n)"),
    "perl": (["perl", "-e", "$| = 1; while (<STDIN>) { eval $_; die $@ if $@ }"], "$n = 0;", "print 'result ', ++$n, \"\\n\";"),
    "ruby": (["ruby", "-e", "$stdout.sync = true; b = binding; while l = gets; b.eval(l); end"], "n = 0",
             "puts \"result #{n += 1}\""),
    "lua": (["lua", "-i"], "n = 0", "n = n + 1; print('result ' .. n)"),
    "php": (["php", "-r", "while ($l = fgets(STDIN)) eval($l);"], "$n = 0;", "echo 'result ', ++$n, \"\\n\";"),
    "guile": (["guile", "-q"], "(define n 0)", "(begin (set! n (+ n 1)) (format #t \"result ~a~%\" n))"),
    "emacs": (["emacs", "-Q", "--batch", "--eval", "(while t (eval (read (read-from-minibuffer \"\"))))"], "(setq n 0)",
              "(princ (format \"result %d\\n\" (setq n (1+ n))))"),
    "bc": (["bc", "-q"], "n = 0", "print \"result \", n += 1, \"\\n\""),
    "gdb": (["gdb", "-q", "-nx"], "set $n = 0", "printf \"result %d\\n\", ++$n"),
    "tclsh": (["tclsh"], "set n 0", "puts \"result [incr n]\"; flush stdout"),
    "mawk": (["awk", "-W", "interactive", "/result/ { print \"result\", ++n; fflush() }"], "", "result"),
}


@each(name=list(INTERPRETERS), way=COLD_WAYS)
def test_interpreter(context, name, way):
    words, define, count = INTERPRETERS[name]

    class Interpreter(Driver):
        steady = False

        def start(self):
            self.program = self.context.start([need(words[0]), *words[1:]], stderr="pipe", cwd="/",
                                              environment={"TERM": "dumb", "HOME": str(self.context.directory)})
            self.pid = self.program.pid
            self.program.send(define + "\n")
            self.expected = {"n": 0}

        def drive(self):
            for _ in range(3):
                self.expected["n"] += 1
                self.program.send(count + "\n")
                self.program.expect(f"result {self.expected['n']}\n")

    take(context, Interpreter, way)
