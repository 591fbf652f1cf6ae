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
 */
#include <errno.h>
#include <limits.h>
#include <stdint.h>

#define LW_UNREAD INT_MIN

#ifdef __linux__
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
#endif
