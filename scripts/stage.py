"""What the demos are built of: processes that end together, and small words with them over HTTP. Python's standard
library only."""

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "gpt-4o-mini"
# What its tokens of input and of output cost, in nano-dollars.
RATES = 150, 600
NANO = 10**9
# How long a process may take to come up, on a machine that is busy.
READY_SECONDS = 30
# How long a process may take to end. Bursar drains first: 20 seconds at most, then a hard stop 5 seconds later.
STOP_SECONDS = 30
QUESTION = {"model": MODEL, "max_tokens": 32, "messages": [{"role": "user", "content": "Say a word."}]}
STREAMED = {**QUESTION, "max_tokens": 120, "stream": True}


def build():
    say("Building Bursar and the sample provider (the first time takes a few minutes), and getting Envoy.")
    for command in (["cargo", "build", "--quiet", "--bin", "bursar", "--example", "upstream"], ["scripts/tools"]):
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            raise Failure(f"`{' '.join(command)}` failed; its message is above")


class Failure(Exception):
    """Something that the person at the terminal has to know about."""


class Processes:
    """What was started. Everything ends, newest first, when the demo does."""

    def __init__(self, directory):
        self.directory = directory
        self.running = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave half of them running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for _, process in reversed(self.running):
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, name, command, environment=None):
        # What is set for another Bursar on this machine does not concern this one.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BURSAR_")}
        environment = {**inherited, **(environment or {})}
        with open(self.directory / f"{name}.log", "wb") as log:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends the others in order.
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.running.append((name, process))
        return process

    def wait_until(self, name, ready):
        """Waits until `ready()` says something, and returns that."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            self.check()
            said = ready()
            if said:
                return said
            time.sleep(0.02)
        raise Failure(f"{name} was not ready within {READY_SECONDS} seconds. Its log:\n{self.log(name)}")

    def check(self):
        for name, process in self.running:
            if process.poll() is not None:
                raise Failure(f"{name} ended with exit code {process.returncode}. Its log:\n{self.log(name)}")

    def forget(self, name):
        """It was ended on purpose."""
        for process in [process for known, process in self.running if known == name]:
            process.wait()
        self.running = [(known, process) for known, process in self.running if known != name]

    def watch(self):
        while True:
            self.check()
            time.sleep(0.5)

    def log(self, name):
        lines = (self.directory / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-40:]) or "    (empty)"


def start_upstream(processes):
    """The sample provider. Returns where it is."""
    ready = processes.directory / "upstream.ready"
    processes.start("upstream", [ROOT / "target/debug/examples/upstream", "--ready-file", ready])
    return "http://" + processes.wait_until("upstream", lambda: read(ready))


class Pair:
    """A Bursar and the Envoy that asks it. Envoy ends first, so that Bursar has no connection to wait for."""

    def __init__(self, processes, upstream, key, number="", store=None):
        directory = processes.directory
        name = f"bursar{number}"
        self.key = key
        ready = directory / f"{name}.ready"
        bursar_socket = directory / f"{name}.sock"
        settings = {
            "BURSAR_LISTEN_UNIX": str(bursar_socket),
            "BURSAR_LISTEN_GRPC": "127.0.0.1:0",
            "BURSAR_LISTEN_HTTP": "127.0.0.1:0",
            "BURSAR_STORE_URL": store or f"sqlite:{directory / 'bursar.db'}",
            "BURSAR_WORKSPACE": "demo",
            "BURSAR_MANAGEMENT_KEY": key,
        }
        command = [ROOT / "target/debug/bursar", "serve", "--ready-file", ready]
        if number:
            # Each keeps its journal in a place of its own.
            (directory / f"{name}.yaml").write_text(f"journal: {{path: {directory / name}.journal}}\n")
            command += ["--config", directory / f"{name}.yaml"]
        processes.start(name, command, settings)
        self.bursar = "http://" + json.loads(processes.wait_until(name, lambda: read(ready)))["http"]

        port, admin_port = free_port(10000), free_port(9901)
        values = {
            "LISTEN_PORT": port,
            "ADMIN_PORT": admin_port,
            "UPSTREAM_PORT": upstream.rsplit(":", 1)[1],
            "BURSAR_SOCKET": bursar_socket,
            # A first request on a machine that is busy takes its time, and the story is not about that.
            "DECISION_TIMEOUT": "5s",
            "ASKING_TIMEOUT": "5s",
        }
        config = directory / f"envoy{number}.yaml"
        config.write_text(adapted((ROOT / "deploy/envoy/envoy.yaml").read_text(), values))
        # Without --disable-hot-restart Envoy ends with the process that started it.
        options = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
        processes.start(f"envoy{number}", [ROOT / ".tools/envoy", "-c", config, *options])
        processes.wait_until(f"envoy{number}", lambda: answers(f"http://127.0.0.1:{admin_port}/ready"))
        self.envoy = f"http://127.0.0.1:{port}"

    def manage(self, method, path, body=None):
        """A call to Bursar's HTTP API, which must succeed."""
        reply = http(method, self.bursar + path, body, {"authorization": f"Bearer {self.key}"})
        if reply.status != 200:
            raise Failure(f"{method} {path} answered {reply.status}: {reply.text}")
        return reply.json

    def ask(self, identity, question):
        """A chat completion through Envoy."""
        return http("POST", self.envoy + "/v1/chat/completions", question, headers_of(identity))

    def spent(self, budget):
        """What a budget has spent, in nano-dollars."""
        return round(self.manage("GET", f"/v2/budgets/{budget}")["budget"]["usage"]["amount"] * NANO)

    def responses_metered(self):
        page = http("GET", self.bursar + "/metrics").text
        return sum(int(count) for count in re.findall(r"^bursar_watched_responses_total\{.*\} (\d+)$", page, re.MULTILINE))


def monthly(dollars):
    return {"period": "BUDGET_PERIOD_MONTHLY", "amount": dollars}


def priced(input_tokens, output_tokens):
    """What so many tokens cost, in nano-dollars."""
    return input_tokens * RATES[0] + output_tokens * RATES[1]


def dollars(nano):
    return f"${nano / NANO:.9f}"


def headers_of(identity):
    return {"x-orq-identity-id": identity, "x-bursar-provider": "openai", "x-bursar-model": MODEL}


class Reply:
    def __init__(self, response):
        self.status = response.status
        self.reason = response.reason
        self.headers = response.headers
        self.text = response.read().decode(errors="replace")

    @property
    def json(self):
        try:
            return json.loads(self.text)
        except ValueError:
            return {}


# Nothing here may go through a proxy that the environment names.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def http(method, url, body=None, headers=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with OPENER.open(request, timeout=10) as response:
            return Reply(response)
    except urllib.error.HTTPError as refusal:
        return Reply(refusal)


def answers(url):
    try:
        return http("GET", url).status == 200
    except OSError:
        return False


def read(path):
    return path.read_text() if path.exists() else None


def free_port(wanted):
    """This port if nobody has it, otherwise any."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise Failure("no free port on 127.0.0.1")


def adapted(config, values):
    """Puts values on the lines of Envoy's configuration that end in their names."""
    for name, value in values.items():
        config, count = re.subn(rf"(: )\S+( # {name})$", rf"\g<1>{value}\g<2>", config, flags=re.MULTILINE)
        if count != 1:
            raise Failure(f"deploy/envoy/envoy.yaml has {count} lines that end in `# {name}`, not one")
    return config


def say(sentence):
    print(f"\n{sentence}", flush=True)
