"""The reader of images against files that are wrong at random, under sanitizers (tests/fuzz/fuzz_image.c).

`make check` does it for a minute; RESEAT_FUZZ_SECONDS=3600 for an hour, RESEAT_FUZZ_SEED=N the same ones again."""

import os
import shutil

from reseat_test import Failure, timeout

SECONDS = int(os.environ.get("RESEAT_FUZZ_SECONDS") or 60)
SEED = os.environ.get("RESEAT_FUZZ_SEED") or "0"


@timeout(SECONDS * 2 + 120)
def test_images(context):
    """Begins with files that it makes itself, and with a real one."""
    sleeper = context.start(["sleep", "1000"], stdin=None, stdout=None)
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", sleeper.pid, "-o", directory, "--image", "--compress", "--leave-running")
    fuzzer = context.build / "tests/fuzz/fuzz-image"
    result = context.run([fuzzer, "--run", SECONDS, SEED, directory / f"{sleeper.pid}.core"], status=None,
                         seconds=SECONDS * 2 + 60, environment={"UBSAN_OPTIONS": "halt_on_error=1"})
    if result.status != 0:
        failed = context.directory / "fuzz-image-failed"
        if failed.exists():
            shutil.copy(failed, "/tmp/fuzz-image-failed")
        raise Failure(f"{result}\nthe file that did it is /tmp/fuzz-image-failed")
    assert "inputs" in result.stdout, result


@timeout(SECONDS * 2 + 720)
def test_objects(context):
    """The states of objects, wrong at random: judged and made in a sandbox (tests/fuzz/fuzz_objects.c)."""
    context.need_root()
    context.need("ninja")
    seconds = max(SECONDS // 2, 1)
    context.run(["ninja", "-C", context.build, "tests/fuzz/fuzz-objects"], seconds=600)
    result = context.run([context.build / "tests/fuzz/fuzz-objects", "--run", seconds, SEED], seconds=SECONDS * 2 + 60,
                         environment={"UBSAN_OPTIONS": "halt_on_error=1"})
    rounds, made = int(result.stdout.split()[0]), int(result.stdout.split()[-1])
    assert rounds > made > 0, result
