#!/usr/bin/env python3
"""Peak anonymous resident memory of a command, less that of an idle process of the same program (Linux).

    scripts/rss_anon.py target/release/foretune tune --model DIR … --budget 24MiB

Samples RssAnon of /proc/PID/status every millisecond: pages of mapped weights are not in it, heap and stacks are. The idle
process is the same program writing a completion script, sampled in the same way. Exit code: the command's.
"""

import subprocess
import sys
import time


def peak(command, **streams):
    process = subprocess.Popen(command, **streams)
    most = 0
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status") as status:
                lines = [line for line in status if line.startswith("RssAnon:")]
            most = max([most] + [int(line.split()[1]) * 1024 for line in lines])
        except (FileNotFoundError, ProcessLookupError):
            pass
        time.sleep(0.001)
    return most, process.returncode


def main():
    command = sys.argv[1:]
    if not command:
        sys.exit(__doc__)
    idle = max(peak([command[0], "completions", "bash"], stdout=subprocess.DEVNULL)[0] for _ in range(5))
    most, code = peak(command)
    print(f"anonymous: peak {most} bytes, idle {idle}, difference {most - idle} ({(most - idle) / 2**20:.2f} MiB)")
    sys.exit(code)


if __name__ == "__main__":
    main()
