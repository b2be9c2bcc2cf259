/* Preloaded into a server under test: writes down the system calls that durability depends on, in their order, with
 * their bytes, and makes some of them fail on demand. Linux, glibc.
 *
 * FAULTS_TRACE   file that records are appended to; unset: none.
 * FAULTS_FOLDER  while this folder holds a file of these names, calls on the database fail:
 *                  full        writes fail with ENOSPC
 *                  no-room     writes of the bytes of uploads fail with ENOSPC instead
 *                  unwritable  writes fail with EIO
 *                  unsynced    syncs fail with EIO
 *                  killed      the next sync kills the process instead
 *
 * A record: kind (1 byte), file (1 byte: 'w' the write-ahead log, 'd' the database, 's' a socket, 'u' the bytes of an
 * upload), offset (8), length (8), then that many bytes. Kinds: W written, T truncated (offset: the new length), B a sync begins, E it has succeeded,
 * X it has failed, S bytes are about to leave by a socket.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int trace = -1;
static const char *folder;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pwrite64)(int, const void *, size_t, off64_t);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static ssize_t (*real_pwritev64)(int, const struct iovec *, int, off64_t);
static ssize_t (*real_pwritev2)(int, const struct iovec *, int, off_t, int);
static ssize_t (*real_pwritev64v2)(int, const struct iovec *, int, off64_t, int);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);
static int (*real_ftruncate64)(int, off64_t);
static ssize_t (*real_send)(int, const void *, size_t, int);
static ssize_t (*real_sendto)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
static ssize_t (*real_sendmsg)(int, const struct msghdr *, int);
static int (*real_sendmmsg)(int, struct mmsghdr *, unsigned int, int);

static void init(void)
{
    if (real_write)
        return;
    real_writev = dlsym(RTLD_NEXT, "writev");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_pwrite64 = dlsym(RTLD_NEXT, "pwrite64");
    real_pwritev = dlsym(RTLD_NEXT, "pwritev");
    real_pwritev64 = dlsym(RTLD_NEXT, "pwritev64");
    real_pwritev2 = dlsym(RTLD_NEXT, "pwritev2");
    real_pwritev64v2 = dlsym(RTLD_NEXT, "pwritev64v2");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate");
    real_ftruncate64 = dlsym(RTLD_NEXT, "ftruncate64");
    real_send = dlsym(RTLD_NEXT, "send");
    real_sendto = dlsym(RTLD_NEXT, "sendto");
    real_sendmsg = dlsym(RTLD_NEXT, "sendmsg");
    real_sendmmsg = dlsym(RTLD_NEXT, "sendmmsg");
    folder = getenv("FAULTS_FOLDER");
    const char *path = getenv("FAULTS_TRACE");
    if (path)
        trace = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    real_write = dlsym(RTLD_NEXT, "write");
}

__attribute__((constructor)) static void start(void) { init(); }

/* Which of the files that matter a descriptor is: 'w', 'd', 's', 'u', or 0. */
static char file_of(int fd)
{
    char link[40], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    if (strncmp(path, "socket:", 7) == 0)
        return 's';
    const char *name = strrchr(path, '/');
    if (name == NULL)
        return 0;
    if (strstr(path, "/.longshore/staging/") != NULL)
        return 'u';
    if (strcmp(name, "/longshore.db-wal") == 0)
        return 'w';
    return strcmp(name, "/longshore.db") == 0 ? 'd' : 0;
}

/* One append, so that records of several threads never mix and their order is that of the calls. */
static void record(char kind, char file, uint64_t offset, const struct iovec *parts, int count)
{
    if (trace < 0 || file == 0)
        return;
    int saved = errno;
    uint64_t length = 0;
    for (int i = 0; i < count; i++)
        length += parts[i].iov_len;
    char head[18] = {kind, file};
    memcpy(head + 2, &offset, 8);
    memcpy(head + 10, &length, 8);
    char *buffer = malloc(sizeof head + length), *at = buffer + sizeof head;
    memcpy(buffer, head, sizeof head);
    for (int i = 0; i < count; i++) {
        memcpy(at, parts[i].iov_base, parts[i].iov_len);
        at += parts[i].iov_len;
    }
    if (real_write(trace, buffer, at - buffer) != at - buffer)
        abort();
    free(buffer);
    errno = saved;
}

static void record_one(char kind, char file, uint64_t offset, const void *data, size_t length)
{
    struct iovec part = {(void *)data, length};
    record(kind, file, offset, &part, 1);
}

