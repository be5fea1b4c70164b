# SPDX-License-Identifier: Apache-2.0
"""The verbs `sandbox run` and `sandbox check`: verdicts as JSON, layers by name, and a refusal where there is no box.

usage: sandbox.py GRADUS CONFINE     (TAP on standard output)
"""
import json
import os
import subprocess
import sys
import tempfile

import tap
from tap import report

gradus = sys.argv[1]
folder = tempfile.TemporaryDirectory(prefix="gradus-sandbox-")


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


def check_c():
    if not json.loads(call("check", "--json").stdout)["languages"][1]["works"]:
        report(True, "programs in C # SKIP there is no compiler")
        return
    total = put("total.c", "#include <stdio.h>\nint main(void) { int s = 0, x; "
                "while (scanf(\"%d\", &x) == 1) s += x; printf(\"%.3f\\n\", s / 3.0); return 0; }\n")
    tests = put("total.json", '[{"stdin": "1 2 3", "stdout": "2"}, {"stdin": "1", "stdout": "0.3333"}]')
    loose = put("loose.json", '[{"stdin": "1", "stdout": "0.3333", "compare": "numbers", "tolerance": 0.001}]')
    verdict({"verdict": "ok", "stdout": "1.000\n", "tier": "jail"}, "C", "--lang", "c", total, "--stdin", "-",
            given="1 2")
    verdict({"verdict": "wrong", "tests_passed": 0}, "C, with tests", "--lang", "c", total, "--tests", tests)
    verdict({"verdict": "ok", "tests_passed": 1}, "numbers with a tolerance", "--lang", "c", total, "--tests", loose)
    verdict({"verdict": "compile"}, "C that is none", "--lang", "c", "-", given="int main(void) { return x; }")
    verdict({"verdict": "violation"}, "an attack in C", "--lang", "c", "-",
            given="#include <unistd.h>\nint main(void) { execl(\"/bin/sh\", \"sh\", (char *)0); }")


def check_usage():
    program = put("empty.py", "")
    for args, word in ((("run", "--lang", "perl", program), "python, c"),
                       (("run", "--tier", "bare", program), "jail, cage"),
                       (("check", "--tier", "none"), "jail, cage")):
        done = call(*args)
        report(done.returncode == 2 and word in done.stderr, f"usage: {' '.join(args[:3])}", done.stderr)


def check_layers():
    done = call("check", "--json")
    found = json.loads(done.stdout)
    layers = {row["layer"]: row["active"] for row in found["layers"]}
    report(done.returncode == 0 and len(layers) > 10 and all(layers.values()), "every layer is active", done.stdout)
    report(found["tier"] == "jail" and all(row["wanted"] for row in found["layers"]), "the tier is named", done.stdout)
    wanted = {"namespaces", "root", "system calls", "network", "privileges", "descriptors", "environment", "memory"}
    report(wanted <= layers.keys(), "the layers have names", layers)


def check_container():
    """As in a container: refused unless tier cage will do, and then said in every result."""
    before = (sys.argv[2], "container", "--")
    program = put("one.py", "print(1)\n")
    refused = call("run", program, before=before)
    report(refused.returncode == 5 and "To allow it: " in refused.stderr and "cage" in refused.stderr,
           "where namespaces are forbidden, tier jail is refused", refused.stderr)
    done = call("run", "--tier", "cage", program, before=before)
    report(done.returncode == 0 and json.loads(done.stdout).get("tier") == "cage", "and tier cage says so", done.stderr)
    done = call("check", "--tier", "cage", "--json", before=before)
    layers = json.loads(done.stdout or "{}").get("layers", [])
    wanted = [row for row in layers if row["wanted"]]
    report(done.returncode == 0 and len(wanted) > 10 and all(row["active"] for row in wanted), "its layers are active",
           done.stdout + done.stderr)
    report({row["layer"] for row in layers if not row["wanted"]} >= {"namespaces", "root"}, "and it has fewer", layers)


def main():
    here = call("check")
    if here.returncode == 5:
        report("To allow it: " in here.stderr, "sandbox check refuses and says what would allow it", here.stderr)
        reason = here.stderr.strip().replace("\n", " ")
        tap.skip("verdicts and layers", reason)
        return tap.end()
    check_refusal()
    check_run()
    check_c()
    check_usage()
    check_layers()
    check_container()
    return tap.end()


sys.exit(main())
