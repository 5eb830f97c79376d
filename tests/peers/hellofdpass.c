/*
 * A worker that speaks the wire of 2002: hellofdpass PATH STRING
 *
 * It receives a connection, writes STRING on it, and closes it.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int receive(int sock)
{
	char byte;
	struct iovec bytes = { &byte, 1 };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = {
		.msg_iov = &bytes,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof control,
	};
	struct cmsghdr *header;
	int connection;

	if (recvmsg(sock, &message, 0) < 0)
		fail("recvmsg");
	header = CMSG_FIRSTHDR(&message);
	if (header == NULL || header->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(&connection, CMSG_DATA(header), sizeof(int));
	return connection;
}

int main(int argc, char **argv)
{
	struct sockaddr_un path = { .sun_family = AF_UNIX };
	int sock, connection;

	if (argc != 3 || strlen(argv[1]) >= sizeof path.sun_path) {
		fprintf(stderr, "usage: hellofdpass PATH STRING\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	strcpy(path.sun_path, argv[1]);
	sock = socket(AF_UNIX, SOCK_DGRAM, 0);
	if (sock < 0)
		fail("socket");
	unlink(argv[1]);
	if (bind(sock, (struct sockaddr *)&path, sizeof path) < 0)
		fail("bind");
	puts("receiving");
	fflush(stdout);
	for (;;) {
		connection = receive(sock);
		if (connection < 0)
			continue;
		if (write(connection, argv[2], strlen(argv[2])) < 0)
			perror("write");
		close(connection);
	}
}
