/*
 * A listener that speaks the wire of 2002: portlisten PORT PATH
 *
 * It accepts a connection, sends it to PATH, closes its own descriptor, and
 * accepts the next one.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { TRIES = 600, PAUSE = 100000 };

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void send_to(int sock, const struct sockaddr_un *path, int connection)
{
	char byte = 'x';
	struct iovec bytes = { &byte, 1 };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = {
		.msg_name = (void *)path,
		.msg_namelen = sizeof *path,
		.msg_iov = &bytes,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof control,
	};
	struct cmsghdr *header;
	int tries;

	memset(&control, 0, sizeof control);
	header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &connection, sizeof(int));
	for (tries = 0; tries < TRIES; tries++) {
		if (sendmsg(sock, &message, 0) >= 0)
			return;
		usleep(PAUSE);
	}
	fail("sendmsg");
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	struct sockaddr_un path = { .sun_family = AF_UNIX };
	int port, sock, connection, yes = 1;

	if (argc != 3 || strlen(argv[2]) >= sizeof path.sun_path) {
		fprintf(stderr, "usage: portlisten PORT PATH\n");
		return 2;
	}
	address.sin_port = htons(atoi(argv[1]));
	strcpy(path.sun_path, argv[2]);
	port = socket(AF_INET, SOCK_STREAM, 0);
	sock = socket(AF_UNIX, SOCK_DGRAM, 0);
	if (port < 0 || sock < 0)
		fail("socket");
	setsockopt(port, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	if (bind(port, (struct sockaddr *)&address, sizeof address) < 0)
		fail("bind");
	if (listen(port, SOMAXCONN) < 0)
		fail("listen");
	puts("listening");
	fflush(stdout);
	while ((connection = accept(port, NULL, NULL)) >= 0) {
		send_to(sock, &path, connection);
		close(connection);
	}
	fail("accept");
}
