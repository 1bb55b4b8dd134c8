"""Starts Baton as a user would, on ephemeral ports and temporary folders, and talks to it over HTTP. Used by the tests beside it."""
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

BINARY = os.environ["BATON_BINARY"]
SHARED = pathlib.Path(os.environ.get("BATON_SHARED_DIR", "."))
MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "orte_abort_on_non_zero_status", "0", "--mca", "btl", "^openib"]
ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


def demo_model():
    """The demo model, or the tiny checkpoint of the reference data where it was not fetched."""
    return os.environ.get("BATON_DEMO_MODEL") or str(SHARED / "golden/checkpoints/tiny-llama-tied-f32")


class Baton:
    """A running server: `ranks` processes under mpirun, or one process (ranks=0)."""

    def __init__(self, ranks=4, model=None, transport=None, store="", settings=(), ready=60, mpirun=MPIRUN):
        self.folder = tempfile.TemporaryDirectory(prefix="baton-test-")
        self.log_path = pathlib.Path(self.folder.name) / "log"
        self.out_path = pathlib.Path(self.folder.name) / "out"
        options = ["--model", model or demo_model(), "--gateway.port=0", "--log.level=debug"]
        options += [f"--store.path={store}"] if store else []
        options += [f"--transport.kind={transport}"] if transport else []
        options += [f"--{s}" for s in settings]
        command = [BINARY, "serve", *options] if ranks == 0 else [*mpirun, "-n", str(ranks), BINARY, "cluster", *options]
        self.out, self.log = open(self.out_path, "w"), open(self.log_path, "w")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.log, env=ENVIRONMENT, start_new_session=True)
        self.url = self._wait_until_ready(ready)
        self.host, port = self.url.removeprefix("http://").split(":")
        self.port = int(port)

    def _wait_until_ready(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.out_path.read_text().splitlines():
                if line.startswith("Baton serves ") and " at http" in line:
                    return line.rsplit(" at ", 1)[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.kill()
        raise AssertionError("the server did not start:\n" + self.log_text())

    def log_text(self):
        return self.log_path.read_text(errors="replace")

    def request(self, method, path, body=None, headers=None, timeout=120):
        """Status, headers, and the body as bytes."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
            connection.request(method, path, data, headers or {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def ask(self, path, body, timeout=120):
        """The answer's JSON; an assertion fails on any status but 200."""
        status, _, data = self.request("POST", path, body, timeout=timeout)
        assert status == 200, f"{path}: {status} {data[:500]!r}\n{self.log_text()[-3000:]}"
        return json.loads(data)

    def stream(self, path, body, on_event=None, timeout=120):
        """All events of a streamed answer as parsed JSON, without [DONE]; `on_event(index, event)` may act meanwhile."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request("POST", path, json.dumps(dict(body, stream=True)).encode(), {"content-type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200, f"{path}: {answer.status} {answer.read()[:500]!r}"
            events, done = [], False
            for line in answer:
                if line.strip() == b"data: [DONE]":
                    done = True
                elif line.startswith(b"data: "):
                    events.append(json.loads(line[6:]))
                    if on_event:
                        on_event(len(events), events[-1])
            assert done, f"the stream ended without [DONE] after {len(events)} events: {events[-1:]}\n{self.log_text()[-3000:]}"
            return events
        finally:
            connection.close()

    def cluster(self):
        return json.loads(self.request("GET", "/admin/cluster")[2])

    def pid_of_role(self, role, index=0):
        workers = [w for w in self.cluster()["workers"] if role in w["roles"] and w.get("alive", True)]
        return workers[index]["pid"]

    def ranks(self):
        """Process ids of all Baton processes of this server that live."""
        pids = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    ended = ") Z " in (entry / "stat").read_text()  # mpirun never waits for a rank that was killed
                    if not ended and os.getsid(int(entry.name)) == self.process.pid and pathlib.Path(BINARY).name in (entry / "comm").read_text():
                        pids.append(int(entry.name))
                except (OSError, ProcessLookupError):
                    pass
        return pids

    def stop(self, seconds=40):
        """As the scripts do (mpirun passes SIGUSR2 on, and gives ranks two seconds after SIGTERM); gives the exit code. Fails if something is left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR2)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not stop in {seconds} s:\n{self.log_text()[-3000:]}")
        deadline = time.monotonic() + 15  # mpirun may end before ranks that still write to disk
        while (left := self.ranks()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not left, f"processes left behind: {left}"
        return code

    def kill(self):
        for pid in [self.process.pid, *self.ranks()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is not None:
                print(self.log_text()[-6000:], file=sys.stderr)
            self.stop()
        finally:
            self.kill()
            self.out.close()
            self.log.close()
            self.folder.cleanup()


class JoinedCluster(Baton):
    """The same without mpirun: each role is a process of its own that joined, so that one can be killed and started again. `roles` are
    (name, roles joined by +); the first has the coordinator."""

    def __init__(self, roles, model=None, settings=(), ready=90):
        self.folder = tempfile.TemporaryDirectory(prefix="baton-test-")
        self.log_path = pathlib.Path(self.folder.name) / "log"
        self.out_path = pathlib.Path(self.folder.name) / "out"
        self.out, self.log = open(self.out_path, "w"), open(self.log_path, "w")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % s.getsockname()[1]
        self.roles, self.model, self.settings = dict(roles), model or demo_model(), settings
        self.processes = {}
        for name in self.roles:
            self.start(name)
        self.process = next(p for n, p in self.processes.items() if "gateway" in self.roles[n])
        self.url = self._wait_until_ready(ready)
        self.host, port = self.url.removeprefix("http://").split(":")
        self.port = int(port)
        self.wait_for_all(ready)

    def start(self, name):
        command = [BINARY, "cluster", "--join", self.address, "--role", self.roles[name], "--model", self.model, f"--cluster.name={name}",
                   "--gateway.port=0", "--log.level=debug", *[f"--{s}" for s in self.settings]]
        self.processes[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.log, env=ENVIRONMENT, start_new_session=True)

    def signal(self, name, number):
        self.processes[name].send_signal(number)
        if number == signal.SIGKILL:
            self.processes[name].wait(10)

    def workers(self):
        """By name; empty while nobody can say."""
        try:
            return {w["name"]: w for w in self.cluster()["workers"] if w["state"] != "dead"}
        except (OSError, ValueError, KeyError):
            return {}

    def wait_for(self, condition, what, seconds=60):
        """Asks for the workers until the condition holds of them."""
        deadline = time.monotonic() + seconds
        while True:
            workers = self.workers()
            if condition(workers):
                return workers
            assert time.monotonic() < deadline, f"{what}: not in {seconds} s; {workers}"
            time.sleep(0.005)

    def wait_for_all(self, seconds=60):
        self.wait_for(lambda ws: set(ws) == set(self.roles) and all(w["state"] == "ready" for w in ws.values()), "all ready", seconds)

    def stop(self, seconds=40):
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
        for name, process in self.processes.items():
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"{name} did not stop in {seconds} s:\n{self.log_text()[-3000:]}")
        return 0

    def kill(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait(10)


def in_parallel(calls):
    """Runs the calls on threads of their own; gives their results in order, or raises the first failure."""
    results, errors = [None] * len(calls), []

    def run(i):
        try:
            results[i] = calls[i]()
        except BaseException as e:  # noqa: B902 - reported to the caller
            errors.append(e)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def run_tests(module):
    """Runs each function named test_*; prints a line each and a summary; the process ends with 1 if one failed."""
    names = [n for n in vars(module) if n.startswith("test_")]
    wanted = sys.argv[1:]
    failed = 0
    for name in names:
        if wanted and not any(w in name for w in wanted):
            continue
        begin = time.monotonic()
        try:
            getattr(module, name)()
            print(f"ok     {name} ({time.monotonic() - begin:.1f} s)", flush=True)
        except BaseException as e:  # noqa: B902 - a test's failure is a result here
            if type(e).__name__ == "Skipped":
                print(f"SKIPPED {name}: {e}", flush=True)
                continue
            failed += 1
            print(f"FAILED {name} ({time.monotonic() - begin:.1f} s): {type(e).__name__}: {e}", flush=True)
    sys.exit(1 if failed else 0)
