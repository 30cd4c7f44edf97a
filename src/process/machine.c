/* The machine that an image is made on, and what is different here: uname(2), what the processor has. */
#include "process/process.h"
#include "target/arch/arch.h"

#include <errno.h>
#include <string.h>
#include <sys/utsname.h>

_Static_assert(sizeof(((struct snapshot_machine *)0)->xstate_offsets) ==
                   ARCH_XSTATE_COMPONENTS * sizeof(uint32_t),
               "as many components");

int process_describe_machine(struct snapshot *snapshot, struct reseat_error **ret_error)
{
    struct snapshot_machine *machine = array_append(snapshot->machines, snapshot->machines_count);
    struct arch_xstate_layout layout;
    struct utsname name;
    char features[ARCH_FEATURES_BYTES];
    if (!machine)
        return error_errno(ret_error, -ENOMEM, "describing this machine");
    if (uname(&name) == 0)
        snprintf(machine->kernel_release, sizeof machine->kernel_release, "%.63s", name.release);
    arch_xstate_layout(&layout);
    machine->xstate_components = layout.components;
    memcpy(machine->xstate_offsets, layout.offsets, sizeof layout.offsets);
    memcpy(machine->xstate_lengths, layout.lengths, sizeof layout.lengths);
    arch_features(features);
    int r = snapshot_add_blob(snapshot, features, strlen(features) + 1, &machine->features_offset);
    return r < 0 ? error_errno(ret_error, r, "describing this machine") : 0;
}

/* Whether the words of `text` have this one among them. */
static bool has_word(const char *text, const char *word, size_t length)
{
    for (; *text; text += strspn(text, " ")) {
        size_t other = strcspn(text, " ");
        if (other == length && strncmp(text, word, length) == 0)
            return true;
        text += other;
    }
    return false;
}

char *process_missing_features(const struct snapshot *snapshot)
{
    char ours[ARCH_FEATURES_BYTES];
    if (!snapshot->machines_count)
        return strdup("");
    const char *theirs = (const char *)snapshot->blobs + snapshot->machines[0].features_offset;
    char *missing = calloc(1, strlen(theirs) + 1);
    arch_features(ours);
    for (size_t used = 0; missing && *theirs; theirs += strspn(theirs, " ")) {
        size_t length = strcspn(theirs, " ");
        if (length && !has_word(ours, theirs, length))
            used += (size_t)sprintf(missing + used, "%s%.*s", used ? " " : "", (int)length, theirs);
        theirs += length;
    }
    return missing;
}
