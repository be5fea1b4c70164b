# SPDX-License-Identifier: Apache-2.0
"""Chat templates of our own with what Jinja makes of them, in the environment that transformers gives a template.

usage: make.py [--seed N] [--random N] [--out FILE]     (needs jinja2; writes cases.json beside itself)
"features" are written by hand, one thing each; "random" come from a grammar of the subset and a little beyond it.
"""
import argparse
import json
import os
import random
import warnings

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

warnings.simplefilter("ignore")  # of compiled templates that index a constant
VARIABLES = dict(
    s="héllo world\n", e="", n=3, z=0, f=2.5, g=1e20, h=0.00001, neg=-7, t=True, u=False, no=None,
    l=[1, "a", None, [2, 3], {"k": "v"}], ls=["x", "yy", "中z"], ee=[], ed={},
    d={"a": 1, "b": "two", "items": 5, "get": "G", "n": None, "l": [1, 2]},
    recs=[{"role": "user", "content": " c1 ", "tool_calls": None, "n": 1},
          {"role": "assistant", "content": "<think>x</think>y", "n": 2}, {"role": "tool", "n": 2}],
    sp=" \t\u00a0x\u2003y \n", q="\"q\\'\u2028\x7f\x01")
MESSAGES = [{"role": "system", "content": "S"}, {"role": "user", "content": "<1> & 'é'"},
            {"role": "assistant", "content": "a</think>b", "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": {"x": 1.5, "y": [True, None, "ü\n"]}}}]}]

