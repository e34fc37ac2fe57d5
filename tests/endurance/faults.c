/* Failing disks for tests: a library for LD_PRELOAD that counts what a process writes below one
 * folder, and lets the n-th write fail, fail from there on, tear, or kill the process.
 *
 * Nothing happens until faults_arm() is called in the process (tests/endurance/shim.py does, in a
 * forked child). The counts lie in memory that parent and child share, so that the parent can
 * read them when the child is dead.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct shared {
    long count;      /* writes of any kind below the folder so far */
    long fired;      /* how many of them were made to fail */
    char what[400];  /* the first of them: operation and path */
};

static struct shared *shared;
static char folder[PATH_MAX];
static size_t folder_length;
static long chosen;       /* which write; 0: none, only count */
static int code;          /* errno, or 0: SIGKILL */
static int from_there_on; /* else just that one */
static int torn;          /* the first half of the data is written before */

__attribute__((constructor)) static void begin(void) {
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void faults_reset(void) {
    memset(shared, 0, sizeof *shared);
    folder_length = 0;
}

void faults_arm(const char *path, long nth, int error, int persistent, int tear) {
    chosen = nth;
    code = error;
    from_there_on = persistent;
    torn = tear;
    strncpy(folder, path, sizeof folder - 1);
    folder_length = strlen(folder);
}

long faults_count(void) { return shared->count; }
long faults_fired(void) { return shared->fired; }
const char *faults_what(void) { return shared->what; }

/* Whether this write is to fail. removes: it frees space, so a full disk does not stop it. */
static int hit_path(const char *operation, const char *path, int removes) {
    if (!folder_length || !path || strncmp(path, folder, folder_length) != 0) return 0;
    char next = path[folder_length];
    if (next != '\0' && next != '/') return 0;
    long number = __atomic_add_fetch(&shared->count, 1, __ATOMIC_SEQ_CST);
    if (!chosen || number < chosen || (number > chosen && !from_there_on)) return 0;
    if (removes && (code == ENOSPC || code == EDQUOT)) return 0;
    if (__atomic_fetch_add(&shared->fired, 1, __ATOMIC_SEQ_CST) == 0)
        snprintf(shared->what, sizeof shared->what, "%s %s", operation, path + folder_length);
    return 1;
}

static int hit_fd(const char *operation, int fd) {
    if (!folder_length) return 0;
    int before = errno;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0) return 0;
    path[length] = '\0';
    return hit_path(operation, path, 0);
}

static void fail(void) {
    if (!code) {
        kill(getpid(), SIGKILL);
        pause();
    }
    errno = code;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* --- writing --------------------------------------------------------------------------------- */

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    if (!hit_fd("write", fd)) return real(fd, data, size);
    if (torn && size > 1) {
        ssize_t done = real(fd, data, size / 2);
        if (!code) fail();
        return done; /* a short write; the rest fails if it fails from there on */
    }
    fail();
    return -1;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    if (!hit_fd("pwrite", fd)) return real(fd, data, size, at);
    if (torn && size > 1) {
        ssize_t done = real(fd, data, size / 2, at);
        if (!code) fail();
        return done;
    }
    fail();
    return -1;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    if (!hit_fd("pwrite", fd)) return real(fd, data, size, at);
    if (torn && size > 1) {
        ssize_t done = real(fd, data, size / 2, at);
        if (!code) fail();
        return done;
    }
    fail();
    return -1;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    if (!hit_fd("writev", fd)) return real(fd, parts, count);
    fail();
    return -1;
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
    REAL(fwrite);
    if (!hit_fd("fwrite", fileno(file))) return real(data, size, count, file);
    size_t done = torn ? real(data, size, count / 2, file) : 0;
    if (!code) fflush(file);
    fail();
    return done;
}

int fclose(FILE *file) {
    REAL(fclose);
    if (!folder_length || !hit_fd("fclose", fileno(file))) return real(file);
    if (!code) fail();
    real(file);
    fail();
    return EOF;
}

/* --- keeping --------------------------------------------------------------------------------- */

int fsync(int fd) {
    REAL(fsync);
    if (!hit_fd("fsync", fd)) return real(fd);
    fail();
    return -1;
}

int fdatasync(int fd) {
    REAL(fdatasync);
    if (!hit_fd("fdatasync", fd)) return real(fd);
    fail();
    return -1;
}

int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    if (!hit_fd("ftruncate", fd)) return real(fd, size);
    fail();
    return -1;
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    if (!hit_fd("ftruncate", fd)) return real(fd, size);
    fail();
    return -1;
}

int posix_fallocate(int fd, off_t at, off_t size) {
    REAL(posix_fallocate);
    if (!hit_fd("fallocate", fd)) return real(fd, at, size);
    if (!code) fail();
    return code;
}

int posix_fallocate64(int fd, off64_t at, off64_t size) {
    REAL(posix_fallocate64);
    if (!hit_fd("fallocate", fd)) return real(fd, at, size);
    if (!code) fail();
    return code;
}

/* --- names ----------------------------------------------------------------------------------- */

int rename(const char *from, const char *to) {
    REAL(rename);
    if (!hit_path("rename", to, 0)) return real(from, to);
    fail();
    return -1;
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    REAL(renameat);
    if (!hit_path("rename", to, 0)) return real(from_fd, from, to_fd, to);
    fail();
    return -1;
}

int unlink(const char *path) {
    REAL(unlink);
    if (!hit_path("unlink", path, 1)) return real(path);
    fail();
    return -1;
}

int unlinkat(int fd, const char *path, int flags) {
    REAL(unlinkat);
    if (!hit_path("unlink", path, 1)) return real(fd, path, flags);
    fail();
    return -1;
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (!hit_path("mkdir", path, 0)) return real(path, mode);
    fail();
    return -1;
}

/* --- opening for writing ---------------------------------------------------------------------- */

#define WRITES(flags) ((flags) & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC))
/* A full disk stops the making of a file, not the opening of one that is there. */
static int hit_open(const char *path, int flags) {
    if (!WRITES(flags)) return 0;
    int makes = 0;
    if (flags & O_CREAT) {
        int before = errno;
        makes = access(path, F_OK) != 0;
        errno = before;
    }
    return hit_path("open", path, !makes);
}

#define OPEN(name)                                               \
    int name(const char *path, int flags, ...) {                 \
        REAL(name);                                              \
        va_list rest;                                            \
        va_start(rest, flags);                                   \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                            \
        if (!hit_open(path, flags)) return real(path, flags, mode); \
        fail();                                                  \
        return -1;                                               \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                             \
    int name(int fd, const char *path, int flags, ...) {         \
        REAL(name);                                              \
        va_list rest;                                            \
        va_start(rest, flags);                                   \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                            \
        if (!hit_open(path, flags)) return real(fd, path, flags, mode); \
        fail();                                                  \
        return -1;                                               \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                              \
    FILE *name(const char *path, const char *mode) {             \
        REAL(name);                                              \
        int flags = mode[0] == 'r' ? (strchr(mode, '+') ? O_RDWR : 0) : O_WRONLY | O_CREAT; \
        if (!hit_open(path, flags)) return real(path, mode);     \
        fail();                                                  \
        return NULL;                                             \
    }
FOPEN(fopen)
FOPEN(fopen64)
