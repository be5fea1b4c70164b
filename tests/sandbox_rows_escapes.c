// SPDX-License-Identifier: Apache-2.0
#include "tests/sandbox_rows.h"

const struct row rows_escapes[] = {
    // Sights.
    {"environment", OK,
     "import os\n"
     "print(sorted(os.environ.items()))",
     "[('HOME', '/box'), ('LANG', 'C.UTF-8'), ('PATH', '/usr/bin')]\n", .cage = OK,
     .cage_says = "[('HOME', '/'), ('LANG', 'C.UTF-8'), ('PATH', '/usr/bin')]\n"},
    {"descriptors", OK,
     "import os\n"
     "r = []\n"
     "for i in range(1024):\n"
     "    try: os.fstat(i); r.append(i)\n"
     "    except OSError: pass\n"
     "print(r)",
     "[0, 1, 2, 4]\n"},
    {"files", OK,
     "import os\n"
     "print(sorted(os.listdir('/')), sorted(os.listdir('/usr')), os.listdir('.'))",
     "['box', 'dev', 'lib', 'lib64', 'tmp', 'usr'] ['lib'] []\n", .cage = RUNTIME,
     .cage_says = "~PermissionError"},
    {"/etc/passwd", RUNTIME, "open('/etc/passwd')", "~FileNotFoundError", .cage = RUNTIME,
     .cage_says = "~PermissionError"},
    {"/proc", RUNTIME, "open('/proc/1/environ')", "~FileNotFoundError", .cage = RUNTIME,
     .cage_says = "~PermissionError"},
    {"writes to the root", RUNTIME, "open('/x', 'w')", "~Read-only file system", .cage = RUNTIME,
     .cage_says = "~PermissionError"},
    {"writes to the library", RUNTIME, "import os\nopen(os.__file__, 'w')", "~OSError",
     .cage = RUNTIME, .cage_says = "~PermissionError"},
    {"users", OK,
     "import os\n"
     "print(os.getuid() != 0, os.getgid() != 0, os.getppid())",
     "True True 1\n", .cage = OK, .cage_says = NULL},
    {"no network", RUNTIME,
     "import socket\n"
     "socket.create_connection(('127.0.0.1', 9), timeout=1)",
     "~PermissionError"},
    {"no sockets of any kind", OK,
     "import socket\n"
     "n = 0\n"
     "for f in (1, 2, 10, 16, 17, 38, 40):\n"
     "    try: socket.socket(f, socket.SOCK_DGRAM)\n"
     "    except OSError: n += 1\n"
     "print(n)",
     "7\n"},
    // Attacks.
    {"executes", VIOLATION, "import os\nos.execv('/usr/bin/python3', ['python3'])", "~forbidden"},
    {"ptrace", VIOLATION, SYSCALL(101), "~forbidden"},
    {"process_vm_readv", VIOLATION, SYSCALL(310), NULL},
    {"process_vm_writev", VIOLATION, SYSCALL(311), NULL},
    {"io_uring", VIOLATION, SYSCALL(425), NULL},
    {"bpf", VIOLATION, SYSCALL(321), NULL},
    {"perf_event_open", VIOLATION, SYSCALL(298), NULL},
    {"userfaultfd", VIOLATION, SYSCALL(323), NULL},
    {"keyctl", VIOLATION, SYSCALL(250), NULL},
    {"mount", VIOLATION, SYSCALL(165), NULL},
    {"fsopen", VIOLATION, SYSCALL(430), NULL},
    {"unshare", VIOLATION, SYSCALL(272), NULL},
    {"setns", VIOLATION, SYSCALL(308), NULL},
    {"chroot", VIOLATION, SYSCALL(161), NULL},
    {"mknod", VIOLATION, SYSCALL(133), NULL},
    {"a filter of its own", VIOLATION, SYSCALL(317), NULL},
    {"open_by_handle_at", VIOLATION, SYSCALL(304), NULL},
    {"execveat", VIOLATION, SYSCALL(322), NULL},
    {"pidfd_getfd", VIOLATION, SYSCALL(438), NULL},
    {"setuid", VIOLATION, "import os\nos.setuid(0)", NULL},
    {"x32", VIOLATION, SYSCALL(0x40000027), NULL},
    {"unknown system call", OK, CTYPES "print(c.syscall(999), ctypes.get_errno())", "-1 1\n"},
    {"clone3 is not there", OK, CTYPES "print(c.syscall(435, 0, 0), ctypes.get_errno())",
     "-1 38\n"},
    {"a new user namespace by clone", OK,
     CTYPES "print(c.syscall(56, 0x10000011, 0, 0, 0, 0), ctypes.get_errno())", "-1 1\n"},
    {"limits of others", OK,
     CTYPES "b = ctypes.create_string_buffer(16)\n"
            "print(c.prlimit(1, 0, None, b), c.prlimit(os.getppid(), 0, b, None), c.prlimit(0, 7, "
            "b, None), c.prlimit(0, 0, None, b))",
     "-1 -1 -1 0\n"},
    {"terminal input, with high bits as well", OK,
     CTYPES "print(c.syscall(16, 0, 0x5412, b'x'), ctypes.get_errno(), c.syscall(16, 0, "
            "ctypes.c_ulong(0x100005412), b'x'), ctypes.get_errno())",
     "-1 1 -1 1\n"},
    {"signals to others", OK,
     "import os\n"
     "n = 0\n"
     "for p in (-1, 1, os.getppid()):\n"
     "    try: os.kill(p, 9)\n"
     "    except OSError: n += 1\n"
     "print('alive')",
     "alive\n"},
    {"signals to its group, which nobody else is in", SIGNAL, "import os\nos.kill(0, 9)", NULL},
    {"death signal, subreaper, dumpable", OK,
     CTYPES "print(c.prctl(1, 0), c.prctl(36, 1), c.prctl(4, 1))", "-1 -1 -1\n"},
    {"leaves notes", OK,
     "import os\n"
     "open('note', 'w').write('x'); open('/tmp/note2', 'w').write('x'); os.mkdir('d'); "
     "os.chmod('.', 0o777); os.utime('.', (1, 1))",
     NULL, .cage = RUNTIME, .cage_says = "~PermissionError"},
    {"finds none", OK,
     "import os\n"
     "s = os.stat('.')\n"
     "print(os.listdir('.'), oct(s.st_mode), s.st_mtime > 1000)",
     "[] 0o40700 True\n", .cage = RUNTIME, .cage_says = "~PermissionError"},
    {"all is well after that", OK, "print(sum(range(10)))", "45\n"},
    {"files of the host", OK,
     "import os\n" TRY
     "for p in ('/etc/shadow', '/etc/passwd', '/root', '/home', '/var', '/proc/1/environ', "
     "'/proc/self/mem', '/proc/1/root', '/sys/fs/cgroup/cgroup.procs', '/dev/mem', '/dev/kmsg', "
     "'/dev/tty', '/dev/shm/x', '/run', '/boot', '/usr/bin/env'):\n"
     "    t(os.open, p, os.O_RDONLY)\n"
     "print(len(failed), set(failed) <= {2, 13})",
     "16 True\n"},
    {"files of the host, to be written", OK,
     "import os\n" TRY "for d in ('/', '/var/tmp', '/dev/shm', '/usr/lib', '/etc', '/dev'):\n"
     "    t(os.open, d + '/gradus-test-note', os.O_WRONLY | os.O_CREAT)\n"
     "print(len(failed))",
     "6\n"},
    {"a link to a file of the host", OK,
     "import os\n" TRY "os.symlink('/etc/shadow', 'out.txt'); t(os.open, 'out.txt', 0)\n"
     "os.symlink('/proc/self/root/etc/shadow', 'x'); t(os.open, 'x', 0)\n"
     "print(failed)",
     "[2, 2]\n", .cage = RUNTIME, .cage_says = "~PermissionError"},
    {"ways up", OK,
     "import os\n" TRY "for i in range(9): os.chdir('..')\n"
     "t(os.open, 'etc/passwd', 0); t(os.open, '../../../../etc/passwd', 0)\n"
     "print(len(failed))",
     "2\n"},
    {"file names", OK,
     "import os\n" TRY
     "for n in ('a\\nb', '-rf', '...', ' ', '\\x7f', 'x' * 255): open(n, 'w').close()\n"
     "os.mkdir('d'); os.chmod('d', 0)\n"
     "t(os.open, 'x' * 256, 0o102)\n"
     "print(failed)",
     "[36]\n", .cage = RUNTIME, .cage_says = "~PermissionError"},
    {"an executable of its own", VIOLATION,
     "import os\n"
     "open('x', 'w').write('#!/bin/sh\\n'); os.chmod('x', 0o777); os.execv('./x', ['x'])",
     NULL, .cage = RUNTIME, .cage_says = "~PermissionError"},
    {"an executable with more rights", VIOLATION, "import os\nos.execv('/usr/bin/su', ['su'])",
     NULL},
    {"a library of its own", RUNTIME,
     "import ctypes, os, shutil\n"
     "shutil.copy(os.__file__, 'x.so')\n"
     "import mmap\n"
     "f = os.open('x.so', os.O_RDWR)\n"
     "mmap.mmap(f, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)",
     "~PermissionError"},
    {"UDP, IPv6, raw packets", OK,
     "import socket\n" TRY
     "for a in ((2, 2), (10, 1), (10, 2), (17, 3), (38, 5), (40, 1), (16, 3), (1, 1), (1, 2), (31, "
     "3), (44, 3)): t(socket.socket, *a)\n"
     "print(len(failed), set(failed))",
     "11 {1}\n"},
    {"pairs of sockets", OK,
     "import socket\n" TRY "a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))\n"
     "t(a.sendto, b'x', 0, '/x'); t(socket.socketpair, socket.AF_INET); t(a.connect, '/x'); "
     "t(a.bind, "
     "'\\0x')\n"
     "print(len(failed))",
     "b'x'\n4\n"},
    {"descriptors passed on", OK,
     "import socket, os\n" TRY "a, b = socket.socketpair()\n"
     "t(socket.send_fds, a, [b'x'], [0])\n"
     "print(failed)",
     "[1]\n"},
    {"priorities and processors of others", OK,
     "import os\n" TRY "t(os.setpriority, os.PRIO_PROCESS, 1, 5); t(os.sched_setaffinity, 1, [0]); "
     "t(os.setpgid, 0, 0)\n"
     "t(os.pidfd_open, 1)\n"
     "print(failed)",
     "[1, 1, 1, 1]\n"},
    {"tells a terminal what to type, in two more ways", OK,
     CTYPES "print(c.ioctl(0, 0x541c, b'x'), c.ioctl(0, ctypes.c_ulong(0xdeadbeef00005412), b'x'))",
     "-1 -1\n"},
    {"extended attributes and owners", OK,
     "import os\n" TRY
     "t(os.setxattr, '.', 'user.x', b'1'); t(os.chown, '.', 0, 0); t(os.getxattr, '.', 'user.x')\n"
     "print(failed)",
     "[1, 1, 1]\n"},
    {"locks on files", OK,
     "import fcntl, os\n" TRY "f = os.open(os.__file__, 0)\n"
     "t(fcntl.flock, f, 2); t(fcntl.lockf, f, 1); t(fcntl.fcntl, f, 1024, 1)\n"
     "print(failed)",
     "[1, 1, 1]\n"},
    {"times of the library", OK,
     "import os\n" TRY "t(os.utime, os.__file__, (1, 1)); t(os.chmod, os.__file__, 0o777); "
     "t(os.unlink, os.__file__)\n"
     "t(os.rename, os.__file__, '/x')\n"
     "print(len(failed))",
     "4\n"},
    {"calls that are not for programs", OK,
     CTYPES
     "n = 0\n"
     "for nr in (86 + 1000, 133 + 1000, 222, 250 + 1000, 312 + 1000, 434, 424, 449, 446, 445, "
     "444, 157, 203, 144, 151, 153, 260, 173 + 1000):\n"
     "    n += c.syscall(nr, 1, 0, 0, 0, 0, 0) == -1\n"
     "print(n)",
     "18\n"},
    {"ptrace of its parent", VIOLATION, CTYPES "c.syscall(101, 16, os.getppid(), 0, 0)", NULL},
    {"process_vm_readv of its parent", VIOLATION,
     CTYPES "c.syscall(310, os.getppid(), 0, 0, 0, 0, 0)", NULL},
    {"io_uring_enter", VIOLATION, SYSCALL(426), NULL},
    {"add_key", VIOLATION, SYSCALL(248), NULL},
    {"move_mount", VIOLATION, SYSCALL(429), NULL},
    {"open_tree", VIOLATION, SYSCALL(428), NULL},
    {"mount_setattr", VIOLATION, SYSCALL(442), NULL},
    {"umount", VIOLATION, SYSCALL(166), NULL},
    {"pivot_root", VIOLATION, SYSCALL(155), NULL},
    {"mknodat", VIOLATION, SYSCALL(259), NULL},
    {"personality", VIOLATION, CTYPES "c.syscall(135, 0x40000)", NULL},
    {"modify_ldt", VIOLATION, SYSCALL(154), NULL},
    {"name_to_handle_at", VIOLATION, SYSCALL(303), NULL},
    {"memfd_secret", VIOLATION, SYSCALL(447), NULL},
    {"vmsplice", VIOLATION, SYSCALL(278), NULL},
    {"splice", VIOLATION, SYSCALL(275), NULL},
    {"tee", VIOLATION, SYSCALL(276), NULL},
    {"syslog", VIOLATION, SYSCALL(103), NULL},
    {"quotactl", VIOLATION, SYSCALL(179), NULL},
    {"sethostname", VIOLATION, SYSCALL(170), NULL},
    {"execve of a name in memory", VIOLATION, CTYPES "c.execve(b'/proc/self/exe', None, None)",
     NULL},
    {"kcmp", VIOLATION, SYSCALL(312), NULL},
    {"a filter by prctl", OK, CTYPES "print(c.prctl(22, 2, 0), c.prctl(22, 1))", "-1 -1\n"},
    {"Landlock of its own", OK, CTYPES "print(c.syscall(444, 0, 0, 1), c.syscall(446, 0, 0))",
     "-1 -1\n"},
    {"name of the zygote", OK, CTYPES "print(c.prctl(15, b'gradus-box'))", "0\n"},
    // In C.
    {"C: system calls of another architecture", VIOLATION,
     "int main(void) { __asm__ volatile(\"int $0x80\" : : \"a\"(20)); return 0; }", NULL,
     .language = SANDBOX_C},
    {"C: ptrace", VIOLATION,
     "#include <sys/ptrace.h>\nint main(void) { ptrace(PTRACE_TRACEME, 0, 0, 0); }", NULL,
     .language = SANDBOX_C},
    {"C: exec of a shell", VIOLATION,
     "#include <unistd.h>\n"
     "int main(void) { execl(\"/bin/sh\", \"sh\", \"-c\", \"echo out\", (char *)0); return 7; }",
     NULL, .language = SANDBOX_C},
    {"C: exec of the loader by its descriptor", RUNTIME,
     "#define _GNU_SOURCE\n"
     "#include <fcntl.h>\n"
     "#include <sys/syscall.h>\n"
     "#include <unistd.h>\n"
     "int main(void) { int fd = open(\"/lib64/ld-linux-x86-64.so.2\", O_RDONLY); char *a[] = "
     "{\"x\", "
     "0}; if (fd != 3) return 8; syscall(SYS_execveat, fd, \"\", a, a, 0x1000); return 7; }",
     "~exit status 7", .language = SANDBOX_C},
    {"C: system()", RUNTIME | VIOLATION,
     "#include <stdlib.h>\nint main(void) { return system(\"echo out\") != 0; }", NULL,
     .language = SANDBOX_C},
    {"C: files of the host", OK,
     "#include <fcntl.h>\n"
     "#include <stdio.h>\n"
     "int main(void) { const char *p[] = {\"/etc/passwd\", \"/proc/1/environ\", \"/root\", "
     "\"/usr/bin/gcc\", \"/usr/include/stdio.h\", \"/usr/lib/x\"}; int n = 0; for (int i = 0; i < "
     "6; i++) "
     "n += open(p[i], O_RDONLY) < 0; printf(\"%d\\n\", n); return 0; }",
     "6\n", .language = SANDBOX_C},
    {"C: descriptors", OK,
     "#include <stdio.h>\n"
     "#include <unistd.h>\n"
     "int main(void) { int n = 0; for (int i = 0; i < 1000; i++) { int d = dup(i); if (d >= 0) { "
     "n++; "
     "close(d); } } printf(\"%d\\n\", n); return 0; }",
     "3\n", .language = SANDBOX_C},
    {"C: environment", OK,
     "#include <stdio.h>\n"
     "extern char **environ;\n"
     "int main(void) { for (char **e = environ; *e; e++) puts(*e); return 0; }",
     "PATH=/usr/bin\nLANG=C.UTF-8\nHOME=/box\nMALLOC_ARENA_MAX=1\n", .language = SANDBOX_C},
    {"C: users, capabilities", OK,
     "#include <stdio.h>\n"
     "#include <sys/prctl.h>\n"
     "#include <unistd.h>\n"
     "int main(void) { printf(\"%d %d %d\\n\", getuid() != 0, geteuid() != 0, "
     "prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)); return 0; }",
     "1 1 1\n", .language = SANDBOX_C},
    // What the compiler would show.
    {"C: includes a file of the host", COMPILE, "#include \"/etc/shadow\"\nint main(void) {}",
     "~/etc/shadow", .language = SANDBOX_C},
    {"C: takes in a file of the host as data", COMPILE | SIGNAL | RUNTIME,
     "__asm__(\".incbin \\\"/etc/shadow\\\"\");\nint main(void) { return 1; }", NULL,
     .language = SANDBOX_C},
    {"C: options in the source", COMPILE,
     "#pragma GCC plugin \"/tmp/x.so\"\n#pragma GCC poison main\nint main(void) { return "
     "undefined; }",
     NULL, .language = SANDBOX_C},
};
const int rows_escapes_num = sizeof rows_escapes / sizeof *rows_escapes;
