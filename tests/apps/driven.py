"""Does what it is told: evaluates each line of its standard input and answers with a line of JSON.

    driven.py FOLDER...

Modules come from the folders. `load(NAME)` imports one, `loop(FUNCTION, ARGUMENTS, THREADS, PAUSE)` calls a function
with each of the arguments in as many threads, and `begin(...)` the same without waiting: `count()` says how many calls
have ended since, `end()` stops it.
"""

import importlib
import json
import sys
import threading
import time

sys.path[:0] = sys.argv[1:]
sys.dont_write_bytecode = True


class Loop:
    def __init__(self, function, arguments, threads, pause):
        self.stopped = False
        self.counts = [0] * threads
        parts = [arguments[n::threads] for n in range(threads)]
        self.threads = [
            threading.Thread(target=self.run, args=(n, function, part, pause), daemon=True)
            for n, part in enumerate(parts)
        ]
        for thread in self.threads:
            thread.start()

    def run(self, n, function, arguments, pause):
        for argument in arguments:
            if self.stopped:
                return
            function(argument)
            self.counts[n] += 1
            if pause:
                time.sleep(pause)

    def join(self):
        for thread in self.threads:
            thread.join()
        return sum(self.counts)


def load(name):
    globals()[name] = importlib.import_module(name)
    return globals()[name].__file__


def loop(function, arguments, threads=1, pause=0.0):
    return Loop(function, arguments, threads, pause).join()


def begin(function, arguments, threads=1, pause=0.0):
    global running
    running = Loop(function, arguments, threads, pause)


def count():
    return sum(running.counts)


def end():
    running.stopped = True
    return running.join()


def main():
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(eval(line, globals()), default=vars), flush=True)


if __name__ == "__main__":
    main()
