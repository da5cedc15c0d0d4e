/* The compiled twin of netd_cni/main.py, for hosts without Python: same frame, same answers.
 *
 * main.py explains what it does and why; the two are kept alike, and one set of tests runs against
 * both. Static and small: it starts in half a millisecond.
 *
 *     cc -O2 -static -o netd-cni shim.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define VERSIONS "\"0.1.0\", \"0.2.0\", \"0.3.0\", \"0.3.1\", \"0.4.0\", \"1.0.0\", \"1.1.0\""
#define NEWEST "1.1.0"
#define ALNUM "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
#define LIMIT (4 << 20) /* bytes of a frame */
#define TIMEOUT 90      /* seconds that the daemon has for an answer */

enum { INVALID_ENVIRONMENT = 4, IO_FAILURE = 5, DECODING_FAILURE = 6, TRY_AGAIN = 11, NOT_AVAILABLE = 50 };

static char frame[LIMIT + 1], *config = frame; /* config is the end of the frame, and zero-terminated */
static size_t size;                    /* of the frame */
static char version[64] = NEWEST;      /* the configuration's, as far as it is known */
extern char **environ;

static const char *variable(const char *name) { return getenv(name) ? getenv(name) : ""; }

/* A JSON string. Bytes that are no printable ASCII become question marks: they came from outside. */
static void print_quoted(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        putchar(*text >= 32 && *text < 127 ? *text : '?');
    }
    putchar('"');
}

/* --- as much of JSON as it takes to find cniVersion; the daemon looks closer ------------------------ */

static const char *skip_space(const char *at) { return at + strspn(at, " \t\r\n"); }

static const char *skip_string(const char *at) {
    for (at++; *at != '"'; at++)
        if ((unsigned char)*at < 32 || (*at == '\\' && !*++at)) return NULL;
    return at + 1;
}

/* The end of a value, or NULL where there is none. The cniVersion of the outermost object is remembered. */
static const char *skip_value(const char *at, int depth) {
    if (*at == '"') return skip_string(at);
    char closing = *at == '{' ? '}' : *at == '[' ? ']' : 0;
    if (!closing) {
        size_t word = strspn(at, "+-.0123456789Eaeflnrstu");
        return word ? at + word : NULL;
    }
    if (depth > 500) return NULL;
    at = skip_space(at + 1);
    if (*at == closing) return at + 1;
    for (;;) {
        const char *key = at = skip_space(at);
        if (closing == '}') {
            if (*at != '"' || !(at = skip_string(at)) || *(at = skip_space(at)) != ':') return NULL;
            at = skip_space(at + 1);
        }
        const char *value = at;
        if (!(at = skip_value(at, depth + 1))) return NULL;
        if (!depth && !strncmp(key, "\"cniVersion\"", 12)) {
            if (*value != '"' || (size_t)(at - value) > sizeof version) return NULL;
            snprintf(version, sizeof version, "%.*s", (int)(at - value) - 2, value + 1);
        }
        at = skip_space(at);
        if (*at == closing) return at + 1;
        if (*at++ != ',') return NULL;
    }
}

/* Whether standard input is a JSON object; its cniVersion is remembered. */
static int decode(void) {
    const char *at = skip_space(config);
    *version = 0;
    int fine = *at == '{' && (at = skip_value(at, 0)) && skip_space(at) == frame + size;
    if (!fine || !*version) strcpy(version, fine ? "0.1.0" : NEWEST);
    return fine;
}

/* Print an error object in the configuration's version, its details made as printf does, and end. */
__attribute__((format(printf, 3, 4), noreturn)) static void refuse(int code, const char *message, const char *format, ...) {
    char details[8192];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(details, sizeof details, format, arguments);
    va_end(arguments);
    decode();
    printf("{\"cniVersion\": ");
    print_quoted(version);
    printf(", \"code\": %d, \"msg\": ", code);
    print_quoted(message);
    if (*details) printf(", \"details\": "), print_quoted(details);
    puts("}");
    exit(1);
}

static void require_json(void) {
    if (!decode()) refuse(DECODING_FAILURE, "the network configuration is no JSON object with a cniVersion", "%s", "");
}

/* --- the verbs -------------------------------------------------------------------------------------- */

