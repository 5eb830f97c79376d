/*
 * A library to be loaded before the C library: it makes accept4(2), and getsockopt(2)
 * for SO_COOKIE, fail as a test says.  tests/twins.py uses it.
 */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <sys/socket.h>

#define MOST 256
#define COOKIE 57

struct script {
    int errors[MOST];
    int count;
    int next;
};

static struct script accepting;
static struct script asking;

static void
write_script(struct script *script, const int *errors, int count)
{
    script->count = count < MOST ? count : MOST;
    script->next = 0;
    for (int i = 0; i < script->count; i++)
        script->errors[i] = errors[i];
}

/* The errors of the next calls; 0 for a call that is really made. */
void
fail_accept(const int *errors, int count)
{
    write_script(&accepting, errors, count);
}

void
fail_cookie(const int *errors, int count)
{
    write_script(&asking, errors, count);
}

static int
next_error(struct script *script)
{
    return script->next < script->count ? script->errors[script->next++] : 0;
}

int
accept4(int descriptor, struct sockaddr *address, socklen_t *size, int flags)
{
    static int (*real)(int, struct sockaddr *, socklen_t *, int);
    int error = next_error(&accepting);

    if (error) {
        errno = error;
        return -1;
    }
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "accept4");
    return real(descriptor, address, size, flags);
}

int
getsockopt(int descriptor, int level, int option, void *value, socklen_t *size)
{
    static int (*real)(int, int, int, void *, socklen_t *);
    int error = 0;

    if (level == SOL_SOCKET && option == COOKIE)
        error = next_error(&asking);
    if (error) {
        errno = error;
        return -1;
    }
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "getsockopt");
    return real(descriptor, level, option, value, size);
}
