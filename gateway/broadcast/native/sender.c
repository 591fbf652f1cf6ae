/* One write to each of many sockets, of the same bytes (docs/adr/0014) or of its own to each (docs/adr/0029). Nothing here blocks
 * or keeps anything between calls.
 *
 * lw_open(depth)  a ring of io_uring for `depth` sends at a time, or NULL where the kernel has none for us
 * lw_close(ring)
 * lw_send(ring, fds, n, data, size, took)
 *                 with a ring: n <= depth. Without (NULL): send(2), one after the other. took[i]: bytes that the kernel took,
 *                 or -errno. Returns how many of them are not `size`, or -errno where the ring itself failed.
 * lw_send_each(ring, fds, n, data, sizes, took)
 *                 the same, but each has its own: `data` is all of it, one after the other, sizes[i] bytes each.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/types.h>

/* What to send: `size` bytes to each, or (`sizes`) so many to each, one after the other. */
struct load {
    const char *data;
    unsigned size;
    const unsigned *sizes;
};

static unsigned size_of(const struct load *load, int i)
{
    return load->sizes ? load->sizes[i] : load->size;
}

#ifdef __linux__
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct ring {
    int fd;
    unsigned depth;
    unsigned *sq_tail, *sq_mask, *sq_array;
    unsigned *cq_head, *cq_tail, *cq_mask;
    struct io_uring_cqe *cqes;
    struct io_uring_sqe *sqes;
    void *sq_map, *cq_map;
    size_t sq_size, cq_size, sqes_size;
};

void lw_close(struct ring *ring)
{
    if (!ring)
        return;
    if (ring->sqes)
        munmap(ring->sqes, ring->sqes_size);
    if (ring->cq_map && ring->cq_map != ring->sq_map)
        munmap(ring->cq_map, ring->cq_size);
    if (ring->sq_map)
        munmap(ring->sq_map, ring->sq_size);
    close(ring->fd);
    free(ring);
}

static void *map(int fd, size_t size, off_t what)
{
    void *found = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);
    return found == MAP_FAILED ? NULL : found;
}

struct ring *lw_open(unsigned depth)
{
    struct io_uring_params params;
    memset(&params, 0, sizeof params);
    params.flags = IORING_SETUP_SUBMIT_ALL;
    int fd = (int)syscall(__NR_io_uring_setup, depth, &params);
    if (fd < 0)
        return NULL;
    struct ring *ring = calloc(1, sizeof *ring);
    if (!ring) {
        close(fd);
        return NULL;
    }
    ring->fd = fd;
    ring->depth = depth;
    ring->sq_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    ring->cq_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    ring->sqes_size = params.sq_entries * sizeof(struct io_uring_sqe);
    if (params.features & IORING_FEAT_SINGLE_MMAP) {
        if (ring->cq_size > ring->sq_size)
            ring->sq_size = ring->cq_size;
        ring->cq_map = ring->sq_map = map(fd, ring->sq_size, IORING_OFF_SQ_RING);
    } else {
        ring->sq_map = map(fd, ring->sq_size, IORING_OFF_SQ_RING);
        ring->cq_map = map(fd, ring->cq_size, IORING_OFF_CQ_RING);
    }
    ring->sqes = map(fd, ring->sqes_size, IORING_OFF_SQES);
    if (!ring->sq_map || !ring->cq_map || !ring->sqes) {
        lw_close(ring);
        return NULL;
    }
    char *sq = ring->sq_map, *cq = ring->cq_map;
    ring->sq_tail = (unsigned *)(sq + params.sq_off.tail);
    ring->sq_mask = (unsigned *)(sq + params.sq_off.ring_mask);
    ring->sq_array = (unsigned *)(sq + params.sq_off.array);
    ring->cq_head = (unsigned *)(cq + params.cq_off.head);
    ring->cq_tail = (unsigned *)(cq + params.cq_off.tail);
    ring->cq_mask = (unsigned *)(cq + params.cq_off.ring_mask);
    ring->cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
    return ring;
}

static int by_ring(struct ring *ring, const int *fds, int n, const struct load *load, int *took)
{
    const char *data = load->data;
    unsigned tail = *ring->sq_tail, mask = *ring->sq_mask;
    for (int i = 0; i < n; i++)
        took[i] = -EIO; /* until the ring says otherwise */
    if (n < 0 || (unsigned)n > ring->depth)
        return -EINVAL;
    for (int i = 0; i < n; i++, tail++) {
        struct io_uring_sqe *sqe = &ring->sqes[tail & mask];
        memset(sqe, 0, sizeof *sqe);
        sqe->opcode = IORING_OP_SEND;
        sqe->fd = fds[i];
        sqe->addr = (uintptr_t)data;
        sqe->len = size_of(load, i);
        data += load->sizes ? load->sizes[i] : 0;
        sqe->msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL; /* so it is over when it is submitted, and never waits */
        sqe->user_data = (unsigned)i;
        ring->sq_array[tail & mask] = tail & mask;
    }
    __atomic_store_n(ring->sq_tail, tail, __ATOMIC_RELEASE);
    unsigned left = (unsigned)n, done = 0;
    int bad = 0;
    while (done < (unsigned)n) {
        int got = (int)syscall(__NR_io_uring_enter, ring->fd, left, (unsigned)n - done, IORING_ENTER_GETEVENTS, NULL, 0);
        if (got < 0 && errno != EINTR)
            return -errno; /* the caller gives this ring up: what was taken is not known */
        if (got > 0)
            left -= (unsigned)got;
        unsigned head = *ring->cq_head, end = __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE);
        for (; head != end; head++, done++) {
            struct io_uring_cqe *cqe = &ring->cqes[head & *ring->cq_mask];
            took[cqe->user_data] = cqe->res;
            bad += cqe->res != (int)size_of(load, (int)cqe->user_data);
        }
        __atomic_store_n(ring->cq_head, head, __ATOMIC_RELEASE);
    }
    return bad;
}

#else
struct ring {
    int unused;
};
struct ring *lw_open(unsigned depth)
{
    (void)depth;
    return NULL;
}
void lw_close(struct ring *ring)
{
    (void)ring;
}
static int by_ring(struct ring *ring, const int *fds, int n, const struct load *load, int *took)
{
    (void)ring, (void)fds, (void)n, (void)load, (void)took;
    return -ENOSYS;
}
#endif

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static int send_all(struct ring *ring, const int *fds, int n, const struct load *load, int *took)
{
    if (ring)
        return by_ring(ring, fds, n, load, took);
    const char *data = load->data;
    int bad = 0;
    for (int i = 0; i < n; i++) {
        ssize_t sent = send(fds[i], data, size_of(load, i), MSG_DONTWAIT | MSG_NOSIGNAL);
        data += load->sizes ? load->sizes[i] : 0;
        took[i] = sent < 0 ? -errno : (int)sent;
        bad += took[i] != (int)size_of(load, i);
    }
    return bad;
}

int lw_send(struct ring *ring, const int *fds, int n, const void *data, unsigned size, int *took)
{
    struct load load = {data, size, NULL};
    return send_all(ring, fds, n, &load, took);
}

int lw_send_each(struct ring *ring, const int *fds, int n, const void *data, const unsigned *sizes, int *took)
{
    struct load load = {data, 0, sizes};
    return send_all(ring, fds, n, &load, took);
}
