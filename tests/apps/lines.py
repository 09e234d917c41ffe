"""Runs lines of all kinds known numbers of times.

Standard library only, Python 3.8 and newer. A line that ends in `#= N` is executed N times in a round. Commands on
standard input, each answered by a line:
`run N`: N rounds; `trace`: one round, of which it says, as JSON, the local variables that `sys.settrace` saw at those
lines; `threads N`: N rounds in each of four threads of before and four of after; `bursts N`: a round in each of N threads, one after
the other; `fork N`: N rounds in four children at once; `workers`: forks four more that wait, and `work N`: N rounds in
each of them, and as many in a thread of each; `instants N X`: N turns of a loop, with X = shared beside another thread.
"""
import asyncio
import json
import os
import queue
import re
import sys
import threading

total = 0


def described(value, *names):
    """As the agent shows instances: those attributes that are set."""
    found = ["%s=%r" % (name, getattr(value, name)) for name in names if hasattr(value, name)]
    return "%s(%s)" % (type(value).__name__, ", ".join(found))


class Thing:
    __slots__ = ("name", "parts")

    def __init__(self, name, parts):
        self.name = name  #= 2
        self.parts = parts  #= 2

    def __repr__(self):
        return described(self, "name", "parts")


class Person:
    kind = "person"

    def __init__(self, name, age):
        # In this order: some versions keep attributes in the order of their names.
        self.age = age
        self.name = name

    def older(self, by):
        self.age += by  #= 3
        return self  #= 3

    @property
    def text(self):
        return "%s, %d" % (self.name, self.age)  #= 1

    @staticmethod
    def still(value):
        return value  #= 1

    @classmethod
    def named(cls, name):
        return cls(name, 1)  #= 1

    def __repr__(self):
        return described(self, "age", "name")


def decorate(function):
    def wrapper(*arguments, **named):
        return function(*arguments, **named)  #= 2

    return wrapper


def assignments(number, text):
    first = number + 1  #= 1
    second = [first, text, (first, text)]  #= 1
    third = {"a": first, "b": second}  #= 1
    third["c"] = 2.5  #= 1
    first, second = second, first  #= 1
    first[0] += 1  #= 1
    del third["a"]  #= 1
    long = (  #= 0
        number +  #= 0
        second  #= 0
    )
    return first, second, third  #= 1


def loops(count):
    found = 0  #= 1
    for at in range(count):  #= 1
        found += at  #= 5
    at = 0  #= 1
    while at < count:  #= 6
        at += 1  #= 5
        if at == 2:  #= 5
            continue  #= 1
        if at == 4: found += 1  #= 4
    else:
        found += 1  #= 1
    while True:
        at -= 1  #= 3
        if at < 3:  #= 3
            break  #= 1
    for row in [[1, 2], [3]]:  #= 1
        for cell in row:  #= 2
            found += cell  #= 3
    return found  #= 1


def conditions(value):
    if value > 2:  #= 3
        result = "large"  #= 1
    elif value > 1:  #= 2
        result = "middle"  #= 1
    else:
        result = "small"  #= 1
    if value: result += "!"  #= 3
    chosen = 1 if value > 1 else 2  #= 3
    assert value > 0, "positive"  #= 3
    return result + str(chosen)  #= 3


def handlers(value):
    try:
        if value == 1:  #= 3
            raise ValueError("one")  #= 1
        if value == 2:  #= 2
            {}["missing"]  #= 1
        done = "fine"  #= 1
    except ValueError as error:  #= 2
        done = str(error)  #= 1
    except KeyError:  #= 1
        done = "key"  #= 1
    else:
        done += "?"  #= 1
    finally:
        done = done + "."  #= 3
    try:
        pass
    finally:
        done += ","  #= 3
    return done  #= 3


class Manager:
    def __repr__(self):
        return described(self)

    def __enter__(self):
        return 5  #= 2

    def __exit__(self, kind, raised, trace):
        return kind is not None  #= 2


def managed(fail):
    result = 0  #= 2
    with Manager() as entered:  #= 2
        result += entered  #= 2
        if fail:  #= 2
            raise KeyError(fail)  #= 1
        result += 1  #= 1
    return result  #= 2


def expressions(items):
    squares = [item * item for item in items]  #= 1
    unique = {item % 2 for item in items}  #= 1
    table = {item: str(item) for item in items}  #= 1
    lazy = sum(item for item in items)  #= 1
    several = [
        item + 1  #= 4
        for item in items  #= 0
        if item  #= 0
    ]
    add = lambda left, right: left + right  #= 5
    for item in items:
        lazy = add(lazy, item)  #= 4
    text = f"{lazy} of {len(items)}"  #= 1
    joined = max(  #= 1
        lazy,  #= 1
        len(text),  #= 1
    )
    return squares, unique, table, several, joined  #= 1


def generates(count):
    yield 0  #= 1
    for at in range(count):  #= 1
        got = yield at  #= 3
    return got  #= 1


async def waits(value):
    await asyncio.sleep(0)  #= 2
    value += 1  #= 2
    async with Asynchronous() as entered:  #= 2
        value += entered  #= 2
    async for item in Asynchronous():  #= 2
        value += item  #= 4
    return value  #= 2


