"""Who may do what: tokens of an OpenID Connect realm, and roles.

MONAI Label's own check refuses every token (it names no algorithm), takes tokens that were made for
other programs or never end, and waits for the realm on the event loop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
import jwt
import requests
from fastapi import Depends, HTTPException
from fastapi.security import OAuth2PasswordBearer
from monailabel.config import settings as server_settings
from pydantic import BaseModel, ConfigDict, ValidationError

from uncol.errors import RealmError

logger = logging.getLogger(__name__)

Role = Literal["user", "annotator", "reviewer", "admin"]
ALGORITHMS = ["RS256", "RS384", "RS512"]  # what realms sign with
KEY_LASTS_S = 3600.0
ASK_AGAIN_S = 10.0  # after a realm did not answer, or a token did not fit its key
ASK_FOR_S = 5.0
CHECKED_AT_ONCE = 4  # tokens; the others wait outside the threads that answer requests
LEEWAY_S = 10
NOT_VALID = "Could not validate credentials"
NO_ANSWER = "The login service does not answer. Try again in a moment."

bearer = OAuth2PasswordBearer(tokenUrl="/auth/token", auto_error=False)


@dataclass(frozen=True)
class User:
    """Somebody who sends requests.

    Attributes:
        name: the user name, as kept with labels.
        roles: what they may do, in the realm's words.
        email: as the token says, if it does.
        full_name: as the token says, if it does.
    """

    name: str
    roles: frozenset[str]
    email: str | None = None
    full_name: str | None = None


class _Claims(BaseModel):
    """What a token must say, whatever else it says."""

    model_config = ConfigDict(extra="allow", strict=True)

    exp: float
    iss: str
    aud: str | list[str] = ""
    azp: str = ""
    typ: str = "Bearer"
    at_hash: str | None = None  # only ID tokens have one

    def text(self, word: str) -> str | None:
        """Return another claim, if it is a text."""
        value = (self.model_extra or {}).get(word)
        return value if isinstance(value, str) else None


class Realm:
    """The realm that signs tokens; its key and name are fetched when a token first comes."""

    def __init__(self, url: str, *, issuer: str | None, audience: str) -> None:
        """Know it; nothing is asked yet.

        Args:
            url: its address.
            issuer: what tokens must name as their issuer; by default what the realm says itself.
            audience: for which client tokens must be made (`azp` or `aud`).
        """
        self._url = url.rstrip("/")
        self._issuer = issuer
        self._audience = audience
        self._asking = threading.Lock()
        self._key: tuple[str, str] | None = None  # with the issuer
        self._asked_at = float("-inf")

    def user(self, token: str) -> User:
        """Return whose token it is.

        Raises:
            jwt.InvalidTokenError: it is not valid, or not for this server.
            RealmError: the realm does not answer.
        """
        if jwt.get_unverified_header(token).get("alg") not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError("It is not signed as this realm signs.")
        key, issuer = self._known()  # what is no token at all does not make the realm work
        try:
            return self._read(token, key, issuer)
        except jwt.InvalidSignatureError:
            if self._known(newer_than=key)[0] == key:
                raise
            return self._read(token, *self._known())

    def endpoint(self) -> str:
        """Return where the realm gives tokens for passwords.

        Raises:
            RealmError: the realm does not answer.
        """
        return str(self._get(f"{self._url}/.well-known/openid-configuration")["token_endpoint"])

    def _read(self, token: str, key: str, issuer: str) -> User:
        payload = jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            issuer=issuer,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iss"], "verify_aud": False},
        )
        try:
            claims = _Claims.model_validate(payload)
        except ValidationError as error:
            raise jwt.InvalidTokenError("A claim has an odd value.") from error
        if claims.typ not in ("Bearer", "at+jwt") or claims.at_hash is not None:
            raise jwt.InvalidTokenError("It is not an access token.")
        audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if self._audience not in (claims.azp, *audience):
            raise jwt.InvalidAudienceError("It was made for another program.")
        name = claims.text(server_settings.MONAI_LABEL_AUTH_TOKEN_USERNAME)
        if not name:
            raise jwt.InvalidTokenError("It names no user.")
        return User(
            name,
            _roles(payload),
            claims.text(server_settings.MONAI_LABEL_AUTH_TOKEN_EMAIL),
            claims.text(server_settings.MONAI_LABEL_AUTH_TOKEN_NAME),
        )

    def _known(self, newer_than: str | None = None) -> tuple[str, str]:
        """Return key and issuer; a realm that does not answer is left alone for a while.

        Who has a key does not wait for somebody else's question to the realm.
        """
        key = self._key
        age = time.monotonic() - self._asked_at
        old = key is None or age > KEY_LASTS_S or key[0] == newer_than
        if old and self._asking.acquire(blocking=key is None):
            try:
                self._renew()
            finally:
                self._asking.release()
        if self._key is None:
            raise RealmError(NO_ANSWER)
        return self._key

    def _renew(self) -> None:
        """Ask the realm, unless that was done a moment ago; without an answer the key stays."""
        if time.monotonic() - self._asked_at < ASK_AGAIN_S:
            return
        self._asked_at = time.monotonic()
        try:
            self._key = self._fetch()
        except RealmError:
            if self._key is None:
                raise

    def _fetch(self) -> tuple[str, str]:
        key = str(self._get(self._url).get("public_key", ""))
        issuer = self._issuer
        if issuer is None:
            about = self._get(f"{self._url}/.well-known/openid-configuration")
            issuer = str(about.get("issuer") or self._url)
        return f"-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----", issuer

    def _get(self, url: str) -> Mapping[str, Any]:
        try:
            reply = requests.get(url, timeout=ASK_FOR_S, allow_redirects=False)
            reply.raise_for_status()
            answer = reply.json()
        except (requests.RequestException, ValueError) as error:
            logger.warning("The realm at %s: %s", url, error)
            raise RealmError(NO_ANSWER) from error
        return answer if isinstance(answer, dict) else {}


Check = Callable[..., Coroutine[Any, Any, User]]


class Access:
    """Checks every request's token, if authentication is on."""

    def __init__(self, realm: Realm | None) -> None:
        """Make it.

        Args:
            realm: who signs tokens; None if everybody may do everything.
        """
        self.realm = realm
        self._turns = anyio.CapacityLimiter(CHECKED_AT_ONCE)
        self._checks: dict[Role, Check] = {}

    async def user(self, token: str | None) -> User:
        """Return who sends a request.

        Raises:
            HTTPException: 401, there is no valid token.
            RealmError: the realm does not answer.
        """
        if self.realm is None:
            return EVERYBODY
        try:
            return await anyio.to_thread.run_sync(self.realm.user, token or "", limiter=self._turns)
        except RealmError:
            raise
        except Exception as error:  # there is no end to what odd claims raise
            logger.info("A token was refused: %s", error)
            raise HTTPException(401, NOT_VALID, {"WWW-Authenticate": "Bearer"}) from error

    def needs(self, role: Role) -> Check:
        """Return the dependency that lets in whoever has a role.

        It is the same one each time: FastAPI then checks a request's token once.
        """
        if role not in self._checks:
            self._checks[role] = self._check(role)
        return self._checks[role]

    def _check(self, role: Role) -> Check:
        async def check(token: Annotated[str | None, Depends(bearer)]) -> User:
            user = await self.user(token)
            self.require(user, role)
            return user

        return check

    def require(self, user: User, role: Role) -> None:
        """Refuse somebody without a role.

        Raises:
            HTTPException: 403.
        """
        if self.realm is not None and word_of(role) not in user.roles:
            text = f'Role "{word_of(role)}" is required to perform this action'
            raise HTTPException(403, text)


def word_of(role: Role) -> str:
    """Return a role's name in the realm."""
    return str(getattr(server_settings, f"MONAI_LABEL_AUTH_ROLE_{role.upper()}"))


def _roles(payload: Mapping[str, Any]) -> frozenset[str]:
    """Return the roles at the claim that MONAI Label's settings name, `realm_access#roles`."""
    value: Any = payload
    for word in server_settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        value = value.get(word) if isinstance(value, dict) else None
    if not isinstance(value, list):
        return frozenset()
    return frozenset(role for role in value if isinstance(role, str))


EVERYBODY = User("admin", frozenset(), "admin@monailabel.com", "UNK")  # as MONAI Label calls them
