"""A recording TCP proxy.

A capture is a file of JSON lines: first {"protocol", "client", "note"}, then {"dir": "out"|"in", "hex"}
for every piece that went through, seen from the client, and last {"close": "local"|"remote"}: who closed.
"""

import json
import pathlib
import socket
import threading
import time

OUT = pathlib.Path(__file__).parent.parent


class Recorder:
    """Listens on a port of its own, forwards to `upstream`, writes one file for each connection."""

    def __init__(self, upstream, name, protocol, client, note):
        self.upstream, self.name = upstream, name
        self.header = {"protocol": protocol, "client": client, "note": note}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.count = 0
        self.threads = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for thread in self.threads:
            thread.join(10)
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.count += 1
            suffix = "" if self.count == 1 else f"-{self.count}"
            thread = threading.Thread(target=self._serve, args=(client, f"{self.name}{suffix}.jsonl"), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, client, file_name):
        server = socket.create_connection(self.upstream)
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines, lock, closed = [json.dumps(self.header)], threading.Lock(), []

        def pump(source, sink, direction, who):
            while True:
                try:
                    data = source.recv(65536)
                except OSError:
                    data = b""
                if not data:
                    with lock:
                        closed.append(who)
                    try:
                        sink.shutdown(socket.SHUT_WR)
                    except OSError:
                        pass
                    return
                if direction == "in":
                    # A client that writes several times reads only afterwards; so must the order be here.
                    time.sleep(0.02)
                with lock:
                    if "local" in closed:
                        return  # Nobody reads this any more.
                    lines.append(json.dumps({"dir": direction, "hex": data.hex()}))
                try:
                    sink.sendall(data)
                except OSError:
                    return

        other = threading.Thread(target=pump, args=(server, client, "in", "remote"), daemon=True)
        other.start()
        pump(client, server, "out", "local")
        other.join(10)
        lines.append(json.dumps({"close": closed[0]}))
        (OUT / file_name).write_text("\n".join(lines) + "\n")
        client.close()
        server.close()
