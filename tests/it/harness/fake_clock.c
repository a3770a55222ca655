/* Preloaded into the daemon: moves its wall clock and its boot clock, answers adjtimex, and renames the
 * boot, all by what stands in the file $FAKE_CLOCK, which the test maps and changes while the daemon runs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

struct state {
    volatile int64_t wall_offset_ns; /* added to CLOCK_REALTIME */
    volatile int64_t boot_offset_ns; /* added to CLOCK_BOOTTIME */
    volatile int64_t synchronised;
};

static const struct state *state;
static char boot_id_path[4096];

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("FAKE_CLOCK");
    if (!path)
        return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *state, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        abort();
    close(fd);
    snprintf(boot_id_path, sizeof boot_id_path, "%s.boot_id", path);
    state = map;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result != 0 || !state || (clock != CLOCK_REALTIME && clock != CLOCK_BOOTTIME))
        return result;
    int64_t moved = clock == CLOCK_REALTIME ? state->wall_offset_ns : state->boot_offset_ns;
    int64_t ns = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + moved;
    if (ns < 0)
        ns = 0;
    now->tv_sec = ns / 1000000000;
    now->tv_nsec = ns % 1000000000;
    return 0;
}

int adjtimex(struct timex *buffer) {
    int result = (int)syscall(SYS_adjtimex, buffer);
    if (result < 0 || !state)
        return result;
    return state->synchronised ? TIME_OK : TIME_ERROR;
}

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    if (state && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0)
        path = boot_id_path;
    return (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define MODE(flags, mode)                                                                                    \
    mode_t mode = 0;                                                                                         \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                     \
        va_list rest;                                                                                        \
        va_start(rest, flags);                                                                               \
        mode = va_arg(rest, mode_t);                                                                         \
        va_end(rest);                                                                                        \
    }

int open(const char *path, int flags, ...) {
    MODE(flags, mode)
    return open_at(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags, mode)
    return open_at(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