static void check_variables(const char *command) {
    static const char *const required[][4] = {
        {"ADD", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
        {"CHECK", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
        {"DEL", "CNI_CONTAINERID", "CNI_IFNAME"},
        {"GC", "CNI_PATH"}, {"STATUS"}, {"VERSION"}, {NULL},
    };
    const char *const(*verb)[4] = required, *container = variable("CNI_CONTAINERID"), *ifname = variable("CNI_IFNAME");
    char text[256] = "";
    while (**verb && strcmp(**verb, command)) verb++;
    snprintf(text, sizeof text, "unknown CNI_COMMAND: %s", command);
    if (!**verb) refuse(INVALID_ENVIRONMENT, text, "%s", "");
    *text = 0;
    for (int i = 1; i < 4 && (*verb)[i]; i++)
        if (!*variable((*verb)[i])) {
            strcat(text, *text ? ", " : "required env variables missing: ");
            strcat(text, (*verb)[i]);
        }
    if (*text) refuse(INVALID_ENVIRONMENT, text, "%s", "");
    if (verb > required + 2) return;
    if (!strchr(ALNUM, *container) || container[strspn(container, ALNUM "_.-")])
        refuse(INVALID_ENVIRONMENT, "invalid characters in CNI_CONTAINERID", "%s", container);
    if (strlen(ifname) > 15 || !strcmp(ifname, ".") || !strcmp(ifname, "..") || strpbrk(ifname, "/: \t\n\v\f\r"))
        refuse(INVALID_ENVIRONMENT, "CNI_IFNAME is no interface name", "%s", ifname);
}

/* The frame: variables, then standard input to its end. */
static void make_frame(void) {
    static const char *const passed[] = {"CNI_", "TRACEPARENT=", "TRACESTATE=", "BAGGAGE=", NULL};
    ssize_t got = 1;
    size = 8;
    for (char **each = environ; *each; each++)
        for (const char *const *prefix = passed; *prefix; prefix++)
            if (!strncmp(*each, *prefix, strlen(*prefix)) && size + strlen(*each) + 2 < LIMIT)
                size += strlen(strcpy(frame + size, *each)) + 1;
    config = frame + ++size;
    while (size < LIMIT && (got = read(0, frame + size, LIMIT - size)) > 0) size += got;
    if (got < 0) refuse(IO_FAILURE, "standard input cannot be read", "%s", strerror(errno));
    if (size >= LIMIT) refuse(IO_FAILURE, "standard input is larger than 4 MiB", "%s", "");
    memcpy(frame, "NCN1", 4);
    memcpy(frame + 4, &(uint32_t){htonl(size - 8)}, 4);
}

static int receive(int daemon, char *data, size_t wanted) {
    ssize_t got = wanted ? recv(daemon, data, wanted, MSG_WAITALL) : 0;
    if (got >= 0 && (size_t)got < wanted) errno = ECONNRESET;
    return got < 0 || (size_t)got < wanted ? -1 : 0;
}

/* Send the frame and a descriptor, print the answer and end; comes back with errno where none comes. */
static void exchange(const char *path, int namespace) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval limit = {.tv_sec = TIMEOUT};
    union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } rights = {0};
    struct iovec piece = {.iov_base = frame, .iov_len = size};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    uint32_t head[3], length;
    char *output;
    errno = ENAMETOOLONG;
    if (strlen(path) >= sizeof address.sun_path) return;
    strcpy(address.sun_path, path);
    int daemon = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(daemon, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(daemon, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(daemon, (struct sockaddr *)&address, sizeof address)) return;
    if (namespace >= 0) {
        message.msg_control = rights.room;
        message.msg_controllen = sizeof rights.room;
        rights.head.cmsg_len = CMSG_LEN(sizeof(int));
        rights.head.cmsg_level = SOL_SOCKET;
        rights.head.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&rights.head), &namespace, sizeof namespace);
    }
    for (ssize_t sent = 0; piece.iov_len; piece.iov_len -= sent) {
        if ((sent = sendmsg(daemon, &message, MSG_NOSIGNAL)) < 0) return;
        piece.iov_base = (char *)piece.iov_base + sent;
        message.msg_control = NULL, message.msg_controllen = 0;
    }
    if (receive(daemon, (char *)head, sizeof head)) return;
    errno = EPROTO;
    if (memcmp(head, "NCN1", 4)) return;
    length = ntohl(head[2]);
    if (!(output = malloc(length + 1)) || receive(daemon, output, length)) return;
    fwrite(output, 1, length, stdout);
    exit(fflush(stdout) ? 1 : (int)ntohl(head[1]));
}

/* Keep a DEL for the daemon's next start: whole, on the disk, and only then under its name. */
static int spool(void) {
    const char *state = *variable("NETD_STATE_DIR") ? variable("NETD_STATE_DIR") : "/var/lib/netd";
    char directory[4096], name[4200], draft[4208];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(directory, sizeof directory, "%s/cni-spool", state);
    snprintf(name, sizeof name, "%s/%016llx-%d.del", directory, now.tv_sec * 1000000000ULL + now.tv_nsec, getpid());
    snprintf(draft, sizeof draft, "%s.new", name);
    if ((mkdir(state, 0700) && errno != EEXIST) || (mkdir(directory, 0700) && errno != EEXIST)) return -1;
    int file = open(draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    errno = file < 0 ? errno : ENOSPC; /* what a short write means */
    if (file < 0 || write(file, frame, size) != (ssize_t)size || fsync(file) || rename(draft, name)) return -1;
    int held = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return held < 0 ? -1 : fsync(held);
}

int main(void) {
    const char *command = variable("CNI_COMMAND"), *netns = variable("CNI_NETNS");
    if (!*command) {
        fputs("netd: a CNI plugin, versions " VERSIONS "; see docs/cni.md\n", stderr);
        return 0;
    }
    make_frame();
    check_variables(command);
    if (!strcmp(command, "VERSION")) {
        if (*skip_space(config)) require_json();
        printf("{\"cniVersion\": ");
        print_quoted(version);
        puts(", \"supportedVersions\": [" VERSIONS "]}");
        return 0;
    }
    int namespace = *netns ? open(netns, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
    if (*netns && namespace < 0 && strcmp(command, "DEL"))
        refuse(INVALID_ENVIRONMENT, "CNI_NETNS cannot be opened", "%s: %s", netns, strerror(errno));
    char path[4096];
    snprintf(path, sizeof path, "%s/cni.sock", *variable("NETD_RUN_DIR") ? variable("NETD_RUN_DIR") : "/run/netd");
    exchange(path, namespace);
    const char *reason = strerror(errno);
    require_json();
    if (!strcmp(command, "STATUS")) refuse(NOT_AVAILABLE, "the netd daemon cannot be reached", "%s: %s", path, reason);
    if (strcmp(command, "DEL")) refuse(TRY_AGAIN, "the netd daemon cannot be reached: try again later", "%s: %s", path, reason);
    if (spool()) refuse(TRY_AGAIN, "DEL could not be written to the spool", "%s", strerror(errno));
    return 0;
}
