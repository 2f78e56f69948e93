"""Names of secrets: of environment variables, options, and the arguments of a URL.

A name is compared in one spelling: `dbPassword`, `db-password` and `DB.PASSWORD` are DB_PASSWORD. The path of a file
(under a name that says so) and a reference to a variable stay: they say where a secret is.
"""

from __future__ import annotations

import re
from functools import lru_cache

WORDS = (
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "PASSCODE",
    "SECRET",
    "TOKEN",
    "CREDENTIAL",
    "APIKEY",
    "PRIVATEKEY",
    "CONNECTION_STRING",
)
"""What may stand anywhere in the name of a secret; one line a word."""
ENDS = (
    "_KEY",
    "ACCESSKEY",
    "PASS",
    "_PWD",
    "_PW",
    "_PSWD",
    "_DSN",
    "_PAT",
    "_JWT",
    "_AUTH_CONFIG",
    "_SIGNATURE",
)
"""What the name of a secret may end with; one line a word."""
WHOLE = ("PWD", "PW", "JWT", "KEY", "SIG", "SIGNATURE", "AUTH")
"""Names of options and of arguments of a URL that say no more than that. A variable PWD is a shell's own."""
HEADERS = ("AUTHORIZATION", "PROXY_AUTHORIZATION", "COOKIE", "SET_COOKIE")
"""Headers of HTTP, besides those whose names say it."""
PATHS = ("_FILE", "_PATH", "_DIR", "_DIRECTORY", "KEYFILE")
"""Names that end so say where a secret is, if the value is a path. So do names that end with KEY, if it is that of a
file with the extension of a key."""
LONGEST = 256
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_OTHER = re.compile(r"[^A-Z0-9]+")
_PATH = re.compile(r"(?:/|\./|\.\./|~/|[A-Za-z]:[\\/])[^\s:@=]*")
_KEY_FILE = re.compile(r"[\w./~\\:-]*[\\/][\w.-]+\.(?:key|pem|crt|der|json|jks|p12|pfx|pub|asc|gpg|ppk)")
_REFERENCE = re.compile(r"\$\(\w+\)", re.ASCII)
_SHELL = re.compile(r"\$(?:\(\w+\)|\{[A-Z_][A-Z0-9_]*\}|[A-Z_][A-Z0-9_]*)", re.ASCII)


def is_secret_name(name: str) -> bool:
    """Whether what has this name is a secret. A text that is too long for a name is taken for one."""
    return len(name) > LONGEST or _is_secret(name)


def is_secret_option(name: str) -> bool:
    """Likewise of an option, or an argument of a URL: there a bare `key` or `pass` is one as well."""
    return is_secret_name(name) or spelt(name) in WHOLE


def is_secret_header(name: str) -> bool:
    """Likewise of a header of HTTP."""
    return is_secret_option(name) or spelt(name) in HEADERS


def stays(name: str, value: str, shell: bool = False) -> bool:
    """Whether the value of a secret's name is none: empty, a reference to a variable, or the path of a file. In a
    script for a shell, references are its own."""
    if not value or (_SHELL if shell else _REFERENCE).fullmatch(value):
        return True
    if len(name) > LONGEST or len(value) > 4096:
        return False
    said = spelt(name)
    if said.endswith(PATHS):
        return _PATH.fullmatch(value) is not None
    return said.endswith("KEY") and _KEY_FILE.fullmatch(value) is not None


@lru_cache(8192)
def spelt(name: str) -> str:
    """The name, of at most `LONGEST` characters, in the spelling in which names are compared."""
    return _OTHER.sub("_", _CAMEL.sub("_", name).upper()).strip("_")


@lru_cache(8192)
def _is_secret(name: str) -> bool:
    said = spelt(name)
    together = said.replace("_", "")
    return said.endswith(ENDS) or any(word in said or word in together for word in WORDS)
