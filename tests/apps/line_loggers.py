"""Line breakpoints as one would write them by hand, with `sys.monitoring` and `sys.settrace`.

They keep what the agent's snapshot has, within its bounds: the stack, and the variables of the innermost frame to
three levels, 100 items, 20 fields and 256 characters. Nothing is serialised or sent, which is to their advantage.
"""

import sys
import time
from collections import deque

kept = deque(maxlen=64)
DEPTH, ITEMS, FIELDS, LENGTH, FRAMES = 3, 100, 20, 256, 64


def value_of(value, depth):
    kind = type(value)
    if kind in (int, float, bool, type(None)):
        return value
    if kind in (str, bytes):
        return value[:LENGTH]
    if depth == 0:
        return kind.__name__
    if kind is dict:
        items = list(value.items())[:ITEMS]
        return {key if type(key) is str else repr(key): value_of(of, depth - 1) for key, of in items}
    if kind in (list, tuple, set, frozenset):
        return [value_of(item, depth - 1) for item in list(value)[:ITEMS]]
    fields = list(getattr(value, "__dict__", {}).items())[:FIELDS]
    return kind.__name__, {name: value_of(of, depth - 1) for name, of in fields}


def capture(frame):
    variables = {name: value_of(value, DEPTH) for name, value in frame.f_locals.items()}
    stack, at = [], frame
    while at is not None and len(stack) < FRAMES:
        stack.append((at.f_code.co_qualname, at.f_code.co_filename, at.f_lineno))
        at = at.f_back
    kept.append((time.time_ns(), stack, variables))


class Every:
    """Captures every execution."""

    def __call__(self, frame):
        capture(frame)


class Condition:
    """Has a condition that is false."""

    def __call__(self, frame):
        if frame.f_locals["t"] < 0:
            capture(frame)


class OnceASecond:
    """Captures at most once a second."""

    def __init__(self):
        self.due = 0.0

    def __call__(self, frame):
        now = time.monotonic()
        if now >= self.due:
            self.due = now + 1
            capture(frame)


def monitor(code, line, hit):
    """`hit` at this line of the code object; gives what ends it. All other lines switch themselves off."""
    monitoring = sys.monitoring
    tool = monitoring.DEBUGGER_ID
    monitoring.use_tool_id(tool, "lines")

    def at_line(_code, number):
        if number != line:
            return monitoring.DISABLE
        hit(sys._getframe(1))

    monitoring.register_callback(tool, monitoring.events.LINE, at_line)
    monitoring.set_local_events(tool, code, monitoring.events.LINE)

    def end():
        monitoring.set_local_events(tool, code, 0)
        monitoring.register_callback(tool, monitoring.events.LINE, None)
        monitoring.free_tool_id(tool)
        monitoring.restart_events()

    return end


def trace(code, line, hit):
    """The same with `sys.settrace`, in this thread."""

    def at_line(frame, event, _argument):
        if event == "line" and frame.f_lineno == line:
            hit(frame)
        return at_line

    def at_call(frame, _event, _argument):
        return at_line if frame.f_code is code else None

    sys.settrace(at_call)
    return lambda: sys.settrace(None)
