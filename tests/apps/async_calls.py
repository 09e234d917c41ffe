"""Asks Redis again and again on the event loop that the first argument names: from a coroutine, or with `soon` by the loop,
which is told to."""

import asyncio
import sys

LOOP, WAY, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])


async def ask(reader, writer):
    command = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
    if WAY == "soon":
        asyncio.get_running_loop().call_soon(writer.write, command)
    else:
        writer.write(command)
    return await reader.readline()


async def main():
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    while True:
        await ask(reader, writer)
        await asyncio.sleep(0.01)


if LOOP == "uvloop":
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
print("ready", flush=True)
asyncio.run(main())
