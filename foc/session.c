/* Answers the messages of a PD session. Each operation is one function: it reads the checked request, calls
 * the native PD interface, and writes the reply or an error. What does not fit into one message is cut short,
 * which the protocol allows: the client goes on at `next`.
 *
 * Not here: open (a session is made by core, not asked for), narrow, checkpoint and restore; parts of an
 * install (every message is answered on this kernel, so there is nothing to wait for). */
#include "session.h"

#define LIST_MAX          112 /* selectors: what fits behind head and fixed part */
#define INSTALL_MAX       SESSION_CAPABILITIES_MAX

#define ERROR_UNSUPPORTED (-95) /* EOPNOTSUPP */

struct call {
    const struct session *session;
    const struct session_message *request;
    struct protocol_view view;
    struct session_message *reply;
    struct native_pd *pd;
    struct reseat_error *error;
};

static void refuse(struct call *call, int code, const char *reason)
{
    const struct protocol_head *asked = (const struct protocol_head *)call->request->words;
    struct protocol_head *head = session_begin(call->reply, asked->operation, asked->tag);
    char *text = session_body(call->reply, 0);
    size_t room = sizeof call->reply->words - sizeof *head;
    head->result = code;
    session_end(call->reply, PROTOCOL_IS_REPLY, (unsigned)text_format(text, room, "%s", reason), 0);
}

static void begin(struct call *call)
{
    session_begin(call->reply, call->view.head->operation, call->view.head->tag);
}

static void end(struct call *call, size_t count, size_t caps)
{
    session_end(call->reply, PROTOCOL_IS_REPLY, (unsigned)count, (unsigned)caps);
}

static int serve_info(struct call *call)
{
    begin(call);
    struct protocol_session *session = session_body(call->reply, 0);
    session->id = call->session->id;
    session->rights = call->session->rights;
    session->lifetime_ns = PROTOCOL_FOREVER;
    end(call, 0, 0);
    return 0;
}

static int serve_list(struct call *call)
{
    const struct protocol_from *asked = call->view.fixed;
    selector_t selectors[LIST_MAX + 1]; /* one more, to know where to go on */
    size_t count, capacity = asked->capacity < LIST_MAX ? asked->capacity : LIST_MAX;
    int r = native_pd_list(call->pd, asked->from, selectors, capacity + 1, &count, &call->error);
    if (r < 0)
        return r;
    begin(call);
    struct protocol_next *next = session_body(call->reply, 0);
    next->next = count > capacity ? selectors[capacity] : PROTOCOL_SELECTOR_END;
    count = count > capacity ? capacity : count;
    __builtin_memcpy(session_body(call->reply, sizeof *next), selectors, count * sizeof *selectors);
    end(call, count, 0);
    return 0;
}

/* The many-form, and that for one selector only. */
static int request_slots(struct call *call, const struct protocol_from *asked, struct native_slot *slots,
                         size_t *ret_count, selector_t *ret_next)
{
    size_t capacity = asked->capacity < SESSION_CAPABILITIES_MAX ? asked->capacity : SESSION_CAPABILITIES_MAX;
    if (!(call->view.head->flags & PROTOCOL_EXACT))
        return native_pd_request_many(call->pd, asked->from, slots, capacity, ret_count, ret_next,
                                      &call->error);
    selector_t used;
    int r = native_pd_next(call->pd, asked->from, &used, &call->error);
    if (r < 0)
        return r;
    *ret_count = 0;
    *ret_next = used;
    if (used != asked->from || capacity == 0)
        return 0;
    return native_pd_request_many(call->pd, used, slots, 1, ret_count, ret_next, &call->error);
}

