"""What ties a call to its request: every call carries `w<request>_<kind>_<client>` in a place that tracing keeps (an alias of
SQL, a path of HTTP, an error's code of Redis, of whose commands only the name is kept), and every call that was answered is
written down with it."""

import os
import sys

_file = {}


def token(number, kind, client):
    return f"w{number}_{kind}_{client}"


def _note(kind, line):
    key = os.getpid(), kind
    if key not in _file:
        path = os.path.join(os.environ["CALLS_DIR"], f"{key[0]}.{kind}")
        _file[key] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(_file[key], f"{line}\n".encode())


def answered(call):
    """Notes an answered call in a file of this process."""
    _note("calls", call)


def here(call):
    """Notes the line on which this stands as the one that makes the call."""
    frame = sys._getframe(1)
    code = frame.f_code
    _note("lines", f"{call} {frame.f_lineno} {getattr(code, 'co_qualname', code.co_name)} {code.co_filename}")
    return call


def clients_of(number, position, clients, count):
    """`count` of the clients: other ones for each request and each kind, all of them in turn."""
    count = min(count, len(clients))
    first = (number + position) % len(clients)
    return [clients[(first + index) % len(clients)] for index in range(count)]


def expected_status(call):
    """The status that upstream answers, which no other request on a kept connection may get."""
    return 404 if int(call[1:].split("_")[0]) % 10 == 7 else 200


#: A script of Redis that answers with an error, whose code is the key that it is called with.
REDIS_SCRIPT = "return redis.error_reply(KEYS[1]..' is the call')"
