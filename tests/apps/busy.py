"""Threads that change their objects all the time, so that what is read of them tells whether it was whole.

`busy.py THREADS`: standard library only, Python 3.8 and newer. Prints every tenth of a second how many rounds it has
done in all, and the time in seconds.

A round has a number that no other has. `started` is set to it before everything else is changed and `finished`
after, so in any true picture of `mutate` in which both are equal, all else is of that round. Tuples and texts are
replaced at once, and arguments never change: they agree in every true picture.
"""
import collections
import itertools
import sys
import threading
import time

MODULUS = (1 << 61) - 1
SIZE = 16


class Account:
    def __init__(self):
        self.started = 0
        self.left = 0
        self.right = 0
        self.items = [0] * SIZE
        self.check = 0
        self.finished = 0

    def change(self, number):
        self.started = number
        self.left = number + 1
        self.right = number * 3
        for at in range(SIZE):
            self.items[at] = number + at
        self.check = (self.left + self.right + sum(self.items)) % MODULUS
        self.finished = number


class Slots:
    __slots__ = ("left", "right", "check")


def down(depth, number, check):
    if depth == 0:
        return check
    return down(depth - 1, number, number * 7 + depth - 1)


def mutate(first, step, shared, lock, done, who):
    started = finished = 0
    items = [0] * SIZE
    mapping = {}
    numbers = set()
    queue = collections.deque([0] * SIZE, SIZE)
    buffer = bytearray(24)
    slots = Slots()
    slots.left = slots.right = slots.check = 0
    account = Account()
    left = right = check = 0
    pair = (0, 0)
    text = "0:0"
    large = (0, 0)
    nested = {"rows": [[0, 0]]}
    for number in itertools.count(first, step):
        started = number
        pair = (number, number * 5)
        left = number + 1
        for at in range(SIZE):
            items[at] = number + at
        for at in range(SIZE):
            mapping["key%d" % ((number + at) % 40)] = number + at
        for key in [key for key in mapping if key != "sum" and mapping[key] < number]:
            del mapping[key]
        mapping["sum"] = sum(items)
        numbers.clear()
        for at in range(SIZE):
            numbers.add(number + at)
            queue.append(number + at)
        buffer[0:8] = number.to_bytes(8, "little")
        slots.left = number
        text = "%d:%d" % (number, number * 11)
        account.change(number)
        down(5, number, number * 7 + 5)
        slots.right = number * 2
        large = (number**3, number**3 % MODULUS)
        nested["rows"] = [[number + at, (number + at) * 13] for at in range(SIZE)]
        buffer[8:16] = (number * 2).to_bytes(8, "little")
        slots.check = slots.left + slots.right
        buffer[16:24] = (number * 3).to_bytes(8, "little")
        with lock:
            shared.change(number)
        right = number * 3
        check = left + right
        finished = number
        done[who] += 1


def main():
    threads = int(sys.argv[1])
    shared, lock, done = Account(), threading.Lock(), [0] * threads
    for who in range(threads):
        # Large enough for every integer to be an object of its own.
        arguments = (1_000_000_007 + who, threads, shared, lock, done, who)
        threading.Thread(target=mutate, args=arguments, daemon=True).start()
    while True:
        print(sum(done), time.monotonic(), flush=True)
        time.sleep(0.1)


main()
