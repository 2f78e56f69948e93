/* Preloaded: fsync of the file $HANG_FILE hangs for as long as the file $HANG_ARMED exists, and then fails with EIO.
   While it hangs, "$HANG_ARMED.hanging" exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int armed_for(int number) {
    const char *file = getenv("HANG_FILE"), *armed = getenv("HANG_ARMED");
    char link[64], found[4096];
    ssize_t size;

    if (!file || !armed || access(armed, F_OK))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", number);
    size = readlink(link, found, sizeof found - 1);
    if (size < 0)
        return 0;
    found[size] = 0;
    return !strcmp(found, file);
}

int fsync(int number) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    char marker[4096];

    if (!armed_for(number))
        return real(number);
    snprintf(marker, sizeof marker, "%s.hanging", getenv("HANG_ARMED"));
    close(open(marker, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    while (!access(getenv("HANG_ARMED"), F_OK))
        usleep(2000);
    errno = EIO;
    return -1;
}
