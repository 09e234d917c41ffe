"""Objects of every kind in one frame; evaluates expressions in it with eval(), for an evaluator outside to agree with.

Standard library only, Python 3.8 and newer. Reads a JSON list of expressions from standard input, prints one
line of JSON with what each gives, and sleeps.
"""
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import os
import sys
import time
import types
import uuid

LIMIT = 100
NAMES = {"a": 1, "b": 2}


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 10


class Plan(str, enum.Enum):
    FREE = "free"
    PRO = "pro"


class Size(int, enum.Enum):
    SMALL = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Base:
    kind = "base"
    shared = [1, 2]

    def __init__(self):
        self.inherited = True

    def method(self):
        return 1

    @classmethod
    def make(cls):
        return cls()

    @staticmethod
    def static():
        return 2


class Order(Base):
    kind = "order"
    shadowed = "class"

    def __init__(self, number, total):
        super().__init__()
        self.number = number
        self.total = total
        self.items = [Item("pen", 3, 1.5), Item("book", 1, 20.0), Item("cup", 2, 7.25)]
        self.shadowed = "instance"
        self.callback = len

    @property
    def computed(self):
        return self.total * 2

    @functools.cached_property
    def slow(self):
        return 42

    @functools.cached_property
    def ready(self):
        return 43


@dataclasses.dataclass
class Item:
    name: str
    count: int
    price: float
    note: str = "none"


class Slotted:
    __slots__ = ("left", "right", "unset")

    def __init__(self, left, right):
        self.left = left
        self.right = right


class Dynamic:
    def __init__(self):
        self.real = 5

    def __getattr__(self, name):
        return name + "!"


class Hooked:
    def __getattribute__(self, name):
        return 7


class Truthy:
    def __bool__(self):
        return False


class Sized:
    def __len__(self):
        return 3


class Equal:
    def __eq__(self, other):
        return True

    __hash__ = object.__hash__


class Ordered:
    def __init__(self, value):
        self.value = value

    def __lt__(self, other):
        return self.value < other.value


class MyInt(int):
    pass


class EvenInt(int):
    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1

    def __add__(self, other):
        return 0


class MyStr(str):
    pass


class LoudStr(str):
    def __str__(self):
        return "loud"


class MyList(list):
    pass


class OddList(list):
    def __getitem__(self, index):
        return "odd"

    def __iter__(self):
        return iter("odd")


class MyDict(dict):
    def __missing__(self, key):
        return "missing " + str(key)


class PlainDict(dict):
    pass


class Meta(type):
    def __instancecheck__(cls, instance):
        return True


class Strange(metaclass=Meta):
    pass


class NamedMeta(type):
    @property
    def name(cls):
        return "from the metaclass"

    other = 5


class Classy(metaclass=NamedMeta):
    name = "from the class"
    plain = "plain"


class Proxy:
    @property
    def __class__(self):
        return Order

    def __getattr__(self, name):
        return name

    def __eq__(self, other):
        return True


class IdentityStr(str):
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class member_descriptor:
    pass


class Holder:
    field = member_descriptor()


class bool_(int):
    pass


bool_.__name__ = "bool"


class Lazy(types.ModuleType):
    @property
    def attribute(self):
        return 1


Point = collections.namedtuple("Point", "x y")


class Shop(Exception):
    def __init__(self, code):
        super().__init__("no", code)
        self.code = code


def plain(value, levels=8):
    """The value in a form that does not depend on __repr__ and on the order of sets: as the test writes it too."""
    name = type(value).__name__
    if isinstance(value, enum.Enum) or levels == 0:
        return name
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)):
        return repr(value)
    name = name.replace("odict_", "dict_")
    for kind in (int, float, str, bytes, bytearray):
        if isinstance(value, kind):
            return name + ":" + (repr(bytes(value)) if kind is bytearray else kind.__repr__(value))
    views = (type({}.keys()), type({}.values()), type({}.items()))
    if isinstance(value, (list, tuple, collections.deque) + views):
        return name + "[" + ", ".join(plain(item, levels - 1) for item in value) + "]"
    if isinstance(value, (set, frozenset)):
        return name + "[" + ", ".join(sorted(plain(item, levels - 1) for item in value)) + "]"
    if isinstance(value, dict):
        pairs = (plain(key, levels - 1) + "=" + plain(item, levels - 1) for key, item in value.items())
        return name + "[" + ", ".join(sorted(pairs)) + "]"
    return name


