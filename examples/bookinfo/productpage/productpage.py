"""productpage: the page of a book, made of what `details` and `reviews` answer.

An ASGI application like any other. It forwards no header and knows no address: who may call it, where
`details` runs today, the certificates and the trace are the mesh's.
"""

from __future__ import annotations

import asyncio
import html
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import mesh

App = Callable[[Any, Any, Any], Awaitable[None]]
PRODUCT = 0


def product_page(services: mesh.AsyncClient) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        status, page = await answer(scope["method"], scope["path"])
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"%d" % len(page))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": page})

    async def answer(method: str, path: str) -> tuple[int, bytes]:
        if method != "GET" or path != "/productpage":
            return 404, b"there is only GET /productpage\n"
        try:
            details, reviews = await asyncio.gather(
                fetch(f"http://details/details/{PRODUCT}"), fetch(f"http://reviews/reviews/{PRODUCT}")
            )
        except (mesh.MeshError, PartMissing) as error:
            print(f"no page: {error}", file=sys.stderr, flush=True)
            return 502, b"a part of the page is missing\n"
        return 200, render(details, reviews).encode()

    async def fetch(url: str) -> Any:
        async with await services.get(url) as response:
            if response.status != 200:
                raise PartMissing(f"{url} answered {response.status}")
            return await response.json()

    return app


class PartMissing(Exception):
    """A service answered something else than 200."""


def render(details: dict[str, Any], reviews: dict[str, Any]) -> str:
    facts = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(fact))}</dd>" for name, fact in details.items()
    )
    return (
        "<!doctype html><title>The Comedy of Errors</title><h1>The Comedy of Errors</h1>"
        f"<h2>Book Details</h2><dl>{facts}</dl><h2>Book Reviews</h2>"
        + "".join(render_review(review) for review in reviews["reviews"])
    )


def render_review(review: dict[str, Any]) -> str:
    text = f"<blockquote>{html.escape(review['text'])}<small>{html.escape(review['reviewer'])}</small>"
    rating = review.get("rating")
    if rating:
        text += f'<font color="{rating["color"]}">{"&#9733;" * rating["stars"]}</font>'
    return text + "</blockquote>"


if __name__ == "__main__":
    this = mesh.Mesh.from_file(sys.argv[1])
    this.serve(
        product_page(this.aclient()), on_ready=lambda address: print(f"productpage on {address}", flush=True)
    )
