// SPDX-License-Identifier: Apache-2.0
#include "sandbox/locate.h"

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int locate_box(char **out, const char *given)
{
    // Beside the program, in the build tree of the program or of a test, and where it is installed.
    static const char *const places[] = {"gradus-box", "sandbox/gradus-box",
                                         "../sandbox/gradus-box", "../libexec/gradus/gradus-box"};
    if (given != NULL) {
        if (access(given, X_OK) != 0)
            return err_set(ERR_ENV, "sandbox: %s: no such executable", given);
        *out = mem_strdup(given);
        return 0;
    }
    char self[PATH_MAX];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return err_set(ERR_ENV, "sandbox: /proc/self/exe cannot be read");
    self[n] = 0;
    char *slash = strrchr(self, '/');
    *slash = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char *path = path_join(self, places[i]);
        if (access(path, X_OK) == 0) {
            *out = path;
            return 0;
        }
        free(path);
    }
    return err_set(ERR_ENV, "sandbox: gradus-box is neither in %s nor in ../sandbox of it", self);
}

static long read_number(const char *path)
{
    struct strbuf text = {0};
    long v = -1;
    if (file_read(&text, path, 64, ERR_ENV) == 0 && text.len > 0)
        v = strtol(text.data, NULL, 10);
    strbuf_free(&text);
    return v;
}

int locate_refuse(const char *reason)
{
    static const struct {
        const char *path;
        long forbids;
        const char *fix;
    } switches[] = {
        {"/proc/sys/kernel/unprivileged_userns_clone", 0,
         "sysctl kernel.unprivileged_userns_clone=1"},
        {"/proc/sys/user/max_user_namespaces", 0, "sysctl user.max_user_namespaces=10000"},
        {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 1,
         "sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
    };
    char said[256];
    strncpy(said, reason, sizeof said - 1);
    said[sizeof said - 1] = 0;
    const char *fix =
        "in a container, start it with --security-opt seccomp=unconfined --security-opt "
        "apparmor=unconfined "
        "--security-opt systempaths=unconfined (Docker, Podman), or allow user namespaces to it, "
        "or "
        "let a weaker tier do (--tier cage; \"sandbox_tier\": \"cage\" in a config)";
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++) {
        if (read_number(switches[i].path) == switches[i].forbids)
            fix = switches[i].fix;
    }
    return err_set(ERR_ENV,
                   "sandbox: the box cannot be built here, and programs are not run without it: "
                   "%s. To allow it: %s",
                   said, fix);
}
