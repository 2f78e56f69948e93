"""Secrets in arguments: of containers, and of what is run in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.redaction.events import Event
from tests.redaction.marks import Mint, encoded
from tests.redaction.plant_pods import WORKLOADS, container, in_bodies

SCHEMES = ("postgres", "https", "amqp", "mongodb+srv", "redis")
FLAGS = (
    "password",
    "db-password",
    "token",
    "api-token",
    "client-secret",
    "api-key",
    "secret",
    "bootstrap_token",
    "requirepass",
    "Password",
)


def _joined(mint: Mint) -> list[str]:
    flag = mint.keep(mint.pick("--", "-") + mint.pick(*FLAGS) + "=")
    return ["serve", "--key-file=/x", flag + mint.word(), "--port=80"]


def _apart(mint: Mint) -> list[str]:
    return ["serve", "--port", "80", mint.keep("--" + mint.pick(*FLAGS)), mint.text(), "--verbose"]


def _assigned(mint: Mint) -> list[str]:
    return ["env", mint.keep("DB_PASSWORD=") + mint.word(), mint.keep("KEYCLOAK_URL=https://k.example"), "app"]


def _shell(mint: Mint, script: str) -> list[str]:
    return [mint.pick("sh", "/bin/sh", "bash"), "-c", script]


def _quoted(mint: Mint) -> str:
    quote = mint.pick('"', "'")
    return f"{quote}{mint.mark()} of several words{quote}"


COMMANDS: dict[str, Callable[[Mint], list[str]]] = {
    "--password=": _joined,
    "--password and a value": _apart,
    "NAME=value": _assigned,
    "-e NAME=value": lambda mint: ["docker", "run", "-e", f"PASSWORD={mint.word()}", mint.keep("image-of-app")],
    "sh: NAME=value": lambda mint: _shell(mint, f"PGPASSWORD={mint.word()} {mint.keep('psql -h db')} -c 'SELECT 1'"),
    "sh: a quoted value": lambda mint: _shell(mint, f"export DB_PASSWORD={_quoted(mint)}; {mint.keep('exec serve')}"),
    "sh: --password=": lambda mint: _shell(mint, f"{mint.keep('set -e; serve')} --password={mint.word()} --port=80"),
    "sh: --password and a value": lambda mint: _shell(
        mint, f"{mint.keep('serve')} --password {mint.one_of(mint.word, lambda: _quoted(mint))} --port 80"
    ),
    "sh: -p of mysql": lambda mint: _shell(
        mint, f"{mint.keep('mysql -u root')} -p{mint.word()}; PGPASSWORD={mint.word()} psql"
    ),
    "sh: -p of mysql and a quoted value": lambda mint: _shell(
        mint, f"{mint.keep('mysql -uroot')} -p{_quoted(mint)} app"
    ),
    "sh: bundled -u of curl": lambda mint: _shell(
        mint, f"curl {mint.pick('-su', '-sSku')} admin:{mint.word()} http://x"
    ),
    "--user=": lambda mint: ["etcdctl", f"{mint.keep('--user=root')}:{mint.word()}", "get", "a"],
    "-p of mysql": lambda mint: [
        mint.pick("mysql", "mysqldump", "/usr/bin/mysqladmin"),
        "-u",
        "root",
        f"-p{mint.word()}",
    ],
    "-u of curl": lambda mint: [
        "curl",
        mint.pick("-u", "--user"),
        f"{mint.keep('admin')}:{mint.word()}",
        "http://localhost",
    ],
    "sh: -u of curl": lambda mint: _shell(
        mint, f"{mint.keep('curl -s')} {mint.pick('-u ', '--user ', '-u')}admin:{mint.word()} http://localhost"
    ),
    "Authorization": lambda mint: ["curl", "-H", f"Authorization: Bearer {mint.word()}", mint.keep("http://localhost")],
    "sh: Authorization": lambda mint: _shell(
        mint,
        f'curl -H "{mint.pick("Authorization", "authorization")}: Basic {encoded("admin:" + mint.word())}" http://localhost',
    ),
    "a URL": lambda mint: [
        mint.keep("migrate"),
        f"{mint.pick(*SCHEMES)}://app:{mint.word()}@{mint.keep('db.example.com')}/app",
    ],
    "sh: a URL": lambda mint: _shell(mint, f"git clone https://bot:{mint.word()}@{mint.keep('git.example.com')}/a.git"),
}


def argued(mint: Mint, name: str) -> Event:
    """The words as the command or the arguments of a container."""
    words = COMMANDS[name](mint)
    apart = {"command": words[:1], "args": words[1:]}
    fields = mint.pick({"command": words}, apart if len(words) > 2 else {"args": words}, {"args": words})
    return in_bodies(mint, mint.pick(*WORKLOADS), container(mint, **fields))


KINDS: dict[str, Callable[[Mint], Event]] = {f"command: {name}": partial(argued, name=name) for name in COMMANDS}