static int serve_request(struct call *call)
{
    const struct protocol_from *asked = call->view.fixed;
    struct native_slot slots[SESSION_CAPABILITIES_MAX];
    size_t count;
    selector_t next_selector;
    int r = request_slots(call, asked, slots, &count, &next_selector);
    if (r < 0)
        return r;
    begin(call);
    struct protocol_next *next = session_body(call->reply, 0);
    next->next = next_selector == NATIVE_SELECTOR_END ? PROTOCOL_SELECTOR_END : next_selector;
    struct protocol_slot *items = session_body(call->reply, sizeof *next);
    for (size_t i = 0; i < count; i++) {
        items[i] = (struct protocol_slot){.selector = slots[i].selector, .flags = slots[i].flags};
        call->reply->caps[i] = slots[i].cap;
    }
    end(call, count, count);
    return 0;
}

static int serve_install(struct call *call)
{
    const struct protocol_slot *items = call->view.items;
    struct native_slot slots[INSTALL_MAX];
    if (call->view.head->flags & PROTOCOL_MORE)
        return error_set(&call->error, ERROR_UNSUPPORTED,
                         "parts of an install are not kept: every message is answered");
    for (unsigned i = 0; i < call->view.head->count;
         i++) /* as many as capabilities, which are few: checked */
        slots[i] = (struct native_slot){.selector = items[i].selector,
                                        .cap = call->request->caps[i],
                                        .flags = items[i].flags};
    int r = native_pd_install(call->pd, slots, call->view.head->count, &call->error);
    if (r < 0)
        return r;
    begin(call);
    end(call, 0, 0);
    return 0;
}

static int serve_close(struct call *call)
{
    if (call->view.head->flags & PROTOCOL_MORE)
        return error_set(&call->error, ERROR_UNSUPPORTED,
                         "parts of a close are not kept: every message is answered");
    int r = native_pd_close(call->pd, call->view.items, call->view.head->count, &call->error);
    if (r < 0)
        return r;
    begin(call);
    end(call, 0, 0);
    return 0;
}

static int serve_compare(struct call *call)
{
    const struct protocol_pair *pairs = call->view.items;
    int32_t orders[SESSION_WORDS_MAX];
    if (call->request->cap_count > 0)
        return error_set(&call->error, ERROR_UNSUPPORTED, "comparing with another session is not supported");
    for (unsigned i = 0; i < call->view.head->count; i++) { /* at most as many as fit into the words */
        int order;
        int r = native_pd_compare(call->pd, pairs[i].a, call->pd, pairs[i].b, &order, &call->error);
        if (r < 0)
            return r;
        orders[i] = order;
    }
    begin(call);
    __builtin_memcpy(session_body(call->reply, 0), orders, call->view.head->count * sizeof *orders);
    end(call, call->view.head->count, 0);
    return 0;
}

static int serve(struct call *call)
{
    switch (call->view.head->operation) {
    case PROTOCOL_INFO:
        return serve_info(call);
    case PROTOCOL_LIST:
        return serve_list(call);
    case PROTOCOL_REQUEST:
        return serve_request(call);
    case PROTOCOL_INSTALL:
        return serve_install(call);
    case PROTOCOL_CLOSE:
        return serve_close(call);
    case PROTOCOL_COMPARE:
        return serve_compare(call);
    default:
        return error_set(&call->error, ERROR_UNSUPPORTED, "%s is not supported on this kernel",
                         protocol_operation_name(call->view.head->operation));
    }
}

void session_answer(const struct session *session, const struct session_message *request,
                    struct session_message *reply)
{
    struct call call = {.session = session, .request = request, .reply = reply};
    const char *reason;
    int r = session_decode(request, PROTOCOL_IS_REQUEST, &call.view, &reason);
    if (r < 0) {
        refuse(&call, r, reason);
        return;
    }
    if (protocol_right_needed(call.view.head->operation) & ~session->rights) {
        refuse(&call, -E_PERM, "this session is not good for that");
        return;
    }
    r = native_pd_open(session->id, &call.pd, &call.error);
    if (r == 0)
        r = serve(&call);
    if (r < 0)
        refuse(&call, r, call.error ? call.error->message : "failed");
    native_pd_free(&call.pd);
}
