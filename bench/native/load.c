/* The load client: many connections, with as little work as can be, so that what is measured is the server.

   Orders on stdin, a line each; one JSON line on stdout for each. bench/clients.py has the orders and what is answered, and
   bench/client_process.py does the same in Python, where there is no compiler. What goes wrong is answered as {"error": ...}, and
   ends the program. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum {
    MOST = 32768,      /* connections */
    SOURCES = 8,       /* local addresses, 127.0.0.1 up */
    ANSWER_S = 15,
    READ = 256 * 1024, /* more than a server has ready for one connection */
    EVENTS = 256,
    LOOK_US = 2000,    /* between two looks for what is parked: who waits in a poll costs the writer */
    STILL_S = 3,       /* a frame is known when nothing more came for so many tenths of a second */
    CONNACK = 0x20, PUBLISH = 0x30, PUBACK = 0x40, SUBACK = 0x90, PINGRESP = 0xD0
};

struct connection {
    int fd;
    uint32_t kept;       /* bytes of a packet that is not whole yet */
    unsigned char *rest; /* them */
    uint64_t bytes;      /* that an order has read */
    double pinged;       /* when a PINGREQ left that is not answered; 0: none */
};

static struct connection all[MOST];
static int count;
static unsigned char buffer[READ + 1];

static _Noreturn void fail(const char *form, ...) {
    va_list values;
    va_start(values, form);
    fputs("{\"error\": \"", stdout);
    vprintf(form, values);
    puts("\"}");
    fflush(stdout);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void sleep_us(long us) {
    struct timespec time = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&time, NULL);
}

/* The packet that `data` begins with (MQTT 5 section 2.1.4): 1 and where its body is and how long; 0: it is not whole. */
static int packet(const unsigned char *data, uint32_t size, uint32_t *body, uint32_t *length) {
    uint32_t found = 0;
    for (uint32_t at = 1; at < size; at++) {
        if (at > 4) fail("a packet's length has more than four bytes");
        found |= (uint32_t)(data[at] & 0x7F) << 7 * (at - 1);
        if (data[at] & 0x80) continue;
        *body = at + 1;
        *length = found;
        return size - *body >= found;
    }
    return 0;
}

static void send_all(int fd, const void *data, size_t size) {
    ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
    if (sent != (ssize_t)size) fail("a connection took %zd of %zu bytes: %s", sent, size, strerror(errno));
}

/* --- joining ---------------------------------------------------------------------------------------------------------- */

static int opened(struct sockaddr_in *server) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct timeval patience = {ANSWER_S, 0};
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(count % SOURCES))};
    if (fd < 0) fail("socket %d: %s", count, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (bind(fd, (struct sockaddr *)&source, sizeof source) < 0 || connect(fd, (struct sockaddr *)server, sizeof *server) < 0)
        fail("connection %d: %s", count, strerror(errno));
    return fd;
}

/* CONNACK and SUBACK; the SUBACK's last code is the QoS (MQTT 5 sections 3.2.2, 3.9.3). Returns whether all of it is there. */
static int mqtt_granted(uint32_t size, int qos) {
    const unsigned char wanted[] = {CONNACK, SUBACK};
    uint32_t at = 0, body, length;
    for (int i = 0; i < 2; i++) {
        if (at >= size || !packet(buffer + at, size - at, &body, &length)) return 0;
        const unsigned char *data = buffer + at + body;
        if (buffer[at] != wanted[i] || length < 2) fail("a packet of type 0x%02x came for CONNECT and SUBSCRIBE", buffer[at]);
        if (i == 0 && data[1] != 0) fail("CONNECT was refused: 0x%02x", data[1]);
        if (i == 1 && data[length - 1] != qos) fail("SUBSCRIBE was not granted at QoS %d: 0x%02x", qos, data[length - 1]);
        at += body + length;
    }
    return 1;
}

/* PING was answered, so everything before it was taken. */
static int nats_granted(uint32_t size) {
    buffer[size] = 0;
    if (strstr((char *)buffer, "-ERR")) fail("NATS refused the subscription");
    return size >= 6 && memcmp(buffer + size - 6, "PONG\r\n", 6) == 0;
}

