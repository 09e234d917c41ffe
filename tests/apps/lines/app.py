"""Calls a library from many lines, each of which notes itself. `app.py LOOP START PORT`: event loop, how it is started, and
where the calls go. Prints a line when it is ready and waits for one; then it makes its calls, and says so."""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import wire
from tokens import here, token

LOOP, START, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])
ROUNDS = 10

pool = ThreadPoolExecutor(2)


async def own(call):
    await asyncio.sleep(0)
    await wire.get(PORT, here(call))


async def calls(number, writers):
    def call(kind):
        return token(number, kind, "wire")

    loop = asyncio.get_running_loop()
    await wire.get(PORT, here(call("awaited")))
    await own(call("own"))
    await asyncio.gather(own(call("owngather")), own(call("owngathered")))
    await asyncio.gather(wire.get(PORT, here(call("gather"))), wire.get(PORT, here(call("gathered"))))
    await asyncio.ensure_future(wire.get(PORT, here(call("task"))))
    task = loop.create_task(wire.get(PORT, here(call("latertask"))))
    await asyncio.sleep(0.001)
    await task
    await asyncio.wait_for(wire.get(PORT, here(call("waitfor"))), 30)
    await asyncio.shield(wire.get(PORT, here(call("shield"))))
    await wire.get_in_task(PORT, here(call("librarytask")))
    await wire.get_with_timeout(PORT, here(call("librarywaitfor")))
    await wire.get_and_write_in_task(PORT, here(call("librarywriter")))
    await asyncio.gather(wire.get_with_timeout(PORT, here(call("gatherwaitfor"))))
    wire.blocking(PORT, here(call("blocking")))
    await loop.run_in_executor(None, wire.blocking, PORT, here(call("executor")))
    await asyncio.wrap_future(pool.submit(wire.blocking, PORT, here(call("submitted"))))
    if hasattr(asyncio, "to_thread"):
        await asyncio.to_thread(wire.blocking, PORT, here(call("tothread")))
    if hasattr(asyncio, "TaskGroup"):
        async with asyncio.TaskGroup() as group:
            group.create_task(wire.get(PORT, here(call("taskgroup"))))
    # From here on nothing that is known says the line.
    await wire.send_soon(PORT, here(call("soon")))
    thread = threading.Thread(target=wire.blocking, args=(PORT, here(call("thread"))))
    thread.start()
    await loop.run_in_executor(None, thread.join)
    first = asyncio.ensure_future(writers.get(here(call("pool"))))
    second = asyncio.ensure_future(writers.get(here(call("pooled"))))
    await first
    await second


async def main():
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    writers = wire.Pool(PORT)
    for number in range(ROUNDS):
        await calls(number, writers)
    print("done", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)


if LOOP == "uvloop":
    import uvloop

    asyncio.set_event_loop(uvloop.new_event_loop())
else:
    asyncio.set_event_loop(asyncio.new_event_loop())

if START == "run" and LOOP == "uvloop":
    uvloop.run(main())
elif START == "run":
    asyncio.run(main())
elif START == "until":
    asyncio.get_event_loop().run_until_complete(main())
else:
    loop = asyncio.get_event_loop()
    loop.create_task(main()).add_done_callback(lambda done: loop.stop())
    loop.run_forever()
