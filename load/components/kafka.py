"""A Kafka broker of one node (KRaft), its jars from Maven Central by the `pom.xml` beside this module."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

from load.components.processes import Absent, end, listening, ready, reserve_port, start

LIBRARIES = Path(__file__).resolve().parents[2] / ".venv" / "kafka"
_CLUSTER = "MkU3OEVBNTcwNTJENDM2Qk"
_LOGGED = ("defaultLogLevel=warn", "log.kafka.server.KafkaRaftServer=info")
_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder}/logs
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=2097152
num.partitions=4
"""


class Kafka:
    """On ports of its own, with its data in a folder: what was acknowledged is there after a kill."""

    def __init__(self, folder: Path) -> None:
        """Formats the folder; raises Absent."""
        java = shutil.which("java")
        if java is None or not list(LIBRARIES.glob("kafka_2.13-*.jar")):
            raise Absent("Kafka is absent: it takes Java 17 and `make components`")
        self._java, self._folder = java, folder
        self.port, controller = reserve_port(), reserve_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._properties = folder / "server.properties"
        self._properties.write_text(_PROPERTIES.format(port=self.port, controller=controller, folder=folder))
        tool = [java, "-Xmx64m", "-cp", f"{LIBRARIES}/*", "kafka.tools.StorageTool", "format", "-t", _CLUSTER]
        subprocess.run([*tool, "-c", str(self._properties)], check=True, capture_output=True)

    @property
    def brokers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Ready when this returns; raises NotReady."""
        log = self._folder / "kafka.log"
        seen = log.stat().st_size if log.exists() else 0
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        logged = [f"-Dorg.slf4j.simpleLogger.{told}" for told in _LOGGED]
        command = [self._java, *options, *logged, "-cp", f"{LIBRARIES}/*", "kafka.Kafka", str(self._properties)]
        self._process = start(command, log=log, cwd=self._folder)

        def up() -> bool:
            return b"Kafka Server started" in log.read_bytes()[seen:] and listening(self.port)

        ready(up, self._process, what="Kafka", log=log, within_s=60)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)

    def kill(self) -> None:
        """Without a word."""
        if self._process is not None:
            end(self._process, by=signal.SIGKILL)
