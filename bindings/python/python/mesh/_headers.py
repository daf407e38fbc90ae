"""Header fields: names without case, several values per name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

HeaderInput = Mapping[str, str] | Iterable[tuple[str, str]] | None


class Headers(Mapping[str, str]):
    """Reads like a dict (values of one name joined with ", "); `get_list` has them apart."""

    __slots__ = ("_index", "_pairs")

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._index: dict[str, list[str]] = {}
        for name, value in pairs:
            self._index.setdefault(name.lower(), []).append(value)

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._index[name.lower()])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return f"Headers({self._pairs!r})"

    def get_list(self, name: str) -> list[str]:
        """All values of one name, in order."""
        return list(self._index.get(name.lower(), ()))

    def multi_items(self) -> list[tuple[str, str]]:
        """All fields, in order, as received."""
        return list(self._pairs)


def header_pairs(headers: HeaderInput) -> list[tuple[str, str]]:
    """The fields of any accepted form, as pairs."""
    if headers is None:
        return []
    if isinstance(headers, Headers):
        return headers.multi_items()
    return list(headers.items() if isinstance(headers, Mapping) else headers)
