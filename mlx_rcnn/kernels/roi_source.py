"""The text of RoIAlign's kernels: the features' way, and two ways back for the gradient.

Arithmetic and its order are those of :mod:`mlx_rcnn.ops.roi_align`, so that a sample on a border
falls on the same side. Inputs of every body: ``boxes`` (R, 5) float32, rows of (image, x1, y1, x2,
y2) in pixels of the network input; ``numbers`` (2 L,) float32, the L levels' scales, then the least
side of a box of each level (NaN: no box); ``geometry`` int32: R, N, C, ph, pw, aligned, lanes, 0,
then (h, w) of each level. ``T``, ``RATIO`` (samples a bin and axis, 0: adaptive), ``LEVELS`` and
``EACH`` (channels a thread) are known when the kernel is compiled.

Lanes run over channels, neighbours reading neighbours; rows run over bins, or over pixels.
"""

from __future__ import annotations

from string import Template

# A bin of more samples than float32 counts one by one has none.
FUNCTIONS = """
#define ROI_MOST 16777216.0f
struct RoiAxis {
    float start, size, count;
    int length;
};
struct RoiSpan {
    int first, end;
};
struct RoiTap {
    int low, high;
    float below, above;
};

RCNN_FN RoiAxis roi_axis(
    float first, float last, float scale, bool aligned, int bins, int length, int ratio) {
    const float shift = aligned ? 0.5f : 0.0f;
    RoiAxis axis;
    axis.start = RCNN_MUL(first, scale) - shift;
    float extent = (RCNN_MUL(last, scale) - shift) - axis.start;
    extent = !aligned && extent < 1.0f ? 1.0f : extent;
    axis.size = extent / float(bins);
    axis.count = float(ratio);
    if (ratio <= 0) {
        const float count = RCNN_CEIL(axis.size);
        axis.count = count >= 1.0f && count <= ROI_MOST ? count : 0.0f;
    }
    axis.length = length;
    return axis;
}

RCNN_FN float roi_origin(RoiAxis axis, int bin) {
    return axis.start + RCNN_MUL(float(bin), axis.size);
}

RCNN_FN RoiTap roi_tap(RoiAxis axis, float origin, int sample) {
    float place = origin + RCNN_MUL(float(sample) + 0.5f, axis.size) / axis.count;
    const float top = float(axis.length);
    const bool inside = place >= -1.0f && place <= top;
    place = inside && place > 0.0f ? place : 0.0f;
    float low = RCNN_FLOOR(place);
    const bool last = low >= top - 1.0f;
    low = last ? top - 1.0f : low;
    const float fraction = last ? 0.0f : place - low;
    RoiTap tap;
    tap.low = int(low);
    tap.high = last ? tap.low : tap.low + 1;
    tap.below = inside ? 1.0f - fraction : 0.0f;
    tap.above = inside ? fraction : 0.0f;
    return tap;
}

// Samples of a bin that may lie in [low, high], a few too many rather than one too few.
RCNN_FN RoiSpan roi_span(RoiAxis axis, float origin, float low, float high, int ratio) {
    RoiSpan span;
    span.first = 0;
    span.end = ratio;
    if (ratio > 0) return span;
    const float step = axis.size / axis.count;
    const float slack = 2.0f + axis.count * 1e-6f;
    float first = RCNN_FLOOR((low - origin) / step) - slack;
    float end = RCNN_CEIL((high - origin) / step) + slack;
    first = first > 0.0f ? first : 0.0f;
    end = end > 0.0f ? end : 0.0f;
    span.first = int(first < axis.count ? first : axis.count);
    span.end = int(end < axis.count ? end : axis.count);
    return span;
}

RCNN_FN bool roi_touches(RoiAxis axis, int bins, int pixel) {
    const float last = roi_origin(axis, bins);
    const float least = axis.start < last ? axis.start : last;
    const float most = axis.start < last ? last : axis.start;
    const float slack = 2.0f + (most - least) * 1e-6f
        + (most > 0.0f ? most : -most) * 1e-6f;
    return least <= float(pixel) + slack && most >= float(pixel) - slack;
}

// What one pixel of a line weighs in a bin, times the number of samples.
RCNN_FN float roi_weight(RoiAxis axis, int bin, int pixel, int ratio) {
    const float origin = roi_origin(axis, bin);
    const float low = float(pixel) - 1.0f;
    const float high = float(pixel) + 1.0f;
    const RoiSpan span = roi_span(axis, origin, low, high, ratio);
    float weight = 0.0f;
    for (int i = span.first; i < span.end; i++) {
        const RoiTap tap = roi_tap(axis, origin, i);
        weight += tap.low == pixel ? tap.below : 0.0f;
        weight += tap.high == pixel ? tap.above : 0.0f;
    }
    return weight;
}
"""

