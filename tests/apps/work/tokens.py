"""What ties a call to its request: every call carries `w<request>_<kind>_<client>` in a place that tracing keeps (an alias of
SQL, a path of HTTP, an error's code of Redis, of whose commands only the name is kept), and every call that was answered is
written down with it."""

import os

_file = {}


def token(number, kind, client):
    return f"w{number}_{kind}_{client}"


def answered(call):
    """Notes an answered call in a file of this process."""
    process = os.getpid()
    if process not in _file:
        path = os.path.join(os.environ["CALLS_DIR"], f"{process}.calls")
        _file[process] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(_file[process], f"{call}\n".encode())


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
