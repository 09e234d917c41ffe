"""Threads in known calls, values of every kind; says of itself, as JSON, what a reader must find.

Standard library only, Python 3.8 and newer. After one line of JSON it sleeps.
"""
import array
import asyncio
import collections
import dataclasses
import datetime
import decimal
import dis
import enum
import fractions
import functools
import gc
import http
import json
import operator
import pathlib
import re
import sys
import threading
import time
import traceback
import types
import uuid
import weakref

try:
    import zoneinfo
except ImportError:  # before 3.9
    zoneinfo = None

ITEMS = 1000
TEXT = 1000


class Plain:
    def __init__(self, **fields):
        for name, value in fields.items():
            setattr(self, name, value)

    def method(self):
        return self


class Shared:
    """Instances share their keys until one of them strays."""

    def __init__(self, number):
        self.number = number
        self.text = str(number)
        self.items = [number]


class Slotted:
    __slots__ = ("left", "right", "unset")

    def __init__(self, left, right):
        self.left = left
        self.right = right


class SlottedChild(Slotted):
    __slots__ = ("extra",)

    def __init__(self):
        super().__init__(1, "two")
        self.extra = [3]


class SlottedAndDict(Slotted):
    def __init__(self):
        super().__init__("l", "r")
        self.free = 1.5


class MyInt(int):
    pass


class MyStr(str):
    pass


class MyList(list):
    pass


class MyTuple(tuple):
    pass


class MyDict(dict):
    pass


class MyFloat(float):
    pass


class MyBytes(bytes):
    pass


class Failure(Exception):
    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


class Colour(enum.Enum):
    RED = 1
    GREEN = "g"


class Number(enum.IntEnum):
    ONE = 1


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


class Mode(enum.IntFlag):
    A = 1
    B = 4


@dataclasses.dataclass
class Order:
    number: int
    lines: list
    customer: object = None


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float


Pair = collections.namedtuple("Pair", "first second")


def closure(value):
    def inner(other):
        return value, other

    return inner


def generator(value):
    for item in range(value):
        yield item


async def coroutine():
    await asyncio.sleep(0)


async def async_generator():
    yield 1


def raised(error, cause=None, within=None):
    """An exception as `except` gets it: raised from another, or while another is handled."""
    try:
        if within is None:
            raise error from cause
        try:
            raise within
        except Exception:
            if cause is False:
                raise error from None
            raise error
    except Exception as caught:
        return caught.with_traceback(None)


DESCRIPTORS = tuple(
    type(descriptor)
    for descriptor in (str.join, dict.__dict__["fromkeys"], type.__dict__["__mro__"],
                       type.__dict__["__name__"])
)


class Described:
    @property
    def readable(self):
        return 1

    @classmethod
    def of_class(cls):
        return cls

    @staticmethod
    def static(value):
        return value


def slots_of(value):
    for base in type(value).__mro__:
        names = base.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def members_of(value):
    """Attributes that types written in C declare as objects."""
    for base in type(value).__mro__:
        for name, member in base.__dict__.items():
            written_in_c = not base.__flags__ & 1 << 9 or "." in base.__module__ or base.__module__ == "re"
            if written_in_c and isinstance(member, types.MemberDescriptorType) and not name.startswith("__"):
                held = getattr(value, name, None)
                if held is not None and name not in ("flags", "groups"):
                    yield name, held


def without_surrogates(text):
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def sized(found, length, limit):
    if length > limit:
        found.update(truncated=True, length=length)
    return found


# Descriptions of kinds that other modules add: (type, function).
OTHER_KINDS = []


