"""Nothing is lost: daemons and databases are killed, cut, filled and fooled, and a ledger says what came of it.

`python -m tests.torture --help`; a short profile of it runs with the tests.
"""
