"""The loop whose lines `cargo xtask bench breakpoint` sets breakpoints on: twenty variables, three levels."""

import time


class Item:
    def __init__(self, number):
        self.number, self.name, self.tags = number, "item %d" % number, ["a", "b", number]


def variables():
    return (
        (1, 2.5, "text", b"bytes", None),
        ([1, 2, 3], (1, "x"), {"key": "value", "other": [1, 2]}),
        ({1, 2}, Item(1), [Item(2), Item(3)]),
        ({"nested": {"more": {"most": 1}}}, "x" * 300, list(range(50))),
        (10**30, True, {"item": Item(4)}),
        (["%d" % at for at in range(20)], (None, False)),
    )


def turns(count):
    """Processor time of this thread and time of `count` turns, in nanoseconds."""
    (a, b, c, d, e), (f, g, h), (i, j, k), (l, m, n), (o, p, q), (r, s) = variables()
    clock, start = time.perf_counter_ns(), time.thread_time_ns()
    for t in range(count):
        if t < 0:
            pass
        u = t  # the line that is hit
        v = u
        if t < 0:
            v = u  # the line that never runs
    return time.thread_time_ns() - start, time.perf_counter_ns() - clock


def turns_of_sdk(count, capture):
    """The same for an SDK whose call is in the code."""
    (a, b, c, d, e), (f, g, h), (i, j, k), (l, m, n), (o, p, q), (r, s) = variables()
    clock, start = time.perf_counter_ns(), time.thread_time_ns()
    for t in range(count):
        if t < 0:
            pass
        capture("turn", {name: value for name, value in locals().items() if name != "capture"})
        u = t
        v = u
        if t < 0:
            v = u
    return time.thread_time_ns() - start, time.perf_counter_ns() - clock