FEATURES = [
    'plain text\n', 'a\r\nb\rc\n\n', '{{ bos_token }}|{{ eos_token }}|{{ undefined_name }}|{{ pad_token }}|',
    '{{ tools }}{{ documents }}{{ add_generation_prompt }}', '{# a comment #}\nx{#- y -#}\n  z {#+ w +#}\nv',
    '  {% if t %}\n    in\n  {% endif %}\n  out', 'a  {%- if t -%}  b  {%- endif -%}  c',
    '  {%+ if t +%}\n x\n  {%+ endif +%}\n', '{% if t %}\n\nx{% endif %}\n\n\ny', 'a\n  {{ n }}\n  {{- n -}}\n  b',
    'x\u2003\xa0\n {%- if t -%} \u2003\n\xa0y{% endif %}',
    '{% if z %}0{% elif e %}1{% elif n %}2{% else %}3{% endif %}',
    '{% if not ee and not ed and not no %}empty{% endif %}',
    '{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}'
    '{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}:{{ m.role }};{% endfor %}',
    "{% for c in 'aé中' %}{{ c }}{{ loop.previtem }}{{ loop.nextitem }},{% endfor %}",
    '{% for k in d %}{{ k }} {% endfor %}', '{% for k, v in d.items() %}{{ k }}={{ v is none }} {% endfor %}',
    '{% for k, v in ed | items %}x{% endfor %}{% for x in no_such %}y{% endfor %}|',
    '{% for x in ls %}{% for y in ls %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{{ loop.index }}{% endfor %}',
    '{% set v = 1 %}{% for x in ls %}{{ v }}{% set v = x %}{{ v }}{% endfor %}{{ v }}',
    "{% set ns = namespace(a=1, b='x') %}{% for x in ls %}{% set ns.a = ns.a + 1 %}{% endfor %}"
    '{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}',
    '{% if t %}{% set v = 2 %}{% endif %}{{ v }}',
    '{% set messages = messages[1:] %}{{ messages | length }}{{ messages[0].role }}',
    "{{ messages[-1]['role'] }}{{ messages[9] }}{{ d['items'] }}{{ d['get'] }}{{ d.zz }}{{ s[0] }}"
    '{{ s[1] }}{{ s[-2] }}{{ ls[true] }}',
    '{{ s[1:] }}|{{ s[:3] }}|{{ s[-3:-1] }}|{{ s[5:2] }}|{{ ls[::-1] | join }}|'
    "{{ ls[::2] | join('-') }}|{{ ls[-2:] | join }}",
    '{% for m in messages[::-1] %}{{ m.role }}{% endfor %}{% for m in recs[1:] %}{{ m.n }}{% endfor %}',
    "{{ 'a' + 'b' ~ 1 ~ none ~ true ~ 1.5 ~ undef }}",
    '{{ 1 + 2 * 3 - 4 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 - -1 }} {{ 0.1 + 0.2 }}',
    '{{ g }} {{ h }} {{ 1e16 }} {{ 123456789012345.0 }} {{ 1e15 }} {{ 0.0001 }} {{ 5e-324 }} {{ 1.0 }} '
    '{{ f * 2 }} {{ -0.0 }}',
    "{{ (n + 1) * 2 }}{{ n|string + '!' }}{{ '%s' if u else 'k' }}{{ 'x' if u }}|"
    '{{ 1 if t else 2 if u else 3 }}',
    "{{ 1 < 2 }}{{ 'a' <= 'b' }}{{ 'é' > 'z' }}{{ 1 == 1.0 }}{{ true == 1 }}{{ 'a' != 'b' }}"
    "{{ [1, 'x'] == [1, 'x'] }}{{ none == undef }}",
    "{{ 'ell' in s }}{{ 'x' not in ls }}{{ 'a' in d }}{{ 2 in l }}{{ [2, 3] in l }}{{ 'x' in undef }}"
    "{{ not 'a' in d }}",
    "{{ 0 or 'x' }}{{ 1 and 'y' }}{{ '' and 1 }}|{{ not t or n == 3 and u }}{{ undef or 'd' }}",
    '{{ s is string }}{{ d is mapping }}{{ l is iterable }}{{ s is sequence }}{{ d is sequence }}'
    '{{ n is number }}{{ t is number }}{{ t is integer }}{{ f is float }}{{ t is boolean }}'
    '{{ no is none }}{{ undef is undefined }}{{ n is defined }}{{ t is true }}{{ u is false }}'
    '{{ n is odd }}{{ z is even }}',
    '{{ n is not none }}{{ n is eq 3 }}{{ n is ne(3) }}{{ s is equalto s }}'
    '{{ undef is not defined and t }}{{ no is iterable }}',
    '[{{ sp | trim }}] [{{ sp.strip() }}] [{{ sp.lstrip() }}] [{{ sp.rstrip() }}] ['
    "{{ 'xxaxx'.strip('x') }}] [{{ '中a中b'.lstrip('中a') }}] [{{ 'ab\\n\\n'.rstrip('\\n') }}]",
    "{{ n | trim }}{{ none | trim }}{{ undef | trim }}|{{ 'xax' | trim('x') }}|"
    "{{ 'a\\x1cb\\u2028' | trim | length }}",
    "{{ 'a</t>b</t>c'.split('</t>')[-1] }}{{ 'abc'.split('x')[0] }}{{ ' a  b '.split() | length }}"
    "{{ 'a,b,c'.split(',', 1)[1] }}{{ ''.split(',') | length }}{{ ''.split() | length }}",
    "{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith('bc') }}{{ ''.startswith('') }}"
    "{{ 'a'.startswith('ab') }}{{ 'a-b-c'.replace('-', '') }}{{ 'aXb' | replace('X', 'YY') }}",
    "{{ 'AbC'.upper() }}{{ 'AbC' | lower }}{{ d.get('a') }}{{ d.get('zz') }}{{ d.get('zz', 7) }}"
    '{{ d.keys() | list | length }}{{ d.values() | first }}',
    "{{ s | length }}{{ '中é' | length }}{{ d | length }}{{ ls | count }}{{ ee | length }}{{ undef | length }}",
    "{{ ls | first }}{{ ls | last }}{{ s | first }}{{ ee | first }}|{{ ls | join(', ') }}"
    "{{ l[:2] | join }}{{ ls | list | join('') }}",
    "{{ undef | default('D') }}{{ no | default('D') }}{{ no | default('D', true) }}"
    "{{ e | d('E', boolean=true) }}{{ n | default('x') }}",
    "{{ recs | selectattr('role', 'equalto', 'user') | list | length }}"
    "{{ recs | rejectattr('content') | map(attribute='role') | join }}"
    "{{ recs | map(attribute='n') | join(',') }}{{ ls | reject('equalto', 'x') | join(',') }}"
    "{{ l | select('string') | join }}{{ l | reject | join }}",
    "{% if recs | selectattr('role', 'equalto', 'nobody') %}a generator is true{% endif %}",
    "{{ d | tojson }}\n{{ l | tojson }}\n{{ q | tojson }}\n{{ '中\\t\\b\\f</x>' | tojson }}\n"
    '{{ [1.0, 1e20, -0.5] | tojson }}{{ none | tojson }}{{ true | tojson }}',
    '{{ d | tojson(indent=4) }}\n{{ [] | tojson(indent=2) }}{{ {} | tojson(indent=2) }}'
    "{{ [[], [1, [2]]] | tojson(indent=1) }}{{ {'a': 1} | tojson(indent=0) }}",
    '{{ messages[2].tool_calls[0].function.arguments | tojson }}'
    "{{ messages[2].tool_calls[0].function['name'] }}",
    '{{ \'\\n\\t\\\\\\\'\\"\\u00e9\\x41\\q\' }}{{ "it\'s" }}{{ \'a\' \'b\' "c" }}',
    '{{ {\'a\': [1, {\'b\': none}], "c": \'x\',}[\'a\'][1].b }}{{ [1, 2, 3,] | length }}',
    '{{ s.0 }}{{ ls.1 }}{{ l.3.1 }}', '{{ -n }}{{ - 2 }}{{ -f }}{{ not not t }}',
    "{{ ((((n)))) }}{{ {'}}': 1}['}}'] }}{{ '}}' }}{{ '{{' }}",
    '{{ strftime_now is defined }}{{ raise_exception is defined }}{{ namespace is defined }}'
    '{{ joiner is defined }}',
    "{{ raise_exception('no') }}", "{% if u %}{{ raise_exception('no') }}{% endif %}fine", '{{ undef.x }}',
    "{{ undef['x'] }}", "{{ undef + 'x' }}", "{{ 'a' + 1 }}", '{{ 1 + none }}', "{{ l + 'x' }}", "{{ 1 < 'a' }}",
    "{{ 1 in 'a' }}", '{{ n.foo() }}', '{{ none | length }}', '{{ n | length }}', '{{ undef | tojson }}',
    '{{ no | join }}', '{% for x in n %}{% endfor %}', '{% set d.x = 1 %}', '{{ 1 // 0 }}', "{{ s.split('') }}",
    '{% for a, b in [[1, 2, 3]] %}{% endfor %}', '{{ messages[9].role }}',
    "{{ 'x' | items }}{{ ls | first | items | list }}", '{% if %}', '{{ }}', '{{ a b }}', '{% for x %}',
    '{% endif %}', '{% if t %}', '{% for x in ls %}', "{{ 'a }}", '{{ (1 }}', '{{ 1) }}', '{# x', '{% set %}',
    '{% set 1 = 2 %}', '{{ x | }}', '{{ x is }}', '{% nothing %}', '{{ t is nothing }}', '{{ t | nothing }}',
    '{{ nothing() }}', '{% if t %}{% else %}{% elif t %}{% endif %}', '{{ f(a=1, 2) }}', "{{ 'a' if }}",
]

