/* The floor: the least that a connection costs without Python.  It serves the same
   bytes as the other contestants, by the same system calls.

   floor direct PORT           accepts, and serves
   floor listener PORT PATH    accepts, and hands off to the worker at the Unix socket PATH
   floor worker PATH           serves what the listener hands off

   Listener and worker do what portlisten's do for each connection: the listener finds
   its cookie and keeps a copy, and the worker compares the cookie and claims.  Before
   the listener closes its copy, it asks whether that could block.  They leave out all
   that is needed if something fails: one worker, one port, and any error ends them. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER "hello, world\n"

/* How many connections a worker may have that it has not closed, as in portlisten. */
#define WINDOW 52

/* What the worker sends: the number of an offer, and with this bit, that it is closed. */
#define CLOSED 0x80000000u

#define NUMBERS (1u << 20)
#define DESCRIPTORS (1u << 20)
#define EVENTS 128

struct offer {
    uint64_t cookie;
    uint32_t number, unused;
};

static int copies[NUMBERS];
static uint32_t numbers[DESCRIPTORS];
static int poll;

static int must(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

static void watch(int operation, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    must(epoll_ctl(poll, operation, fd, &event), "epoll_ctl");
}

static int wait_(struct epoll_event *events)
{
    int count = epoll_wait(poll, events, EVENTS, -1);
    return count < 0 && errno == EINTR ? 0 : must(count, "epoll_wait");
}

static int listen_(const char *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    int one = 1;
    int fd = must(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket");

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), "SO_REUSEADDR");
    must(bind(fd, (struct sockaddr *)&address, sizeof address), "bind");
    must(listen(fd, 16384), "listen");
    return fd;
}

static struct sockaddr_un path(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
    return address;
}

static int accept_(int port)
{
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    return accept4(port, (struct sockaddr *)&address, &size, SOCK_CLOEXEC);
}

static uint64_t cookieOf(int fd)
{
    uint64_t cookie = 0;
    socklen_t size = sizeof cookie;
    must(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size), "SO_COOKIE");
    return cookie;
}

/* What an event loop does with a new connection before it can write. */
static void adopt(int fd)
{
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    int one = 1;

    getsockname(fd, (struct sockaddr *)&address, &size);
    must(ioctl(fd, FIONBIO, &one), "FIONBIO");
    watch(EPOLL_CTL_ADD, fd, EPOLLIN);
    watch(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT);
}

static void answer(int fd)
{
    watch(EPOLL_CTL_MOD, fd, EPOLLIN);
    send(fd, ANSWER, strlen(ANSWER), MSG_NOSIGNAL);
    watch(EPOLL_CTL_DEL, fd, 0);
    shutdown(fd, SHUT_RDWR);
    close(fd);
}

static void direct(int port)
{
    struct epoll_event events[EVENTS];

    watch(EPOLL_CTL_ADD, port, EPOLLIN);
    for (;;) {
        int count = wait_(events);
        for (int each = 0; each < count; each++) {
            int fd = events[each].data.fd;
            if (fd != port) {
                answer(fd);
                continue;
            }
            for (int more = 0; more < 64 && (fd = accept_(port)) >= 0; more++)
                adopt(fd);
        }
    }
}

/* How many connections wait to be accepted: tcpi_unacked, if the socket listens. */
static unsigned waiting(int port)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    must(getsockopt(port, IPPROTO_TCP, TCP_INFO, &info, &size), "TCP_INFO");
    return info.tcpi_unacked;
}

static unsigned offer(int port, int channel, unsigned most)
{
    static uint32_t number;
    struct offer offers[WINDOW];
    int descriptors[WINDOW];
    char control[CMSG_SPACE(sizeof descriptors)];
    struct iovec data = {.iov_base = offers};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control};
    struct cmsghdr *header;
    unsigned count = 0;

    for (; count < most; count++) {
        int fd = accept_(port);
        if (fd < 0)
            break;
        number = (number + 1) % NUMBERS;
        offers[count] = (struct offer){.cookie = cookieOf(fd), .number = number};
        descriptors[count] = copies[number] = fd;
    }
    if (!count)
        return 0;
    data.iov_len = count * sizeof *offers;
    message.msg_controllen = CMSG_SPACE(count * sizeof *descriptors);
    header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof *descriptors);
    memcpy(CMSG_DATA(header), descriptors, count * sizeof *descriptors);
    must(sendmsg(channel, &message, MSG_NOSIGNAL), "sendmsg");
    return count;
}

