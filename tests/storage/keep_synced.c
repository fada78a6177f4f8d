/* Preloaded into a process: note every call that changes a file below $KEEP_SYNCED_FOLDER, in order, in $KEEP_SYNCED_LOG.
 *
 * The note is made while the call holds a lock, so that the order in the log is the order of the calls; a process that is
 * killed between a call and its note has not yet seen the call return. From the log a test builds what a power cut would
 * have left: what was synced, and any part of what was not. A note is: kind, length of the path, offset, length of the
 * data, path, data. Bytes written through a memory map are not seen (SQLite's -shm file, which no start ever reads).
 *
 * `keep_synced_fail` lets some of these calls fail instead, as on a disk that is full, read-only or bad for a while, or
 * lets writes take half of what they were given.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct __attribute__((packed)) note {
    char kind;
    uint32_t path_bytes;
    uint64_t offset;
    uint32_t data_bytes;
};

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static int log_fd = -1;

static long calls, fail_from = -1, fail_to = -1, shorts;
static int fail_with;

/* From now on count the calls. Of those from `from` on, `count` of them, the first `halved` writes take half of their bytes;
 * all others fail with the error `problem` (0: they don't). */
void keep_synced_fail(long from, long count, int problem, long halved) {
    pthread_mutex_lock(&order);
    calls = 0, fail_from = from, fail_to = from + count, fail_with = problem, shorts = halved;
    pthread_mutex_unlock(&order);
}
long keep_synced_calls(void) { return calls; }

/* Whether this call is to fail. Of a write, `bytes` is how much it was given, and then how much it takes. */
static int refused(const char *name, size_t *bytes) {
    if (!name || fail_from < 0) return 0;
    long number = calls++;
    if (number < fail_from || number >= fail_to) return 0;
    if (bytes && *bytes > 1 && shorts > 0) {
        shorts--, *bytes /= 2;
        return 0;
    }
    errno = fail_with;
    return fail_with != 0;
}

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

__attribute__((constructor)) static void begin(void) {
    const char *watched = getenv("KEEP_SYNCED_FOLDER"), *log = getenv("KEEP_SYNCED_LOG");
    if (!watched || !log || !realpath(watched, folder)) return;
    log_fd = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* The path below the folder, or NULL where the file is none of ours. */
static const char *ours(const char *path) {
    size_t length = strlen(folder);
    if (log_fd < 0 || strncmp(path, folder, length)) return NULL;
    if (!path[length]) return ".";
    return path[length] == '/' ? path + length + 1 : NULL;
}

static const char *ours_at(int at, const char *path, char *room) {
    char base[64];
    if (log_fd < 0) return NULL;
    if (path[0] == '/') return ours(path);
    if (at == AT_FDCWD) {
        if (!getcwd(room, PATH_MAX)) return NULL;
    } else {
        snprintf(base, sizeof base, "/proc/self/fd/%d", at);
        ssize_t got = readlink(base, room, PATH_MAX - 1);
        if (got < 0) return NULL;
        room[got] = 0;
    }
    if (strlen(room) + strlen(path) + 2 > PATH_MAX) return NULL;
    strcat(strcat(room, "/"), path);
    return ours(room);
}

static const char *ours_fd(int fd, char *room) {
    char link[64];
    if (log_fd < 0) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t got = readlink(link, room, PATH_MAX - 1);
    if (got < 0) return NULL;
    room[got] = 0;
    const char *path = ours(room);
    return path && !strstr(path, " (deleted)") ? path : NULL;
}

static void put(char kind, const char *path, uint64_t offset, const void *data, size_t bytes) {
    struct note head = {kind, (uint32_t)strlen(path), offset, (uint32_t)bytes};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)path, head.path_bytes}, {(void *)data, bytes}};
    ssize_t whole = (ssize_t)(sizeof head + head.path_bytes + bytes);
    if (REAL(writev)(log_fd, parts, 3) != whole) abort();
}

static int open_noted(int at, const char *path, int flags, mode_t mode) {
    char room[PATH_MAX];
    struct stat before;
    pthread_mutex_lock(&order);
    const char *name = flags & (O_CREAT | O_TRUNC) ? ours_at(at, path, room) : NULL;
    int there = name && fstatat(at, path, &before, 0) == 0;
    int fd = refused(name, NULL) ? -1 : REAL(openat)(at, path, flags, mode);
    int problem = errno;
    if (fd >= 0 && name && !there) put('c', name, 0, "", 0);
    if (fd >= 0 && name && there && flags & O_TRUNC) put('t', name, 0, "", 0);
    pthread_mutex_unlock(&order);
    errno = problem;
    return fd;
}

#define MODE(flags)                                 \
    mode_t mode = 0;                                \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {        \
        va_list rest;                               \
        va_start(rest, flags);                      \
        mode = (mode_t)va_arg(rest, int);           \
        va_end(rest);                               \
    }