STRINGS = r"""'a';"b";'';'\n';'</think>';"\"x\\";'中';'\u00e9\x41\t';' ';'role';'x';'\q'""".split(";")
LITERALS = "-2;0;1;5;2.5;true;false;none;[];{};[1,'a'];{'a':1,'k':[2]}".split(";")
NAMES = [*VARIABLES, *"messages undef ns loop v w tools add_generation_prompt bos_token".split()]
LIKELY = "s n t q m.role undef d.a recs[0].role v loop.first x".split()
MEMBERS = "role content a items n k index0 first x 0 nextitem".split()
INDICES = "0 -1 1 'role' 'content' 'items' n 5".split()
SLICES = "1: :1 ::-1 -2: 1:2 ::2 : -1::-1 5: -9:2 0:0".split()
FILTERS = ("trim;length;count;tojson;tojson(indent=2);items;join;join(', ');default('D');default('D', true);first;last;"
           "list;lower;upper;string;replace('a','b');select;reject('equalto', 'a');select('string');"
           "selectattr('role','equalto','user');rejectattr('content');map(attribute='role')|list;tojson|length;"
           "selectattr('n', 'eq', 2) | list;trim('x');items|list").split(";")
TESTS = ("defined;undefined;none;string;mapping;iterable;sequence;number;integer;float;boolean;true;false;"
         "equalto('a');eq(3);ne 3;odd;even;eq none").split(";")
METHODS = (r"startswith('a');endswith('\n');strip();lstrip();rstrip();strip('\n');lstrip('hx ');rstrip('d\n');split();"
           r"split(' ');split('</think>')[-1];split('l')[0];split('l', 1);upper();lower();replace('l','L');get('a');"
           r"items();title()").split(";")
LOOPED = "messages recs ls l d d|items d.items() s[:3] ee recs[::-1] undef".split()
SHOWN = "loop.index;loop.last;m.role;v;loop.length;loop.revindex0;m;k ~ v".split(";")


