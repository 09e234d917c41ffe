"""The check inside the guest: attach the agent to a service that has served already, send requests, compare the spans.

Prints `vm: PASS what`, `vm: FAIL what: why`, `vm: NOTE text`, and `vm: DONE` as the last line; `cargo xtask vm` reads
them from the serial console.
"""

import http.client
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback

import bpf

TRACEKIT = "/vm/tracekit"
APP_PORT, STOCK_PORT, REDIS_PORT = 8080, 8081, 6379
READY, SPANS, AGENT_LOG = "/tmp/ready", "/tmp/spans.jsonl", "/tmp/agent.log"
# The guest's processor is emulated, and the build machine is shared: waits are long, and end early.
PATIENCE = 60.0
# How long after its request a span may come.
SPAN_PATIENCE = 15.0
# Version 00, trace id, parent id, sampled (W3C Trace Context).
REMOTE_TRACE, REMOTE_PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


failures = 0


class Failed(Exception):
    """Nothing that follows can work."""


def say(kind, text):
    global failures
    failures += kind == "FAIL"
    for line in str(text).splitlines() or [""]:
        print(f"vm: {kind} {line}", flush=True)


def expect(what, good, why=""):
    """Prints the verdict on one expectation."""
    say("PASS" if good else "FAIL", what if good else f"{what}: {why}")
    return good


def wait_for(what, condition, patience=PATIENCE):
    """The first true answer of `condition`; raises `Failed` after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {patience:.0f} s")
        time.sleep(0.1)


def listens(port):
    wanted = f":{port:04X}"
    with open("/proc/net/tcp") as table:
        rows = [row.split() for row in table][1:]
    return any(row[1].endswith(wanted) and row[3] == "0A" for row in rows)


def get(path, **headers):
    """Status and body of one request to the service, on its own connection."""
    connection = http.client.HTTPConnection("127.0.0.1", APP_PORT, timeout=PATIENCE)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


def spans():
    """The complete lines that the agent has printed."""
    try:
        with open(SPANS) as file:
            return [json.loads(line) for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []


def attribute(span, key):
    return span["attributes"].get(key)


def server_span(path):
    """The server span of the one request to `path`."""
    found = [span for span in spans() if span["kind"] == "server" and attribute(span, "url.path") == path]
    return found[0] if len(found) == 1 else None


def children(parent):
    """What stands directly under a span, in order of time."""
    found = [span for span in spans() if span.get("parent_span_id") == parent["span_id"]]
    return sorted(found, key=lambda span: span["start_time_unix_nano"])


def describe(span):
    """A client span as the table of expectations has it."""
    if attribute(span, "db.system.name"):
        return f"{attribute(span, 'db.system.name')} {attribute(span, 'db.operation.name')}"
    return f"http {attribute(span, 'http.request.method')} {attribute(span, 'http.response.status_code')}"


def kernel_complaints():
    """Lines of the kernel's log that tell of a fault of the kernel."""
    log = subprocess.run(["dmesg"], stdout=subprocess.PIPE, check=True).stdout.decode(errors="replace")
    signs = ("BUG:", "WARNING:", "Oops", "rcu: INFO", "general protection", "unable to handle")
    return [line for line in log.splitlines() if any(sign in line for sign in signs)]


def start(*command, output=None):
    stdout = open(output, "wb") if output else subprocess.DEVNULL
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.STDOUT)


def start_services():
    """Redis, the stock service and the shop; returns the shop. It has served a request when this returns."""
    start("redis-server", "--port", str(REDIS_PORT), "--save", "", "--bind", "127.0.0.1", output="/tmp/redis.log")
    start(sys.executable, "/vm/backend.py", str(STOCK_PORT), output="/tmp/backend.log")
    wait_for("Redis listens", lambda: listens(REDIS_PORT))
    wait_for("the stock service listens", lambda: listens(STOCK_PORT))
    shop = start(sys.executable, "/vm/app.py", str(APP_PORT), str(STOCK_PORT), str(REDIS_PORT), output="/tmp/app.log")
    wait_for("the shop listens", lambda: listens(APP_PORT) or shop.poll() is not None)
    status, body = get("/order/before")
    if status != 200:
        raise Failed(f"the shop answers {status} before any agent ran: {body}")
    return shop


def objects():
    """Ids of all programs, maps and links in the kernel."""
    return set(bpf.ids(bpf.PROG_GET_NEXT_ID)), set(bpf.ids(bpf.MAP_GET_NEXT_ID)), set(bpf.links())