def describe(value, around=()):
    """The JSON form of a value, from the inside."""
    found = {"type": type(value).__name__}
    for kind, description in OTHER_KINDS:
        if isinstance(value, kind):
            found.update(description(value))
            return found
    if value is None or isinstance(value, bool):
        found["value"] = value
    elif isinstance(value, enum.Enum):
        # Before 3.11 a combination of flags has no name.
        name = "." + value._name_ if value._name_ is not None else ""
        found["value"] = "<%s%s: %r>" % (type(value).__name__, name, value._value_)
    elif isinstance(value, (uuid.UUID, decimal.Decimal, pathlib.PurePath)):
        found["value"] = repr(value)
    elif isinstance(value, (datetime.date, datetime.time, datetime.timedelta, datetime.timezone)):
        found["value"] = repr(value)
    elif isinstance(value, int):
        found["value"] = int(value) if abs(value) < 2**53 else str(int(value))
    elif isinstance(value, float):
        finite = value == value and abs(value) != float("inf")
        found["value"] = float(value) if finite else float.__repr__(value)
    elif isinstance(value, str):
        found["value"] = without_surrogates(value[:TEXT])
        sized(found, len(value), TEXT)
    elif isinstance(value, (bytes, bytearray)):
        found["value"] = repr(bytes(value[:TEXT]))
        sized(found, len(value), TEXT)
    elif isinstance(value, (complex, type(...), type(NotImplemented))):
        found["value"] = repr(value)
    elif isinstance(value, type):
        found["value"] = "<class '%s'>" % value.__name__
    elif isinstance(value, types.ModuleType):
        found["value"] = "<module '%s'>" % value.__name__
    elif isinstance(value, types.FunctionType):
        found["value"] = "<function %s>" % value.__qualname__
    elif isinstance(value, types.MethodType):
        found["value"] = "<bound method %s>" % value.__qualname__
    elif isinstance(value, types.GeneratorType):
        found["value"] = "<generator object %s>" % value.__qualname__
    elif isinstance(value, types.CoroutineType):
        found["value"] = "<coroutine object %s>" % value.__qualname__
    elif isinstance(value, types.AsyncGeneratorType):
        found["value"] = "<async_generator object %s>" % value.__qualname__
    elif isinstance(value, types.CodeType):
        found["value"] = '<code object %s, file "%s", line %d>' % (
            value.co_name, value.co_filename, value.co_firstlineno)
    elif isinstance(value, types.BuiltinFunctionType):
        found["value"] = "<built-in function %s>" % value.__name__
    elif isinstance(value, types.WrapperDescriptorType):  # 3.15 prints some without their type
        found["value"] = "<slot wrapper '%s' of '%s' objects>" % (value.__name__, value.__objclass__.__name__)
    elif isinstance(value, DESCRIPTORS):
        found["value"] = repr(value)
    elif isinstance(value, memoryview):
        found["value"] = repr(value.tobytes()[:TEXT])
        sized(found, value.nbytes, TEXT)
    elif any(value is outer for outer in around):
        found["not_captured_reason"] = "cycle"
    else:
        around = around + (value,)
        if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
            items = list(value)
            found["elements"] = [describe(item, around) for item in items[:ITEMS]]
            sized(found, len(items), ITEMS)
        elif isinstance(value, dict):
            items = list(value.items())
            found["entries"] = [[describe(k, around), describe(v, around)] for k, v in items[:ITEMS]]
            sized(found, len(items), ITEMS)
        elif isinstance(value, (range, slice)):
            found["fields"] = {n: describe(getattr(value, n), around) for n in ("start", "stop", "step")}
        elif isinstance(value, (type({}.keys()), type({}.values()), array.array)):
            items = list(value)
            found["elements"] = [describe(item, around) for item in items[:ITEMS]]
            sized(found, len(items), ITEMS)
        elif isinstance(value, (type({}.items()), types.MappingProxyType)):
            items = list(dict(value).items())
            found["entries"] = [[describe(k, around), describe(v, around)] for k, v in items[:ITEMS]]
        elif isinstance(value, weakref.ref):
            found["fields"] = {"referent": describe(value(), around)}
        elif isinstance(value, (classmethod, staticmethod)):
            found["fields"] = {"__func__": describe(value.__func__, around)}
        elif isinstance(value, property):
            parts = {n: getattr(value, n) for n in ("fget", "fset", "fdel")}
            found["fields"] = {n: describe(part, around) for n, part in parts.items() if part is not None}
        elif isinstance(value, types.CellType):
            found["fields"] = {"contents": describe(value.cell_contents, around)}
        elif isinstance(value, functools.partial):
            found["fields"] = {n: describe(getattr(value, n), around) for n in ("func", "args", "keywords")}
        else:
            fields = dict(getattr(value, "__dict__", {}))
            fields.update(slots_of(value))
            fields.update(members_of(value))
            if isinstance(value, BaseException):
                fields["args"] = value.args
                if value.__cause__ is not None:
                    fields["__cause__"] = value.__cause__
                elif value.__context__ is not None and not value.__suppress_context__:
                    fields["__context__"] = value.__context__
            found["fields"] = {name: describe(field, around) for name, field in fields.items()}
    return found


# What weak references of the corpus point to.
KEPT = []


