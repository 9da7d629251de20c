"""Webhooks: signatures that others can check, at least one delivery of each row, and what is done with every answer."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest
from watch_office import Office
from watch_stand_in import KEY, StandIn, photo
from webhook_stand_in import SECRET, Receiver

from unias.errors import UsageError
from unias.progress import Progress
from unias.serve.courier import read_secret
from unias.serve.folder import Folder
from unias.serve.ledger import Ledger
from unias.serve.watch import Watch
from unias.serve.webhook import Webhook, check_url, read_key, sign


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    one = Receiver()
    yield one
    one.close()


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Ledger, "synchronous", "OFF")
    one = Office(tmp_path, "webhook")
    yield one
    one.stop()
    one.ledger.close()


def send(office: Office, url: str, **wishes: Any) -> Webhook:
    """A started courier that is quick to try again."""
    wishes = {"first_pause": 0.002, "longest_pause": 0.01, "timeout": 10.0, **wishes}
    return office.employ(Webhook(office.ledger, url, KEY, office.heard, **wishes))


@pytest.mark.parametrize(
    ("secret", "id_", "stamp", "body", "signature"),
    [  # published with Standard Webhooks' libraries, and with Svix's documentation
        (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            b'{"test": 2432232314}',
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            "whsec_plJ3nmyCDGBKInavdOK15jsl",
            "msg_loFOjxBNrRLzqYUf",
            1731705121,
            b'{"event_type":"ping","data":{"success":true}}',
            "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
        ),
    ],
)
def test_signatures_are_those_of_standard_webhooks(
    secret: str, id_: str, stamp: int, body: bytes, signature: str
) -> None:
    assert sign(read_key(secret), id_, stamp, body) == signature


@pytest.mark.parametrize(
    "secret", [None, "", "whsec_", "secret", "whsec_c2hvcnQ=", SECRET[6:], SECRET + "!", "whsec_ü"]
)
def test_secrets_that_are_refused(secret: str | None) -> None:
    with pytest.raises(UsageError, match="whsec_"):
        read_key(secret)


def test_where_secrets_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_secret("--s", None, "UNIAS_TEST_SECRET") is None
    monkeypatch.setenv("UNIAS_TEST_SECRET", SECRET)
    assert read_secret("--s", None, "UNIAS_TEST_SECRET") == SECRET
    (tmp_path / "secret").write_text("  another\n")
    assert read_secret("--s", tmp_path / "secret", "UNIAS_TEST_SECRET") == "another"
    (tmp_path / "empty").write_text("\n")
    for file, fault in ((tmp_path / "none", "No such file"), (tmp_path / "empty", "empty"), (tmp_path, "directory")):
        with pytest.raises(UsageError, match=fault):
            read_secret("--s", file, "UNIAS_TEST_SECRET")
    assert read_key(SECRET) == KEY


@pytest.mark.parametrize(
    "url",
    [
        *("", "host", "ftp://host/x", "file:///etc/passwd", "http://", "http:///x", "http://h:0/", "http://h:x/"),
        *("http://h/ x", "http://h/ü", "https://user:word@host/", "https://user@host/", "http://[::1/"),
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--webhook"):
        check_url(url)


def test_urls_that_will_do() -> None:
    for url in ("http://127.0.0.1:8000/hook", "https://mes.example/a?line=5", "HTTP://[::1]:80/"):
        assert check_url(url) == url


def test_every_row_arrives_once_where_nothing_fails(office: Office, receiver: Receiver) -> None:
    office.write(40)
    courier = send(office, receiver.url)
    office.wait()
    office.write(10)
    courier.ring()
    office.wait()
    office.stop()
    assert receiver.taken == dict.fromkeys(office.ids(), 1)
    assert receiver.faults == []
    assert office.heard.said == []
    assert courier.delivered == 50


def test_every_row_arrives_though_the_receiver_fails_at_random(office: Office, receiver: Receiver) -> None:
    chance = random.Random(5)
    receiver.answer = lambda _letter: chance.choice([200, 201, None, 500, 503, 408, 429, 302])
    office.write(40)
    send(office, receiver.url)
    office.wait()
    office.stop()
    assert set(receiver.taken) == office.ids()
    assert set(receiver.taken.values()) == {1}
    assert sum(receiver.asked.values()) > 60  # it did fail
    assert all(len(bodies) == 1 for bodies in receiver.bodies.values())  # the same bytes at every try
    assert receiver.faults == []


def test_an_answer_that_is_lost_means_a_second_delivery_with_the_same_id(office: Office, receiver: Receiver) -> None:
    """At least once: the receiver has taken it in, and the sender cannot know."""
    receiver.answer = lambda letter: None if receiver.asked[letter["id"]] == 1 else 200
    office.write(3)
    send(office, receiver.url)
    office.wait()
    assert receiver.asked == dict.fromkeys(office.ids(), 2)


def test_letters_outlive_the_process(office: Office, receiver: Receiver) -> None:
    receiver.answer = lambda _letter: 500
    office.write(5)
    courier = send(office, receiver.url, longest_pause=3600.0, first_pause=3600.0)
    receiver.wait(lambda: len(receiver.asked) >= 1)
    office.stop()  # at once, though the courier pauses for an hour
    assert courier.delivered == 0
    office.restart()
    receiver.answer = lambda _letter: 200
    send(office, receiver.url)
    office.wait()
    assert set(receiver.taken) == office.ids()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 422])
def test_what_is_refused_for_good_is_parked_until_asked_for(office: Office, receiver: Receiver, status: int) -> None:
    receiver.answer = lambda letter: status if letter["data"]["number"] == 2 else 200
    office.write(3)
    courier = send(office, receiver.url)
    office.wait(lambda: office.counts() == {"waiting": 0, "parked": 1})
    assert len(receiver.taken) == 2
    assert courier.resting
    office.stop()
    assert [str(status) in text and "row 2" in text and "--resend" in text for text in office.heard.said] == [True]
    assert max(receiver.asked.values()) == 1
    receiver.answer = lambda _letter: 200
    assert office.ledger.resend() == 1
    send(office, receiver.url)
    office.wait(lambda: office.counts() == {"waiting": 0, "parked": 0})
    assert set(receiver.taken) == office.ids()


def test_a_row_that_always_fails_holds_up_no_other(office: Office, receiver: Receiver) -> None:
    receiver.answer = lambda letter: 500 if letter["data"]["number"] == 1 else 200
    office.write(30)
    send(office, receiver.url)
    office.wait(lambda: office.counts()["waiting"] == 1)
    assert len(receiver.taken) == 29


def test_redirects_are_not_followed(office: Office, receiver: Receiver) -> None:
    other = Receiver()
    try:
        receiver.answer = lambda _letter: (307, {"Location": other.url})
        office.write(1)
        send(office, receiver.url)
        receiver.wait(lambda: sum(receiver.asked.values()) >= 3)
        office.stop()
        assert other.asked == {}
        assert "redirects are not followed" in office.heard.said[0]
        assert other.url in office.heard.said[0]
        assert office.ledger.outstanding()["webhook"] == {"waiting": 1, "parked": 0}
    finally:
        other.close()


def test_a_wish_to_be_left_alone_is_heeded(office: Office, receiver: Receiver) -> None:
    receiver.answer = lambda _letter: (429, {"Retry-After": "1000"})
    office.write(2)
    send(office, receiver.url)
    office.wait(lambda: bool(office.heard.said))
    office.stop()
    assert sum(receiver.asked.values()) == 1
    assert [letter.number for letter in office.ledger.letters("webhook", 9)] == [2]
    office.ledger.delivered("webhook", [2])
    due = office.ledger.next_due("webhook")
    assert due is not None
    assert 900 < due <= 1000


def test_a_receiver_that_is_not_there(office: Office, receiver: Receiver) -> None:
    receiver.close()
    office.write(2)
    courier = send(office, receiver.url)
    office.wait(lambda: courier.resting)  # given up by those who wait, not by the courier
    office.stop()
    assert office.ledger.outstanding()["webhook"]["waiting"] == 2
    assert len(office.heard.said) == 1  # said once
    assert "refused" in office.heard.said[0]
    other = Receiver()
    try:
        send(office, other.url)
        office.wait()
        assert set(other.taken) == office.ids()
    finally:
        other.close()


def test_a_receiver_that_hangs_does_not_hold_up_inspection(tmp_path: Path, receiver: Receiver) -> None:
    hold = threading.Event()
    receiver.answer = lambda _letter: (hold.wait(30), 200)[1]
    (tmp_path / "in").mkdir()
    for number in range(12):
        (tmp_path / "in" / f"{number}.png").write_bytes(photo(f"photo {number}"))
    with Ledger(tmp_path / "out", tmp_path / "in") as ledger:
        courier = Webhook(ledger, receiver.url, KEY, Progress("silent"))
        courier.start()
        watch = Watch(
            ledger,
            Folder(tmp_path / "in", settle=0),
            StandIn(tmp_path / "out"),
            Progress("silent"),
            (courier,),
            batch=3,
        )
        assert watch.step() == 12
        assert ledger.outstanding()["webhook"]["waiting"] == 12
        hold.set()
        receiver.wait(lambda: len(receiver.taken) == 12)
        courier.stop()
        courier.join(30)
        courier.check()


def test_silence_is_a_failure(office: Office, receiver: Receiver) -> None:
    hold = threading.Event()
    receiver.answer = lambda _letter: (hold.wait(30), 200)[1] if not office.heard.said else 200
    office.write(1)
    send(office, receiver.url, timeout=0.05)
    office.wait(lambda: bool(office.heard.said))
    assert "timed out" in office.heard.said[0]
    hold.set()
    office.wait()


def test_what_ends_a_courier_is_not_kept_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()

    def broken(*_: Any) -> None:
        raise RuntimeError("out of order")

    with Ledger(tmp_path / "out", tmp_path / "in") as ledger:
        courier = Webhook(ledger, "http://127.0.0.1:9/", KEY, Progress("silent"))
        monkeypatch.setattr(courier, "turn", broken)
        watch = Watch(
            ledger, Folder(tmp_path / "in"), StandIn(tmp_path / "out"), Progress("silent"), (courier,), poll=0.01
        )
        with pytest.raises(RuntimeError, match="out of order"):
            watch.run(threading.Event())
