// RMSNorm of queries or keys over the full width, and 3-D rotary positions: forward and backward.
//
// forward   v = x rstd w;  out = v C + swap(v) S      C = (c0 c0 c1 c1 ...), S = (-s0 s0 -s1 s1 ...)
// backward  d_v = d_out C - swap(d_out) S             swap exchanges the two values of a pair
//           d_w = sum d_v x rstd;  d_x = rstd (d_v w - x rstd mean(d_v w x rstd))
//
// A token's C and S are put together from one table per axis, [positions, 2, part of the head]. Tokens of a sample
// lie stream, frame, row, column; stream s continues the column positions of the stream before it. Of every stream
// `count` tokens are here, from token `first` of its grid on.
#include "rows.h"

namespace LEVEL {

constexpr int64_t MAX_HEAD = 1024;

struct Grid {
    int64_t frames, rows, columns, first, count;
    const float *frame_table, *row_table, *column_table;
    int64_t head;
};

// C and S of one token. The next token is mostly the next column of the same line, so only that part is renewed.
struct Angles {
    alignas(64) float c[MAX_HEAD];
    alignas(64) float s[MAX_HEAD];
    int64_t line = -1;

    // `place` counts the tokens of a sample that are here.
    void turn_to(const Grid& grid, int64_t place) {
        const int64_t side = grid.head / 6 * 2, front = grid.head - 2 * side;
        const int64_t stream = place / grid.count, token = grid.first + place % grid.count;
        const int64_t now = token / grid.columns;
        if (now != line) {
            copy(grid.frame_table, now / grid.rows, front, 0);
            copy(grid.row_table, now % grid.rows, side, front);
            line = now;
        }
        copy(grid.column_table, stream * grid.columns + token % grid.columns, side, front + side);
    }

    void copy(const float* table, int64_t position, int64_t part, int64_t at) {
        memcpy(c + at, table + 2 * position * part, part * sizeof(float));
        memcpy(s + at, table + (2 * position + 1) * part, part * sizeof(float));
    }
};

// Queries or keys [groups, tokens, heads, head].
struct SideForward {
    Tensor x;
    const float* weight;
    Tensor out;
};

struct SideBackward {
    Tensor d_out;
    int64_t d_out_head;
    Tensor x;
    const float* weight;
    void* d_x;
};

// A weight holds width numbers. Results may lie where x lies: a token is read before it is written.
struct RopeForward {
    Shape shape;
    Grid grid;
    float eps;
    SideForward sides[2];
};

// d_weights are [2, width].
struct RopeBackward {
    Shape shape;
    Grid grid;
    float eps;
    SideBackward sides[2];
    float* d_weights;
};

INLINE Vec swap_pairs(Vec value) {
    Ints order;
    for (int lane = 0; lane < LANES; ++lane) order[lane] = lane ^ 1;
    return __builtin_shuffle(value, order);
}

template <class T, bool PAST_CACHE>
INLINE void turn(const RopeForward& a, const SideForward& side, const Angles& angles, int64_t g, int64_t token) {
    const Rows<const T> x = side.x;
    const Rows<T> out = side.out;
    const int64_t head = a.grid.head, width = a.shape.width;
    const T* xs = x.at(g, token);
    T* to = out.at(g, token);
    const Vec factor = fill(inverse_rms(xs, width, a.eps));
    for (int64_t start = 0; start < width; start += head) {
        columns(head, [&](int64_t at, auto lanes) {
            const int64_t here = start + at;
            const Vec value = load(xs + here, lanes) * factor * load(side.weight + here, lanes);
            const Vec turned = value * load(angles.c + at, lanes) + swap_pairs(value) * load(angles.s + at, lanes);
            put<PAST_CACHE>(to + here, turned, lanes);
            prefetch_next(x, xs, here);
        });
    }
}

template <class T, bool PAST_CACHE>
INLINE void turn_back(const RopeBackward& a, const SideBackward& side, const Angles& angles, int64_t g,
                      int64_t token, float* d_weight) {
    const Rows<const T> d_out = side.d_out, x = side.x;
    const Rows<T> d_x = a.shape.dense(side.d_x);
    const int64_t head = a.grid.head, width = a.shape.width;
    const T *grads = d_out.at(g, token), *xs = x.at(g, token);
    T* to = d_x.at(g, token);
    alignas(64) float through[MAX_WIDTH];
    const Vec factor = fill(inverse_rms(xs, width, a.eps));
    Vec product = {};
    for (int64_t start = 0; start < width; start += head, grads += side.d_out_head) {
        columns(head, [&](int64_t at, auto lanes) {
            const int64_t here = start + at;
            const Vec grad = load(grads + at, lanes);
            const Vec value = grad * load(angles.c + at, lanes) - swap_pairs(grad) * load(angles.s + at, lanes);
            const Vec normed = load(xs + here, lanes) * factor;
            const Vec scaled = value * load(side.weight + here, lanes);
            add(d_weight + here, value * normed, lanes);
            store(through + here, scaled, lanes);
            product += scaled * normed;
            prefetch_next(d_out, grads, at);
        });
    }
    const Vec mean_product = fill(total(product) / width);
    columns(width, [&](int64_t at, auto lanes) {
        const Vec normed = load(xs + at, lanes) * factor;
        put<PAST_CACHE>(to + at, factor * (load(through + at, lanes) - normed * mean_product), lanes);
        prefetch_next(x, xs, at);
    });
}

template <class T, bool PAST_CACHE>
static void forward(const RopeForward& a) {
    const Chunks chunks(a.shape);
#pragma omp parallel for num_threads(a.shape.team()) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        const auto [g, first, end] = chunks[task];
        Angles angles;
        for (int64_t token = first; token < end; ++token) {
            angles.turn_to(a.grid, token);
            for (const SideForward& side : a.sides) turn<T, PAST_CACHE>(a, side, angles, g, token);
        }
        if (PAST_CACHE) end_streams();
    }
}

template <class T, bool PAST_CACHE>
static void backward(const RopeBackward& a) {
    const int64_t width = a.shape.width;
    const Chunks chunks(a.shape);
    Partials partials(chunks.count(), 2 * width);
#pragma omp parallel for num_threads(a.shape.team()) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        const auto [g, first, end] = chunks[task];
        float* d_weights = partials.of(task);
        Angles angles;
        for (int64_t token = first; token < end; ++token) {
            angles.turn_to(a.grid, token);
            for (int at = 0; at < 2; ++at)
                turn_back<T, PAST_CACHE>(a, a.sides[at], angles, g, token, d_weights + at * width);
        }
        if (PAST_CACHE) end_streams();
    }
    partials.add_up(a.shape.threads, 1, chunks.count(), a.d_weights);
}

}  // namespace LEVEL

using namespace LEVEL;

EXPORT(rope_forward)(const RopeForward& a) {
    bool past = true;
    for (const SideForward& side : a.sides)
        past &= side.out.base != side.x.base && past_cache(a.shape, side.out.base, a.grid.head);
    with_storage(a.shape, past, [&](auto* type, auto past) { forward<__typeof__(*type), past.value>(a); });
}

EXPORT(rope_backward)(const RopeBackward& a) {
    bool past = true;
    for (const SideBackward& side : a.sides) past &= past_cache(a.shape, side.d_x, a.shape.width);
    with_storage(a.shape, past, [&](auto* type, auto past) { backward<__typeof__(*type), past.value>(a); });
}
