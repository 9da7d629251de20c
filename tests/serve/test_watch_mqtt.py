"""MQTT: each row reaches the broker at least once, whatever happens to connections, acknowledgements and processes."""

from __future__ import annotations

import json
import random
import shutil
import socket
import ssl
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mqtt_stand_in import ACKNOWLEDGE, HANG_UP, KEEP_QUIET
from mqtt_stand_in import Broker as StandInBroker
from watch_office import Office

from unias.errors import MissingError, UsageError
from unias.serve.ledger import Ledger
from unias.serve.mqtt import WINDOW, Broker, Mqtt, import_paho, read_broker

pytest.importorskip("paho.mqtt.client")


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Ledger, "synchronous", "OFF")
    one = Office(tmp_path, "mqtt")
    yield one
    one.stop()
    one.ledger.close()


@pytest.fixture
def stand_in() -> Any:
    one = StandInBroker()
    yield one
    one.close()


def send(office: Office, broker: Broker, **wishes: Any) -> Mqtt:
    """A started courier that is quick to try again."""
    wishes = {"first_pause": 0.002, "longest_pause": 0.01, **wishes}
    return office.employ(Mqtt(office.ledger, broker, f"unias-{office.ledger.key.hex[:12]}", office.heard, **wishes))


def at(stand_in: StandInBroker, **wishes: Any) -> Broker:
    return Broker("127.0.0.1", stand_in.port, "line 5/résultats", **wishes)


def test_every_row_arrives_once_where_nothing_fails(office: Office, stand_in: StandInBroker) -> None:
    office.write(3 * WINDOW)
    courier = send(office, at(stand_in))
    office.wait()
    office.write(5)
    courier.ring()
    office.wait()
    office.stop()
    assert stand_in.acknowledged == dict.fromkeys(office.ids(), 1)
    assert stand_in.came == stand_in.acknowledged
    assert stand_in.topics == {"line 5/résultats"}
    assert stand_in.faults == []
    assert stand_in.clients == [(f"unias-{office.ledger.key.hex[:12]}", None, None)]
    assert stand_in.most_under_way <= WINDOW
    assert courier.delivered == 3 * WINDOW + 5
    body = json.loads(next(iter(stand_in.bodies[min(office.ids())])))
    assert body["id"] == body["data"]["id"]  # the id that a webhook has in its header


@pytest.mark.parametrize("fault", [HANG_UP, KEEP_QUIET])
def test_a_connection_lost_before_the_acknowledgement(office: Office, stand_in: StandInBroker, fault: str) -> None:
    """Each message is taken in by the broker, and its first acknowledgement never comes."""
    stand_in.decide = lambda id_: fault if stand_in.came[id_] == 1 else ACKNOWLEDGE
    office.write(4)
    send(office, at(stand_in), timeout=0.3)
    office.wait()
    assert set(stand_in.acknowledged) == office.ids()
    assert set(stand_in.acknowledged.values()) == {1}
    assert min(stand_in.came.values()) >= 2
    assert all(len(bodies) == 1 for bodies in stand_in.bodies.values())
    assert office.heard.said  # that there was trouble


def test_every_row_arrives_though_the_connection_breaks_at_random(office: Office, stand_in: StandInBroker) -> None:
    chance = random.Random(3)
    stand_in.decide = lambda _id: HANG_UP if chance.random() < 0.3 else ACKNOWLEDGE
    office.write(60)
    send(office, at(stand_in))
    office.wait()
    assert set(stand_in.acknowledged) == office.ids()
    assert sum(stand_in.came.values()) > 70
    assert stand_in.faults == []


def test_a_message_that_the_broker_chokes_on_holds_up_no_other(office: Office, stand_in: StandInBroker) -> None:
    office.write(30)
    bad = json.loads(office.ledger.rows_after(4, 1)[0][1])["id"]
    stand_in.decide = lambda id_: HANG_UP if id_ == bad else ACKNOWLEDGE
    send(office, at(stand_in))
    office.wait(lambda: len(stand_in.acknowledged) == 29)
    office.stop()
    assert office.ledger.outstanding() == {"mqtt": {"waiting": 1, "parked": 0}}