def attach(shop, spans_to=SPANS, log_to=AGENT_LOG):
    """The running agent, attached to the shop."""
    if os.path.exists(READY):
        os.unlink(READY)
    with open(spans_to, "wb") as out, open(log_to, "wb") as log:
        agent = subprocess.Popen(
            [TRACEKIT, "attach", "--pid", str(shop.pid), "--print", "jsonl", "--ready-file", READY],
            stdin=subprocess.DEVNULL, stdout=out, stderr=log,
        )
    started = time.monotonic()
    wait_for("the agent attaches", lambda: os.path.exists(READY) or agent.poll() is not None)
    if agent.poll() is not None:
        raise Failed(f"tracekit attach ended with {agent.returncode} before it was attached")
    say("PASS", f"attached after {time.monotonic() - started:.1f} s of emulated time")
    return agent


def check_doctor(pid):
    """Shows what the agent itself says about this kernel."""
    done = subprocess.run(
        [TRACEKIT, "doctor", "--pid", str(pid)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE,
    )
    say("NOTE", f"tracekit doctor (exit {done.returncode})")
    say("NOTE", done.stdout.decode(errors="replace"))


def check_order():
    """One request and its five calls."""
    status, body = get("/order/7")
    expect("the request is answered", status == 200, f"{status} {body}")
    wanted = ["http GET 200", "redis SET", "redis GET", "redis INCR", "redis EXPIRE"]
    try:
        server = wait_for("a server span", lambda: server_span("/order/7"), SPAN_PATIENCE)
        wait_for("children", lambda: len(children(server)) >= len(wanted), SPAN_PATIENCE)
    except Failed:
        pass
    server = server_span("/order/7")
    if not expect("one server span of the request", server is not None, f"{len(spans())} spans, none or several match"):
        return
    expect(
        "the server span says what was asked and answered",
        attribute(server, "http.request.method") == "GET" and attribute(server, "http.response.status_code") == 200,
        server["attributes"],
    )
    expect("the server span is a root", not server.get("parent_span_id"), server.get("parent_span_id"))
    found = [describe(child) for child in children(server)]
    expect("its children are the five calls, in order", found == wanted, f"found {found}")
    expect(
        "children are client spans of the same trace",
        all(c["kind"] == "client" and c["trace_id"] == server["trace_id"] for c in children(server)),
        "see the spans",
    )
    places = [(attribute(c, "code.file.path"), attribute(c, "code.function.name")) for c in children(server)]
    files, functions = {file for file, _ in places}, [function for _, function in places]
    expect("children say which file of the application made them", files == {"/vm/app.py"}, places)
    expect("the first says which function", functions[:1] == ["Shop.order"], places)
    lines = [attribute(c, "code.line.number") for c in children(server)]
    expect("children say which line", all(isinstance(line, int) and line > 1 for line in lines), lines)
    expect("the resource names a service", "service.name" in str(server["resource"]), server["resource"])


def check_traceparent():
    """A caller's trace is carried on, to the span and to the service that is called."""
    state = "vendor=value"
    _, body = get("/order/8", traceparent=f"00-{REMOTE_TRACE}-{REMOTE_PARENT}-01", tracestate=state)
    try:
        server = wait_for("a server span", lambda: server_span("/order/8"), SPAN_PATIENCE)
    except Failed:
        expect("a request with traceparent has a server span", False, "none")
        return
    expect(
        "the caller's traceparent is honoured",
        (server["trace_id"], server.get("parent_span_id")) == (REMOTE_TRACE, REMOTE_PARENT),
        f"trace {server['trace_id']}, parent {server.get('parent_span_id')}",
    )
    context = json.loads(body)["context"]
    call = next((child for child in children(server) if describe(child) == "http GET 200"), None)
    wanted = call and [f"00-{REMOTE_TRACE}-{call['span_id']}-01", state]
    expect("the service that is called gets the call's span as its parent", context == wanted, f"{context}, not {wanted}")


def check_errors():
    """A Redis error under a server error."""
    get("/broken")
    try:
        server = wait_for("a server span", lambda: server_span("/broken"), SPAN_PATIENCE)
        wait_for("its child", lambda: children(server), SPAN_PATIENCE)
    except Failed:
        pass
    server = server_span("/broken")
    if not expect("the failed request has a server span", server is not None, "none"):
        return
    expect(
        "the failed request says 500",
        attribute(server, "http.response.status_code") == 500 and attribute(server, "error.type") == "500",
        server["attributes"],
    )
    calls = [(describe(child), attribute(child, "error.type")) for child in children(server)]
    expect("Redis' error is on its child", calls == [("redis LPUSH", "WRONGTYPE")], calls)


def tracekit(*verb):
    """Exit code of a verb that asks the running agent, and what it says as JSON."""
    done = subprocess.run(
        [TRACEKIT, *verb, "-o", "json"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE,
    )
    said = json.loads(done.stdout or b"null")
    return done.returncode, said if said is not None else done.stderr.decode(errors="replace")


def breakpoint_until(name, condition):
    """The breakpoint when it is so, or as it is after a while."""
    deadline = time.monotonic() + PATIENCE
    while True:
        _, known = tracekit("break", "get", name)
        if condition(known) or time.monotonic() > deadline:
            return known
        time.sleep(0.2)


def check_breakpoint():
    """A line is armed, each of its executions counted, and its variables captured."""
    with open("/vm/app.py") as source:
        line = 1 + next(at for at, text in enumerate(source) if text.endswith("# armed\n"))
    code, added = tracekit("break", "add", f"app.py:{line}", "--hits", "3", "--rate", "10/s")
    if not expect("a breakpoint is added", code == 0, added):
        return
    name = added["id"]
    known = breakpoint_until(name, lambda known: known["state"] in ("ACTIVE", "ERROR"))
    if known["state"] == "ERROR" and known["reason"].startswith("line breakpoints don't work here"):
        # The kernel's verifier has judged the program all the same, if the reason is not its.
        machine = "debug registers" in known["reason"]
        expect("where watchpoints do not work, the reason is the machine", machine, known["reason"])
        say("NOTE", f"not tried: hits of a breakpoint: {known['reason']}")
        return
    if not expect("the breakpoint is active", known["state"] == "ACTIVE", known):
        return
    status, body = get("/sum/3")
    expect("the armed line goes on", (status, json.loads(body)) == (200, {"sum": 3}), f"{status} {body}")
    known = breakpoint_until(name, lambda known: known["counters"]["hits"] >= 3 and known["counters"]["captured"] >= 3)
    expect("hits are executions", known["counters"]["hits"] == 3, known)
    expect("each is captured", known["counters"]["captured"] == 3, known)
    _, snapshots = tracekit("snapshots", "ls", "--breakpoint", name)
    say("NOTE", f"cost of a hit: {known['counters']['cost']}")
    seen = sorted(str(snapshot) for snapshot in snapshots)
    expect("snapshots have the function and its variables", len(seen) == 3 and all("added" in one for one in seen), seen)
    tracekit("break", "rm", name)


def check_kernel_objects(before):
    """The agent's programs are in the kernel, each loaded by this kernel's verifier."""
    programs = [row for row in bpf.programs() if row[0] not in before[0]]
    maps = [row for row in bpf.maps() if row[0] not in before[1]]
    links = set(bpf.links()) - before[2]
    expect("the kernel holds the agent's programs", bool(programs), "none loaded")
    for _, kind, name in programs:
        say("NOTE", f"program {name} ({kind})")
    for _, kind, name in maps:
        say("NOTE", f"map {name} ({kind})")
    say("NOTE", f"{len(programs)} programs, {len(maps)} maps, {len(links)} links")


def check_gone(how, before):
    """Nothing of the agent is left in the kernel. The kernel frees after a grace period."""
    try:
        wait_for("the kernel frees all", lambda: objects() == before, 20)
    except Failed:
        pass
    left = [sorted(now - then) for now, then in zip(objects(), before)]
    expect(f"nothing is left in the kernel after {how}", not any(left), f"programs, maps, links {left}")


def check_interrupt(agent):
    """Ctrl-C ends the agent in good order."""
    agent.send_signal(signal.SIGINT)
    try:
        code = agent.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        agent.kill()
        code = "never"
    expect("SIGINT ends the agent with 0", code == 0, f"exit {code}")


def main():
    say("NOTE", f"{platform.release()} {platform.version()}, Python {platform.python_version()}")
    shop = start_services()
    before, complaints = objects(), kernel_complaints()
    check_doctor(shop.pid)
    agent = attach(shop)
    try:
        check_kernel_objects(before)
        check_order()
        check_traceparent()
        check_errors()
        check_breakpoint()
        check_interrupt(agent)
    finally:
        agent.kill()
        agent.wait()
    check_gone("SIGINT", before)
    agent = attach(shop, "/dev/null", "/dev/null")
    agent.kill()
    agent.wait()
    check_gone("SIGKILL", before)
    status, body = get("/order/after")
    expect("the service goes on without the agent", status == 200 and shop.poll() is None, f"{status} {body}")
    new = [line for line in kernel_complaints() if line not in complaints]
    expect("the kernel complains of nothing", not new, " | ".join(new))


def run():
    try:
        main()
    except Failed as error:
        say("FAIL", error)
    except Exception as error:
        say("FAIL", f"the check broke: {error!r}")
        say("NOTE", traceback.format_exc())
    # Without the marker: for who reads the console.
    for span in spans():
        print("span", json.dumps(span, sort_keys=True), flush=True)
    if failures:
        for path in (AGENT_LOG, "/tmp/app.log", "/tmp/backend.log", "/tmp/redis.log"):
            if os.path.exists(path):
                with open(path, errors="replace") as log:
                    say("NOTE", f"--- {path}\n{log.read()[-8000:]}")
    say("DONE", f"{failures} failures")


run()
