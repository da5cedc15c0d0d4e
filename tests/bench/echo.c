/* The limit: a DNS server that does nothing. It sends each question back as its own answer. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int count, char **words)
{
	int sock = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(53) }, peer;
	char data[2048];

	if (count != 2 || inet_pton(AF_INET, words[1], &here.sin_addr) != 1 ||
	    bind(sock, (void *)&here, sizeof here)) {
		perror("echo");
		return 1;
	}
	puts("ready");
	fflush(stdout);
	for (;;) {
		socklen_t length = sizeof peer;
		ssize_t size = recvfrom(sock, data, sizeof data, 0, (void *)&peer, &length);

		if (size < 12)
			continue;
		data[2] |= 0x80; /* it is a response now */
		data[3] |= 0x80; /* recursion available */
		sendto(sock, data, size, 0, (void *)&peer, length);
	}
}
