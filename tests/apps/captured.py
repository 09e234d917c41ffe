"""A function with variables of many kinds, whose line marked "here" is a breakpoint's. For each line of input it is called
once; the first is a list of expressions, of which it writes the values that eval() has there."""

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import sys
import uuid

LIMIT = 100
NAMES = {"global": [1, 2, 3]}


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Address:
    country: str
    lines: list


class Customer:
    kind = "customer"

    def __init__(self, name, address):
        self.name = name
        self.address = address

    @property
    def upper(self):
        return self.name.upper()

    def method(self):
        return self.name


class Order:
    currency = "EUR"
    taxes = {"AT": 20, "DE": 19}

    def __init__(self, total, customer):
        self.total = total
        self.customer = customer
        self.tags = ["new", "paid"]
        self.lines = {"pen": 3, "book": 1}


class Slotted:
    __slots__ = ("left", "right", "unset")

    def __init__(self):
        self.left = 4
        self.right = "r"


def describe(value):
    name = type(value).__name__
    if isinstance(value, enum.Enum):
        return name
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, (datetime.date, decimal.Decimal)):
        return repr(value)
    for kind in (int, float, str, bytes):
        if isinstance(value, kind):
            return name + ":" + kind.__repr__(value)
    if isinstance(value, (list, tuple, collections.deque)):
        return name + "[" + ", ".join(describe(item) for item in value) + "]"
    if isinstance(value, (set, frozenset)):
        return name + "[" + ", ".join(sorted(describe(item) for item in value)) + "]"
    if isinstance(value, dict):
        pairs = (describe(key) + "=" + describe(item) for key, item in value.items())
        return name + "[" + ", ".join(sorted(pairs)) + "]"
    return name


def tell(expressions, values):
    outcomes = []
    for expression in expressions:
        try:
            value = eval(expression, values)
            outcomes.append({"plain": describe(value), "repr": repr(value), "truth": bool(value)})
        except Exception as error:
            outcomes.append({"error": repr(error)})
    print(json.dumps(outcomes), flush=True)


def work(ask):
    order = Order(149.5, Customer("Ada", Address("AT", ["Ring 1", "Wien"])))
    number, big, half, yes, nothing = 7, 2**70, 2.5, True, None
    text, wide = "Hello", "snow ☃"
    # Longer than what is captured of a string, and of a container.
    page = "<html>" + "x" * 2000 + "</html>"
    data = b"bytes\x00"
    numbers = [5, 3, 9]
    many = list(range(1000, 1100))
    table = {"row%d" % at: at for at in range(60)}
    numbered = {1: "one", (1, 2): "pair", None: "none"}
    letters = {"x", "y"}
    crowd = set(range(500, 900))
    queue = collections.deque([10, 20])
    chain = [[[[[["deep"]]]]]]
    colour, point, slotted = Colour.RED, Point(3, 4), Slotted()
    cost = decimal.Decimal("10.50")
    moment = datetime.datetime(2024, 2, 29, 13, 45)
    identifier = uuid.UUID(int=5)
    error = ValueError("bad", 3)
    captured = ["cell"]
    kind, function = Order, describe

    def closure():
        return captured

    values = ask(locals())
    del values
    return closure  # here


def main():
    print("ready", flush=True)
    program = json.loads(sys.stdin.readline())
    work(lambda variables: tell(program, {**globals(), **variables}))
    for _ in sys.stdin:
        work(lambda variables: None)
        print("done", flush=True)


main()
