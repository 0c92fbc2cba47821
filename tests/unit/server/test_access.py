"""Tokens: which are taken, and what a realm that hangs or changes its key does."""

import asyncio
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import HTTPException

from uncol.errors import RealmError
from uncol.server import access as module
from uncol.server.access import EVERYBODY, Access, Realm


@pytest.fixture
def checked(realm):
    return Access(Realm(realm.url, issuer=None, audience=realm.client))


def user(access, token):
    return asyncio.run(access.user(token))


def status(access, token):
    with pytest.raises(HTTPException) as refused:
        user(access, token)
    return refused.value.status_code


def test_a_realms_own_token_is_taken(realm, checked) -> None:
    found = user(checked, realm.token("anna"))
    assert found.name == "anna"
    assert found.roles == {"monailabel-user", "monailabel-annotator"}
    assert (
        user(checked, realm.token("anna", drop=("azp",), aud=["account", realm.client])).name
        == "anna"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "http://evil/realm"},
        {"azp": "some-other-app"},
        {"azp": "some-other-app", "aud": "some-other-app"},
        {"typ": "ID"},
        {"typ": "Refresh"},
        {"at_hash": "x"},
        {"exp": "soon"},
        {"exp": None},
        {"azp": 7},
        {"aud": [1, 2]},
        {"preferred_username": 3},
        {"preferred_username": ""},
    ],
    ids=str,
)
def test_a_token_that_is_not_for_this_server_is_401(realm, checked, changes) -> None:
    assert status(checked, realm.token("alma", **changes)) == 401


@pytest.mark.parametrize(("word", "seconds"), [("exp", -100), ("nbf", 900)])
def test_a_token_out_of_its_time_is_401(realm, checked, word, seconds) -> None:
    assert status(checked, realm.token("alma", **{word: int(time.time()) + seconds})) == 401


@pytest.mark.parametrize("word", ["exp", "iss", "azp", "preferred_username"])
def test_a_token_that_lacks_what_matters_is_401(realm, checked, word) -> None:
    assert status(checked, realm.token("alma", drop=(word,))) == 401


@pytest.mark.parametrize("token", ["", "..", "x", "a" * 60_000, "ü", "\x00", None])
def test_what_is_no_token_is_401(checked, token) -> None:
    assert status(checked, token) == 401


def test_other_keys_and_algorithms_are_401(realm, checked) -> None:
    claims = realm.claims("alma")
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert status(checked, jwt.encode(claims, other, algorithm="RS256")) == 401
    assert status(checked, jwt.encode(claims, "guess" * 10, algorithm="HS256")) == 401
    assert status(checked, jwt.encode(claims, None, algorithm="none")) == 401


@pytest.mark.parametrize("access", [[], {"roles": "monailabel-admin"}, {"roles": [3]}, None, "x"])
def test_odd_roles_are_none(realm, checked, access) -> None:
    assert user(checked, realm.token("alma", realm_access=access)).roles == frozenset()


def test_without_authentication_everybody_may_do_everything() -> None:
    assert user(Access(None), None) == EVERYBODY


def test_issuer_and_audience_can_be_told(realm) -> None:
    told = Access(Realm(realm.url, issuer="https://login", audience="label"))
    assert user(told, realm.token("ulla", iss="https://login", azp="label")).name == "ulla"
    assert status(told, realm.token("ulla")) == 401


def test_a_new_key_is_taken_up_without_a_restart(realm, checked, monkeypatch) -> None:
    monkeypatch.setattr(module, "ASK_AGAIN_S", 0.0)
    old = realm.token("ulla")
    assert user(checked, old).name == "ulla"
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    monkeypatch.setattr(realm, "key", other)
    assert user(checked, realm.token("ulla")).name == "ulla"
    assert status(checked, old) == 401


def test_wrong_tokens_do_not_make_the_realm_work(realm, checked) -> None:
    user(checked, realm.token("ulla"))
    before = realm.asked
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    forged = jwt.encode(realm.claims("alma"), other, algorithm="RS256")
    for _ in range(20):
        assert status(checked, forged) == 401
    assert realm.asked <= before + 2


def test_a_realm_that_hangs_does_not_keep_out_who_has_a_token_it_signed_before(
    realm, checked, monkeypatch
) -> None:
    monkeypatch.setattr(module, "ASK_AGAIN_S", 0.0)
    monkeypatch.setattr(module, "ASK_FOR_S", 1.0)
    assert user(checked, realm.token("ulla")).name == "ulla"
    monkeypatch.setattr(realm, "hangs", True)
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    forged = jwt.encode(realm.claims("alma"), other, algorithm="RS256")

    async def ask() -> float:
        waiting = [asyncio.create_task(checked.user(forged)) for _ in range(3)]
        await asyncio.sleep(0.1)
        start = time.monotonic()
        assert (await checked.user(realm.token("ulla"))).name == "ulla"
        answered = time.monotonic() - start
        for one in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(one, HTTPException)
        return answered

    assert asyncio.run(ask()) < 0.5


def test_a_realm_that_hangs_does_not_stop_the_event_loop(realm, checked, monkeypatch) -> None:
    monkeypatch.setattr(module, "ASK_FOR_S", 0.5)
    monkeypatch.setattr(realm, "hangs", True)

    async def ask() -> float:
        start = time.monotonic()
        waiting = asyncio.create_task(checked.user(realm.token("ulla")))
        await asyncio.sleep(0.1)
        answered = time.monotonic() - start
        with pytest.raises(RealmError, match="does not answer"):
            await waiting
        with pytest.raises(RealmError):  # and the next one does not wait again
            await checked.user(realm.token("ulla"))
        assert time.monotonic() - start < 5
        return answered

    assert asyncio.run(ask()) < 0.4
