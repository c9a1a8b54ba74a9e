/* A disk that is slow or full, for files whose path holds a word: preload it into a process.
 *
 *     cc -shared -fPIC -O2 -o disk.so disk.c -ldl
 *     LD_PRELOAD=./disk.so DISK_OF=appendonly DISK_FSYNC_MILLISECONDS=1500 redis-server ...
 *
 * DISK_OF                  only files whose path holds this word; unset: "appendonly"
 * DISK_FSYNC_MILLISECONDS  fsync and fdatasync of them take so much longer
 * DISK_FULL_WHILE          while a file of this name exists, writing to them fails with ENOSPC
 *
 * What stdio writes by itself (fwrite) goes past this.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Whether a descriptor is of a file that we mean. */
static int meant(int fd) {
    char link[32], path[PATH_MAX];
    const char *word = getenv("DISK_OF");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, word ? word : "appendonly") != NULL;
}

static void sleep_before_sync(int fd) {
    const char *text = getenv("DISK_FSYNC_MILLISECONDS");
    long milliseconds = text ? atol(text) : 0;
    if (milliseconds <= 0 || !meant(fd)) return;
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&left, &left) == -1 && errno == EINTR) {}
}

static int full(int fd) {
    const char *name = getenv("DISK_FULL_WHILE");
    int before = errno;
    int yes = name && access(name, F_OK) == 0 && meant(fd);
    errno = yes ? ENOSPC : before;
    return yes;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

int fsync(int fd) {
    REAL(int, "fsync", int);
    sleep_before_sync(fd);
    return real(fd);
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    sleep_before_sync(fd);
    return real(fd);
}

ssize_t write(int fd, const void *from, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return full(fd) ? -1 : real(fd, from, size);
}

ssize_t writev(int fd, const struct iovec *from, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return full(fd) ? -1 : real(fd, from, count);
}

ssize_t pwrite(int fd, const void *from, size_t size, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return full(fd) ? -1 : real(fd, from, size, at);
}

ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return full(fd) ? -1 : real(fd, from, size, at);
}
