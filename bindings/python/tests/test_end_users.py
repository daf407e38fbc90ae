"""The application reads the claims of a verified token, and only of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apps
import mesh
import pytest
from conftest import CLAIMS, END_USERS, TOKEN

Serve = Callable[..., mesh.Mesh]


@pytest.mark.parametrize("app", [apps.echo, apps.asgi_echo])
def test_claims_come_from_a_verified_token_or_not_at_all(serve_wsgi: Serve, app: Any) -> None:
    client = serve_wsgi(app, extra=END_USERS).client()
    facts = client.get("http://app/", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    assert facts["claims"] == CLAIMS
    assert "authorization" not in str(facts["headers"]).lower()
    assert client.get("http://app/").json()["claims"] is None
    refused = client.get("http://app/", headers={"Authorization": f"Bearer {TOKEN[:-4]}AAAA"})
    assert refused.status == 401
    assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'
