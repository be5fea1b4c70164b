# SPDX-License-Identifier: Apache-2.0
"""Lines of TAP on standard output, for the scripts of this folder."""
count = failures = 0


def report(good, name, detail=""):
    """One test; detail (anything that has a str) is shown when it failed."""
    global count, failures
    count += 1
    failures += not good
    print(f"{'ok' if good else 'not ok'} {count} - {name}", flush=True)
    detail = str(detail).strip()
    if not good and detail:
        print("# " + detail.replace("\n", "\n# "), flush=True)


def skip(name, reason):
    global count
    count += 1
    print(f"ok {count} - {name} # SKIP {reason}", flush=True)


def end():
    """After the last test; returns whether some failed."""
    print(f"1..{count}", flush=True)
    return failures > 0
