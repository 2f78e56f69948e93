"""Credentials in text that people write: arguments of a container or of `kubectl exec`, scripts, values with a URL.

    --password=x   --password x   PASSWORD=x   password: x   {"password":"x"}      by name (`names`)
    Authorization: Bearer x       scheme://user:x@host       JWTs and private keys by their form
    mysql -px   curl -u user:x   redis-cli -a x              by the option of a well-known tool

Only values go; names, options and everything around them stay. `Take` says what becomes of a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from auditpipeline.core.redaction.names import is_secret_option, stays

Take = Callable[[str], str]
LONGEST = 2**16
"""Characters of one text that is looked into: a longer one goes whole, if it may hold a credential."""
_HINT = re.compile(
    r"pass|pwd|pw\b|pswd|secret|token|key|cred|auth|bearer|jwt|sig|dsn|pat\b|connection|://|@|eyJ|-----BEGIN|gh[pousr]_"
    r"|github_|glpat|xox|sk_live|hvs\.|mysql|mariadb|curl|redis|valkey|mongo|ldap|login|sqlcmd|smbclient",
    re.IGNORECASE,
)
_USER = re.compile(r"(?<=://)([^\s/@:\"'<>]*):([^\s/@\"'<>]+)(?=@)")
_LONE_USER = re.compile(r"(?<=://)([^\s/@:\"'<>]{16,})(?=@)")
_DSN = re.compile(r"(?<![\w:])([\w.-]{1,64}):([^\s@:/\"']{1,256})(?=@(?:tcp|unix|udp)?\()")
_HEADER = re.compile(
    r"(?i)(\b(?:proxy-)?authorization[\"']?\s{0,8}[:=]\s{0,8}[\"']?(?:(?:bearer|basic|token|digest|negotiate)\s{1,8})?)([^\s\"',;]+)"
)
_BEARER = re.compile(r"(?i)(\bbearer\s{1,8})([\w.~+/=-]{8,})")
_FORM = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abeprs]-[\w-]{10,}|sk_live_\w{16,}|hvs\.[\w-]{16,})"
)
_PRIVATE = re.compile(r"(-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----)(.*?)(?=-----END|\Z)", re.DOTALL)
_NAMED = re.compile(
    r"(?<![\w.-])((?:--?)?[A-Za-z_][\w.-]*)(\\?[\"']?(?:\s{0,8}[=:]|=>)\s{0,8})"
    r"(\"(?:[^\"\\]|\\.)*\"|'[^']*'|\\\"[^\"\\]*|[^\s\"'&;,|)}\]<>]+)"
)
_SPACED = re.compile(r"(?<!\S)(--?[A-Za-z][\w.-]*)(\s{1,8})(\"[^\"]*\"|'[^']*'|[^\s\"'-][^\s\"']*)")
_COMMANDS = re.compile(r"[|;&\n()`]+")
_WORD = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s\"']+")
_QUOTES = "\"'"
TOOLS = {
    "mysql": ("-p",),
    "mariadb": ("-p",),
    "sshpass": ("-p",),
    "mongo": ("-p",),
    "login": ("-p",),
    "redis-cli": ("-a",),
    "valkey-cli": ("-a",),
    "ldap": ("-w",),
    "sqlcmd": ("-P",),
    "curl": ("-u", "-U", "--user", "--proxy-user"),
    "smbclient": ("-U",),
}
"""Programs, by what their names begin with (`login` is a subcommand of several), and their options for credentials,
whose value may be attached. Of a value with a user in it (`user:x`, `user%x`), what is behind the user goes."""
_ATTACHED_ALONE = ("mysql", "mariadb")
"""Here the option without a value asks for the password: the next word is something else."""
_WITH_USER = ("-u", "-U", "--user", "--proxy-user", "-a")
_PROGRAMS = tuple(TOOLS)
_NAME = re.compile(r"-{0,2}[A-Za-z_][\w.-]*", re.ASCII)


def text(value: str, take: Take) -> str:
    """The text without the credentials in it."""
    if not _HINT.search(value):
        return value
    if len(value) > LONGEST:
        return take(value)
    return _by_tools(_by_names(_by_form(value, take), take), take)


def arguments(values: Sequence[str], take: Take) -> list[str]:
    """A command and its arguments without the credentials in them; as many as there were."""
    found, tool, expected = list[str](), _Tool(), ""
    for value in values:
        if expected and not (value.startswith("-") and len(value) > 1):
            found.append(_by_option(expected, value, take))
            expected = ""
            continue
        expected = tool.expects(value)
        attached = tool.attached(value)
        if attached:
            found.append(value[:attached] + _by_option(value[:attached], value[attached:], take))
        else:
            found.append(_one(value, take))
    return found


def _one(value: str, take: Take) -> str:
    """One argument: all behind the `=` is the value, with spaces in it or not."""
    name, equals, rest = value.partition("=")
    if equals and _NAME.fullmatch(name) and is_secret_option(name.lstrip("-")):
        return value if stays(name, rest) else f"{name}={_unquoted(rest, take)}"
    return text(value, take)


class _Tool:
    """The program that a command line runs, once it is known."""

    def __init__(self) -> None:
        self._options: tuple[str, ...] = ()
        self._alone = False

    def expects(self, word: str) -> str:
        """The option that this word is, if the next word is its secret value."""
        program = word.rpartition("/")[2]
        for name in _PROGRAMS if program.startswith(_PROGRAMS) else ():
            if program.startswith(name):
                self._options, self._alone = TOOLS[name], name in _ATTACHED_ALONE
        if word in self._options and not self._alone:
            return word
        return word if word.startswith("-") and _NAME.fullmatch(word) and is_secret_option(word.lstrip("-")) else ""

    def attached(self, word: str) -> int:
        """Where a value begins that is attached to one of the tool's options; 0 if there is none."""
        if word.startswith("--"):
            return 0
        return next((len(each) for each in self._options if word.startswith(each) and len(word) > len(each)), 0)


