// SPDX-License-Identifier: Apache-2.0
// Replays the kept seeds of a fuzz target, one test a file of the directory that is given. Each is
// handed over in memory of its own size, so that the address sanitizer sees a read past its end.
#include "base/error.h"
#include "base/file.h"
#include "base/str.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(const char *path)
{
    struct strbuf text = {0};
    const int rc = file_read(&text, path, 0, ERR_DATA);
    if (rc != 0)
        return rc;
    uint8_t *data = malloc(text.len + (text.len == 0));
    if (text.len > 0)
        memcpy(data, text.data, text.len);
    LLVMFuzzerTestOneInput(data, text.len);
    free(data);
    strbuf_free(&text);
    return 0;
}

int main(int argc, char **argv)
{
    char **names = NULL;
    if (argc != 2 || dir_list(&names, argv[1], ERR_DATA) != 0) {
        printf("1..1\nnot ok 1 - seeds # %s\n", argc == 2 ? err_message() : "no directory");
        return 1;
    }
    int count = 0, failed = 0;
    while (names[count])
        count++;
    printf("1..%d\n", count ? count : 1);
    if (count == 0)
        printf("not ok 1 - \"%s\" has no seeds\n", argv[1]);
    for (int i = 0; i < count; i++) {
        fflush(stdout); // what was said stands when the target crashes
        char *path = path_join(argv[1], names[i]);
        const int rc = replay(path);
        printf("%s %d - %s\n", rc == 0 ? "ok" : "not ok", i + 1, names[i]);
        failed += rc != 0;
        free(path);
    }
    free(names);
    return failed > 0 || count == 0;
}