def corpus():
    values = {}

    def add(name, *of_kind):
        for value in of_kind:
            values["%s %d" % (name, len(values))] = value

    add("singleton", None, True, False, ..., NotImplemented)
    add("int", 0, 1, -1, 255, 256, -5, 257, MyInt(7), MyInt(-(2**70)))
    for bits in (15, 29, 30, 31, 32, 52, 53, 59, 60, 61, 63, 64, 89, 90, 91, 120, 256, 1000, 4000):
        add("int of %d bits" % bits, 2**bits - 1, 2**bits, -(2**bits), -(2**bits) - 1)
    add("float", 0.0, -0.0, 1.5, -2.25, 0.1, 1e16, 1e15, 1e-5, 0.0001, 5e-324, 1.7976931348623157e308)
    add("float special", float("nan"), float("inf"), float("-inf"), MyFloat(2.5))
    add("complex", 1j, 1 + 2j, -1.5 - 0.5j, 0j, complex(3, -4))
    add("str", "", "a", "plain", "caf\xe9", "\xff" * 3, "\u20ac10", "\u65e5\u672c\u8a9e", "\U0001f600", "a\x00b")
    add("str quotes", "it's", '"', "'\"", "\\", "line\nbreak\ttab", "\x1b[31m", "\ud800", "\u202e", "\xa0")
    for length in (1, 7, 255, 256, 999, 1000, 1001, 70000):
        add("str of %d" % length, "x" * length, "\xe9" * length, "\u20ac" * length, "\U0001f600" * length)
    add("str subclass", MyStr("sub"), MyStr("\u20ac"), MyStr(""))
    add("bytes", b"", b"abc", bytes(range(256)), b"'", b"x" * 2000, MyBytes(b"sub"))
    add("bytearray", bytearray(), bytearray(b"abc"), bytearray(b"x" * 5000))
    moved = bytearray(b"0123456789")
    del moved[:3]
    add("bytearray moved", moved)
    add("tuple", (), (1,), (1, "a", None), ((), ((),)), MyTuple((1, 2)), tuple(range(1500)))
    add("namedtuple", Pair(1, "two"), Pair(Pair(1, 2), None))
    add("list", [], [1], [1, "a", [2, [3]]], MyList([1, 2]), list(range(2000)), [[]] * 3)
    add("set", set(), {1}, {1, 2, 3}, {"a"}, set(range(500)), frozenset(), frozenset({1, "x"}))
    emptied = set(range(50))
    for number in range(0, 50, 3):
        emptied.discard(number)
    add("set with removed", emptied)
    add("dict", {}, {"a": 1}, {1: "a", "b": 2}, {(1, 2): [3]}, {None: None}, MyDict(a=1), {"k": {"k": {}}})
    for size in (5, 6, 100, 170, 171, 300, 1000, 1001, 44000, 90000):
        add("dict of %d" % size, {number: number for number in range(size)}, {"k%d" % n: n for n in range(size)})
    deleted = {"k%d" % number: number for number in range(20)}
    for number in range(0, 20, 2):
        del deleted["k%d" % number]
    again = dict(deleted)
    again["k2"] = "back"
    mixed = {"a": 1, 2: "b"}
    del mixed["a"]
    add("dict with deleted", deleted, again, mixed)
    counted = collections.defaultdict(list)
    counted["x"].append(1)
    add("dict subclass", counted, collections.OrderedDict(a=1, b=2), collections.Counter("hello"))
    long = collections.deque(range(200))
    long.rotate(70)
    reordered = collections.OrderedDict((number, str(number)) for number in range(12))
    reordered.move_to_end(3)
    reordered.move_to_end(7, last=False)
    del reordered[5]
    add("ordered dict", reordered, collections.OrderedDict(), collections.OrderedDict.fromkeys(range(1200)))
    nested = collections.defaultdict(lambda: collections.defaultdict(int))
    nested["a"]["b"] += 1
    add("defaultdict", collections.defaultdict(int, a=1), nested, collections.ChainMap({"a": 1}, {"b": 2}))
    viewed = {"a": 1, (2,): [3]}
    add("dict view", viewed.keys(), viewed.values(), viewed.items(), types.MappingProxyType(viewed))
    add("deque", collections.deque(), collections.deque([1, 2]), long, collections.deque([1, 2, 3], maxlen=2))
    strayed, grown, shrunk = Shared(1), Shared(2), Shared(3)
    strayed.extra = "later"
    for number in range(40):
        setattr(grown, "field%d" % number, number)
    del shrunk.text
    looked_at = Shared(4)
    looked_at.__dict__["added"] = True
    add("instance", Plain(), Plain(a=1), Plain(a=Plain(b=Plain())), Shared(5), strayed, grown, shrunk, looked_at)
    replaced = Shared(6)
    replaced.__dict__ = {"only": 1}
    add("instance with another dict", replaced)
    add("slots", Slotted(1, [2]), SlottedChild(), SlottedAndDict())
    add("dataclass", Order(1, [Point(1.0, -2.5)]), Point(0.0, 1e300))
    add("enum", Colour.RED, Colour.GREEN, Number.ONE)
    add("flag", Permission.READ, Permission.READ | Permission.WRITE, Permission(0), Mode.A, Mode.A | Mode.B, Mode(2))
    add("enum of the library", http.HTTPStatus.NOT_FOUND)
    zone = datetime.timezone(datetime.timedelta(hours=-3, minutes=-30))
    utc = datetime.timezone.utc
    add("date", datetime.date(1, 1, 1), datetime.date(2024, 2, 29), datetime.date(9999, 12, 31))
    add("time", datetime.time(), datetime.time(23, 59, 58), datetime.time(1, 2, 3, 4), datetime.time(1, tzinfo=utc))
    add("datetime", datetime.datetime(2024, 1, 2), datetime.datetime(2024, 1, 2, 3, 4, 5, 678901))
    add("datetime with zone", datetime.datetime(2024, 1, 2, tzinfo=utc), datetime.datetime(2024, 1, 2, 3, tzinfo=zone))
    add("datetime fold", datetime.datetime(2024, 10, 27, 2, fold=1), datetime.time(2, 30, fold=1))
    named = datetime.timezone(datetime.timedelta(hours=2), "CEST")
    add("named zone", datetime.datetime(2024, 1, 2, tzinfo=named), datetime.time(1, tzinfo=named))
    add("zone", utc, zone, named)
    if zoneinfo is not None and zoneinfo.available_timezones():
        add("zoneinfo", datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")))
    add("timedelta", datetime.timedelta(), datetime.timedelta(1, 2, 3), datetime.timedelta(-1), datetime.timedelta(0, 5))
    for text in ("0", "1.50", "-0.001", "1E-7", "12E+3", "NaN", "-Infinity", "sNaN", "0.00", "-0", "9" * 60, "1E+400"):
        add("decimal " + text, decimal.Decimal(text))
    add("uuid", uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), uuid.UUID("12345678-1234-5678-1234-567812345678"))
    windows = pathlib.PureWindowsPath
    add("windows path", windows("C:/a/b"), windows("a\\b"), windows("//host/share/x"), windows("C:a"))
    add("path of here", pathlib.Path("/srv") / "a", pathlib.Path("a") / "b" / ".." / "c", pathlib.Path())
    add("path", pathlib.PurePosixPath("/a/b"), pathlib.PurePosixPath("a"), pathlib.PurePosixPath("."))
    add("fraction", fractions.Fraction(1, 3))
    add("range", range(3), range(1, 100, 7), slice(1, None), slice(None, 5, -1))
    add("exception", ValueError("x"), KeyError(), Failure("bad", 7), OSError(2, "no"))
    cause, context = KeyError("inner"), OSError(13, "denied", "/etc/shadow")
    add("exception with cause", raised(ValueError("outer"), cause), raised(Failure("outer", 1), within=context))
    add("exception with context hidden", raised(ValueError("outer"), False, within=TypeError("hidden")))
    add("exception of the system", OSError(2, "no", "/a"), StopIteration(5), SystemExit(3), UnicodeError("u"))
    add("builtin", len, [].append, time.sleep, operator.itemgetter, str.join, object.__str__)
    add("descriptor", dict.__dict__["fromkeys"], type.__dict__["__mro__"], type.__dict__["__name__"])
    add("descriptor of Python", *(Described.__dict__[name] for name in ("readable", "of_class", "static")))
    add("cell", *closure([1]).__closure__)
    add("code", closure.__code__, compile("1\n", "<text>", "eval"))
    add("memoryview", memoryview(b"abc"), memoryview(bytearray(3000)), memoryview(b"abcdef")[::-2], memoryview(b""))
    add("memoryview shaped", memoryview(bytes(range(24))).cast("B", [2, 3, 4]), memoryview(array.array("i", [1, -1])))
    add("array", *(array.array(code, [1, 0, 100]) for code in "bBhHiIlLqQfd"))
    add("array of text", array.array("w" if sys.version_info >= (3, 13) else "u", "h\xe9\u20ac"))
    add("array", array.array("i"), array.array("h", range(1500)))
    referent = Plain(a=1)
    KEPT.append(referent)
    add("weakref", weakref.ref(referent), weakref.ref(Plain()))
    add("namespace", types.SimpleNamespace(), types.SimpleNamespace(a=1, b=[2]))
    add("cached function", functools.lru_cache(maxsize=5)(closure))
    add("pattern", re.compile("a(?P<name>b)"))
    add("async generator", async_generator())
    add("callable", closure, closure(1), Plain().method, functools.partial(closure, 1, key=2), Plain, int)
    add("generator", generator(3))
    add("coroutine", coroutine())
    add("module", sys, collections)
    itself = [1]
    itself.append(itself)
    circle = {"name": "circle"}
    circle["me"] = circle
    parent = Plain()
    parent.child = Plain(parent=parent)
    add("recursive", itself, circle, parent)
    twice = [1, 2]
    add("shared twice", [twice, twice])
    return values


