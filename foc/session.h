/* PD sessions: the native PD protocol (src/protocol/protocol.h) answered with the native PD interface.
 * Kernel-neutral: a message is words with capabilities beside them, however they came; core moves them
 * through message registers, the unit tests hand them over directly. */
#pragma once

#include "base/base.h"
#include "native_pd/native_pd.h"
#include "protocol/protocol.h"

#define SESSION_WORDS_MAX        63 /* message registers of the kernel; a capability beside takes two */
#define SESSION_CAPABILITIES_MAX 16

struct session {
    native_pd_id_t id;
    uint32_t rights; /* enum protocol_rights */
};

struct session_message {
    uint64_t words[SESSION_WORDS_MAX];
    unsigned word_count;
    native_cap_t caps[SESSION_CAPABILITIES_MAX];
    unsigned cap_count;
};

/* Always makes a reply. The capabilities in it are the caller's, to be handed over and dropped; those of the
 * request stay the caller's too. */
void session_answer(const struct session *session, const struct session_message *request,
                    struct session_message *reply);

/* Starts a message; items are added behind its fixed part. For clients too. */
struct protocol_head *session_begin(struct session_message *message, unsigned operation, uint32_t tag);
/* The fixed part, or the first item: as long as nothing else was put there. */
void *session_body(struct session_message *message, size_t offset);
/* Sets counts and length after `count` items were written. */
void session_end(struct session_message *message, unsigned direction, unsigned count, unsigned caps);
/* Checks a message that came in words, and says where its parts are. */
int session_decode(const struct session_message *message, unsigned direction, struct protocol_view *ret_view,
                   const char **ret_reason);
