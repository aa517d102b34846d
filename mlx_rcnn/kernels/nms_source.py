"""The text of suppression's two kernels: which boxes overlap, as bits, and who stays.

Inputs: ``boxes`` (B, n, 4) float32, each list sorted by falling score; ``valid`` (B, n); ``limit``
(1,) float32, the IoU above which a box goes; ``labels`` (B, n) int32, of the kernel that knows
them; ``geometry`` (B, n, words). ``hits`` (B, n, words) has bit j of row i set where box i, if it
stays, ends the later box j. Arithmetic and its order are those of :mod:`mlx_rcnn.ops.nms`.
"""

from __future__ import annotations

from string import Template

WORD = 32  # boxes a word
# Words of a list that a group of threads holds: 8 KB of the 32 KB a group may have.
MOST_WORDS = 2048

FUNCTIONS = (
    f"""
#define NMS_WORDS {MOST_WORDS}
"""
    + """
struct NmsBox {
    float x1, y1, x2, y2, area;
};

// Either may be taken of a NaN: its box has an area of NaN, and so overlaps nothing.
RCNN_FN float nms_larger(float a, float b) { return a > b ? a : b; }
RCNN_FN float nms_smaller(float a, float b) { return a < b ? a : b; }

RCNN_FN NmsBox nms_box(float x1, float y1, float x2, float y2) {
    NmsBox box;
    box.x1 = x1;
    box.y1 = y1;
    box.x2 = x2;
    box.y2 = y2;
    const float area = RCNN_MUL(x2 - x1, y2 - y1);
    box.area = area < 0.0f ? 0.0f : area;
    return box;
}

RCNN_FN bool nms_above(NmsBox a, NmsBox b, float limit) {
    const float width = nms_smaller(a.x2, b.x2) - nms_larger(a.x1, b.x1);
    const float height = nms_smaller(a.y2, b.y2) - nms_larger(a.y1, b.y1);
    const float wide = (width + (width < 0.0f ? -width : width)) * 0.5f;
    const float both = RCNN_MUL(wide, height);
    return both / ((a.area + b.area) - both) > limit;
}
"""
)

_OVERLAPS = Template("""
    const unsigned count = unsigned(geometry[1]), words = unsigned(geometry[2]);
    const unsigned all = unsigned(geometry[0]) * count;
    if (lane >= words) return;
    for (unsigned row = first_row; row < all; row += row_step) {
        const unsigned list = row / count, i = row - list * count;
        const unsigned from = lane * 32u;
        unsigned bits = 0u;
        if (valid[row] && from + 31u > i) {
            const rcnn_long a = 4 * rcnn_long(row);
            const NmsBox better = nms_box(boxes[a], boxes[a + 1], boxes[a + 2], boxes[a + 3]);
            for (unsigned k = 0u; k < 32u; k++) {
                const unsigned j = from + k;
                if (j <= i || j >= count) continue;
                const rcnn_long other = rcnn_long(list) * count + j;
                $alike
                const rcnn_long b = 4 * other;
                const NmsBox later = nms_box(boxes[b], boxes[b + 1], boxes[b + 2], boxes[b + 3]);
                if (nms_above(better, later, limit[0])) bits |= 1u << k;
            }
        }
        hits[rcnn_long(row) * words + lane] = bits;
    }
""")

# One group of threads a list. Every thread goes through the words alike, so all reach each barrier
# and all know who stays; what a word's boxes end is shared out. Two halves of `own` and `live`
# alternate: one is read while the other is filled for the next word.
SWEEP = """
    RCNN_SHARED unsigned gone[NMS_WORDS];
    RCNN_SHARED unsigned own[64];
    RCNN_SHARED unsigned live[64];
    const int count = geometry[1], words = geometry[2];
    const rcnn_long start = rcnn_long(group) * count;
    for (int v = int(thread_id); v < words; v += int(threads)) gone[v] = 0u;
    for (int i = int(thread_id); i < 32; i += int(threads)) {
        live[i] = i < count && valid[start + i] ? 1u : 0u;
        own[i] = i < count ? hits[(start + i) * words] : 0u;
    }
    RCNN_BARRIER;
    for (int w = 0; w < words; w++) {
        const int now = 32 * (w & 1), next = 32 - now;
        unsigned ended = gone[w], kept = 0u;
        for (int i = 0; i < 32; i++) {
            if (live[now + i] == 0u || ((ended >> i) & 1u) != 0u) continue;
            kept |= 1u << i;
            ended |= own[now + i];
        }
        for (int i = int(thread_id); i < 32; i += int(threads)) {
            const int row = 32 * w + i, later = row + 32;
            if (row < count) keep[start + row] = ((kept >> i) & 1u) != 0u;
            if (w + 1 == words) continue;
            live[next + i] = later < count && valid[start + later] ? 1u : 0u;
            own[next + i] = later < count ? hits[(start + later) * words + w + 1] : 0u;
        }
        for (int v = w + 1 + int(thread_id); v < words; v += int(threads)) {
            unsigned more = gone[v];
            for (int i = 0; i < 32; i++) {
                if (((kept >> i) & 1u) != 0u) more |= hits[(start + 32 * w + i) * words + v];
            }
            gone[v] = more;
        }
        RCNN_BARRIER;
    }
"""


def overlaps(labelled: bool) -> str:
    """Body that writes ``hits``, a thread a word; with labels only equal ones end each other."""
    alike = "if (labels[row] != labels[other]) continue;" if labelled else ""
    return _OVERLAPS.substitute(alike=alike)
