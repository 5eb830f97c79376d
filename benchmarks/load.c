/* Clients for a server that says something and closes: so many in all, so many at
   a time, from many addresses in 127.0.0.0/8.  Each must hear every byte of what is
   expected, and then the end.

   load PORT TOTAL AT-ONCE EXPECTED [MOST [REQUEST]]

   With MOST, the server does not close, but says it again for each byte that it is
   sent: a client asks for it up to so many times, each client another number of
   times, and closes.  If MOST is 0, the server closes.

   With REQUEST, each client sends it first.

   It prints one line of JSON: seconds, the clients' processor time in seconds, how many
   answers there were, and of the waits for them in microseconds the median, the 99th
   percentile and the longest; and how many clients were answered wrongly, and how many
   not at all. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Who hears nothing for so long is lost, in nanoseconds. */
#define PATIENCE 30000000000ull

struct client {
    int fd;
    uint64_t began;
    size_t heard;
    long left;
    int asked;
};

static struct client *clients;
static const char *expected, *request;
static size_t length;
static int epoll;
static struct sockaddr_in server = {.sin_family = AF_INET};
static uint32_t number, *waits;
static long started, ended, answers, wrong, lost, total, most;

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static double seconds(struct timeval time)
{
    return time.tv_sec + time.tv_usec / 1e6;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void start(struct client *client)
{
    struct sockaddr_in own = {.sin_family = AF_INET};
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = client};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        die("socket");
    /* 127.1.0.1 to 127.1.255.250: more pairs of address and port than are in use
       at a time, with those that wait in TIME_WAIT. */
    own.sin_addr.s_addr = htonl(0x7f010000 + number / 250 % 256 * 256 + number % 250 + 1);
    client->left = most ? number * 7919l % most : 0;
    number++;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&own, sizeof own) < 0)
        die("bind");
    client->fd = fd;
    client->heard = 0;
    client->asked = !request;
    if (request)
        event.events |= EPOLLOUT | EPOLLET;
    client->began = now();
    started++;
    if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0 &&
        errno != EINPROGRESS)
        die("connect");
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
}

static void answered(struct client *client)
{
    waits[answers++] = (now() - client->began) / 1000;
    client->heard = 0;
    client->began = now();
}

static void finish(struct client *client, int right)
{
    if (right)
        answered(client);
    ended++;
    wrong += !right;
    close(client->fd);
    client->fd = -1;
    if (started < total)
        start(client);
}

static void hear(struct client *client)
{
    char data[4096];
    ssize_t count;

    if (!client->asked) {
        ssize_t size = strlen(request);
        if (write(client->fd, request, size) != size) {
            finish(client, 0);
            return;
        }
        client->asked = 1;
    }
    while ((count = read(client->fd, data, sizeof data)) > 0) {
        if (client->heard + count > length ||
            memcmp(expected + client->heard, data, count)) {
            finish(client, 0);
            return;
        }
        client->heard += count;
        if (most && client->heard == length) {
            if (!client->left--) {
                finish(client, 1);
                return;
            }
            answered(client);
            if (write(client->fd, "?", 1) != 1) {
                finish(client, 0);
                return;
            }
        }
    }
    if (count == 0)
        finish(client, !most && client->heard == length);
    else if (errno != EAGAIN)
        finish(client, 0);
}

static int compare(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return a < b ? -1 : a > b;
}

int main(int count, char **arguments)
{
    struct epoll_event events[512];
    struct rlimit limit;
    struct rusage usage;
    uint64_t began, seen;
    long atOnce;

    if (count < 5 || count > 7) {
        fprintf(stderr, "usage: load PORT TOTAL AT-ONCE EXPECTED [MOST [REQUEST]]\n");
        return 2;
    }
    server.sin_port = htons(atoi(arguments[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    total = atol(arguments[2]);
    atOnce = atol(arguments[3]);
    expected = arguments[4];
    length = strlen(expected);
    most = count > 5 ? atol(arguments[5]) : 0;
    request = count > 6 ? arguments[6] : NULL;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    clients = calloc(atOnce, sizeof *clients);
    waits = calloc(total * (most ? most : 1), sizeof *waits);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!clients || !waits || epoll < 0)
        die("setup");
    began = seen = now();
    for (long each = 0; each < atOnce && started < total; each++)
        start(&clients[each]);
    while (ended < total) {
        int ready = epoll_wait(epoll, events, 512, 1000);
        if (ready > 0)
            seen = now();
        else if (now() - seen > PATIENCE)
            break;
        for (int each = 0; each < ready; each++)
            hear(events[each].data.ptr);
    }
    lost = total - ended;
    getrusage(RUSAGE_SELF, &usage);
    qsort(waits, answers, sizeof *waits, compare);
    printf("{\"seconds\": %.6f, \"cpu\": %.6f, \"answers\": %ld, \"p50\": %u,"
           " \"p99\": %u, \"longest\": %u, \"wrong\": %ld, \"lost\": %ld}\n",
           (now() - began) / 1e9, seconds(usage.ru_utime) + seconds(usage.ru_stime), answers, answers ? waits[answers / 2] : 0,
           answers ? waits[answers * 99 / 100] : 0, answers ? waits[answers - 1] : 0,
           wrong, lost);
    return wrong || lost ? 1 : 0;
}