def test_letters_outlive_the_process(office: Office, stand_in: StandInBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unias.serve.mqtt.FAREWELL", 0.05)
    stand_in.decide = lambda _id: KEEP_QUIET
    office.write(3)
    send(office, at(stand_in))
    stand_in.wait(lambda: len(stand_in.came) == 3)
    office.restart()
    assert stand_in.acknowledged == Counter()
    stand_in.decide = lambda _id: ACKNOWLEDGE
    send(office, at(stand_in))
    office.wait()
    assert set(stand_in.acknowledged) == office.ids()


def test_a_broker_that_refuses(office: Office, stand_in: StandInBroker) -> None:
    stand_in.code = 5
    office.write(2)
    courier = send(office, at(stand_in, user="line5", password="wrong"))
    office.wait(lambda: courier.resting)
    assert stand_in.clients[0][1:] == ("line5", "wrong")
    assert len(office.heard.said) == 1
    assert "Not authorized" in office.heard.said[0]
    stand_in.code = 0
    office.wait()
    assert set(stand_in.acknowledged) == office.ids()
    office.wait(lambda: len(office.heard.said) == 2)
    assert "delivers again" in office.heard.said[1]


def test_a_broker_that_is_not_there(office: Office) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    office.write(1)
    courier = send(office, Broker("127.0.0.1", port, "x"))
    office.wait(lambda: courier.resting)
    office.stop()
    assert len(office.heard.said) == 1
    assert f"127.0.0.1:{port}" in office.heard.said[0]


@pytest.mark.parametrize(
    ("url", "topic", "wishes"),
    [
        ("host", "x", {}),
        ("http://host", "x", {}),
        ("mqtt://", "x", {}),
        ("mqtt://host:0", "x", {}),
        ("mqtt://host:port", "x", {}),
        ("mqtt://host/topic", "x", {}),
        ("mqtt://user:word@host", "x", {}),
        ("mqtt://host", "", {}),
        ("mqtt://host", "a/+/b", {}),
        ("mqtt://host", "a/#", {}),
        ("mqtt://host", "x", {"password": "word"}),
        ("mqtt://host", "x", {"authority": Path("ca.pem")}),
        ("mqtts://host", "x", {"authority": Path("no such file.pem")}),
        ("mqtts://host", "x", {"authority": Path(__file__)}),
    ],
)
def test_brokers_that_are_refused(url: str, topic: str, wishes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--mqtt"):
        read_broker(url, topic, **wishes)


def test_brokers_that_will_do() -> None:
    assert read_broker("mqtt://host", "a/b") == Broker("host", 1883, "a/b")
    assert read_broker("mqtt://10.0.0.1:1884/", "a", "me", "word") == Broker("10.0.0.1", 1884, "a", "me", "word")
    secure = read_broker("mqtts://[::1]", "a")
    assert (secure.host, secure.port) == ("::1", 8883)
    assert secure.tls is not None
    assert secure.tls.verify_mode == ssl.CERT_REQUIRED
    assert secure.tls.check_hostname


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "paho.mqtt", None)
    with pytest.raises(MissingError, match=r"unias\[serve\]"):
        import_paho()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mosquitto") is None or shutil.which("openssl") is None, reason="no mosquitto here")
def test_a_real_broker_over_tls_with_a_password(office: Office, tmp_path: Path) -> None:
    """Mosquitto, killed and started again on the way, with a subscriber that counts."""
    paho = import_paho()
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-keyout",
            "key.pem",
            "-out",
            "ca.pem",
            *subject,
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", "users", "line5", "word"], cwd=tmp_path, check=True, capture_output=True
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "conf").write_text(
        f"listener {port} 127.0.0.1\ncertfile {tmp_path}/ca.pem\nkeyfile {tmp_path}/key.pem\nallow_anonymous false\n"
        f"password_file {tmp_path}/users\npersistence true\npersistence_location {tmp_path}/\nautosave_on_changes true\n"
        "autosave_interval 1\nuser root\n"
    )
    broker = read_broker(f"mqtts://localhost:{port}", "results", "line5", "word", tmp_path / "ca.pem")
    came: Counter[str] = Counter()
    ready = threading.Event()
    subscriber = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="counter", clean_session=False)
    subscriber.username_pw_set("line5", "word")
    assert broker.tls is not None
    subscriber.tls_set_context(ssl.create_default_context(cafile=tmp_path / "ca.pem"))
    subscriber.reconnect_delay_set(1, 1)
    subscriber.on_connect = lambda *_: subscriber.subscribe("results", qos=1)
    subscriber.on_subscribe = lambda *_: ready.set()
    subscriber.on_message = lambda _client, _data, message: came.update([json.loads(message.payload)["id"]])

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["mosquitto", "-c", "conf"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    process = start()
    try:
        subscriber.connect_async("localhost", port)
        subscriber.loop_start()
        assert ready.wait(30)
        office.write(200)
        send(office, broker, timeout=5.0)
        office.wait(lambda: len(came) > 50)
        process.terminate()  # it keeps its sessions; what it had not acknowledged comes again
        process.wait()
        office.write(200)
        process = start()
        office.wait()
        office.wait(lambda: set(came) == office.ids())
    finally:
        subscriber.disconnect()
        subscriber.loop_stop()
        process.terminate()
        process.wait()