/* Takes what the worker said.  Returns how many connections it has closed. */
static unsigned hear(int channel)
{
    uint32_t said[4096];
    unsigned closed = 0;
    ssize_t size = recv(channel, said, sizeof said, MSG_DONTWAIT);

    if (size <= 0)
        exit(0);
    for (unsigned each = 0; each < size / sizeof *said; each++) {
        struct linger linger;
        socklen_t length = sizeof linger;
        int fd;
        if (said[each] & CLOSED) {
            closed++;
            continue;
        }
        fd = copies[said[each]];
        must(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length), "SO_LINGER");
        close(fd);
    }
    return closed;
}

static void listener(int port, const char *name)
{
    struct epoll_event events[EVENTS];
    struct sockaddr_un address = path(name);
    struct sched_param none = {0};
    int size = 212992, accepting = 1, channel;
    unsigned out = 0;
    int waits = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");

    must(bind(waits, (struct sockaddr *)&address, sizeof address), "bind");
    must(listen(waits, 1), "listen");
    channel = must(accept4(waits, NULL, NULL, SOCK_CLOEXEC), "accept");
    setsockopt(channel, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    sched_setscheduler(0, SCHED_BATCH, &none);
    watch(EPOLL_CTL_ADD, port, EPOLLIN);
    watch(EPOLL_CTL_ADD, channel, EPOLLIN);
    for (;;) {
        int count = wait_(events), want;
        for (int each = 0; each < count; each++)
            if (events[each].data.fd == channel)
                out -= hear(channel);
        if (out < WINDOW) {
            unsigned queue = waiting(port), room = WINDOW - out;
            out += offer(port, channel, queue < room ? queue : room);
        }
        want = out < WINDOW;
        if (want != accepting)
            watch(want ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, port, EPOLLIN);
        accepting = want;
    }
}

static void receive(int channel)
{
    struct offer offers[WINDOW];
    uint32_t claims[WINDOW];
    int descriptors[WINDOW];
    char control[CMSG_SPACE(sizeof descriptors)];
    struct iovec data = {.iov_base = offers, .iov_len = sizeof offers};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t size = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
    unsigned count = size > 0 ? size / sizeof *offers : 0;

    if (!count)
        exit(0);
    memcpy(descriptors, CMSG_DATA(CMSG_FIRSTHDR(&message)), count * sizeof *descriptors);
    for (unsigned each = 0; each < count; each++) {
        if (cookieOf(descriptors[each]) != offers[each].cookie)
            abort();
        claims[each] = numbers[descriptors[each]] = offers[each].number;
    }
    must(send(channel, claims, count * sizeof *claims, MSG_NOSIGNAL), "send");
    for (unsigned each = 0; each < count; each++) {
        struct sockaddr_in address;
        socklen_t length = sizeof address;
        getpeername(descriptors[each], (struct sockaddr *)&address, &length);
        adopt(descriptors[each]);
    }
}

static void worker(const char *name)
{
    struct epoll_event events[EVENTS];
    struct sockaddr_un address = path(name);
    int channel = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    int tries = 0;

    while (connect(channel, (struct sockaddr *)&address, sizeof address) < 0) {
        if (tries++ == 500)
            must(-1, "connect");
        usleep(10000);
    }
    watch(EPOLL_CTL_ADD, channel, EPOLLIN);
    must(write(1, "ready\n", 6), "write");
    for (;;) {
        uint32_t closed[EVENTS];
        unsigned ended = 0;
        int count = wait_(events);
        for (int each = 0; each < count; each++) {
            int fd = events[each].data.fd;
            if (fd == channel) {
                receive(channel);
                continue;
            }
            closed[ended++] = numbers[fd] | CLOSED;
            answer(fd);
        }
        if (ended)
            must(send(channel, closed, ended * sizeof *closed, MSG_NOSIGNAL), "send");
    }
}

int main(int count, char **arguments)
{
    const char *what = count > 1 ? arguments[1] : "";
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max < DESCRIPTORS ? limit.rlim_max : DESCRIPTORS;
    setrlimit(RLIMIT_NOFILE, &limit);
    poll = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    if (count == 3 && !strcmp(what, "direct")) {
        int port = listen_(arguments[2]);
        must(write(1, "ready\n", 6), "write");
        direct(port);
    } else if (count == 4 && !strcmp(what, "listener")) {
        listener(listen_(arguments[2]), arguments[3]);
    } else if (count == 3 && !strcmp(what, "worker")) {
        worker(arguments[2]);
    }
    fprintf(stderr, "usage: floor direct PORT | listener PORT PATH | worker PATH\n");
    return 2;
}
