"""Real Redis Clusters: one node that holds all slots, or masters and replicas that fail and move slots."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisError
from redis.retry import Retry

from service.process.embedded_redis import find_redis_server
from tests.waiting import DEADLINE_SECONDS, until

HOST = "127.0.0.1"
SLOTS = 16384
QUICK_MS, CALM_MS = 1000, 60_000  # after which a silent node is given up: where that is wanted, and where not
BUS = 10_000  # a node listens for other nodes this far above its port


@dataclass
class Node:
    """A server of a cluster, as a process of its own."""

    directory: Path
    port: int
    options: Sequence[str] = ()  # of its command line
    client_options: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] = field(init=False)
    id: str = ""

    def __post_init__(self) -> None:
        self.client = Redis(
            port=self.port, decode_responses=True, socket_timeout=DEADLINE_SECONDS, **self.client_options
        )

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        listens = ("--port", str(self.port)) if "--tls-port" not in self.options else ()
        command = [
            find_redis_server(),
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", *listens),
            *("--bind", HOST, "--dir", str(self.directory), "--save", "", "--logfile", "redis.log"),
            *("--appendonly", "yes", "--appendfsync", "no", "--repl-diskless-sync-delay", "0"),
            *("--cluster-node-timeout", str(QUICK_MS), "--cluster-replica-validity-factor", "0"),
            *("--repl-ping-replica-period", "1"),  # a replica that has heard nothing is not shown
            *self.options,
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    @property
    def log(self) -> str:
        path = self.directory / "redis.log"
        return path.read_text() if path.exists() else ""

    def answers(self) -> bool:
        assert self.process.poll() is None, f"port {self.port}: {self.log}"
        with suppress(RedisError):
            self.client.ping()
            return True
        return False

    def info(self) -> dict[str, str]:
        return {str(name): str(it) for name, it in cluster(self.client, "INFO").items()}

    def is_master(self) -> bool:
        return bool(self.client.role()[0] == "master")

    def kill(self) -> None:
        """As a machine that is gone."""
        self.process.kill()
        self.process.wait()


@dataclass
class Cluster:
    """Masters, and as many replicas, the first of the first."""

    masters: list[Node]
    replicas: list[Node]

    @property
    def nodes(self) -> list[Node]:
        return [*self.masters, *self.replicas]

    @property
    def url(self) -> str:
        places = ",".join(f"{HOST}:{node.port}" for node in self.nodes[:2])
        return f"redis+cluster://{places}"

    def client(self, kind: type[RedisCluster] = RedisCluster) -> RedisCluster:
        """A plain client of all of it."""
        return kind(
            startup_nodes=[ClusterNode(HOST, node.port) for node in self.nodes],  # type: ignore[no-untyped-call]
            retry=Retry(NoBackoff(), 3),
            decode_responses=True,
            socket_timeout=DEADLINE_SECONDS,
        )

    def owner(self, key: str) -> Node:
        """The master that has a key's slot, as most of those say who live."""
        living = [node for node in self.nodes if node.process.poll() is None]
        slot = int(cluster(living[0].client, "KEYSLOT", key))
        for node in living:
            for first, last, master, *_ in cluster(node.client, "SLOTS"):
                if first <= slot <= last and node.port == master[1]:
                    return node
        raise AssertionError(f"nobody has slot {slot}")

    def replica_of(self, master: Node) -> Node:
        (found,) = (
            node
            for node in self.nodes
            if node.process.poll() is None and node.client.role()[:3] == ["slave", HOST, master.port]
        )
        return found

    def set_node_timeout(self, milliseconds: int) -> None:
        for node in self.nodes:
            if node.process.poll() is None:
                node.client.config_set("cluster-node-timeout", milliseconds)

    def is_whole(self) -> bool:
        """Whether all slots are served, and every replica follows, as all say."""
        for node in self.nodes:
            info = node.info()
            if info["cluster_state"] != "ok" or info["cluster_known_nodes"] != str(len(self.nodes)):
                return False
            following = {
                each[1] for *_, replicas in map(_split, cluster(node.client, "SLOTS")) for each in replicas
            }
            if len(following) < len(self.replicas):
                return False
            if not node.is_master() and node.client.info("replication")["master_link_status"] != "up":
                return False
        return True

    def restore(self) -> None:
        """Start whom a test has killed, learn who is master now, and delete all that is stored."""
        dead = [node for node in self.nodes if node.process.poll() is not None]
        for node in dead:
            node.start()
            until(node.answers)
        if dead:
            until(self.is_whole)
        self.masters, self.replicas = (
            [node for node in self.nodes if node.is_master()],
            [node for node in self.nodes if not node.is_master()],
        )
        for node in self.masters:
            node.client.flushall()
        self.set_node_timeout(CALM_MS)

    def begin_to_move(self, key: str, to: Node) -> Node:
        """A key's slot is on its way, with all that lies in it still where it was; answers who has it."""
        slot, source = slot_of(to.client, key), self.owner(key)
        cluster(to.client, "SETSLOT", slot, "IMPORTING", source.id)
        cluster(source.client, "SETSLOT", slot, "MIGRATING", to.id)
        return source

    def move_keys(self, key: str, source: Node, to: Node, count: int) -> int:
        """Move up to as many keys; how many there were."""
        names = cluster(source.client, "GETKEYSINSLOT", slot_of(to.client, key), count)
        for name in names:
            source.client.execute_command(  # type: ignore[no-untyped-call]
                "MIGRATE", HOST, to.port, name, 0, 60_000
            )
        return len(names)

    def end_move(self, key: str, source: Node, to: Node) -> None:
        slot = slot_of(to.client, key)
        for node in (to, source, *(each for each in self.masters if each not in (to, source))):
            cluster(node.client, "SETSLOT", slot, "NODE", to.id)

    def move(self, key: str, to: Node) -> None:
        """Move a key's slot, as `redis-cli --cluster reshard` does it."""
        source = self.begin_to_move(key, to)
        while self.move_keys(key, source, to, 100):
            pass
        self.end_move(key, source, to)


