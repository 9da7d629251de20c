"""Rows to an MQTT broker: published with quality of service 1, struck out when the broker acknowledges, repeated until then.

The body is the one that a webhook gets, with the same id. MQTT 3.1.1, which every broker speaks. What is under way is kept in the
ledger, not in the client: each connection has a client of its own, and after a loss whatever was not acknowledged goes again.
"""

from __future__ import annotations

import ssl
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unias.errors import MissingError, UsageError
from unias.progress import Progress
from unias.serve.courier import FIRST_PAUSE, LONGEST_PAUSE, Courier
from unias.serve.ledger import Ledger, Letter

TIMEOUT = 15.0  # seconds for a connection or an acknowledgement
WINDOW = 20  # letters under way; one after a failure, so that a letter the broker chokes on holds up no other
TURN = 0.1  # seconds between looks at the queue
FAREWELL = 2.0  # seconds for acknowledgements still on their way when the watcher stops
PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class Broker:
    """Where to publish, and as whom.

    Attributes:
        tls: None, or the context for mqtts.
    """

    host: str
    port: int
    topic: str
    user: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None


@dataclass
class _Flight:
    """One connection: what is under way on it, by the packet's identifier."""

    numbers: dict[int, Letter]
    acknowledged: list[int]
    since: float
    connected: bool = False
    refusal: str = ""


class Mqtt(Courier):
    """Publishes rows to one topic. Raises MissingError where paho-mqtt is not installed."""

    def __init__(
        self,
        ledger: Ledger,
        broker: Broker,
        client_id: str,
        progress: Progress,
        timeout: float = TIMEOUT,
        first_pause: float = FIRST_PAUSE,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        super().__init__("mqtt", ledger, progress, first_pause, longest_pause)
        self._paho = import_paho()
        self._broker = broker
        self._client_id = client_id
        self._timeout = timeout

    def turn(self) -> None:
        """One connection, from its start to its loss or to the end."""
        flight = _Flight({}, [], time.monotonic())
        client = self._client(flight)
        try:
            reason = self._fly(client, flight)
        except (OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
        finally:
            client.disconnect()
        self._land(flight)
        if reason:
            left = list(flight.numbers.values())
            place = f"{self._broker.host}:{self._broker.port}"
            tries = max((letter.tries for letter in left), default=0)
            self.failed([letter.number for letter in left], tries, f"{place}: {flight.refusal or reason}")

    def _fly(self, client: Any, flight: _Flight) -> str:
        """Publish until the connection is lost; why it was, or nothing where the watcher stops."""
        client.connect(self._broker.host, self._broker.port, keepalive=60)
        farewell: float | None = None
        while True:
            code = client.loop(TURN)
            self._land(flight)
            now = time.monotonic()
            if code != 0 or flight.refusal:
                return str(self._paho.error_string(code))
            if (flight.numbers or not flight.connected) and now - flight.since > self._timeout:
                return "no acknowledgement in time"
            if self._stopping.is_set():
                farewell = farewell or now + FAREWELL
                if not flight.numbers or now > farewell:
                    return ""
            elif flight.connected:
                self._publish(client, flight, now)

    def _publish(self, client: Any, flight: _Flight, now: float) -> None:
        window = 1 if self.failures else WINDOW
        if len(flight.numbers) >= window:
            return
        under_way = {letter.number for letter in flight.numbers.values()}
        letters = [one for one in self.ledger.letters(self.sink, window) if one.number not in under_way]
        for letter in letters[: window - len(flight.numbers)]:
            if not flight.numbers:
                flight.since = now
            message = client.publish(self._broker.topic, letter.body, qos=1)
            flight.numbers[message.mid] = letter

    def _land(self, flight: _Flight) -> None:
        """Strike out what the broker has acknowledged."""
        numbers = [flight.numbers.pop(mid).number for mid in flight.acknowledged if mid in flight.numbers]
        flight.acknowledged.clear()
        if numbers:
            flight.since = time.monotonic()
            self.arrived(numbers)

    def _client(self, flight: _Flight) -> Any:
        client = self._paho.Client(
            self._paho.CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=self._paho.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = self._timeout
        if self._broker.user is not None:
            client.username_pw_set(self._broker.user, self._broker.password)
        if self._broker.tls is not None:
            client.tls_set_context(self._broker.tls)

        def connected(_client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
            flight.connected = not code.is_failure
            flight.refusal = f"refused: {code}" if code.is_failure else ""

        def published(_client: Any, _data: Any, mid: int, _code: Any, _properties: Any) -> None:
            flight.acknowledged.append(mid)

        client.on_connect, client.on_publish = connected, published
        return client


def import_paho() -> Any:
    """paho's client module. Raises MissingError naming the extra."""
    try:
        from paho.mqtt import client
    except ImportError as error:
        raise MissingError(
            '--mqtt needs the package paho-mqtt, which is not installed here. pip install "unias[serve]" brings it.'
        ) from error
    return client


def read_broker(
    url: str, topic: str, user: str | None = None, password: str | None = None, authority: Path | None = None
) -> Broker:
    """The broker of ``mqtt://host[:port]`` or ``mqtts://host[:port]``, which is TLS.

    Args:
        authority: certificates in PEM to trust for mqtts, instead of the system's.

    Raises UsageError for what cannot be meant so.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urllib.parse.urlsplit(""), None
    if parts.scheme not in PORTS or not parts.hostname or parts.path.strip("/") or parts.query or port == 0:
        raise UsageError(f"--mqtt {url}: give mqtt://host:1883, or mqtts://host:8883 for TLS.")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "--mqtt: a URL with a user or password shows them to everybody here. Use --mqtt-user and a file."
        )
    if not topic or any(sign in topic for sign in "+#\0") or len(topic.encode()) > 65535:
        raise UsageError(f"--mqtt-topic {topic!r}: a topic to publish to is not empty and holds no + or #.")
    if password is not None and user is None:
        raise UsageError("--mqtt-password-file: a password needs --mqtt-user.")
    context = None
    if parts.scheme == "mqtts":
        try:
            context = ssl.create_default_context(cafile=authority)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"--mqtt-ca {authority}: no certificates in PEM: {error}.") from error
    elif authority is not None:
        raise UsageError("--mqtt-ca: is for TLS. Give --mqtt as mqtts://host:8883.")
    return Broker(parts.hostname, port or PORTS[parts.scheme], topic, user, password, context)
