// SPDX-License-Identifier: Apache-2.0
// A call that must return 0; else the test fails with the message that was set.
#ifndef TESTS_ASSERT_OK_H
#define TESTS_ASSERT_OK_H

#include "base/error.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define assert_ok(call)                                                                            \
    do {                                                                                           \
        if (call) {                                                                                \
            fail_msg("%s: %s", #call, err_message());                                              \
        }                                                                                          \
    } while (0)

#endif
