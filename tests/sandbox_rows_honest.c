// SPDX-License-Identifier: Apache-2.0
#include "tests/sandbox_rows.h"

const struct row rows_honest[] = {
    // Honest.
    {"prints", OK, "print('hello')", "hello\n"},
    {"reads the end of its input", OK, "import sys\nprint(len(sys.stdin.read()))", "0\n"},
    {"exit()", OK, "exit()", ""},
    {"exit status", RUNTIME, "import sys\nsys.exit(3)", "~exit status 3"},
    {"asyncio", OK,
     "import asyncio\n"
     "async def f():\n"
     "    await asyncio.sleep(0.01)\n"
     "    return 5\n"
     "print(asyncio.run(f()))",
     "5\n"},
    {"threads", OK,
     "import threading\n"
     "a=[]\n"
     "t=[threading.Thread(target=a.append,args=(i,)) for i in range(4)]\n"
     "[x.start() for x in t]\n"
     "[x.join() for x in t]\n"
     "print(sorted(a))",
     "[0, 1, 2, 3]\n"},
    {"temporary files", OK,
     "import tempfile\n"
     "with tempfile.TemporaryFile('w+') as f:\n"
     "    f.write('x'); f.seek(0); print(f.read())",
     "x\n", .cage = RUNTIME, .cage_says = "~FileNotFoundError"},
    {"exit functions run, output is flushed", OK,
     "import atexit,sys\n"
     "atexit.register(lambda: print('bye'))\n"
     "sys.stdout.write('a ')",
     "a bye\n"},
    {"random numbers repeat", OK, "import random\nprint(random.randrange(10**9))", "906691059\n"},
    {"its name is __main__", OK, "if __name__ == '__main__': print('main')", "main\n"},
    {"unicode", OK, "print('é\\u4e2d')", "é中\n"},
    {"closed standard output", OK | RUNTIME, "import os\nos.close(1)\nx = 1", NULL},
    // Faults.
    {"syntax error", RUNTIME, "def f(:\n", "~SyntaxError"},
    {"exception", RUNTIME, "1/0", "~ZeroDivisionError"},
    {"exception that cannot be printed", RUNTIME,
     "class E(Exception):\n"
     "    def __str__(s): raise s\n"
     "raise E()",
     NULL},
    {"hidden exception", RUNTIME,
     "import sys\n"
     "sys.excepthook = lambda *a: None\n"
     "1/0",
     "~ZeroDivisionError"},
    {"abort", SIGNAL, "import os\nos.abort()", "~signal 6"},
    {"segmentation fault", SIGNAL,
     "import ctypes\n"
     "ctypes.string_at(0)",
     "~signal 11"},
    {"kills itself", SIGNAL, "import os\nos.kill(os.getpid(), 9)", NULL},
    {"recursion", RUNTIME, "def f(): f()\nf()", "~RecursionError"},
    {"recursion without limit", SIGNAL | RUNTIME | MEMORY | CPU,
     "import sys\n"
     "sys.setrecursionlimit(10**9)\n"
     "class A:\n"
     "    def __getattr__(s, n): return getattr(s, n + 'x')\n"
     "A().a",
     NULL},
    // In C.
    {"C: a sum", OK,
     "#include <stdio.h>\n"
     "int main(void) { int s = 0; for (int i = 0; i < 10; i++) s += i; printf(\"%d\\n\", s); }",
     "45\n", .language = SANDBOX_C},
    {"C: numbers, memory and text of the library", OK,
     "#include <math.h>\n"
     "#include <stdio.h>\n"
     "#include <stdlib.h>\n"
     "#include <string.h>\n"
     "int main(void) { char *s = malloc(1 << 20); strcpy(s, \"root\"); printf(\"%s %.3f\\n\", s, "
     "sqrt(2)); free(s); return 0; }",
     "root 1.414\n", .language = SANDBOX_C},
    {"C: files", OK,
     "#include <stdio.h>\n"
     "int main(void) { FILE *f = fopen(\"x\", \"w+\"); fputs(\"hi\", f); rewind(f); "
     "putchar(fgetc(f)); return 0; }",
     "h", .language = SANDBOX_C},
    {"C: threads", OK,
     "#include <pthread.h>\n"
     "#include <stdio.h>\n"
     "static void *f(void *p) { *(int *)p = 7; return NULL; }\n"
     "int main(void) { pthread_t t[16]; int x[16]; for (int i = 0; i < 16; i++) if "
     "(pthread_create(&t[i], NULL, f, &x[i])) return 1; for (int i = 0; i < 16; i++) "
     "pthread_join(t[i], NULL); printf(\"%d\\n\", x[15]); return 0; }",
     "7\n", .language = SANDBOX_C},
    {"C: what the first compiler does not know", OK,
     "#include <stdio.h>\n"
     "int main(void) { unsigned __int128 x = 1; x <<= 100; printf(\"%d\\n\", (int)(x >> 98)); }",
     "4\n", .language = SANDBOX_C},
    {"C: exit status", RUNTIME, "int main(void) { return 3; }", "~exit status 3",
     .language = SANDBOX_C},
    {"C: an error", COMPILE, "int main(void) { return x; }", "~error", .language = SANDBOX_C},
    {"C: no program", COMPILE, "int f(void) { return 0; }", "~error", .language = SANDBOX_C},
    {"C: nothing", COMPILE, "", NULL, .language = SANDBOX_C},
    {"C: abort", SIGNAL, "#include <stdlib.h>\nint main(void) { abort(); }", "~signal 6",
     .language = SANDBOX_C},
    {"C: a null pointer", SIGNAL, "int main(void) { *(volatile int *)0 = 1; }", "~signal 11",
     .language = SANDBOX_C},
    {"C: division by zero", SIGNAL, "int main(void) { volatile int z = 0; return 7 / z; }",
     "~signal 8", .language = SANDBOX_C},
};
const int rows_honest_num = sizeof rows_honest / sizeof *rows_honest;