parked = threading.Semaphore(0)


def park(depth):
    if depth:
        return park(depth - 1)
    parked.release()
    while True:
        time.sleep(3600)


def in_generator():
    yield park(1)


async def in_coroutine():
    await in_nested_coroutine()


async def in_nested_coroutine():
    park(0)


timeouts = iter([0.0] * 20000 + [3600.0])


def in_hot_loop():
    """The last of many equal calls blocks: compiled by then, where there is a JIT."""
    lock = threading.Lock()
    acquire = lock.acquire
    acquire()
    parked.release()
    for seconds in timeouts:
        acquire(True, seconds)


class Worker:
    def run(self, key=None):
        return sorted([2, 1], key=lambda item: park(2))


ENTRIES = [
    in_hot_loop,
    lambda: park(5),
    lambda: next(in_generator()),
    lambda: asyncio.run(in_coroutine()),
    Worker().run,
    lambda: [park(number) for number in (3,)],
    lambda: (
        park(
            1
        )
    ),
]


def stacks():
    frames = sys._current_frames()
    found = {}
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.ident in frames:
            stack = traceback.extract_stack(frames[thread.ident])
            found[str(thread.native_id)] = [[f.filename, f.lineno, f.name] for f in reversed(stack)]
    return found


def code_objects(code):
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from code_objects(const)


