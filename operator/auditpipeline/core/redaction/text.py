"""Credentials in text that people write: arguments of a container or of `kubectl exec`, scripts, values with a URL.

    --password=x   --password x   PASSWORD=x   password: x   {"password":"x"}      by name (`names`)
    Authorization: Bearer x       scheme://user:x@host       JWTs and private keys by their form
    mysql -px   curl -u user:x   redis-cli -a x              by the option of a well-known tool

Only values go; names, options and everything around them stay. `Take` says what becomes of a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from auditpipeline.core.redaction.names import is_secret_header, is_secret_name, is_secret_option, stays
from auditpipeline.core.redaction.taking import Taker

Take = Callable[[str], str]
LONGEST = 2**15
"""Characters of one text that is looked into: a longer one goes whole, if it may hold a credential."""
_HINT = re.compile(
    r"pass|pwd|pw\b|pswd|secret|token|key|cred|auth|bearer|jwt|sig|dsn|pat\b|connection|//|@|eyj|-----begin|gh[pousr]_"
    r"|github_|glpat|xox|sk_live|hvs\.|mysql|mariadb|curl|redis|valkey|mongo|ldap|login|sqlcmd|smbclient|etcdctl"
)
"""What text in small letters has, if there may be a credential in it."""
_USER = re.compile(r"(?<=//)([^\s/@:\"'<>]*):([^\s/@\"'<>]+)(?=@)")
_LONE_USER = re.compile(r"(?<=//)([^\s/@:\"'<>]{16,})(?=@)")
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
_WORD = re.compile(r"(?:[^\s\"']++|\"[^\"]*+\"|'[^']*+'|[\"'])++")
_OPTION = re.compile(r"--[A-Za-z][\w.-]*+(?:=.*+)?|-[A-Za-z]", re.DOTALL)
_SCRIPT = re.compile(r"-[a-z]{0,4}c")
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
    "etcdctl": ("--user",),
    "smbclient": ("-U", "--user"),
}
"""Programs, by what their names begin with (`login` is a subcommand of several), and their options for credentials,
whose value may be attached. Of a value with a user in it (`user:x`, `user%x`), what is behind the user goes."""
_ATTACHED_ALONE = ("mysql", "mariadb")
"""Here the option without a value asks for the password: the next word is something else."""
_WITH_USER = ("-u", "-U", "--user", "--proxy-user", "-a")
_PROGRAMS = tuple(TOOLS)
_NAME = re.compile(r"-{0,2}[A-Za-z_][\w.-]*", re.ASCII)


def value_of(name: str, value: str, taker: Taker, header: bool = False) -> str:
    """Returns what is left of the value of a variable, or of a `header`, with that name."""
    if is_secret_header(name) if header else is_secret_name(name):
        return value if stays(name, value) else taker.take(value)
    if not hinted(value):
        return value
    return text(value, taker.take, shell=" " in value) if taker.look(len(value)) else taker.take(value)


def hinted(value: str) -> bool:
    """Whether a text may hold a credential."""
    return _HINT.search(value.lower()) is not None


def text(value: str, take: Take, shell: bool = True) -> str:
    """The text without the credentials in it; a script for a `shell` may refer to variables."""
    if not hinted(value):
        return value
    if len(value) > LONGEST:
        return take(value)
    return _by_tools(_by_names(_by_form(value, take, shell), take, shell), take, shell)


def arguments(values: Sequence[str], take: Take, scripts: bool = False) -> list[str]:
    """A command and its arguments without the credentials in them; as many as there were. With `scripts`, one with a
    blank in it may be a whole command line."""

    def other(before: str, value: str) -> str:
        script = _SCRIPT.fullmatch(before) or (scripts and " " in value and value[0] != "-")
        return text(value, take) if script else _one(value, take)

    return _by_options(values, take, False, other)


def _by_options(words: Sequence[str], take: Take, shell: bool, other: Callable[[str, str], str]) -> list[str]:
    """The words of a command line without the values of its options; `other` says what is left of a word that is
    not one, given the word before it."""
    found, tool, expected, before = list[str](), _Tool(), "", ""
    for word in words:
        if expected and not _OPTION.fullmatch(word):
            found.append(_by_option(expected, word, take, shell))
            expected = ""
        else:
            expected, at = tool.expects(word), tool.attached(word)
            left = word[:at] + _by_option(word[:at], word[at:], take, shell) if at else other(before, word)
            found.append(left)
        before = word
    return found


def _one(value: str, take: Take) -> str:
    """One argument: all behind the `=` is the value, with spaces in it or not."""
    name, equals, rest = value.partition("=")
    if equals and _NAME.fullmatch(name) and is_secret_option(name.lstrip("-")):
        return value if stays(name, rest) else f"{name}={_unquoted(rest, take)}"
    return text(value, take, shell=" " in value)


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
        if not word.startswith("-"):
            return ""
        if not self._alone and (option := self._bundled(word)):
            return option
        return word if _NAME.fullmatch(word) and is_secret_option(word.lstrip("-")) else ""

    def _bundled(self, word: str) -> str:
        """The option, which may be the last one of several letters: `-su`."""
        if word in self._options:
            return word
        letters = word[1:]
        short = f"-{letters[-1:]}"
        return short if short in self._options and letters.isalpha() and len(letters) <= 6 else ""

    def attached(self, word: str) -> int:
        """Where a value begins that is attached to one of the tool's options; 0 if there is none."""
        for option in self._options if word.startswith("-") else ():
            long = option.startswith("--")
            if word.startswith(f"{option}=" if long else option) and len(word) > len(option) + long:
                if not long and (self._bundled(word) or word.startswith("--")):
                    continue
                return len(option) + long
        return 0


