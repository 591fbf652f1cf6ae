/* One turn of a poller with the reads of it: who is ready, and what those have sent (docs/adr/0030). Nothing here blocks or keeps
 * anything between calls.
 *
 * lw_turn(epoll, most, may, known, buffer, size, chunk, acks, others, counts)
 *                 asks for at most `most` that are ready, and reads once from each of those with may[fd] (fd < known) of whom
 *                 nothing but "readable" is told, at most `chunk` bytes, as long as the buffer has room for so many.
 *                 acks[counts[0]]: fd << 16 | packet id, of those who have sent just one PUBACK that says success in its short form.
 *                 others[counts[1]]: fd, events, and how many bytes of the buffer are its own, in this order: 0 where the peer
 *                 has closed its side, -errno where that broke, LW_UNREAD where it is not read. Who had nothing is in neither.
 *                 Returns how many were ready, or -errno.
 *
 * lw_accept(listening, most, accepted, error)
 *                 accepts at most `most` of those who wait there, as sockets that do not block and that no child inherits:
 *                 descriptor and address, of 16 bytes in network order, IPv4 as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2), 0 for
 *                 any other kind. Returns how many; *error is 0 where nobody waits any more or `most` are here, else what
 *                 stopped it: of one connection alone, or the system has no place for any.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>

#define LW_UNREAD INT_MIN

#ifdef __linux__
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>

#define MOST 1024
#define SHORT_ACK 4

struct other {
    int fd, events, size;
};

int lw_turn(int epoll, int most, const unsigned char *may, int known, unsigned char *buffer, int size, int chunk, uint64_t *acks,
            struct other *others, int *counts)
{
    struct epoll_event ready[MOST];
    int n = epoll_wait(epoll, ready, most < MOST ? most : MOST, 0), used = 0;
    counts[0] = counts[1] = 0;
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < n; i++) {
        int fd = ready[i].data.fd, events = (int)ready[i].events, got = LW_UNREAD;
        if (events == EPOLLIN && fd < known && may[fd] && size - used >= chunk) {
            unsigned char *here = buffer + used;
            got = (int)recv(fd, here, (size_t)chunk, MSG_DONTWAIT);
            if (got < 0) {
                if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
                    continue;
                got = -errno;
            } else if (got == SHORT_ACK && here[0] == 0x40 && here[1] == 2 && (here[2] || here[3])) {
                acks[counts[0]++] = (uint64_t)fd << 16 | (uint64_t)here[2] << 8 | here[3];
                continue;
            } else {
                used += got;
            }
        }
        others[counts[1]++] = (struct other){fd, events, got};
    }
    return n;
}

struct accepted {
    int fd;
    unsigned char address[16];
};

static void tell_address(const struct sockaddr_storage *from, unsigned char *address)
{
    memset(address, 0, 16);
    if (from->ss_family == AF_INET) {
        address[10] = address[11] = 0xFF;
        memcpy(address + 12, &((const struct sockaddr_in *)from)->sin_addr, 4);
    } else if (from->ss_family == AF_INET6) {
        memcpy(address, &((const struct sockaddr_in6 *)from)->sin6_addr, 16);
    }
}

int lw_accept(int listening, int most, struct accepted *accepted, int *error)
{
    int count = 0;
    *error = 0;
    while (count < most) {
        struct sockaddr_storage from;
        socklen_t size = sizeof from;
        int fd = accept4(listening, (struct sockaddr *)&from, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EINTR)
                continue;
            *error = errno == EAGAIN || errno == EWOULDBLOCK ? 0 : errno;
            break;
        }
        accepted[count].fd = fd;
        tell_address(&from, accepted[count++].address);
    }
    return count;
}
#endif