class Grammar:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def one(self, *choices):
        return self.random.choice(choices)

    def chance(self, p):
        return self.random.random() < p

    def atom(self):
        if self.chance(0.3):
            return self.one(*STRINGS) if self.chance(0.4) else self.one(*LITERALS)
        return self.one(*NAMES) if self.chance(0.5) else self.one(*LIKELY)

    def operand(self, depth):
        if depth <= 0:
            return self.atom()
        kind, inner = self.random.random(), self.expression(depth - 1)
        if kind < 0.15:
            return f"{inner}.{self.one(*MEMBERS)}"
        if kind < 0.3:
            return f"{inner}[{self.one(*INDICES, self.expression(depth - 1))}]"
        if kind < 0.4:
            return f"{inner}[{self.one(*SLICES)}]"
        if kind < 0.7:
            return f"{self.one(f'({inner})', self.one(*NAMES))} | {self.one(*FILTERS)}"
        if kind < 0.85:
            return f"{self.atom()} is {self.one('', 'not ')}{self.one(*TESTS)}"
        return f"{self.one('s', 'sp', 'q', 'e', self.one(*STRINGS))}.{self.one(*METHODS)}"

    def expression(self, depth):
        if depth <= 0:
            return self.atom()
        kind, a, b = self.random.random(), self.operand(depth - 1), self.operand(depth - 1)
        if kind < 0.3:
            return a
        if kind < 0.45:
            return f"{a} {self.one('+', '-', '*', '/', '//', '%', '~')} {b}"
        if kind < 0.6:
            return f"{a} {self.one('==', '!=', '<', '>=', 'in', 'not in')} {b}"
        if kind < 0.75:
            return f"{a} {self.one('and', 'or')} {b}"
        if kind < 0.85:
            return f"{self.one('not ', '-')}{a}"
        if kind < 0.95:
            return f"({a} if {b}{self.one('', ' else ' + self.atom())})"
        return f"[{a}, {b}]"

    def space(self):
        return self.one("", "", " ", "\n", "\n  ", "  ", "text", "é", "\t\n\t", " \n\n ", "\r\n", " x ")

    def tag(self, inside):
        return "{%" + self.one("", "", "-", "-", "+") + " " + inside + " " + self.one("", "", "-", "-", "+") + "%}"

    def print(self, inside):
        return "{{" + self.one("", "", "-") + " " + inside + " " + self.one("", "", "-") + "}}"

    def branch(self, depth):
        text = self.tag(f"if {self.expression(self.random.randint(0, 3))}") + self.body(depth - 1)
        if self.chance(0.4):
            text += self.tag(f"elif {self.expression(2)}") + self.body(depth - 1)
        if self.chance(0.6):
            text += self.tag("else") + self.body(depth - 1)
        return text + self.tag("endif")

    def loop(self, depth):
        over = self.one(*LOOPED, self.expression(1))
        text = self.tag(f"for {self.one('v', 'm', 'k, v', 'x')} in {over}") + self.body(depth - 1)
        if self.chance(0.5):
            text += self.print(self.one(*SHOWN))
        return text + self.tag("endfor")

    def statement(self, depth):
        kind = self.random.random()
        if kind < 0.42 or depth <= 0:
            return self.print(self.expression(self.random.randint(0, 3)))
        if kind < 0.47:
            return "{#" + self.one("", "-") + self.one(" c ", "x-", "+", "") + self.one("", "-") + "#}"
        if kind < 0.62:
            return self.tag(f"set {self.one('v', 'w', 's', 'messages')} = {self.expression(self.random.randint(0, 3))}")
        if kind < 0.68:
            return (self.tag(f"set ns = namespace(a={self.expression(1)}, x=0)") + self.body(depth - 1) +
                    self.tag(f"set ns.{self.one('a', 'x', 'y')} = {self.expression(2)}"))
        return self.branch(depth) if kind < 0.84 else self.loop(depth)

    def body(self, depth):
        return "".join(self.space() + self.statement(depth) for _ in range(self.one(0, 1, 1, 2))) + self.space()


def environment():
    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def render(env, template):
    case = dict(template=template)
    given = json.loads(json.dumps(dict(VARIABLES, messages=MESSAGES)))
    try:
        case["rendered"] = env.from_string(template).render(
            tools=None, documents=None, add_generation_prompt=True, bos_token="<BOS>", eos_token="<EOS>", **given)
    except Exception as e:
        case["error"] = f"{type(e).__name__}: {e}"[:120]
    return case


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--random", type=int, default=400)
    args.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "cases.json"))
    args = args.parse_args()
    env, grammar = environment(), Grammar(args.seed)
    out = dict(jinja2=jinja2.__version__, variables=VARIABLES, messages=MESSAGES,
               features=[render(env, t) for t in FEATURES], random=[])
    while len(out["random"]) < args.random:
        case = render(env, grammar.body(3))
        # What has no tag, or prints an object's address, says nothing; most of those that raise are left out.
        if ("{" in case["template"] and " at 0x" not in case.get("rendered", "") and
                ("rendered" in case or grammar.chance(0.2))):
            out["random"].append(case)
    with open(args.out, "w") as f:
        json.dump(out, f, ensure_ascii=True, indent=0)
        f.write("\n")


main()