class Asynchronous:
    def __repr__(self):
        return described(self, "left")

    async def __aenter__(self):
        return 3  #= 2

    async def __aexit__(self, *_):
        return None  #= 2

    def __aiter__(self):
        self.left = 2  #= 2
        return self  #= 2

    async def __anext__(self):
        if not self.left:  #= 6
            raise StopAsyncIteration  #= 2
        self.left -= 1  #= 4
        return self.left  #= 4


def closures(start):
    kept = start  #= 1

    def inner(by):
        nonlocal kept  #= 0
        kept += by  #= 3
        return kept  #= 3

    inner(1)  #= 1
    inner(2)  #= 1
    return inner(3) + kept  #= 1


@decorate
def decorated(value):
    return value * 2  #= 2


def recursive(level):
    if not level:  #= 4
        return 0  #= 1
    return 1 + recursive(level - 1)  #= 3


def one_line(value): return value + 1  #= 1


def everything():
    global total
    total += 1  #= 1
    Thing("box", [1]), Thing("bag", {"a": (1, 2)})
    person = Person("Ann", 30)  #= 1
    person.older(1).older(2).older(3)  #= 1
    Person.still(Person.named("Bob").name), person.text  #= 1
    assignments(3, "x")  #= 1
    loops(5)  #= 1
    for value in (1, 2, 3):
        conditions(value), handlers(value)  #= 3
    managed(False), managed("y")  #= 1
    expressions([1, 2, 3, 4])  #= 1
    list(generates(3)), list(delegates())  #= 1
    for coroutine in (waits(1), waits(2)):
        run_coroutine(coroutine)  #= 2
    closures(4)  #= 1
    decorated(2), decorated("ab")  #= 1
    recursive(3), one_line(4)  #= 1

    class Body:  #= 1
        __repr__ = described
        attribute = total  #= 1

        def method(self):
            return self  #= 1

    Body().method()  #= 1


def delegates():
    yield 1  #= 1
    yield from (2, 3)  #= 1


def run_coroutine(coroutine):
    """What a loop does, without one."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as stop:
        return stop.value


def plain(value):
    return re.sub(r" at 0x[0-9a-f]+|__main__\.", "", repr(value))


def traced(lines):
    seen = {}

    def local(frame, event, argument):
        if event == "line" and frame.f_lineno in lines:
            values = {name: plain(value) for name, value in frame.f_locals.items()}
            seen.setdefault(frame.f_lineno, []).append(values)
        return local

    def begin(frame, event, argument):
        return local if frame.f_code.co_filename == everything.__code__.co_filename else None

    sys.settrace(begin)
    everything()
    sys.settrace(None)
    return seen


def rounds(count):
    for _ in range(count):
        everything()


def instants(count):
    """Variables that are always the same number at the marked line; `shared` is another thread's."""
    first = second = 0
    items, table, text, thing = [0], {"number": 0}, "0", Thing("0", [0])
    while first < count:
        first += 1
        second += 1
        items[0] = table["number"] = first
        text = str(first)
        thing.name, thing.parts[0] = text, first
        mark = shared  # instant
    return mark, second


shared = [0, 0]


def sharing():
    number = 0
    while True:
        number += 1
        shared[:] = (number, number)


def work(tasks, done):
    while True:
        done.put(rounds(tasks.get()))


def start_worker():
    """A child that works when it is told to; what to tell it with, and where it answers."""
    told, tell = os.pipe()
    answer, answered = os.pipe()
    if os.fork() == 0:
        os.close(tell)
        os.close(answer)
        for line in os.fdopen(told):
            thread = threading.Thread(target=rounds, args=(int(line),))
            rounds(int(line))
            thread.start()
            thread.join()
            os.write(answered, b".")
        os._exit(0)
    os.close(told)
    os.close(answered)
    return tell, answer


def main():
    workers = []
    tasks, done = queue.Queue(), queue.Queue()
    for _ in range(4):
        threading.Thread(target=work, args=(tasks, done), daemon=True).start()
    everything()
    print("ready", flush=True)
    for line in sys.stdin:
        command, *rest = line.split()
        answer = "done"
        if command == "run":
            rounds(int(rest[0]))
        elif command == "trace":
            answer = json.dumps(traced({int(number) for number in rest}))
        elif command == "threads":
            threads = [threading.Thread(target=rounds, args=(int(rest[0]),)) for _ in range(4)]
            for thread in threads:
                tasks.put(int(rest[0]))
                thread.start()
            for thread in threads:
                thread.join()
                done.get()
        elif command == "instants":
            if rest[1] == "shared":
                threading.Thread(target=sharing, daemon=True).start()
            instants(int(rest[0]))
        elif command == "bursts":
            for _ in range(int(rest[0])):
                thread = threading.Thread(target=rounds, args=(1,))
                thread.start()
                thread.join()
        elif command == "workers":
            workers.extend(start_worker() for _ in range(4))
        elif command == "work":
            for tell, _ in workers:
                os.write(tell, b"%s\n" % rest[0].encode())
            for _, answer in workers:
                os.read(answer, 1)
        elif command == "fork":
            children = []
            for _ in range(4):
                child = os.fork()
                if child == 0:
                    rounds(int(rest[0]))
                    os._exit(0)
                children.append(child)
            for child in children:
                os.waitpid(child, 0)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