def describe(value, truth):
    return {"plain": plain(value), "repr": repr(value), "truth": truth}


def main(expressions):
    number = 7
    zero = 0
    negative = -13
    big = 2**100 + 1
    huge = -(10**60)
    ratio = 0.1
    half = 2.5
    whole = 3.0
    nan = float("nan")
    infinite = float("inf")
    yes = True
    nothing = None
    text = "Hello, Wörld"
    wide = "snow ☃ man 😀!"
    empty = ""
    padded = "  spaced\tout \n"
    digits = "12345"
    decimal_text = " -1_000 "
    data = b"bytes\x00\xff"
    array = bytearray(b"array")
    numbers = [5, 3, 9, 1]
    mixed = [1, "two", 3.0, None, [4, 5], (6,)]
    nested = [[1, 2], [3, [4]]]
    none_list = []
    pair = (1, "b")
    triple = (3, 1, 2)
    letters = {"x", "y", "z"}
    frozen = frozenset([1, 2, 3])
    names = {"first": "Ada", "last": "Lovelace", "age": 36}
    by_number = {1: "one", 2: "two", 3.5: "half", (1, 2): "pair", None: "none"}
    deep = {"a": {"b": [{"c": 10}, {"c": 20}]}}
    large = {"row%d" % at: at for at in range(2000)}
    many = list(range(5000))
    settings = {"pass" + "word": "hunter2", "host": "db"}
    default = collections.defaultdict(int, {"a": 1})
    counter = collections.Counter("hello")
    ordered = collections.OrderedDict([("z", 1), ("a", 2)])
    queue = collections.deque([10, 20, 30])
    my_dict = MyDict(known=1)
    plain_dict = PlainDict(known=1)
    order = Order(1001, decimal.Decimal("149.90"))
    order.ready
    other = Order(1002, 99)
    item = Item("pen", 3, 1.5)
    slotted = Slotted(1, [2, 3])
    dynamic = Dynamic()
    hooked = Hooked()
    truthy = Truthy()
    sized = Sized()
    equal = Equal()
    small, great = Ordered(1), Ordered(2)
    my_int = MyInt(41)
    even_int = EvenInt(4)
    my_str = MyStr("mine")
    loud = LoudStr("quiet")
    my_list = MyList([1, 2, 3])
    odd_list = OddList([1, 2, 3])
    colour = Colour.RED
    level = Level.HIGH
    plan = Plan.PRO
    access = Access.READ
    size = Size.SMALL
    point = Point(3, 4)
    error = Shop(402)
    try:
        open("/nonexistent/file")
    except OSError as caught:
        os_error = caught
    cost = decimal.Decimal("10.50")
    precise = decimal.Decimal("0.1")
    bad = decimal.Decimal("NaN")
    proxy = Proxy()
    identity_str = IdentityStr("same")
    lazy = Lazy("lazy")
    holder = Holder()
    not_bool = bool_(5)
    moment = datetime.datetime(2024, 2, 29, 13, 45, 30, 123456)
    later = datetime.datetime(2024, 3, 1)
    aware = datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc)
    day = datetime.date(2024, 2, 29)
    clock = datetime.time(9, 5)
    delta = datetime.timedelta(days=2, seconds=30, microseconds=5)
    no_time = datetime.timedelta(0)
    identifier = uuid.UUID(int=5)
    twin = uuid.UUID(int=5)
    other_id = uuid.uuid4()
    status = os.stat("/")
    function = describe
    lambda_ = lambda: 1
    module = os
    generator = (n for n in [1])
    span = range(3, 10, 2)
    part = functools.partial(describe, 1)
    same = numbers
    copy = list(numbers)
    cycle = [1]
    cycle.append(cycle)
    link = "https://user:hunter2@db/x"

    def closure():
        return captured

    captured = ["in a cell"]
    deleted = 1
    del deleted
    # As globals, so that generator expressions see them.
    values = {**globals(), **locals()}
    outcomes = []
    for expression in expressions:
        try:
            value = eval(expression, values)
            outcomes.append(describe(value, bool(value)))
        except BaseException as failure:
            outcomes.append({"error": repr(failure)})
    sys.stdout.write(json.dumps(outcomes) + "\n")
    sys.stdout.flush()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(json.loads(sys.stdin.readline()))
