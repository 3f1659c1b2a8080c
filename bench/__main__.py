"""All benchmarks, or those named, one after the other, each in a process of its own."""

import argparse
import signal
import subprocess
import sys
from types import FrameType

from bench.harness import measure, results

ON_ANY_DEVICE = ("memoisation", "activations", "batch_size", "checkpoints", "tables")
ON_THE_CPU = (
    "steps",
    "members",
    "epochs",
    "predict",
    "estimators",
    "growth",
    "loader",
    "streaming",
    "scaling",
    "threads",
    "turning",
)
ON_A_GPU = ("gpu",)


def run(command: list[str]) -> int:
    """The exit status; a signal ends all, and goes to what measures, which may have something to keep."""
    with subprocess.Popen(command, env=measure.environment()) as child:
        signalled: list[int] = []

        def pass_on(number: int, _: FrameType | None) -> None:
            signalled.append(number)
            child.send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, pass_on)
        status = child.wait()
    if signalled:
        sys.exit(128 + signalled[0])
    return status


def main() -> int:
    """Run them; the exit status is that of the worst."""
    names = (*ON_ANY_DEVICE, *ON_THE_CPU, *ON_A_GPU)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"{__doc__} Options of one benchmark alone: python -m bench.NAME --help",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    results.add_shared_options(parser)
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in names]
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; known: {', '.join(names)}")
    default = (*ON_ANY_DEVICE, *(ON_THE_CPU if options.device == "cpu" else ON_A_GPU))
    arguments = ["--device", options.device, *(["--quick"] if options.quick else [])]
    if options.out is not None:
        arguments += ["--out", str(options.out)]
    worst = 0
    for name in options.names or default:
        print(f"\n## {name}\n", flush=True)
        command = [sys.executable, "-m", f"bench.{name}", *arguments]
        worst = max(worst, abs(run(command)))
    return worst


if __name__ == "__main__":
    sys.exit(main())