static int ordered(const char *fault)
{
    char path[PATH_MAX];
    if (folder == NULL)
        return 0;
    snprintf(path, sizeof path, "%s/%s", folder, fault);
    int saved = errno, there = access(path, F_OK) == 0;
    errno = saved;
    return there;
}

static int is_store(char file) { return file == 'w' || file == 'd'; }

/* Whether a write is to fail: that of the database, or of an upload. */
static int refused(char file)
{
    errno = ENOSPC;
    if ((is_store(file) && ordered("full")) || (file == 'u' && ordered("no-room")))
        return 1;
    errno = EIO;
    return is_store(file) && ordered("unwritable");
}

ssize_t write(int fd, const void *data, size_t length)
{
    init();
    char file = file_of(fd);
    if (file == 's')
        record_one('S', file, 0, data, length);
    return real_write(fd, data, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    init();
    char file = file_of(fd);
    if (file == 's')
        record('S', file, 0, parts, count);
    return real_writev(fd, parts, count);
}

static ssize_t write_at(int wide, int fd, const void *data, size_t length, int64_t offset)
{
    init();
    char file = file_of(fd);
    if (refused(file))
        return -1;
    ssize_t done = wide ? real_pwrite64(fd, data, length, offset) : real_pwrite(fd, data, length, offset);
    if (file != 's' && done > 0)
        record_one('W', file, offset, data, done);
    return done;
}

static int refused_vector(int fd)
{
    init();
    return refused(file_of(fd));
}

/* What was written of several buffers; those who are here for the bytes of uploads always write all. */
static ssize_t vector_done(int fd, const struct iovec *parts, int count, int64_t offset, ssize_t done)
{
    ssize_t wanted = 0;
    for (int i = 0; i < count; i++)
        wanted += parts[i].iov_len;
    if (done == wanted)
        record('W', file_of(fd), offset, parts, count);
    return done;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    return refused_vector(fd) ? -1 : vector_done(fd, parts, count, offset, real_pwritev(fd, parts, count, offset));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
{
    return refused_vector(fd) ? -1 : vector_done(fd, parts, count, offset, real_pwritev64(fd, parts, count, offset));
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    if (refused_vector(fd))
        return -1;
    return vector_done(fd, parts, count, offset, real_pwritev2(fd, parts, count, offset, flags));
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
{
    if (refused_vector(fd))
        return -1;
    return vector_done(fd, parts, count, offset, real_pwritev64v2(fd, parts, count, offset, flags));
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return write_at(0, fd, data, length, offset); }

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    return write_at(1, fd, data, length, offset);
}

int ftruncate(int fd, off_t length)
{
    init();
    int result = real_ftruncate(fd, length);
    char file = file_of(fd);
    if (result == 0 && is_store(file))
        record('T', file, length, NULL, 0);
    return result;
}

int ftruncate64(int fd, off64_t length)
{
    init();
    int result = real_ftruncate64(fd, length);
    char file = file_of(fd);
    if (result == 0 && is_store(file))
        record('T', file, length, NULL, 0);
    return result;
}

static int sync_by(int (*real)(int), int fd)
{
    char file = file_of(fd);
    if (file == 0 || file == 's')
        return real(fd);
    if (is_store(file) && ordered("killed"))
        kill(getpid(), SIGKILL);
    record('B', file, 0, NULL, 0);
    if (is_store(file) && ordered("unsynced")) {
        record('X', file, 0, NULL, 0);
        errno = EIO;
        return -1;
    }
    int result = real(fd);
    record(result == 0 ? 'E' : 'X', file, 0, NULL, 0);
    return result;
}

int fsync(int fd)
{
    init();
    return sync_by(real_fsync, fd);
}

int fdatasync(int fd)
{
    init();
    return sync_by(real_fdatasync, fd);
}

ssize_t send(int fd, const void *data, size_t length, int flags)
{
    init();
    record_one('S', 's', 0, data, length);
    return real_send(fd, data, length, flags);
}

ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size)
{
    init();
    record_one('S', 's', 0, data, length);
    return real_sendto(fd, data, length, flags, to, size);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    init();
    record('S', 's', 0, message->msg_iov, message->msg_iovlen);
    return real_sendmsg(fd, message, flags);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    init();
    for (unsigned int i = 0; i < count; i++)
        record('S', 's', 0, messages[i].msg_hdr.msg_iov, messages[i].msg_hdr.msg_iovlen);
    return real_sendmmsg(fd, messages, count, flags);
}
