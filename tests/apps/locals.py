"""Threads that stand still with local variables of every kind: what another reader says of them is compared.

Standard library only, Python 3.8 and newer; also from standard input. Prints a line and sleeps.
"""
import asyncio
import collections
import datetime
import decimal
import enum
import threading
import time
import uuid

parked = threading.Semaphore(0)


def park():
    parked.release()
    while True:
        time.sleep(3600)


class Plain:
    def __init__(self, **fields):
        self.__dict__.update(fields)


class Slotted:
    __slots__ = ("left", "right")

    def __init__(self, left, right):
        self.left, self.right = left, right


class Colour(enum.Enum):
    RED = 1


def numbers(zero, one, small, large, *, negative, keyword=2.5):
    huge, huge_negative = 2**70, -(2**90)
    word, over, power = 2**30, 2**31 + 5, 2**60 - 1
    yes, no, nothing = True, False, None
    third, tiny, whole, exponent = 1 / 3, -1e-7, 3.0, 1e22
    park()
    return locals()


def texts():
    empty, plain, accents, wide, emoji = "", "plain", "caf\xe9", "\u65e5\u672c\u8a9e", "a\U0001f600b"
    long = "x" * 60
    data, empty_data = b"bytes", b""
    park()
    return locals()


def containers(*arguments, **keywords):
    empty_list, empty_tuple, empty_dict = [], (), {}
    items, pair, nested = [1, 2, 3], (1, "two"), [[1, [2]], (3,)]
    mapping = {"a": 1, "b": [1.5, None], 3: "c"}
    deleted = {"a": 1, "b": 2, "c": 3}
    del deleted["b"]
    many = list(range(500))
    park()
    return locals()


def others():
    numbers_of_set, frozen = {1}, frozenset({2})
    queue, counter = collections.deque([1]), collections.Counter("aab")
    buffer = bytearray(b"buffer")
    plain, slotted, colour = Plain(a=1), Slotted(1, "r"), Colour.RED
    date = datetime.datetime(2024, 1, 2, 3, 4, 5)
    delta, price = datetime.timedelta(1), decimal.Decimal("1.50")
    identity = uuid.UUID(int=5)
    number, steps = 1 + 2j, range(3)
    failure = ValueError("bad")
    park()
    return locals()


def closures(captured):
    free = [captured]

    def inner(argument):
        together = (argument, captured, free)
        park()
        return together

    return inner(1)


def generators():
    def numbers_of(limit):
        for number in range(limit):
            park()
            yield number

    return [number for number in numbers_of(3)]


async def awaits(depth):
    if depth:
        return await awaits(depth - 1)
    park()


def recursion(depth):
    return recursion(depth - 1) if depth else park()


THREADS = [
    lambda: numbers(0, 1, -5, 1 << 40, negative=-(1 << 40)),
    texts,
    lambda: containers(1, "two", key="value"),
    others,
    lambda: closures("kept"),
    generators,
    lambda: asyncio.run(awaits(3)),
    lambda: recursion(40),
]

for run in THREADS:
    threading.Thread(target=run, daemon=True).start()
for run in THREADS:
    parked.acquire()
time.sleep(0.2)
print("ready", flush=True)
time.sleep(3600)
