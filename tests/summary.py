# SPDX-License-Identifier: Apache-2.0
"""Adds up what meson's test programs reported (TAP on their standard output): shows the output of those that failed and
the reasons of what was skipped, and ends with one line over all of them. Exit code 1 when something failed."""
import json
import re
import sys

RESULT = re.compile(r"^(ok|not ok)\b(?:\s+\d+)?(.*)$")
PLAN = re.compile(r"^1\.\.(\d+)")
SKIP = re.compile(r"#\s*skip\S*\s*(.*)$", re.IGNORECASE)
SKIP_ALL = re.compile(r"^1\.\.0\s*#\s*skip\S*\s*(.*)$", re.IGNORECASE)


def count(record):
    """(passed, failed, reasons of skips) of one program."""
    passed = failed = 0
    planned = None
    skips = []
    for line in record.get("stdout", "").splitlines():
        result, all_skipped, plan = RESULT.match(line), SKIP_ALL.match(line), PLAN.match(line)
        planned = int(plan.group(1)) if plan else planned
        if all_skipped:
            skips.append(all_skipped.group(1))
        elif result and SKIP.search(result.group(2)):
            name = result.group(2).split("#")[0].strip(" -")
            skips.append(f"{name}: {SKIP.search(result.group(2)).group(1)}")
        elif result:
            passed += result.group(1) == "ok"
            failed += result.group(1) == "not ok"
    whole = planned is not None and passed + failed + len(skips) >= planned
    if failed == 0 and (not whole or record["returncode"] != 0 or record["result"] == "TIMEOUT"):
        failed = 1  # crashed, ran out of time, or did less than it planned
    return passed, failed, skips


def main():
    passed = failed = skipped = 0
    try:
        with open(sys.argv[1], encoding="utf-8") as log:
            records = [json.loads(line) for line in log]
    except FileNotFoundError:
        records = []
    if not records:
        print("no test has that name")
        return 1
    for record in records:
        p, f, skips = count(record)
        passed, failed, skipped = passed + p, failed + f, skipped + len(skips)
        name = record["name"].split(" / ")[-1]
        if f:
            print(f"\n--- {name}: {record['result']}")
            print(record.get("stdout", "")[-20000:] + record.get("stderr", "")[-20000:])
        for reason in skips:
            print(f"skipped: {name}: {reason}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


sys.exit(main())
