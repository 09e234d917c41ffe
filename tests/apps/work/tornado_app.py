"""The work under Tornado. `tornado_app.py PORT`."""

import asyncio
import sys

from tornado.web import Application, RequestHandler

import blocking
from coroutines import Clients


class Ping(RequestHandler):
    async def get(self):
        self.write("pong\n")


class Work(RequestHandler):
    async def get(self, number):
        await self.settings["clients"].work(int(number))
        self.write("done\n")


class Stream(RequestHandler):
    async def get(self, number):
        async for part in self.settings["clients"].parts(int(number)):
            self.write(part)
            await self.flush()


async def main():
    blocking.start()
    clients = Clients()
    clients.start_workers()
    app = Application([(r"/ping", Ping), (r"/work/(\d+)", Work), (r"/stream/(\d+)", Stream)], clients=clients)
    app.listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())
