"""The sqlite3 shell in the middle of a transaction: what it has not committed is its own, and the lock that keeps others
out of the file is its record lock."""

import os
import pty
import select
import sqlite3
import termios

from programs.driving import COLD_WAYS, Driver, need, status_at_end, take
from reseat_test import each


class Sqlite(Driver):
    commands = ("sqlite3",)
    drive_on = False  # the file is shared by the program and its copy

    def start(self):
        self.database = self.context.path("database")
        master, slave = pty.openpty()
        settings = termios.tcgetattr(slave)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        self.terminal = self.keep(os.fdopen(master, "r+b", buffering=0))
        self.run([need("sqlite3"), "-interactive", "-init", "/dev/null", self.database], stdin=slave, stdout=slave,
                 stderr=slave)
        os.close(slave)
        self.rows = 0
        self.ask("CREATE TABLE numbers(number);")
        self.ask("BEGIN IMMEDIATE;")

    def ask(self, statement):
        """What the statement printed, up to a marker that is asked for after it (and that the echo does not have)."""
        self.terminal.write(f"{statement}\nSELECT 'that' || ' was all';\n".encode())
        answer = b""
        while b"that was all" not in answer:
            assert select.select([self.terminal], [], [], 10)[0], f"no answer to {statement}, but {answer!r}"
            answer += os.read(self.terminal.fileno(), 4096)
        text = answer.decode()
        assert "rror" not in text, text
        return text

    def others_are_locked_out(self):
        other = sqlite3.connect(self.database, timeout=0)
        try:
            other.execute("INSERT INTO numbers VALUES (-1)")
        except sqlite3.OperationalError as error:
            return "locked" in str(error)
        finally:
            other.close()
        return False

    def drive(self):
        for _ in range(10):
            self.ask(f"INSERT INTO numbers VALUES ({self.rows});")
            self.rows += 1
        assert f"sum is {sum(range(self.rows))} " in self.ask("SELECT 'sum is ' || sum(number) || ' ' FROM numbers;")
        assert self.others_are_locked_out(), "another process could write in the middle of the transaction"
        other = sqlite3.connect(self.database)
        assert other.execute("SELECT count(*) FROM numbers").fetchone() == (0,)
        other.close()


@each(way=COLD_WAYS)
def test_sqlite(context, way):
    driver = take(context, Sqlite, way)
    driver.ask("COMMIT;")
    other = sqlite3.connect(driver.database)
    assert other.execute("SELECT count(*), sum(number) FROM numbers").fetchone() == (driver.rows, sum(range(driver.rows)))
    assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    other.close()
    driver.terminal.write(b".quit\n")
    assert status_at_end(context, driver.program) == 0
