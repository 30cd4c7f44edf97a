/* A worker: takes a socket from the dispatcher, reads one message there, does it, answers it, and says that
 * it is done. It is the only one that holds descriptors of clients and of targets: closing one of them may
 * take as long as its filesystem likes, and then it is this process that waits.
 *
 * It knows no session but the one that it was given. What it needs of others (compare), and new sessions, it
 * asks of the dispatcher. */
#include "core/core-internal.h"
#include "native_pd/linux.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

/* How long a client may take to make room for a reply, and to send the next part of a request. */
#define REPLY_TIMEOUT_MS 500
#define PART_TIMEOUT_MS  2000

/* ---- the dispatcher ---- */

int work_ask(struct work *work, const struct report *report, int fd, struct answer *ret_answer, int *ret_fd,
             struct reseat_error **ret_error)
{
    struct packet packet;
    int r = packet_send(work->dispatcher, report, sizeof *report, &fd, fd >= 0, 0);
    if (r < 0)
        return error_errno(ret_error, r, "asking core's dispatcher");
    r = packet_receive(work->dispatcher, &packet, 0);
    if (r <= 0)
        return error_errno(ret_error, r < 0 ? r : -EPIPE, "asking core's dispatcher");
    if (packet.length != sizeof *ret_answer)
        return error_errno(ret_error, -EBADMSG, "asking core's dispatcher");
    memcpy(ret_answer, packet.bytes, sizeof *ret_answer);
    *ret_fd = packet.cap_count ? packet_take(&packet, 0) : -EBADF;
    packet_end(&packet);
    return ret_answer->result;
}

int work_claim(struct work *work, struct reseat_error **ret_error)
{
    struct report report = {.kind = REPORT_CLAIM};
    struct answer answer;
    int none = -EBADF;
    return work->came_in_parts ? work_ask(work, &report, -EBADF, &answer, &none, ret_error) : 0;
}

int work_make_session(struct work *work, const struct terms *terms, int pidfd, struct reply *reply,
                      struct reseat_error **ret_error)
{
    struct report report = {.kind = REPORT_MAKE, .terms = *terms};
    struct answer answer = {0};
    int session = -EBADF;
    int r = work_ask(work, &report, pidfd, &answer, &session, ret_error);
    if (r == -EDQUOT)
        return error_set(ret_error, r, "user %u has %llu sessions of this core, and may have no more",
                         terms->owner, (unsigned long long)answer.limit);
    if (r < 0)
        return error_errno(ret_error, r, "making a session");
    reply->caps[reply->cap_count++] = session;
    return 0;
}

/* ---- replies ---- */

void *reply_fixed(struct reply *reply, unsigned operation)
{
    size_t length = protocol_fixed_bytes(operation, PROTOCOL_IS_REPLY);
    reply->head.count = 0;
    reply->length = sizeof reply->head + length;
    return memset(reply->bytes + sizeof reply->head, 0, length);
}

void *reply_items(struct reply *reply, unsigned operation, size_t count)
{
    size_t each = protocol_item_bytes(operation, PROTOCOL_IS_REPLY);
    if (count > (sizeof reply->bytes - reply->length) / each)
        return NULL;
    void *items = reply->bytes + reply->length;
    reply->length += count * each;
    reply->head.count += (uint32_t)count;
    return items;
}

void reply_end(struct reply *reply)
{
    for (size_t i = 0; i < reply->cap_count; i++)
        base_close(&reply->caps[i]);
    reply->cap_count = 0;
}

static void close_caps(struct reply *reply)
{
    reply_end(reply);
    reply->head.capabilities = 0;
}

/* A client that takes no replies loses its session. */
int reply_send(struct work *work, struct reply *reply)
{
    reply->head.capabilities = (uint32_t)reply->cap_count;
    int r =
        packet_send(work->socket, reply->bytes, reply->length, reply->caps, reply->cap_count, MSG_DONTWAIT);
    if (r == -EAGAIN) {
        struct pollfd poll_fd = {.fd = work->socket, .events = POLLOUT};
        poll(&poll_fd, 1, REPLY_TIMEOUT_MS);
        r = packet_send(work->socket, reply->bytes, reply->length, reply->caps, reply->cap_count,
                        MSG_DONTWAIT);
    }
    if (r == -EAGAIN || r == -EPIPE || r == -ECONNRESET)
        work->is_closed = true;
    return r;
}

static void make_error(struct reply *reply, int code, const struct reseat_error *error)
{
    const char *sentence = error && error->message ? error->message : "out of memory";
    size_t length = strlen(sentence), room = sizeof reply->bytes - sizeof reply->head;
    close_caps(reply);
    length = length < room ? length : room;
    reply->head.result = code;
    reply->head.count = (uint32_t)length;
    memcpy(reply->bytes + sizeof reply->head, sentence, length);
    reply->length = sizeof reply->head + length;
}

