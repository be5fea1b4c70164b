# SPDX-License-Identifier: Apache-2.0
"""The verbs `sandbox run` and `sandbox check`: verdicts as JSON, layers by name, and a refusal where there is no box.

usage: sandbox.py GRADUS     (TAP on standard output)
"""
import json
import os
import subprocess
import sys
import tempfile

gradus = sys.argv[1]
folder = tempfile.TemporaryDirectory(prefix="gradus-sandbox-")
count = failures = 0


def report(good, name, detail=""):
    global count, failures
    count += 1
    failures += not good
    print(f"{'ok' if good else 'not ok'} {count} - {name}")
    if not good:
        print("# " + str(detail).replace("\n", "\n# "))


def call(*args, given="", before=()):
    return subprocess.run([*before, gradus, "sandbox", *args], input=given, capture_output=True, text=True, timeout=300)


def put(name, content):
    path = os.path.join(folder.name, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(content)
    return path


def verdict(wanted, name, *args, given=""):
    """`sandbox run args` prints an object that holds all of `wanted`."""
    done = call("run", *args, given=given)
    try:
        got = json.loads(done.stdout)
    except json.JSONDecodeError:
        got = {}
    report(done.returncode == 0 and all(got.get(k) == v for k, v in wanted.items()), name,
           f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")


def check_refusal():
    """Exit code 5 and what would help, in a user namespace that allows no others; nothing is run outside a box."""
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$0" "$@"'
    before = ("unshare", "--user", "--map-root-user", "sh", "-c", forbid)
    program = put("outside.py", f"open({os.path.join(folder.name, 'outside')!r}, 'w')\n")
    for args in (("check",), ("check", "--json"), ("run", program)):
        done = call(*args, before=before)
        good = done.returncode == 5 and "To allow it: " in done.stderr and "not run without it" in done.stderr
        report(good, f"sandbox {args[0]} refuses where no box can be built", f"{done.returncode}\n{done.stderr}")
    report(not os.path.exists(os.path.join(folder.name, "outside")), "and runs nothing")


def check_run():
    double = put("double.py", "print(int(input()) * 2)\n")
    tests = put("tests.json", '[{"stdin": "2", "stdout": "4"}, {"stdin": "3", "stdout": "7"}]')
    verdict({"verdict": "ok", "stdout": "42\n", "exit_code": 0, "signal": None}, "a program with its input", double,
            "--stdin", "-", given="21\n")
    verdict({"verdict": "wrong", "tests_passed": 1, "tests_total": 2}, "tests that are passed are counted", double,
            "--tests", tests)
    verdict({"verdict": "runtime", "exit_code": 1}, "an exception", "-", given="1/0")
    verdict({"verdict": "cpu", "signal": 9, "exit_code": None}, "a time limit", "--time-limit", "0.2", "-",
            given="while True: pass")
    verdict({"verdict": "output"}, "an output limit", "--output-kb", "16", "-", given="print('x' * 100000)")
    verdict({"verdict": "memory"}, "a memory limit", "--memory-mb=32", "-", given="x = bytearray(64 << 20)")
    verdict({"verdict": "violation"}, "an attack", "-", given="import os\nos.execv('/bin/sh', ['sh'])")
    verdict({"verdict": "ok", "stdout": "\ufffd\n"}, "output that is not UTF-8", "-",
            given="import sys\nsys.stdout.buffer.write(b'\\xff\\n')")
    row = put("row.json", '{"test_list": ["assert add(1, 2) == 3"], "test_setup_code": ""}')
    verdict({"verdict": "ok", "weak": False, "tests_passed": 1}, "a row of MBPP's kind", "--tests", row, "-",
            given="add = int.__add__")


def check_layers():
    done = call("check", "--json")
    layers = {row["layer"]: row["active"] for row in json.loads(done.stdout)["layers"]}
    report(done.returncode == 0 and len(layers) > 10 and all(layers.values()), "every layer is active", done.stdout)
    wanted = {"namespaces", "root", "system calls", "network", "privileges", "descriptors", "environment", "memory"}
    report(wanted <= layers.keys(), "the layers have names", layers)


def main():
    here = call("check")
    if here.returncode == 5:
        report("To allow it: " in here.stderr, "sandbox check refuses and says what would allow it", here.stderr)
        reason = here.stderr.strip().replace("\n", " ")
        print(f"ok {count + 1} - verdicts and layers # SKIP {reason}\n1..{count + 1}")
        return failures > 0
    check_refusal()
    check_run()
    check_layers()
    print(f"1..{count}")
    return failures > 0


sys.exit(main())