static void await_grant(struct connection *each, const char *kind) {
    uint32_t size = 0;
    for (;;) {
        ssize_t got = recv(each->fd, buffer + size, READ - size, 0);
        if (got <= 0) fail("a connection was ended, or had no answer within %d s: it had %u bytes", ANSWER_S, size);
        size += (uint32_t)got;
        if (strcmp(kind, "nats") == 0 ? nats_granted(size) : mqtt_granted(size, kind[4] - '0')) return;
    }
}

static unsigned char *contents(const char *name, size_t *size) {
    FILE *file = fopen(name, "rb");
    if (!file) fail("can't read %s", name);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *data = malloc(*size + 1);
    if (!data || fread(data, 1, *size, file) != *size) fail("can't read %s", name);
    fclose(file);
    return data;
}

/* join HOST PORT raw|nats|mqtt0|mqtt1 AT_ONCE FILE: a connection for each of the file's (length, bytes), which it begins with; so many
   wait for their answer side by side. */
static void join(const char *host, int port, const char *kind, int at_once, const char *name) {
    size_t size, at = 0;
    unsigned char *hellos = contents(name, &size);
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &server.sin_addr) != 1) fail("not an address: %s", host);
    while (at < size) {
        int first = count;
        for (; at < size && count < first + at_once; count++) {
            uint32_t length;
            if (count == MOST) fail("more than %d connections", MOST);
            memcpy(&length, hellos + at, sizeof length);
            all[count] = (struct connection){.fd = opened(&server)};
            if (length) send_all(all[count].fd, hellos + at + sizeof length, length);
            at += sizeof length + length;
        }
        for (int i = first; i < count; i++) {
            if (strcmp(kind, "raw") != 0) await_grant(&all[i], kind);
            fcntl(all[i].fd, F_SETFL, O_NONBLOCK);
        }
    }
    free(hellos);
    printf("{\"connections\": %d}\n", count);
}

/* leave N: close the last N. */
static void leave(int many) {
    for (; many > 0 && count > 0; many--) {
        close(all[--count].fd);
        free(all[count].rest);
    }
    printf("{\"connections\": %d}\n", count);
}

/* --- what is parked --------------------------------------------------------------------------------------------------- */

static uint64_t unread(const struct connection *each) {
    int size = 0;
    if (ioctl(each->fd, FIONREAD, &size) < 0) fail("FIONREAD: %s", strerror(errno));
    return (uint64_t)size;
}

/* learn: wait until everyone has something and nothing more comes; how many bytes each has, which must be the same. */
static void learn(void) {
    double deadline = now() + ANSWER_S;
    uint64_t before = 0;
    for (int still = 0; still < STILL_S; sleep_us(100000)) {
        uint64_t sum = 0, least = UINT64_MAX;
        for (int i = 0; i < count; i++) {
            uint64_t size = unread(&all[i]);
            sum += size;
            if (size < least) least = size;
        }
        if (now() > deadline) fail("after %d s one has %lu bytes of a broadcast, all together %lu", ANSWER_S, least, sum);
        still = least > 0 && sum == before ? still + 1 : 0;
        before = sum;
    }
    uint64_t each = before / (uint64_t)count;
    for (int i = 0; i < count; i++)
        if (unread(&all[i]) != each) fail("connections have different numbers of bytes: %lu and %lu", unread(&all[i]), each);
    printf("{\"bytes\": %lu}\n", each);
}

/* parked BYTES: wait until everyone has so many, and leave them unread. One at a time is looked at. */
static void parked(uint64_t bytes) {
    double deadline = now() + ANSWER_S;
    for (int i = 0; i < count;) {
        if (unread(&all[i]) >= bytes) {
            i++;
            continue;
        }
        if (now() > deadline) fail("connection %d of %d has %lu of %lu bytes after %d s", i, count, unread(&all[i]), bytes, ANSWER_S);
        sleep_us(LOOK_US);
    }
    printf("{\"connections\": %d}\n", count);
}

static uint32_t read_all(struct connection *each) {
    ssize_t got = recv(each->fd, buffer, READ, 0);
    if (got == 0) fail("a connection was ended");
    if (got < 0 && errno != EAGAIN) fail("recv: %s", strerror(errno));
    return got < 0 ? 0 : (uint32_t)got;
}