def lines(code):
    if hasattr(code, "co_lines"):
        return [[at, line] for start, end, line in code.co_lines() for at in range(start, end, 2)]
    return [list(start) for start in dis.findlinestarts(code)]


# The text form of these is what Python prints.
PRINTED = (int, float, str, bytes, complex, bool, type(None), type(...), bytearray, list, tuple, dict, set, frozenset,
           decimal.Decimal, uuid.UUID, datetime.date, datetime.time, datetime.datetime, datetime.timedelta,
           datetime.timezone, type(pathlib.Path()), pathlib.PurePosixPath, pathlib.PureWindowsPath)


def hold(module_code, values):
    password = "hunter2"
    request = {"url": "http://user:hunter2@host/", "api_key": "hunter2", "note": "fine"}
    text = {name: repr(value) for name, value in values.items() if type(value) in PRINTED and "recursive" not in name}
    for entry in ENTRIES:
        threading.Thread(target=entry, daemon=True).start()
    for _ in ENTRIES:
        parked.acquire()
    while operator.length_hint(timeouts):
        time.sleep(0.01)
    time.sleep(0.3)
    functions = [f for f in gc.get_objects() if isinstance(f, types.FunctionType)]
    facts = {
        "values": {name: describe(value) for name, value in values.items()},
        "text": text,
        "stacks": stacks(),
        "jit": getattr(sys, "_jit", None) is not None and sys._jit.is_enabled(),
        "code": [[c.co_name, c.co_firstlineno, lines(c)] for c in code_objects(module_code)],
        "qualnames": [
            [f.__code__.co_name, f.__code__.co_firstlineno, f.__qualname__]
            for f in functions
            if f.__code__.co_filename == module_code.co_filename and not hasattr(f, "__wrapped__")
        ],
    }
    print(json.dumps(facts), flush=True)
    while True:
        time.sleep(3600)
    return password, request


if __name__ == "__main__":
    hold(sys._getframe().f_code, corpus())
