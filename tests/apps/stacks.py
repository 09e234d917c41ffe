"""Sends from known places; says of each, as JSON, the stack from which it was sent.

Standard library only, Python 3.8 and newer. Prints `ready` once threads of before the attach wait. At a line on standard
input it goes on and prints one line of JSON; so again, without a sub-interpreter that it had before; then it waits for
the end of standard input. What code it made it keeps until then.
"""
import asyncio
import json
import os
import socket
import sys
import threading
import traceback

stacks = {}
before = threading.Event()


def here():
    frame, found = sys._getframe(1), []
    while frame is not None:
        found.append([frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name])
        frame = frame.f_back
    return found


def pair():
    """Descriptors of a new connection, kept open."""
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def send(name):
    out = pair()[0]
    stacks[name] = here(); os.write(out, name.encode())  # noqa: E702 one line, because of its number


def deep(name, levels):
    if levels:
        return deep(name, levels - 1)
    send(name)


def generator(name):
    yield 1
    send(name)
    yield 2


def delegating(name):
    yield from generator(name)


async def innermost(name):
    await asyncio.sleep(0)
    send(name)


async def middle(name):
    await innermost(name)


async def outermost(name):
    await asyncio.gather(middle(name))


class Called:
    def __init__(self, name):
        self.name = name

    def __lt__(self, other):
        send(self.name)
        return True

    @property
    def attribute(self):
        send(self.name + " property")


def decorated(function):
    def wrapper(*arguments, **named):
        return function(*arguments, **named)

    return wrapper


@decorated
def behind(name):
    send(name)


def waits(name):
    before.wait()
    send(name)


def interpreters():
    """The module for sub-interpreters, if there is one."""
    for name in ("_xxsubinterpreters", "_interpreters"):
        try:
            return __import__(name)
        except ImportError:
            pass
    return None


def run_another(module):
    """A sub-interpreter in this thread, which says its stack itself."""
    out, (reader, writer) = pair()[0], os.pipe()
    source = """
import os, sys; kept = sys._getframe().f_code
def inner():
    frame, found = sys._getframe(0), []
    while frame is not None:
        found.append("%%s\\t%%d\\t%%s" %% (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    found[0] = found[0].replace("\\t6\\t", "\\t10\\t")
    os.write(%d, "\\n".join(found).encode())
    os.write(%d, b"in another interpreter")
inner()
""" % (writer, out)
    other = module.create()
    module.run_string(other, source)
    frames = [line.split("\t") for line in os.read(reader, 65536).decode().splitlines()]
    stacks["in another interpreter"] = [[file, int(line), name] for file, line, name in frames]
    return other


def main():
    early = [threading.Thread(target=waits, args=("thread of before %d" % at,)) for at in range(4)]
    for thread in early:
        thread.start()
    print("ready", flush=True)
    sys.stdin.readline()

    send("plain")
    deep("deep", 20)
    deep("deeper than is read", 100)
    for _ in generator("generator"):
        pass
    list(delegating("yield from"))
    asyncio.run(outermost("coroutine"))
    sorted([Called("called from C"), Called("called from C")])
    Called("called").attribute
    behind("decorated")
    (lambda: send("lambda"))()
    [send("comprehension") for _ in range(1)]
    made = compile("\n\n\nsend('exec')", "<made>", "exec")
    exec(made)

    class Body:
        send("class body")

    try:
        raise ValueError
    except ValueError:
        send("handler")
    finally:
        send("finally")
    with threading.Lock():
        send("with")
    for at in range(4):
        thread = threading.Thread(target=deep, args=("thread of after %d" % at, at))
        thread.start()
        thread.join()
    before.set()
    for thread in early:
        thread.join()
    (reader, writer), (end, other_end) = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(other_end)
        stacks.clear()
        send("forked child")
        thread = threading.Thread(target=send, args=("thread of the child",))
        thread.start()
        thread.join()
        os.write(writer, json.dumps(stacks).encode())
        os.read(end, 1)
        os._exit(0)
    stacks.update(json.loads(os.read(reader, 65536)))

    # After the fork: some versions hang in a child that had another interpreter.
    module = interpreters()
    other = run_another(module) if module else None
    send("beside another interpreter")
    print(json.dumps(stacks), flush=True)
    sys.stdin.readline()

    stacks.clear()
    if module:
        module.destroy(other)
    send("after another interpreter")
    print(json.dumps(stacks), flush=True)
    sys.stdin.read()


try:
    main()
    status = 0
except BaseException:
    traceback.print_exc()
    status = 1
# Without waiting for threads that wait for what went wrong.
sys.stdout.flush()
os._exit(status)
