"""Calls of the shops to another HTTP service, by the library that the caller names."""

import http.client
import os
import threading

import requests
import urllib3

HOST = "127.0.0.1"
PORT = int(os.environ.get("BACKEND_PORT", "0"))
_local = threading.local()
_pool = urllib3.PoolManager(maxsize=8)

#: What the libraries raise when the other side is too slow or goes away.
FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


def session():
    current = getattr(_local, "session", None)
    if current is None:
        current = _local.session = requests.Session()
    return current


def call(library, path, method="GET", body=None, timeout=5.0):
    """Status and length of the answer."""
    if library == "requests":
        answer = session().request(method, f"http://{HOST}:{PORT}{path}", data=body, timeout=timeout)
        return answer.status_code, len(answer.content)
    if library == "urllib3":
        answer = _pool.request(method, f"http://{HOST}:{PORT}{path}", body=body, timeout=timeout, retries=False)
        return answer.status, len(answer.data)
    if library == "http.client":
        connection = http.client.HTTPConnection(HOST, PORT, timeout=timeout)
        try:
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            return answer.status, len(answer.read())
        finally:
            connection.close()
    raise ValueError(f"no such library: {library}")
