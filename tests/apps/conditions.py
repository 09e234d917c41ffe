"""Calls a function with values of all kinds: a line of input names the value."""

import json
import sys


class MyInt(int):
    pass


class MyStr(str):
    pass


class Odd:
    def __eq__(self, other):
        return True

    def __bool__(self):
        return False

    __hash__ = None


text = "pr"
VALUES = [
    None, True, False, 0, 1, -1, 5, -5, 6, 2**30 - 1, 2**30, -(2**30), 2**30 + 5, 2**53, 2**53 + 1, -(2**53) - 1,
    2**59, 2**60 - 1, 2**60, 1 - 2**60, -(2**60), 2**64, -(2**64), 2**200, -(2**200),
    0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 5.0, 5.000000000000001, 1e300, -1e300, float("inf"), -float("inf"), float("nan"),
    -float("nan"), 5e-324, -5e-324, float(2**53), 2.0**59,
    "", "a", "abc", "pro", text, text + "o", "prox", "PRO", "\xe9", "pr\xf6", "pr\u0151", "\u65e5\u672c", "\U0001f600",
    "x" * 63, "x" * 64, "x" * 63 + "y", "x" * 65, "12345678", "123456789", "12345679", "pro\0", "5",
    MyInt(5), MyInt(0), MyStr("pro"), MyStr(""), Odd(), object(), [], [5], {}, (), (5,), b"pro", 5j, set(), int, str,
]


def check(x, y):
    return 1  # here


def kind(value):
    """What can be said of comparisons with it."""
    if type(value) is float:
        return 1
    if type(value) is str:
        # Of one that is as long as another, and not of ASCII, the bytes are not compared.
        return 2 if not any(127 < ord(character) < 256 for character in value) else 0
    return 2 if value is None or type(value) in (bool, int) else 0


def pairs():
    for at, x in enumerate(VALUES):
        yield x, VALUES[(at * 7 + 3) % len(VALUES)]


def truth(condition, x, y):
    try:
        return bool(eval(condition, {}, {"x": x, "y": y}))
    except Exception:
        return None


values = list(pairs())
# To 3.10 the interpreter reads code once more when it has run so often.
for at in range(2000):
    check(at, at)
print("ready", flush=True)
conditions = json.loads(sys.stdin.readline())
truths = [[truth(condition, x, y) for x, y in values] for condition in conditions]
print(json.dumps([[min(kind(x), kind(y)) for x, y in values], truths]), flush=True)
for line in sys.stdin:
    check(*values[int(line)])
    print("done", flush=True)