def _by_option(option: str, value: str, take: Take) -> str:
    """The value of an option for credentials: of `user:x`, the user stays."""
    if stays("", value):
        return value
    user, separator, rest = value.partition("%" if option == "-U" and "%" in value else ":")
    if option in _WITH_USER and separator and rest:
        return f"{user}{separator}{take(rest)}"
    return _unquoted(value, take)


def _by_form(value: str, take: Take) -> str:
    value = _PRIVATE.sub(lambda found: found[1] + (take(found[2]) if found[2] else ""), value)
    value = _USER.sub(lambda found: f"{found[1]}:{_kept(found[2], take)}", value)
    value = _LONE_USER.sub(lambda found: _kept(found[1], take), value)
    value = _DSN.sub(lambda found: f"{found[1]}:{_kept(found[2], take)}", value)
    value = _HEADER.sub(lambda found: found[1] + _kept(found[2], take), value)
    value = _BEARER.sub(lambda found: found[1] + _kept(found[2], take), value)
    return _FORM.sub(lambda found: take(found[0]), value)


def _by_names(value: str, take: Take) -> str:
    def named(found: re.Match[str]) -> str:
        name, between, content = found.groups()
        bare = content.strip("\\").strip(_QUOTES)
        if not is_secret_option(name.lstrip("-")) or stays(name, bare):
            return found[0]
        return name + between + _unquoted(content, take)

    value = _NAMED.sub(named, value)
    return _SPACED.sub(named, value)


def _by_tools(value: str, take: Take) -> str:
    """The text with what the options of tools hold taken, command by command."""
    taken = list(_secrets_of_tools(value, take))
    for start, end, new in reversed(taken):
        value = value[:start] + new + value[end:]
    return value


def _secrets_of_tools(value: str, take: Take) -> Iterator[tuple[int, int, str]]:
    start = 0
    for end in [*(found.start() for found in _COMMANDS.finditer(value)), len(value)]:
        words = list(_WORD.finditer(value, start, end))
        if any(word[0].rpartition("/")[2].startswith(_PROGRAMS) for word in words):
            old = [word[0] for word in words]
            for word, before, after in zip(words, old, _of_tool(old, take), strict=True):
                if before != after:
                    yield word.start(), word.end(), after
        start = end


def _of_tool(words: list[str], take: Take) -> list[str]:
    found, tool, expected = list[str](), _Tool(), ""
    for word in words:
        if expected and not word.startswith("-"):
            found.append(_by_option(expected, word, take))
            expected = ""
            continue
        expected, attached = tool.expects(word), tool.attached(word)
        found.append(word[:attached] + _by_option(word[:attached], word[attached:], take) if attached else word)
    return found


def _kept(value: str, take: Take) -> str:
    return value if stays("", value) else take(value)


def _unquoted(value: str, take: Take) -> str:
    """What stands for a value, in the quotes that it had."""
    for quote in ('\\"', '"', "'"):
        if value.startswith(quote):
            closed = value.endswith(quote) and len(value) >= 2 * len(quote)
            inner = value[len(quote) : -len(quote)] if closed else value[len(quote) :]
            return f"{quote}{take(inner) if inner else ''}{quote if closed else ''}"
    return take(value)
