"""Python with threads that block in every way they can, and Python with asyncio."""

import os
import sys

from programs.counting import Counting
from programs.driving import SOURCES, COLD_WAYS, take
from reseat_test import each


def interpreter():
    """The system's own: a test may itself be run by another."""
    return "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


class Threads(Counting):
    def argv(self):
        return [interpreter(), f"{SOURCES}/counter_threads.py"]


class Asyncio(Counting):
    def argv(self):
        return [interpreter(), f"{SOURCES}/counter_asyncio.py"]


@each(way=COLD_WAYS)
def test_threads(context, way):
    take(context, Threads, way)


@each(way=COLD_WAYS)
def test_asyncio(context, way):
    take(context, Asyncio, way)