/* drain BYTES: read what was left; everyone must have exactly so many. */
static void drain(uint64_t bytes) {
    for (int i = 0; i < count; i++) {
        uint32_t got = read_all(&all[i]);
        if (got != bytes) fail("connection %d of %d had %u bytes and not %lu", i, count, got, bytes);
    }
    printf("{\"connections\": %d}\n", count);
}

/* discard: read what was left, whatever it is. */
static void discard(void) {
    for (int i = 0; i < count; i++) read_all(&all[i]);
    printf("{\"connections\": %d}\n", count);
}

static uint32_t puback(unsigned char *out, const unsigned char *body) {
    uint32_t topic = (uint32_t)body[0] << 8 | body[1]; /* then comes the packet id (MQTT 5 section 3.3.2) */
    const unsigned char made[] = {PUBACK, 2, body[2 + topic], body[3 + topic]};
    memcpy(out, made, sizeof made);
    return sizeof made;
}

/* acknowledge N: read what was left, which must be N PUBLISH at QoS 1 at each, and answer them. */
static void acknowledge(int many) {
    static unsigned char acks[4 * 1024];
    for (int i = 0; i < count; i++) {
        uint32_t size = read_all(&all[i]), at = 0, out = 0, body, length;
        int found = 0;
        for (; at < size && packet(buffer + at, size - at, &body, &length); at += body + length, found++) {
            if ((buffer[at] & 0xF6) != (PUBLISH | 2)) fail("a packet of type 0x%02x is no PUBLISH at QoS 1", buffer[at]);
            if (out < sizeof acks) out += puback(acks + out, buffer + at + body);
        }
        if (at != size || found != many) fail("connection %d had %d packets in %u bytes, and not %d", i, found, size, many);
        send_all(all[i].fd, acks, out);
    }
    printf("{\"connections\": %d}\n", count);
}

/* --- what is read as it comes ----------------------------------------------------------------------------------------- */

static int watch_all(void) {
    int epoll = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = &all[i]};
        if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].fd, &event) < 0) fail("epoll: %s", strerror(errno));
        all[i].bytes = 0;
    }
    return epoll;
}

/* live BYTES: read so many at each as they come; when each had them, ms from the first, is answered. */
static void live(uint64_t bytes) {
    struct epoll_event events[EVENTS];
    double *times = malloc(sizeof *times * (size_t)count), deadline = now() + ANSWER_S;
    int epoll = watch_all(), done = 0;
    puts("{\"ready\": true}");
    fflush(stdout);
    while (done < count) {
        int found = epoll_wait(epoll, events, EVENTS, 100);
        double time = now();
        if (time > deadline) fail("a broadcast reached %d of %d connections within %d s", done, count, ANSWER_S);
        for (int i = 0; i < found; i++) {
            struct connection *each = events[i].data.ptr;
            uint32_t got = read_all(each);
            each->bytes += got;
            if (each->bytes > bytes) fail("a connection got %lu bytes and not %lu", each->bytes, bytes);
            if (got && each->bytes == bytes) times[done++] = time;
        }
    }
    close(epoll);
    fputs("{\"arrivals_ms\": [", stdout);
    for (int i = 0; i < count; i++) printf("%s%.3f", i ? ", " : "", 1000 * (times[i] - times[0]));
    puts("]}");
    free(times);
}

static struct {
    int publishes, wanted, waiting, pings, acknowledge;
    double *taken; /* round trips, ms */
} followed;

/* Every whole packet of `size` bytes in the buffer; what is left is kept. */
static void take(struct connection *each, uint32_t size, double time) {
    static unsigned char acks[READ];
    uint32_t at = 0, out = 0, body, length;
    for (; at < size && packet(buffer + at, size - at, &body, &length); at += body + length) {
        int type = buffer[at] & 0xF0;
        if (type == PUBLISH) {
            followed.publishes++;
            if (followed.acknowledge && buffer[at] & 0x06) out += puback(acks + out, buffer + at + body);
        } else if (type == PINGRESP && each->pinged > 0) {
            followed.taken[followed.pings++] = 1000 * (time - each->pinged);
            followed.waiting--;
            each->pinged = 0;
        } else {
            fail("a packet of type 0x%02x came", buffer[at]);
        }
    }
    if (out) send_all(each->fd, acks, out);
    free(each->rest);
    each->rest = NULL;
    if ((each->kept = size - at)) {
        if (!(each->rest = malloc(each->kept))) fail("no memory");
        memcpy(each->rest, buffer + at, each->kept);
    }
}