_START = """
    const unsigned rois = unsigned(geometry[0]);
    const int images = geometry[1];
    const unsigned channels = unsigned(geometry[2]);
    const int bins_down = geometry[3], bins_across = geometry[4];
    const unsigned bins = unsigned(bins_down * bins_across);
    const bool aligned = geometry[5] != 0;
    const unsigned lanes = unsigned(geometry[6]);
    if (lane >= lanes) return;
"""

# A product of the sides without an addition: nothing here can be contracted.
_LOCATE = """
        const rcnn_long box = 5 * rcnn_long(roi);
        const float x1 = boxes[box + 1], y1 = boxes[box + 2];
        const float x2 = boxes[box + 3], y2 = boxes[box + 4];
        const float side = RCNN_SQRT((x2 - x1) * (y2 - y1));
        int level = 0;
        for (int k = 1; k < LEVELS; k++) level += side >= numbers[LEVELS + k] ? 1 : 0;
        const float batch = boxes[box];
        const int image = batch >= 1.0f
            ? (batch < float(images) ? int(batch) : images - 1) : 0;
        const int height = geometry[8 + 2 * level], width = geometry[9 + 2 * level];
        const float scale = numbers[level];
        const RoiAxis down = roi_axis(y1, y2, scale, aligned, bins_down, height, RATIO);
        const RoiAxis across = roi_axis(x1, x2, scale, aligned, bins_across, width, RATIO);
        const float samples = down.count * across.count;
        const float share = samples > 0.0f ? 1.0f / samples : 0.0f;
"""

# Walks over the samples of a bin; $use sees the four pixels' first channels and weights.
_SAMPLES = Template("""
    for (unsigned row = first_row; row < rois * bins; row += row_step) {
        const unsigned roi = row / bins;
        const int bin = int(row - roi * bins);
        const int bin_y = bin / bins_across, bin_x = bin - bin_y * bins_across;
        $locate
        $pick
        $begin
        const rcnn_long plane = rcnn_long(image) * height;
        const float top = roi_origin(down, bin_y), left = roi_origin(across, bin_x);
        const RoiSpan rows = roi_span(down, top, -1.0f, float(height), RATIO);
        const RoiSpan columns = roi_span(across, left, -1.0f, float(width), RATIO);
        for (int i = rows.first; i < rows.end; i++) {
            const RoiTap v = roi_tap(down, top, i);
            if (v.below + v.above == 0.0f) continue;
            const rcnn_long upper = (plane + v.low) * width, lower = (plane + v.high) * width;
            for (int j = columns.first; j < columns.end; j++) {
                const RoiTap h = roi_tap(across, left, j);
                if (h.below + h.above == 0.0f) continue;
                const rcnn_long a = (upper + h.low) * channels, b = (upper + h.high) * channels;
                const rcnn_long c = (lower + h.low) * channels, d = (lower + h.high) * channels;
                const float wa = v.below * h.below, wb = v.below * h.above;
                const float wc = v.above * h.below, wd = v.above * h.above;
                $use
            }
        }
        $end
    }
""")

_CHANNELS = Template("""
                for (int k = 0; k < EACH; k++) {
                    const unsigned at = lane + unsigned(k) * lanes;
                    if (at >= channels) break;
                    $body
                }""")

_ADD_UP = """
                    total[k] = RCNN_FMA(wa, float(map[a + at]), total[k]);
                    total[k] = RCNN_FMA(wb, float(map[b + at]), total[k]);
                    total[k] = RCNN_FMA(wc, float(map[c + at]), total[k]);
                    total[k] = RCNN_FMA(wd, float(map[d + at]), total[k]);"""

_HAND_OUT = """
                    if (wa != 0.0f) RCNN_ADD(grad, a + at, wa * part[k]);
                    if (wb != 0.0f) RCNN_ADD(grad, b + at, wb * part[k]);
                    if (wc != 0.0f) RCNN_ADD(grad, c + at, wc * part[k]);
                    if (wd != 0.0f) RCNN_ADD(grad, d + at, wd * part[k]);"""

