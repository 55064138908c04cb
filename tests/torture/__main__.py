"""python -m tests.torture: rounds of faults, and what came of them. The exit status is 1 if anything is wrong."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import trustme
import uvloop

from tests.support.postgres import Server
from tests.torture import report
from tests.torture.round import PROFILES, Place, Result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("profile", choices=PROFILES)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--trials", type=int, default=20, help="of a round; of quiet tenths of a second, of soak minutes")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each further one has the next")
    parser.add_argument("--record", type=Path, help="a file to which every round is added; the table is of all that it has")
    parser.add_argument("--only", help="this one of the faults of a profile: the name of its function")
    parser.add_argument("--keep", action="store_true", help="keep the daemons' logs of rounds that went wrong")
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="bisd-torture-"))
    authority = trustme.CA()
    ca_file = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    server = Server(autovacuum="on" if given.profile == "soak" else "off")
    results: list[Result] = []
    try:
        place = Place(server, authority, ca_file, directory, given.only)
        play = PROFILES[given.profile]
        for seed in range(given.seed, given.seed + given.rounds):
            results.append(uvloop.run(play(place, seed, given.trials)))
            print(report.line(results[-1]), flush=True)
            if given.record is not None:
                report.record(given.record, results[-1])
    finally:
        server.remove()
        if given.keep and (len(results) < given.rounds or any(result.wrong for result in results)):
            print(f"logs: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    print(report.table(results if given.record is None else report.recorded(given.record)))
    return 1 if any(result.wrong for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
