"""PostgreSQL's single-user mode: System V and anonymous shared memory, a user of its own, an open transaction."""

import os
import pwd

from programs.driving import COLD_WAYS, Driver, need, take
from reseat_test import Skip, each, timeout


class Postgres(Driver):
    commands = ("postgres", "initdb")
    drive_on = False  # its files and its shared memory are those of the one that runs on

    def start(self):
        if os.geteuid() != 0:
            raise Skip("only root can start a program as another user")
        user = "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else "nobody"
        data = self.context.path("data")
        os.mkdir(data, 0o700)
        os.chown(data, pwd.getpwnam(user).pw_uid, -1)
        entry = pwd.getpwnam(user)
        self.context.run([need("initdb"), "-D", data, "--no-sync", "-A", "trust", "-E", "UTF8", "--locale=C"], cwd=data,
                         user=entry.pw_uid, group=entry.pw_gid, extra_groups=[])
        self.program = self.context.start([need("postgres"), "--single", "-D", data, "-c", "fsync=off", "postgres"],
                                          user=user, cwd=data, stderr="pipe")
        self.pid = self.program.pid
        self.program.expect("backend> ")
        self.ask("CREATE TABLE numbers(number integer)")
        self.ask("BEGIN")
        self.expected = {"count": 0}

    def ask(self, statement):
        self.program.send(statement + "\n")
        answer = self.program.expect("backend> ")
        assert "ERROR" not in answer and "WARNING" not in answer, answer
        return answer

    def drive(self):
        for _ in range(5):
            self.expected["count"] += 1
            self.ask(f"INSERT INTO numbers VALUES ({self.expected['count']})")
        assert f"count = \"{self.expected['count']}\"" in self.ask("SELECT count(*) FROM numbers")


@timeout(60)
@each(way=COLD_WAYS)
def test_postgres(context, way):
    driver = take(context, Postgres, way)
    driver.ask("COMMIT")
    assert f"sum = \"{sum(range(driver.expected['count'] + 1))}\"" in driver.ask("SELECT sum(number) FROM numbers")
