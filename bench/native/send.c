/* What every server is compared with: connections in an array, and a loop of send() over them.

   Prints one JSON line, {"port": ...}, when it listens. Then each line on stdin is a number: so many bytes go to every connection.
   Ends when stdin does. bench/uvloop_loop.py is the same on uvloop. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 4096, MOST = 65536, LARGEST = 1 << 20 };

static int connections[MOST];
static int count;

static void check(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

static int listening(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    check(listener, "socket");
    check(bind(listener, (struct sockaddr *)&address, size), "bind");
    check(listen(listener, BACKLOG), "listen");
    check(getsockname(listener, (struct sockaddr *)&address, &size), "getsockname");
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void accept_all(int listener) {
    int connection;
    while ((connection = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (count == MOST) {
            fprintf(stderr, "more than %d connections\n", MOST);
            exit(1);
        }
        connections[count++] = connection;
    }
    if (errno != EAGAIN && errno != ECONNABORTED) check(-1, "accept4");
}

/* A short or refused send ends the program: its numbers would mean nothing. */
static void broadcast(size_t size) {
    static char data[LARGEST];
    for (int i = 0; i < count; i++)
        if (send(connections[i], data, size, MSG_NOSIGNAL) != (ssize_t)size) check(-1, "send");
}

int main(void) {
    struct pollfd looked_at[2] = {{.fd = listening(), .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    char line[64];
    for (;;) {
        check(poll(looked_at, 2, -1), "poll");
        if (looked_at[0].revents) accept_all(looked_at[0].fd);
        if (!looked_at[1].revents) continue;
        ssize_t got = read(STDIN_FILENO, line, sizeof line - 1); /* a whole line: the other side writes one and waits */
        if (got <= 0) return 0;
        line[got] = 0;
        long size = strtol(line, NULL, 10);
        if (size < 1 || size > LARGEST) {
            fprintf(stderr, "not a number of bytes: %s", line);
            return 1;
        }
        broadcast((size_t)size);
    }
}