@contextmanager
def running_cluster(
    directory: Path, *, masters: int = 3, with_replicas: bool = True, **options: Any
) -> Iterator[Cluster]:
    """Start it, and end it. `options`: `server`, of a command line, where {port} is its own, and `client`."""
    while (found := _started_all(directory, masters * (1 + with_replicas), **options)) is None:
        pass
    try:
        running = Cluster(found[:masters], found[masters:])
        _join(running)
        yield running
    finally:
        for node in found:
            node.client.close()
            node.process.kill()  # a test's data is not waited for
        for node in found:
            node.process.wait()


def _started_all(
    directory: Path, count: int, server: Sequence[str] = (), client: dict[str, Any] | None = None
) -> list[Node] | None:
    """None: another process was quicker to take a port."""
    with ExitStack() as stack:
        ports = [_free_port(stack) for _ in range(count)]
    nodes = [
        Node(directory / str(port), port, [each.format(port=port) for each in server], client or {})
        for port in ports
    ]
    for node in nodes:
        node.start()
    try:
        for node in nodes:
            until(node.answers)
    except BaseException:
        logs = [node.log for node in nodes]
        for node in nodes:
            node.process.kill()
            node.process.wait()
        if any("already in use" in log for log in logs):
            return None
        raise
    return nodes


def _join(running: Cluster) -> None:
    share = SLOTS // len(running.masters) + 1
    for number, node in enumerate(running.nodes):
        node.id = cluster(node.client, "MYID")
        cluster(node.client, "SET-CONFIG-EPOCH", number + 1)
    for number, node in enumerate(running.masters):
        cluster(node.client, "ADDSLOTS", *range(SLOTS)[number * share : (number + 1) * share])
    for one, other in combinations(running.nodes, 2):  # each learns of each now, not from gossip some day
        cluster(one.client, "MEET", HOST, other.port)
    known = str(len(running.nodes))
    until(lambda: all(node.info()["cluster_known_nodes"] == known for node in running.nodes))
    for master, replica in zip(running.masters, running.replicas, strict=False):
        until(lambda master=master, replica=replica: _replicates(replica, master))  # type: ignore[misc]
    until(running.is_whole, lambda: str([node.info() for node in running.nodes]))
    running.set_node_timeout(CALM_MS)


def _split(served: list[Any]) -> tuple[Any, list[Any]]:
    """The master and the replicas of one range of slots."""
    _, _, master, *replicas = served
    return master, replicas


def _replicates(replica: Node, master: Node) -> bool:
    with suppress(RedisError):  # it has not heard yet that it is a master
        cluster(replica.client, "REPLICATE", master.id)
        return True
    return False


@contextmanager
def one_node_cluster(directory: Path) -> Iterator[Redis]:
    """Start it, and end it; yields a plain client."""
    with running_cluster(directory, masters=1, with_replicas=False) as running:
        yield running.masters[0].client


def url_of(client: Redis) -> str:
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}"


def slot_of(client: Redis, key: str) -> int:
    """The slot that the server itself says."""
    return int(cluster(client, "KEYSLOT", key))


def cluster(client: Redis, command: str, *arguments: str | int) -> Any:
    """The reply to one of the CLUSTER commands."""
    return client.execute_command(f"CLUSTER {command}", *arguments)  # type: ignore[no-untyped-call]


def _free_port(stack: ExitStack) -> int:
    """A port that is free, and so is the one for other nodes; both are held until the stack is left."""
    while True:
        with ExitStack() as tried:
            port: int = tried.enter_context(socket.create_server((HOST, 0))).getsockname()[1]
            try:
                tried.enter_context(socket.create_server((HOST, port + BUS)))
            except (OSError, OverflowError):
                continue
            stack.push(tried.pop_all())
            return port
