"""What Holdfast promises when things break, measured with nats-py against the release binary.

    HOLDFAST_BIN=target/release/holdfast HOLDFAST_NATS_SERVER=nats-server python tests/python/faults.py --nodes 3

Runs every scenario below `tests/python/faults` on one nats-server or on a cluster of three, with the settings
of deploy/nats/server.conf (`sync_interval: always`). Prints figures; the exit status is 1 when a guarantee is broken or a target is missed.
"""

import argparse
import asyncio
import pathlib
import sys
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).parent / "faults"))

import compaction  # noqa: E402
import drain  # noqa: E402
import failover  # noqa: E402
import outage  # noqa: E402
import restart  # noqa: E402
import saves  # noqa: E402
import zombie  # noqa: E402

SCENARIOS = {module.__name__: module for module in [failover, zombie, drain, restart, compaction, outage, saves]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, choices=[1, 3], help="nats-servers; both in turn when left out")
    parser.add_argument("--only", choices=SCENARIOS, action="append", help="this scenario alone; may be repeated")
    parser.add_argument("--runs", type=int, default=5, help="how often what differs from run to run is done (5)")
    arguments = parser.parse_args()
    broken = []
    for nodes in [arguments.nodes] if arguments.nodes else [1, 3]:
        for name in arguments.only or SCENARIOS:
            module = SCENARIOS[name]
            print(f"{name}, {nodes} nats-server{'s' * (nodes > 1)}: {module.__doc__.splitlines()[0]}", flush=True)
            begin = time.monotonic()
            try:
                asyncio.run(module.run(nodes, arguments.runs))
                print(f"  ok, in {time.monotonic() - begin:.0f} s", flush=True)
            except Exception:  # noqa: BLE001 - the other scenarios are worth running all the same
                traceback.print_exc()
                broken.append(f"{name} --nodes {nodes}")
    if broken:
        sys.exit(f"broken: {', '.join(broken)}")


if __name__ == "__main__":
    main()