def _by_option(option: str, value: str, take: Take, shell: bool) -> str:
    """The value of an option for credentials: of `user:x`, the user stays."""
    if stays("", value.strip(_QUOTES), shell):
        return value
    user, separator, rest = value.partition("%" if option == "-U" and "%" in value else ":")
    if option.rstrip("=") in _WITH_USER and separator and rest:
        return f"{user}{separator}{_unended(rest, take)}"
    return _unquoted(value, take)


def _unended(value: str, take: Take) -> str:
    """What stands for a value behind which the quote ends that began before it."""
    bare = value.rstrip(_QUOTES)
    return (take(bare) if bare else "") + value[len(bare) :]


def _by_form(value: str, take: Take, shell: bool) -> str:
    value = _PRIVATE.sub(lambda found: found[1] + (take(found[2]) if found[2] else ""), value)
    value = _USER.sub(lambda found: f"{found[1]}:{_kept(found[2], take, shell)}", value)
    value = _LONE_USER.sub(lambda found: _kept(found[1], take, shell), value)
    value = _DSN.sub(lambda found: f"{found[1]}:{_kept(found[2], take, shell)}", value)
    value = _HEADER.sub(lambda found: found[1] + _kept(found[2], take, shell), value)
    value = _BEARER.sub(lambda found: found[1] + _kept(found[2], take, shell), value)
    return _FORM.sub(lambda found: take(found[0]), value)


def _by_names(value: str, take: Take, shell: bool) -> str:
    def named(found: re.Match[str]) -> str:
        name, between, content = found.groups()
        bare = content.strip("\\").strip(_QUOTES)
        if not is_secret_option(name.lstrip("-")) or stays(name, bare, shell):
            return found[0]
        return name + between + _unquoted(content, take)

    value = _NAMED.sub(named, value)
    return _SPACED.sub(named, value)


def _by_tools(value: str, take: Take, shell: bool) -> str:
    """The text with what the options of tools hold taken, command by command."""
    taken = list(_secrets_of_tools(value, take, shell))
    for start, end, new in reversed(taken):
        value = value[:start] + new + value[end:]
    return value


def _secrets_of_tools(value: str, take: Take, shell: bool) -> Iterator[tuple[int, int, str]]:
    start = 0
    for end in [*(found.start() for found in _COMMANDS.finditer(value)), len(value)]:
        words = list(_WORD.finditer(value, start, end))
        if any(word[0].rpartition("/")[2].startswith(_PROGRAMS) for word in words):
            old = [word[0] for word in words]
            for word, before, after in zip(
                words, old, _by_options(old, take, shell, lambda _, word: word), strict=True
            ):
                if before != after:
                    yield word.start(), word.end(), after
        start = end


def _kept(value: str, take: Take, shell: bool) -> str:
    return value if stays("", value, shell) else take(value)


def _unquoted(value: str, take: Take) -> str:
    """What stands for a value, in the quotes that it had."""
    for quote in ('\\"', '"', "'"):
        if value.startswith(quote):
            closed = value.endswith(quote) and len(value) >= 2 * len(quote)
            inner = value[len(quote) : -len(quote)] if closed else value[len(quote) :]
            return f"{quote}{take(inner) if inner else ''}{quote if closed else ''}"
    return take(value)
