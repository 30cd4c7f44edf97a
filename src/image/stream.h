/* An image on its way: what would be written into PID.core, and where, as frames in a stream that nobody can
 * seek in (a pipe, a connection). docs/image.md tells the format. */
#pragma once

#include "base/base.h"

int stream_begin(int fd);
/* One piece of the file; long ones become several frames. */
int stream_write(int fd, uint64_t offset, const void *data, size_t length);
/* Says that the file is complete, with so many bytes. */
int stream_end(int fd, uint64_t length);
/* Writes what comes in a stream into an empty file, up to the end of the image; what follows is not read.
 * -EBADMSG: damaged, or it ended too early. */
int stream_receive(int from_fd, int to_fd, struct reseat_error **ret_error);
