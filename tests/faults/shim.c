/* Lets one call on the files of a folder fail. Preloaded into the agent by tests/it/faults.rs, which
 * compiles it with cc. Every call that writes, syncs, cuts, renames, removes or opens for writing below
 * PYV_FAULT_DIR is numbered, across processes, and noted in PYV_FAULT_LOG.
 *
 * PYV_FAULT_AT     the number of the call that fails; 0 for none
 * PYV_FAULT_AS     an errno by name; "short": half is written and the call says so; "torn": half is
 *                  written and the call fails with EIO
 * PYV_FAULT_MS     for so many milliseconds after it every further call fails as well; 0 for only one
 * PYV_FAULT_STATE  a file of 16 bytes: the last number, and when the failing began
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define FDS_MAX 1024
enum { SHORT = -1, TORN = -2 };

struct state {
    _Atomic long last;
    _Atomic long began_ms;
};

static struct state *state;
static char names[FDS_MAX][64];
static const char *folder;
static long fault_at, fault_ms;
static int fault_as, log_fd = -1;

static int errno_by_name(const char *name) {
    static const struct { const char *name; int value; } known[] = {
        {"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EROFS", EROFS}, {"EACCES", EACCES}, {"short", SHORT}, {"torn", TORN},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0) return known[i].value;
    abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("PYV_FAULT_STATE"), *log = getenv("PYV_FAULT_LOG"), *as = getenv("PYV_FAULT_AS");
    folder = getenv("PYV_FAULT_DIR");
    if (!path || !log || !folder) return;
    if (getenv("PYV_FAULT_AT")) fault_at = atol(getenv("PYV_FAULT_AT"));
    if (getenv("PYV_FAULT_MS")) fault_ms = atol(getenv("PYV_FAULT_MS"));
    fault_as = as ? errno_by_name(as) : EIO;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || syscall(SYS_ftruncate, fd, sizeof *state)) abort();
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (state == MAP_FAILED || log_fd < 0) abort();
}

static int is_below(const char *path) {
    return state && strncmp(path, folder, strlen(folder)) == 0 && path[strlen(folder)] == '/';
}

static const char *tracked(int fd) {
    return state && fd >= 0 && fd < FDS_MAX && names[fd][0] ? names[fd] : NULL;
}

static long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Numbers the call; what it is to fail with, or 0. */
static int judge(const char *kind, const char *name) {
    long number = atomic_fetch_add(&state->last, 1) + 1, began = atomic_load(&state->began_ms);
    int fails = 0;
    if (number == fault_at) {
        atomic_store(&state->began_ms, now_ms());
        fails = 1;
    } else if (fault_ms && began) {
        fails = now_ms() - began < fault_ms;
    }
    char line[160];
    int length = snprintf(line, sizeof line, "%ld %s %s%s\n", number, kind, name, fails ? " failed" : "");
    syscall(SYS_write, log_fd, line, length);
    return fails ? fault_as : 0;
}

static int fail_with(int as) {
    errno = as < 0 ? EIO : as;
    return -1;
}

static int open_at(int at, const char *path, int flags, mode_t mode) {
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    int counts = is_below(path) && (flags & (O_WRONLY | O_RDWR | O_CREAT));
    if (counts) {
        int as = judge("open", name);
        if (as) return fail_with(as);
    }
    int fd = syscall(SYS_openat, at, path, flags, mode);
    if (fd >= 0 && fd < FDS_MAX) snprintf(names[fd], sizeof names[fd], "%s", is_below(path) ? name : "");
    return fd;
}

#define OPEN(NAME) \
    int NAME(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        return open_at(AT_FDCWD, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(NAME) \
    int NAME(int at, const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        return open_at(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    if (fd >= 0 && fd < FDS_MAX) names[fd][0] = 0;
    return syscall(SYS_close, fd);
}

/* offset is -1 for the file's own position. */
static ssize_t put(int fd, const void *bytes, size_t size, off_t offset) {
    int as = tracked(fd) ? judge("write", tracked(fd)) : 0;
    if (as > 0) return fail_with(as);
    size_t part = as ? size / 2 : size;
    ssize_t written = part == 0 && as ? 0
        : offset < 0 ? syscall(SYS_write, fd, bytes, part) : syscall(SYS_pwrite64, fd, bytes, part, offset);
    return as == TORN ? fail_with(EIO) : written;
}

ssize_t write(int fd, const void *bytes, size_t size) { return put(fd, bytes, size, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) { return put(fd, bytes, size, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) { return put(fd, bytes, size, offset); }

#define ON_FD(NAME, KIND, NUMBER) \
    int NAME(int fd) { \
        int as = tracked(fd) ? judge(KIND, tracked(fd)) : 0; \
        return as ? fail_with(as) : (int)syscall(NUMBER, fd); \
    }
ON_FD(fsync, "sync", SYS_fsync)
ON_FD(fdatasync, "sync", SYS_fdatasync)

static int cut(int fd, off_t size) {
    int as = tracked(fd) ? judge("truncate", tracked(fd)) : 0;
    return as ? fail_with(as) : (int)syscall(SYS_ftruncate, fd, size);
}
int ftruncate(int fd, off_t size) { return cut(fd, size); }
int ftruncate64(int fd, off64_t size) { return cut(fd, size); }

int rename(const char *from, const char *to) {
    int as = is_below(to) ? judge("rename", strrchr(to, '/') + 1) : 0;
    return as ? fail_with(as) : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path) {
    int as = is_below(path) ? judge("unlink", strrchr(path, '/') + 1) : 0;
    return as ? fail_with(as) : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
