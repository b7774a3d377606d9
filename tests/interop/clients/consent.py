"""What an application on a Python SDK has to do for access tokens; consent.mjs is the same for TypeScript.

It says who it is, keeps what it is given, and sends its person to the authorization server: here a request whose redirect is read.
Discovery, PKCE and tokens are the SDK's.
"""

from http.client import HTTPConnection
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata

REDIRECT = "http://127.0.0.1:9/callback"
REGISTERED: dict[str, Any] = {
    "redirect_uris": [REDIRECT],
    "grant_types": ["authorization_code"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
}


class Kept:
    """The memory of one process."""

    def __init__(self, client_id: str) -> None:
        self.client = OAuthClientInformationFull(client_id=client_id, **REGISTERED)
        self.tokens: Any = None

    async def get_tokens(self) -> Any:
        return self.tokens

    async def set_tokens(self, tokens: Any) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> Any:
        return self.client

    async def set_client_info(self, client_info: Any) -> None:
        self.client = client_info


def provider(job: dict[str, Any], answered: Any) -> OAuthClientProvider | None:
    """The SDK's provider for a job that comes with tokens; `answered` makes of a redirect's parameters what this SDK wants of them."""
    if not job.get("oauth"):
        return None
    back: dict[str, str] = {}

    async def redirect(url: str) -> None:
        back.clear()
        back.update(await anyio.to_thread.run_sync(_sent_back, url))

    async def callback() -> Any:
        return answered(back)

    metadata = OAuthClientMetadata(client_name="interop", **REGISTERED)
    return OAuthClientProvider(job["url"], metadata, Kept(job["oauth"]["clientId"]), redirect, callback)


def _sent_back(url: str) -> dict[str, str]:
    place = urlsplit(url)
    connection = HTTPConnection(place.netloc, timeout=30)
    connection.request("GET", f"{place.path}?{place.query}")
    answer = connection.getresponse()
    to = answer.getheader("location") or ""
    connection.close()
    if not to.startswith(REDIRECT):
        raise RuntimeError(f"not sent back: HTTP {answer.status}")
    return dict(parse_qsl(urlsplit(to).query))