/* ---- the process behind a session ---- */

int work_check_execution(const struct terms *terms, int pidfd, struct reseat_error **ret_error)
{
    struct execution execution;
    int r = execution_read(terms->pid, &execution);
    if (pidfd_has_ended(pidfd))
        return error_set(ret_error, -ESRCH, "process %d has ended", terms->pid);
    if (r < 0)
        return error_errno(ret_error, r, "looking which program process %d executes", terms->pid);
    if (!execution_is_same(&execution, &terms->execution))
        return error_set(
            ret_error, -ESTALE,
            "process %d executes another program than when this session was opened: open a new one",
            terms->pid);
    return 0;
}

/* What a session's PD is asked while it stands still, before an install or close. */
static int guard(void *userdata, struct reseat_error **ret_error)
{
    const struct work *work = userdata;
    return work_check_execution(&work->job.terms, work->pidfd, ret_error);
}

int work_open_pd(const struct terms *terms, int pidfd, struct native_pd **ret_pd,
                 struct reseat_error **ret_error)
{
    if (pidfd_has_ended(pidfd))
        return error_set(ret_error, -ESRCH, "process %d has ended", terms->pid);
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    int r = native_pd_open(terms->pid, &pd, ret_error);
    if (r < 0)
        return r;
    /* Which also sees that the process with this number is still the one of the pidfd. */
    r = work_check_execution(terms, pidfd, ret_error);
    if (r < 0)
        return r;
    *ret_pd = TAKE_PTR(pd);
    return 0;
}

/* ---- one message ---- */

static const struct {
    int (*run)(struct work *work, struct reply *reply, struct reseat_error **ret_error);
    bool needs_pd;
} operations[PROTOCOL_OPERATIONS_END] = {
    [PROTOCOL_OPEN] = {operation_open, false},
    [PROTOCOL_INFO] = {operation_info, false},
    [PROTOCOL_NARROW] = {operation_narrow, false},
    [PROTOCOL_LIST] = {operation_list, true},
    [PROTOCOL_REQUEST] = {operation_request, true},
    [PROTOCOL_INSTALL] = {operation_install, true},
    [PROTOCOL_CLOSE] = {operation_close, true},
    [PROTOCOL_COMPARE] = {operation_compare, true},
    [PROTOCOL_CHECKPOINT] = {operation_checkpoint, true},
    [PROTOCOL_RESTORE] = {operation_restore, true},
    [PROTOCOL_DROP] = {operation_drop, true},
    [PROTOCOL_FETCH] = {operation_fetch, true},
};

static int check_place(const struct work *work, unsigned operation, struct reseat_error **ret_error)
{
    if (!operations[operation].run)
        return error_set(ret_error, -EOPNOTSUPP, "core cannot do %s", protocol_operation_name(operation));
    if (work->job.is_session && operation == PROTOCOL_OPEN)
        return error_set(ret_error, -EOPNOTSUPP, "open is said to core's own socket, not to a session");
    if (!work->job.is_session && operation != PROTOCOL_OPEN)
        return error_set(ret_error, -EOPNOTSUPP, "%s is said to a session; here sessions are opened only",
                         protocol_operation_name(operation));
    return 0;
}

static int run_operation(struct work *work, struct reply *reply, struct reseat_error **ret_error)
{
    unsigned operation = work->request.head->operation;
    int r = work->job.is_session ? terms_check(&work->job.terms, operation, ret_error) : 0;
    if (r == 0)
        r = check_place(work, operation, ret_error);
    if (r == 0 && operations[operation].needs_pd)
        r = work_open_pd(&work->job.terms, work->pidfd, &work->pd, ret_error);
    if (r == 0 && work->pd)
        native_pd_set_guard(work->pd, guard, work);
    if (r == 0)
        r = operations[operation].run(work, reply, ret_error);
    native_pd_free(&work->pd);
    return r;
}

/* Receives into work->packet and decodes. 1: there is a request; 0: the client is gone. */
static int receive_request(struct work *work, int flags, struct reseat_error **ret_error)
{
    const char *reason = NULL;
    work->request.head = NULL;
    int r = packet_receive(work->socket, &work->packet, flags);
    if (r == -EMSGSIZE)
        return error_set(ret_error, r, "the message is longer than the %d bytes that one may have",
                         PROTOCOL_MESSAGE_BYTES);
    if (r < 0)
        return error_errno(ret_error, r, "receiving the message");
    if (r == 0)
        return 0;
    r = protocol_decode(work->packet.bytes, work->packet.length, work->packet.cap_count, PROTOCOL_IS_REQUEST,
                        &work->request, &reason);
    return r < 0 ? error_set(ret_error, r, "the message is refused: %s", reason) : 1;
}

