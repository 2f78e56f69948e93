/* A disk that fails: preloaded, it lets read, write and sync fail with EIO.

   EIO_PATH      files whose path has this in it
   EIO_CONTROL   while this file exists, and holds the letter of the call: r (read), w (write), s (sync); with
                 @INODE@OFFSET behind it, only reads of that file that touch that byte fail

   Built and used by faulty.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

typedef ssize_t (*read_t)(int, void *, size_t);
typedef ssize_t (*write_t)(int, const void *, size_t);
typedef ssize_t (*pread_t)(int, void *, size_t, off_t);
typedef ssize_t (*pwrite_t)(int, const void *, size_t, off_t);
typedef int (*sync_t)(int);

static int is_ours(int fd) {
    const char *part = getenv("EIO_PATH");
    char link[64], path[4096];
    ssize_t size;
    if (!part)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return strstr(path, part) != NULL;
}

static int fails(int fd, char call) {
    const char *control = getenv("EIO_CONTROL");
    char found[16];
    ssize_t size;
    int saved = errno, number, failing;
    read_t real = (read_t)dlsym(RTLD_NEXT, "read");
    if (!control || !is_ours(fd) || (number = open(control, O_RDONLY | O_CLOEXEC)) < 0) {
        errno = saved;
        return 0;
    }
    size = real(number, found, sizeof found);
    close(number);
    failing = size > 0 && memchr(found, call, (size_t)size) != NULL;
    errno = failing ? EIO : saved;
    return failing;
}

static int touches(int fd, size_t size, off_t at) {
    char found[64] = "";
    int number = open(getenv("EIO_CONTROL"), O_RDONLY | O_CLOEXEC);
    unsigned long long inode;
    long long offset;
    struct stat file;
    if (number >= 0) {
        ((read_t)dlsym(RTLD_NEXT, "read"))(number, found, sizeof found - 1);
        close(number);
    }
    if (sscanf(found, "%*[rws]@%llu@%lld", &inode, &offset) != 2)
        return 1;
    return fstat(fd, &file) == 0 && file.st_ino == inode && at <= offset && offset < at + (off_t)size;
}

static int fails_at(int fd, size_t size, off_t at) {
    int saved = errno;
    if (!fails(fd, 'r'))
        return 0;
    if (touches(fd, size, at)) {
        errno = EIO;
        return 1;
    }
    errno = saved;
    return 0;
}

ssize_t read(int fd, void *to, size_t size) {
    return fails_at(fd, size, lseek(fd, 0, SEEK_CUR)) ? -1 : ((read_t)dlsym(RTLD_NEXT, "read"))(fd, to, size);
}

ssize_t write(int fd, const void *from, size_t size) {
    return fails(fd, 'w') ? -1 : ((write_t)dlsym(RTLD_NEXT, "write"))(fd, from, size);
}

ssize_t pread(int fd, void *to, size_t size, off_t at) {
    return fails_at(fd, size, at) ? -1 : ((pread_t)dlsym(RTLD_NEXT, "pread"))(fd, to, size, at);
}

ssize_t pread64(int fd, void *to, size_t size, off_t at) {
    return fails_at(fd, size, at) ? -1 : ((pread_t)dlsym(RTLD_NEXT, "pread64"))(fd, to, size, at);
}

ssize_t pwrite(int fd, const void *from, size_t size, off_t at) {
    return fails(fd, 'w') ? -1 : ((pwrite_t)dlsym(RTLD_NEXT, "pwrite"))(fd, from, size, at);
}

ssize_t pwrite64(int fd, const void *from, size_t size, off_t at) {
    return fails(fd, 'w') ? -1 : ((pwrite_t)dlsym(RTLD_NEXT, "pwrite64"))(fd, from, size, at);
}

int fsync(int fd) {
    return fails(fd, 's') ? -1 : ((sync_t)dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    return fails(fd, 's') ? -1 : ((sync_t)dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
