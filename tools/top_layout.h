/* Where things stand on the screen of `millrace top`: what is wrong comes first, whatever the size. */
#ifndef MILLRACE_TOOLS_TOP_LAYOUT_H
#define MILLRACE_TOOLS_TOP_LAYOUT_H

#include "tools/top_frame.h"
#include "tools/top_sample.h"

enum top_view { VIEW_OVERVIEW, VIEW_LANES, VIEW_WORKERS, VIEW_PARTITIONS, VIEW_COUNT };
const char *top_view_name(enum top_view view);

struct top_picture {
    const struct sample *now;
    const struct change *change;
    enum top_view view;
    bool paused;
    const char *footer; /* keys; NULL: none (plain text) */
};

/* top_layout draws the picture into a frame that frame_clear has sized. Tables are drawn for `width` columns (at most
 * the frame's); complaints go on to the frame's last column. */
void top_layout(struct frame *f, int width, const struct top_picture *picture);

#endif
