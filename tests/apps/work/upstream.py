"""The HTTP service that the calls go to: `upstream.py PORT`. Answers `/echo/<token>` a little later, with the status that
belongs to the token, on connections that are kept."""

import asyncio
import sys

from tokens import expected_status

REASONS = {200: "OK", 404: "Not Found"}


class Upstream(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.received = b""
        self.requests = asyncio.Queue()
        self.worker = asyncio.get_running_loop().create_task(self.answer())

    def data_received(self, data):
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, _, self.received = self.received.partition(b"\r\n\r\n")
            self.requests.put_nowait(head)

    def connection_lost(self, error):
        self.worker.cancel()

    async def answer(self):
        while True:
            head = await self.requests.get()
            line, *fields = head.decode("latin-1").split("\r\n")
            call = line.split(" ")[1].partition("?")[0].removeprefix("/echo/")
            close = any(field.lower().startswith("connection: close") for field in fields)
            status, body = 200, "pong\n"
            if call.startswith("w"):
                # Answers of one moment come in another order than their requests.
                await asyncio.sleep((hash(call) % 8) / 1000)
                status, body = expected_status(call), f"{call}\n"
            connection = "Connection: close\r\n" if close else ""
            answer = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Length: {len(body)}\r\n{connection}\r\n{body}"
            self.transport.write(answer.encode())
            if close:
                self.transport.close()
                return


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", int(sys.argv[1]), backlog=512)
    await server.serve_forever()


asyncio.run(main())