int open(const char *path, int flags, ...) { MODE(flags) return open_noted(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_noted(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_noted(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_noted(at, path, flags | O_LARGEFILE, mode); }

static ssize_t wrote(int fd, const void *data, ssize_t done, int64_t offset) {
    char room[PATH_MAX];
    int problem = errno;
    const char *name = done > 0 ? ours_fd(fd, room) : NULL;
    struct stat now;
    if (name && offset < 0) {
        /* The place where a plain write ended is where the file's own position now stands. */
        offset = lseek(fd, 0, SEEK_CUR) - done;
        if (fcntl(fd, F_GETFL) & O_APPEND && fstat(fd, &now) == 0) offset = now.st_size - done;
    }
    if (name) put('w', name, (uint64_t)offset, data, (size_t)done);
    errno = problem;
    return done;
}

#define LOCKED(type, name, call) COUNTED(type, name, NULL, call)
#define COUNTED(type, name, bytes, call)            \
    char there[PATH_MAX];                           \
    pthread_mutex_lock(&order);                     \
    int armed = fail_from >= 0;                     \
    type result = armed && refused(name, bytes) ? -1 : (call); \
    int problem = errno;                            \
    pthread_mutex_unlock(&order);                   \
    errno = problem;                                \
    return result;
#define FD ours_fd(fd, there)

ssize_t write(int fd, const void *data, size_t bytes) { COUNTED(ssize_t, FD, &bytes, wrote(fd, data, REAL(write)(fd, data, bytes), -1)) }
ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at) { COUNTED(ssize_t, FD, &bytes, wrote(fd, data, REAL(pwrite)(fd, data, bytes, at), at)) }
ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at) { COUNTED(ssize_t, FD, &bytes, wrote(fd, data, REAL(pwrite64)(fd, data, bytes, at), at)) }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char room[PATH_MAX];
    if (!ours_fd(fd, room)) return REAL(writev)(fd, parts, count);
    /* A short write is a legal answer: the caller goes on with the rest. */
    return write(fd, parts[0].iov_base, parts[0].iov_len);
}

static int after_fd(char kind, int fd, int result, uint64_t offset) {
    char room[PATH_MAX];
    int problem = errno;
    const char *name = result == 0 ? ours_fd(fd, room) : NULL;
    if (name) put(kind, name, offset, "", 0);
    errno = problem;
    return result;
}

int fsync(int fd) { LOCKED(int, FD, after_fd('s', fd, REAL(fsync)(fd), 0)) }
int fdatasync(int fd) { LOCKED(int, FD, after_fd('s', fd, REAL(fdatasync)(fd), 0)) }
int ftruncate(int fd, off_t size) { LOCKED(int, FD, after_fd('t', fd, REAL(ftruncate)(fd, size), (uint64_t)size)) }
int ftruncate64(int fd, off64_t size) { LOCKED(int, FD, after_fd('t', fd, REAL(ftruncate64)(fd, size), (uint64_t)size)) }

static int grown(int fd, int result, uint64_t end) {
    struct stat now;
    return after_fd('t', fd, result, fstat(fd, &now) == 0 ? (uint64_t)now.st_size : end);
}
int fallocate(int fd, int how, off_t at, off_t bytes) { LOCKED(int, FD, grown(fd, REAL(fallocate)(fd, how, at, bytes), (uint64_t)(at + bytes))) }
int fallocate64(int fd, int how, off64_t at, off64_t bytes) { LOCKED(int, FD, grown(fd, REAL(fallocate64)(fd, how, at, bytes), (uint64_t)(at + bytes))) }
int posix_fallocate(int fd, off_t at, off_t bytes) { LOCKED(int, FD, grown(fd, REAL(posix_fallocate)(fd, at, bytes), (uint64_t)(at + bytes))) }
int posix_fallocate64(int fd, off64_t at, off64_t bytes) { LOCKED(int, FD, grown(fd, REAL(posix_fallocate64)(fd, at, bytes), (uint64_t)(at + bytes))) }

static int named(char kind, int at, const char *path, int result, const char *to) {
    char room[PATH_MAX], room_to[PATH_MAX];
    int problem = errno;
    const char *name = result == 0 ? ours_at(at, path, room) : NULL;
    const char *new_name = to ? ours_at(at, to, room_to) : "";
    if (name && new_name) put(kind, name, 0, new_name, strlen(new_name));
    else if (name) put('u', name, 0, "", 0);
    errno = problem;
    return result;
}

int unlink(const char *path) { LOCKED(int, ours_at(AT_FDCWD, path, there), named('u', AT_FDCWD, path, REAL(unlink)(path), NULL)) }
int unlinkat(int at, const char *path, int flags) { LOCKED(int, ours_at(at, path, there), named('u', at, path, REAL(unlinkat)(at, path, flags), NULL)) }
int rmdir(const char *path) { LOCKED(int, ours_at(AT_FDCWD, path, there), named('u', AT_FDCWD, path, REAL(rmdir)(path), NULL)) }
int mkdir(const char *path, mode_t mode) { LOCKED(int, ours_at(AT_FDCWD, path, there), named('m', AT_FDCWD, path, REAL(mkdir)(path, mode), NULL)) }
int mkdirat(int at, const char *path, mode_t mode) { LOCKED(int, ours_at(at, path, there), named('m', at, path, REAL(mkdirat)(at, path, mode), NULL)) }
int rename(const char *from, const char *to) { LOCKED(int, ours_at(AT_FDCWD, from, there), named('r', AT_FDCWD, from, REAL(rename)(from, to), to)) }
int renameat(int at, const char *from, int to_at, const char *to) { LOCKED(int, ours_at(at, from, there), named('r', at, from, REAL(renameat)(at, from, to_at, to), to)) }
int renameat2(int at, const char *from, int to_at, const char *to, unsigned flags) { LOCKED(int, ours_at(at, from, there), named('r', at, from, REAL(renameat2)(at, from, to_at, to, flags), to)) }
