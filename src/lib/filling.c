/* What an image holds comes to where it belongs: memory into the process, contents into files. All of it is
 * read twice, once to be checked before anything is made, and once for this; to whoever waits for it that is
 * two halves of one thing. */
#include "lib-internal.h"

#include "image/image.h"

static int report_half(const struct filling *filling, unsigned half, uint64_t done, uint64_t total)
{
    const struct reseat_restore_options *options = filling->options;
    if (!options || !options->progress)
        return 0;
    return options->progress(options->progress_userdata, (done + half * total) / 2, total);
}

int filling_report_checked(void *userdata, uint64_t done, uint64_t total)
{
    struct filling *filling = userdata;
    filling->total = total;
    return report_half(filling, 0, done, total);
}

int filling_report(void *userdata, uint64_t length)
{
    struct filling *filling = userdata;
    filling->done += length;
    return report_half(filling, 1, filling->done, filling->total);
}

int filling_read(void *userdata, const struct snapshot_extent *extent, uint64_t offset, void *data,
                 size_t length, struct reseat_error **ret_error)
{
    const struct filling *filling = userdata;
    return image_read_memory(filling->image, extent, offset, data, length, ret_error);
}

int filling_read_content(void *userdata, const struct snapshot_extent *extent, uint64_t offset, void *data,
                         size_t length, struct reseat_error **ret_error)
{
    int r = filling_read(userdata, extent, offset, data, length, ret_error);
    if (r < 0)
        return r;
    r = filling_report(userdata, length);
    return r < 0 ? error_errno(ret_error, r, "filling files") : 0;
}