/* The head of what cannot be decoded, as far as there is one: so that the client knows what is answered. */
static void note_head(const struct work *work, struct reply *reply)
{
    struct protocol_head head = {0};
    if (work->packet.length >= sizeof head)
        memcpy(&head, work->packet.bytes, sizeof head);
    reply->head =
        (struct protocol_head){.version = PROTOCOL_VERSION, .operation = head.operation, .tag = head.tag};
    reply->length = sizeof reply->head;
}

int work_next_part(struct work *work, struct reseat_error **ret_error)
{
    uint32_t tag = work->request.head->tag;
    uint16_t operation = work->request.head->operation;
    struct pollfd poll_fd = {.fd = work->socket, .events = POLLIN};
    packet_end(&work->packet);
    /* Unless a part comes that is one: where the next request begins cannot be known then. */
    work->must_close = true;
    if (poll(&poll_fd, 1, PART_TIMEOUT_MS) <= 0)
        return error_set(ret_error, -ETIMEDOUT, "the next part of %s did not come within %d s",
                         protocol_operation_name(operation), PART_TIMEOUT_MS / 1000);
    int r = receive_request(work, MSG_DONTWAIT, ret_error);
    if (r == 0) {
        work->is_closed = true;
        return error_set(ret_error, -EPIPE, "the client is gone");
    }
    if (r < 0)
        return r;
    if (work->request.head->tag != tag || work->request.head->operation != operation)
        return error_set(ret_error, -EBADMSG, "the message is refused: the part before it was not the last");
    work->must_close = false;
    work->came_in_parts = true;
    return 0;
}

/* The parts that follow one that was refused must not be taken for requests. */
static void swallow_parts(struct work *work)
{
    while (work->request.head && (work->request.head->flags & PROTOCOL_MORE) && !work->must_close)
        work_next_part(work, NULL);
}

static void log_refusal(const struct work *work, const struct reply *reply, const struct reseat_error *error)
{
    if (work->verbose && error)
        fprintf(stderr, "reseat core: %s refused (%d): %s\n", protocol_operation_name(reply->head.operation),
                reply->head.result, error->message);
}

static void handle_message(struct work *work)
{
    static struct reply reply; /* too large for comfort on a stack; a worker has one message at a time */
    _cleanup_error_ struct reseat_error *error = NULL;
    int r = receive_request(work, MSG_DONTWAIT, &error);
    if (r == -EAGAIN)
        return;
    if (r == 0) {
        work->is_closed = true;
        return;
    }
    note_head(work, &reply);
    if (r > 0) {
        /* Its buffer is used again by the parts behind it. */
        reply_fixed(&reply, work->request.head->operation);
        r = run_operation(work, &reply, &error);
    }
    if (r < 0) {
        swallow_parts(work);
        make_error(&reply, r, error);
    }
    r = work->is_closed ? 0 : reply_send(work, &reply);
    if (r < 0 && !work->is_closed) {
        /* A capability that the socket refuses: the answer is that, then. */
        error_errno(&error, r, "sending the reply");
        make_error(&reply, r, error);
        reply_send(work, &reply);
    }
    work->is_closed |= work->must_close;
    log_refusal(work, &reply, error);
    reply_end(&reply);
    packet_end(&work->packet);
}

/* ---- jobs ---- */

/* Closed with something unread, the client would be told of a reset before it reads the answer to what it
 * said first. */
static void drain(struct work *work)
{
    while (packet_receive(work->socket, &work->packet, MSG_DONTWAIT) > 0)
        packet_end(&work->packet);
}

static void run_job(struct work *work)
{
    work->is_closed = work->must_close = work->came_in_parts = false;
    work->request = (struct protocol_view){0};
    if (work->job.is_discarded)
        drain(work);
    else
        handle_message(work);
    /* Of a discarded one, this is the last descriptor: what is queued there goes with it. */
    base_close(&work->socket);
    base_close(&work->pidfd);
    work->socket = work->pidfd = -EBADF;
}

/* Takes the next job; false: the dispatcher is gone. */
static bool take_job(struct work *work)
{
    struct packet packet;
    int r = packet_receive(work->dispatcher, &packet, 0);
    if (r <= 0 || packet.length != sizeof work->job || packet.cap_count == 0)
        return false;
    memcpy(&work->job, packet.bytes, sizeof work->job);
    work->socket = packet_take(&packet, 0);
    work->pidfd = packet.cap_count > 1 ? packet_take(&packet, 1) : -EBADF;
    packet_end(&packet);
    return true;
}

void worker_serve(int dispatcher, const struct configuration *configuration, bool verbose)
{
    static struct work work;
    work = (struct work){.dispatcher = dispatcher,
                         .socket = -EBADF,
                         .pidfd = -EBADF,
                         .configuration = configuration,
                         .verbose = verbose};
    while (take_job(&work)) {
        run_job(&work);
        struct report report = {.kind = REPORT_DONE, .is_closed = work.is_closed};
        if (packet_send(dispatcher, &report, sizeof report, NULL, 0, 0) < 0)
            break;
    }
}