static void take_more(struct connection *each, double time) {
    if (each->kept) memcpy(buffer, each->rest, each->kept);
    ssize_t got = recv(each->fd, buffer + each->kept, READ - each->kept, 0);
    if (got == 0) fail("a connection was ended");
    if (got < 0 && errno != EAGAIN) fail("recv: %s", strerror(errno));
    if (got > 0) take(each, each->kept + (uint32_t)got, time);
}

/* Ping the next of the first `sample` connections, unless it waits for an answer. */
static void ping(int sample, double time) {
    static int turn;
    struct connection *each = &all[(long)turn++ * (count / sample) % count];
    if (each->pinged > 0) return;
    each->pinged = time;
    followed.waiting++;
    send_all(each->fd, "\xC0", 2);
}

/* follow N ACKNOWLEDGE SAMPLE EVERY_US LOOK_US SECONDS: read N PUBLISH in all as they come, and acknowledge those at QoS 1 if told to;
   meanwhile ping one of a sample every so often (SAMPLE 0: none). LOOK_US: sleep so long between two looks, as who waits costs the
   writer (0: wait in the poll). */
static void follow(int wanted, int acknowledging, int sample, long every_us, long look_us, int seconds) {
    struct epoll_event events[EVENTS];
    int epoll = watch_all(), most = sample ? (int)(seconds * 1000000L / every_us) + 2 : 0;
    double next = now(), deadline = next + seconds;
    followed.publishes = followed.waiting = followed.pings = 0;
    followed.wanted = wanted;
    followed.acknowledge = acknowledging;
    followed.taken = malloc(sizeof *followed.taken * (size_t)(most + 1));
    puts("{\"ready\": true}");
    fflush(stdout);
    while (followed.publishes < wanted || followed.waiting) {
        double time = now();
        if (time > deadline)
            fail("%d of %d PUBLISH came within %d s, %d pings have no answer", followed.publishes, wanted, seconds, followed.waiting);
        if (sample && followed.publishes < wanted && time >= next) {
            ping(sample, time);
            next = time > next + 0.1 ? time : next + (double)every_us / 1e6;
        }
        if (look_us) sleep_us(look_us);
        int found = epoll_wait(epoll, events, EVENTS, look_us ? 0 : 1);
        do {
            time = now();
            for (int i = 0; i < found; i++) take_more(events[i].data.ptr, time);
            found = look_us && found == EVENTS ? epoll_wait(epoll, events, EVENTS, 0) : 0;
        } while (found);
    }
    close(epoll);
    if (followed.publishes != wanted) fail("%d PUBLISH came and not %d", followed.publishes, wanted);
    printf("{\"publishes\": %d, \"pings_ms\": [", followed.publishes);
    for (int i = 0; i < followed.pings; i++) printf("%s%.3f", i ? ", " : "", followed.taken[i]);
    puts("]}");
    free(followed.taken);
}

int main(void) {
    static char line[1024], host[64], kind[16], name[512];
    while (fgets(line, sizeof line, stdin)) {
        int port, number, acknowledging, sample, seconds;
        long every_us, look_us;
        unsigned long bytes;
        if (sscanf(line, "join %63s %d %15s %d %511[^\n]", host, &port, kind, &number, name) == 5)
            join(host, port, kind, number, name);
        else if (sscanf(line, "leave %d", &number) == 1) leave(number);
        else if (strcmp(line, "learn\n") == 0) learn();
        else if (strcmp(line, "discard\n") == 0) discard();
        else if (sscanf(line, "parked %lu", &bytes) == 1) parked(bytes);
        else if (sscanf(line, "drain %lu", &bytes) == 1) drain(bytes);
        else if (sscanf(line, "acknowledge %d", &number) == 1) acknowledge(number);
        else if (sscanf(line, "live %lu", &bytes) == 1) live(bytes);
        else if (sscanf(line, "follow %d %d %d %ld %ld %d", &number, &acknowledging, &sample, &every_us, &look_us, &seconds) == 6)
            follow(number, acknowledging, sample, every_us, look_us, seconds);
        else fail("an order that is not known");
        fflush(stdout);
    }
    return 0;
}
