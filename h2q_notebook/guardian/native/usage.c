/* What the process holds, from /proc. */
#define _GNU_SOURCE 1
#include "gate.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

long page_bytes;
static int statm_fd = -1, status_fd = -1;

int open_usage(void) {
    if (statm_fd < 0) statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (status_fd < 0) status_fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    return statm_fd < 0 || status_fd < 0 ? -1 : 0;
}

void close_usage(void) {
    if (statm_fd >= 0) close(statm_fd);
    if (status_fd >= 0) close(status_fd);
    statm_fd = status_fd = -1;
}

static int64_t field(const char *text, const char *key) {
    const char *at = strstr(text, key);
    return at ? (int64_t)strtoull(at + strlen(key), NULL, 10) * 1024 : 0;
}

int64_t used_bytes(int64_t fits) {
    char text[2048];
    ssize_t n = pread(statm_fd, text, 200, 0);
    if (n <= 0) return -1;
    text[n] = 0;
    char *at;
    strtoull(text, &at, 10);
    int64_t resident = (int64_t)strtoull(at, NULL, 10) * page_bytes;
    if (resident <= fits) return resident;
    n = pread(status_fd, text, sizeof text - 1, 0);
    if (n <= 0) return -1;
    text[n] = 0;
    return field(text, "\nRssAnon:") + field(text, "\nRssShmem:") + field(text, "\nVmSwap:");
}