# Each thread owns a pixel and goes through the boxes in their order: no atomics, one order.
_COLLECT = Template("""
    rcnn_long pixels = 0;
    for (int k = 0; k < LEVELS; k++) {
        pixels += rcnn_long(images) * geometry[8 + 2 * k] * geometry[9 + 2 * k];
    }
    for (unsigned row = first_row; row < pixels; row += row_step) {
        rcnn_long rest = row;
        int own_level = 0;
        for (int k = 0; k + 1 < LEVELS; k++) {
            const rcnn_long count = rcnn_long(images) * geometry[8 + 2 * k] * geometry[9 + 2 * k];
            if (own_level == k && rest >= count) {
                rest -= count;
                own_level++;
            }
        }
        const int own_height = geometry[8 + 2 * own_level];
        const int own_width = geometry[9 + 2 * own_level];
        const unsigned line = unsigned(rest) / unsigned(own_width);
        const int pixel_x = int(unsigned(rest) - line * unsigned(own_width));
        const int own_image = int(line / unsigned(own_height));
        const int pixel_y = int(line - unsigned(own_image) * unsigned(own_height));
        float total[EACH];
        for (int k = 0; k < EACH; k++) total[k] = 0.0f;
        for (unsigned roi = 0; roi < rois; roi++) {
            $locate
            if (level != own_level || image != own_image) continue;
            if (!roi_touches(down, bins_down, pixel_y)) continue;
            if (!roi_touches(across, bins_across, pixel_x)) continue;
            for (int i = 0; i < bins_down; i++) {
                const float v = roi_weight(down, i, pixel_y, RATIO) * share;
                if (v == 0.0f) continue;
                for (int j = 0; j < bins_across; j++) {
                    const float weight = v * roi_weight(across, j, pixel_x, RATIO);
                    if (weight == 0.0f) continue;
                    const rcnn_long a = (rcnn_long(roi) * bins + i * bins_across + j) * channels;
                    $use
                }
            }
        }
        $pick
        $end
    }
""")


def _channels(body: str) -> str:
    """The channels of one thread, a lane count apart."""
    return _CHANNELS.substitute(body=body)


def _pick(kind: str, name: str, variable: str, levels: int) -> str:
    """Which of the pointers ``name``0, ``name``1, ... is of the level ``variable``."""
    lines = [f"{kind}* {name} = {name}0;"]
    lines += [f"if ({variable} == {k}) {name} = {name}{k};" for k in range(1, levels)]
    return "\n        ".join(lines)


def forward(levels: int) -> str:
    """Body that writes ``pooled`` (R, ph, pw, C), one thread a bin and some channels."""
    zero = "float total[EACH];\n        for (int k = 0; k < EACH; k++) total[k] = 0.0f;"
    write = "pooled[rcnn_long(row) * channels + at] = T(total[k] * share);"
    return _START + _SAMPLES.substitute(
        locate=_LOCATE,
        pick=_pick("RCNN_IN T", "map", "level", levels),  # the inputs ``map0``, ``map1``, ...
        begin=zero,
        use=_channels(_ADD_UP),
        end=_channels(write),
    )


def scatter(levels: int) -> str:
    """Body that adds ``cotangent`` (R, ph, pw, C) to float32 maps by atomics, in no order."""
    read = "part[k] = float(cotangent[rcnn_long(row) * channels + at]) * share;"
    return _START + _SAMPLES.substitute(
        locate=_LOCATE,
        # the outputs ``grad0``, ``grad1``, ..., zero before
        pick=_pick("RCNN_SUM", "grad", "level", levels),
        begin="float part[EACH];" + _channels(read),
        use=_channels(_HAND_OUT),
        end="",
    )


def collect(levels: int) -> str:
    """Body that sums ``cotangent`` (R, ph, pw, C) for each pixel in the order of the boxes."""
    use = "total[k] = RCNN_FMA(weight, float(cotangent[a + at]), total[k]);"
    return _START + _COLLECT.substitute(
        locate=_LOCATE,
        use=_channels(use),
        # the outputs ``grad0``, ``grad1``, ..., every pixel of which is written
        pick=_pick("RCNN_OUT T", "grad", "own_level", levels),
        end=_channels("grad[rest * channels + at] = T(total[k]);"),
    )
