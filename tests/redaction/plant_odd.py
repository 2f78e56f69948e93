"""Secrets in bodies that are odd: the text, the depth, the order and the names of what is around them."""

from __future__ import annotations

from collections.abc import Callable

from tests.redaction.events import SECRETS, Event, event
from tests.redaction.marks import Mint, encoded
from tests.redaction.plant_pods import WORKLOADS, whole
from tests.redaction.plant_secrets import either
from tests.redaction.spelling import Pairs, Spelt, spelt

ODD = (
    rb'"\ud800"',
    rb'{"\udfff":1}',
    b'"\xff\xfe\xed\xa0\x80"',
    b'{"\xc0":1}',
    b"[" * 400 + b"]" * 400,
    b'{"a":' * 300 + b"1" + b"}" * 300,
)


def beside(mint: Mint) -> Event:
    """An odd value beside a secret."""
    made = either(mint) if mint.often() else whole(mint, WORKLOADS[0])
    of = SECRETS if made["kind"] == "Secret" else WORKLOADS[0].resource
    metadata = [*made["metadata"].items(), ("odd", Spelt(mint.pick(*ODD)))]
    mint.chance.shuffle(metadata)
    return event(mint, "patch", of, made | {"metadata": Pairs(metadata)})


def within(mint: Mint) -> Event:
    """A secret whose own text is odd."""
    mark = mint.mark().encode()
    odd = mint.pick(rb"\ud800", rb"\udc00\ud800", b"\xff", b"\xed\xa0\x80", b"\xf0\x9f")
    value = Spelt(b'"' + mark + odd + mark + b'"')
    return event(mint, "patch", SECRETS, {"stringData": {"a": value, "b": mint.text()}})


def deep(mint: Mint) -> Event:
    """A secret below many levels, of which some are more than a body may have."""
    levels = mint.pick(100, 480, 505, 510, 511, 512, 513, 600, 1000, 5000)
    inner = spelt(mint.text())
    opening, closing = mint.pick((b'{"a":', b"}"), (b"[", b"]"))
    value = Spelt(opening * levels + inner + closing * levels)
    return event(mint, "patch", SECRETS, {"data": {"a": value, "b": encoded(mint.text())}})


def not_json(mint: Mint) -> Event:
    """A body that no parser takes, but whose end can be found."""
    body = spelt({"data": {"a": encoded(mint.text())}})
    return event(
        mint, "patch", SECRETS, Spelt(mint.pick(body[:-1] + b",}", body.replace(b":", b" ", 1), b"{" + body + b"}"))
    )


def shuffled(mint: Mint) -> Event:
    """The fields of the event in another order, with fields that nobody knows, and with names that are spelt oddly."""
    made = either(mint)
    fields = event(mint, "update", SECRETS, made, made)
    fields["new"] = b'{"a":["b"]}'
    order = list(fields)
    mint.chance.shuffle(order)
    return {name: fields[name] for name in order}


def named_oddly(mint: Mint) -> Event:
    """Names of fields that are spelt with escapes: `item` writes them as they are here."""
    fields = event(mint, "update", SECRETS, either(mint), either(mint), annotations={"a": "b"})
    return {
        key.replace("O", r"\u004f").replace("o", r"\u006F") if mint.often() else key: value
        for key, value in fields.items()
    }


def in_white_space(mint: Mint) -> Event:
    """White space wherever it may be."""
    fields = event(mint, "update", SECRETS, either(mint), either(mint))
    return {
        key: b" \t" + value.replace(b'":', b'" :\n ') + b"\r\n" if b'\\":' not in value else value
        for key, value in fields.items()
    }


def body_twice(mint: Mint) -> Event:
    """A body that comes twice: which one counts, its reader decides."""
    bodies = [spelt(either(mint)), spelt(either(mint))]
    fields = event(mint, "patch", SECRETS)
    return fields | {"requestObject": b',"requestObject":'.join(bodies)}


KINDS: dict[str, Callable[[Mint], Event]] = {
    "odd: beside a secret": beside,
    "odd: within a secret": within,
    "odd: deep": deep,
    "odd: not JSON": not_json,
    "odd: the order of fields": shuffled,
    "odd: the names of fields": named_oddly,
    "odd: a body that comes twice": body_twice,
    "odd: white space": in_white_space,
}
