// SPDX-License-Identifier: Apache-2.0
// Lines for the person at the terminal. Only programs (rl/ and mains) log; every other module
// returns messages.
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level); // of the terminal; LOG_INFO at first
// Lines are appended to the file as well, with times; information too when the terminal is quiet.
void log_open_file(const char *path);
void log_close_file(void);
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// A progress bar on standard error when it is a terminal; otherwise nothing. text follows the bar.
void log_progress(double done, double total, const char *text);
void log_progress_end(void);
bool log_is_terminal(void);
double log_clock(void); // seconds, monotonic

#endif
