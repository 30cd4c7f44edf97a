"""The soak of core (tests/soak): 8 clients do random things to 8 targets, who check their tables meanwhile.
RESEAT_SOAK_OPERATIONS=100000 for the long one, RESEAT_SOAK_SEED for another course of it."""

import os

from reseat_test import timeout
from reseat_test.core import Core

OPERATIONS = int(os.environ.get("RESEAT_SOAK_OPERATIONS", "3000"))
SEED = os.environ.get("RESEAT_SOAK_SEED", "1")
SECONDS = 90 + OPERATIONS // 20


@timeout(SECONDS + 30)
def test_soak(context):
    core = Core(context, configuration="workers 24")
    result = context.run([context.build / "tests/soak/soak", core.path, OPERATIONS, SEED], status=None, seconds=SECONDS)
    assert result.status == 0 and "0 complaints" in result.stdout, f"{result}\n{core.words[-3000:]}"
    core.wait_for_sessions(0)
    core.program.kill(15)
    assert core.program.wait(20) == 0, core.words[-3000:]


@timeout(120)
def test_decoder_fuzzer(context):
    """The fuzzer of the decoder, for a moment (tests/fuzz/fuzz_protocol.c)."""
    seeds = context.directory / "seeds"
    seeds.mkdir()
    context.run([context.build / "tests/fuzz/fuzz-protocol", "--seed", seeds])
    assert len(list(seeds.iterdir())) > 30
    context.run([context.build / "tests/fuzz/fuzz-protocol", *sorted(seeds.iterdir())])
    context.run([context.build / "tests/fuzz/fuzz-protocol", "--random", "500000"], seconds=100)
