"""Runs the loop of line_target.py in the way that a line of standard input says, `WAY TURNS`, and prints its
processor time and time in nanoseconds. With an argument, that SDK is started first.

The ways: `plain`; `monitoring` or `settrace`, then `:capture`, `:limited` (to once a second), `:condition` (which is
false) or `:never` (a line that never runs); `sdk`, the loop with the call of the SDK in it.
"""

import os
import sys


def sdk():
    import tracekit

    endpoint = "http://127.0.0.1:%s/v1/traces" % os.environ["SINK_PORT"]
    # What it says about each snapshot goes to standard output.
    sys.stdout = open(os.devnull, "w")
    client = tracekit.init("key", os.environ["SINK_SERVICE"], endpoint, enable_code_monitoring=True)
    # The first call registers the line; what the server says about it then counts.
    line_target.turns_of_sdk(1, client.capture_snapshot)
    client.get_snapshot_client().fetch_active_breakpoints()
    return client.capture_snapshot


def datadog():
    from ddtrace.debugging import DynamicInstrumentation
    from ddtrace.debugging._config import di_config

    # One limit of the process that no setting changes: 100 snapshots a second.
    di_config.global_rate_limit = 1e9
    DynamicInstrumentation.enable()


def line_of(marker):
    with open(line_target.__file__) as source:
        return next(at for at, text in enumerate(source, 1) if text.rstrip().endswith(marker))


answers, capture_snapshot = sys.stdout, None
if sys.argv[1:] == ["ddtrace"]:
    datadog()

import line_loggers
import line_target

if sys.argv[1:] == ["sdk"]:
    capture_snapshot = sdk()

HIT, NEVER = line_of("# the line that is hit"), line_of("# the line that never runs")
print("ready", file=answers, flush=True)
for command in sys.stdin:
    way, count = command.split()
    name, _, what = way.partition(":")
    if name == "sdk":
        times = line_target.turns_of_sdk(int(count), capture_snapshot)
    elif name == "plain":
        times = line_target.turns(int(count))
    else:
        start = {"monitoring": line_loggers.monitor, "settrace": line_loggers.trace}[name]
        hit = {"condition": line_loggers.Condition, "limited": line_loggers.OnceASecond}.get(what, line_loggers.Every)()
        end = start(line_target.turns.__code__, NEVER if what == "never" else HIT, hit)
        times = line_target.turns(int(count))
        end()
    print(*times, file=answers, flush=True)
