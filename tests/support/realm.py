"""A realm that signs tokens, for tests of those who check them."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


class RealmStandIn:
    """Signs tokens, and answers as a Keycloak realm does."""

    client = "monailabel-app"
    roles: ClassVar[dict[str, list[str]]] = {  # each role includes the lesser ones
        "nobody": [],
        "ulla": ["user"],
        "anna": ["user", "annotator"],
        "rita": ["user", "annotator", "reviewer"],
        "alma": ["user", "annotator", "reviewer", "admin"],
    }

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.hangs = False
        self.asked = 0
        realm = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                return

            def do_GET(self) -> None:
                realm.asked += 1
                if realm.hangs:
                    time.sleep(8)
                    return
                kind = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                der = realm.key.public_key().public_bytes(*kind)
                told = {"public_key": base64.b64encode(der).decode()}
                if self.path.endswith("openid-configuration"):
                    told = {"issuer": realm.url, "token_endpoint": f"{realm.url}/token"}
                body = json.dumps(told).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def claims(self, name: str) -> dict[str, Any]:
        return {
            "preferred_username": name,
            "exp": int(time.time()) + 600,
            "iss": self.url,
            "azp": self.client,
            "typ": "Bearer",
            "realm_access": {"roles": [f"monailabel-{role}" for role in self.roles.get(name, [])]},
        }

    def token(self, name: str = "ulla", *, drop: tuple[str, ...] = (), **changes: Any) -> str:
        claims = {**self.claims(name), **changes}
        kept = {word: value for word, value in claims.items() if word not in drop}
        return jwt.encode(kept, self.key, algorithm="RS256")
