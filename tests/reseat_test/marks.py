"""Decorators of test functions; the runner reads the attributes that they set."""

import itertools


def each(**values):
    """Makes one test of each combination: `@each(form=["heir", "copy"])` calls with `form="heir"` and `form="copy"`."""

    def mark(function):
        names = list(values)
        new = [dict(zip(names, combination)) for combination in itertools.product(*values.values())]
        old = getattr(function, "arguments", [{}])
        function.arguments = [{**one, **other} for other in old for one in new]
        return function

    return mark


def alone(function):
    """The test runs when no other does: what it looks at, others would disturb (the next PID, the load)."""
    function.alone = True
    return function


def timeout(seconds):
    """How long the test may take; then it is ended and has failed."""

    def mark(function):
        function.timeout = seconds
        return function

    return mark
