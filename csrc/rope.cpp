// RMSNorm of queries or keys, over the full width or per head, and 3-D rotary positions: forward and backward.
//
// forward   v = x rstd w;  out = v C + swap(v) S      C = (c0 c0 c1 c1 ...), S = (-s0 s0 -s1 s1 ...)
// backward  d_v = d_out C - swap(d_out) S             swap exchanges the two values of a pair
//           d_w = sum d_v x rstd;  d_x = rstd (d_v w - x rstd mean(d_v w x rstd))
//
// A token's C and S are put together from one table per axis, [positions, 2, part of the head]. Tokens of a sample
// lie stream, frame, row, column; stream s continues the column positions of the stream before it.
#include "rows.h"

namespace LEVEL {

constexpr int64_t MAX_HEAD = 1024;

struct Grid {
    int64_t frames, rows, columns, head;
    const float *frame_table, *row_table, *column_table;
};

// C and S of one token. The next token is mostly the next column of the same line, so only that part is renewed.
struct Angles {
    alignas(64) float c[MAX_HEAD];
    alignas(64) float s[MAX_HEAD];
    int64_t line = -1;

    void turn_to(const Grid& grid, int64_t token) {
        const int64_t side = grid.head / 6 * 2, front = grid.head - 2 * side;
        const int64_t now = token / grid.columns, stream = now / (grid.rows * grid.frames);
        if (now != line) {
            copy(grid.frame_table, now / grid.rows % grid.frames, front, 0);
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

// `norms` mean squares a token, each over `per_norm` heads: one over all heads, or one for each.
struct Heads {
    int threads;
    Chunks chunks;
    int64_t norms, per_norm, size;
    float eps;
};

INLINE Vec swap_pairs(Vec value) {
    Ints order;
    for (int lane = 0; lane < LANES; ++lane) order[lane] = lane ^ 1;
    return __builtin_shuffle(value, order);
}

template <class T, bool PAST_CACHE>
static void forward(Heads heads, Grid grid, Rows<const T> x, const float* weight, Rows<T> out) {
#pragma omp parallel for num_threads(heads.threads) schedule(static)
    for (int64_t task = 0; task < heads.chunks.count(); ++task) {
        const int64_t b = heads.chunks.group(task), size = heads.size;
        Angles angles;
        for (int64_t token = heads.chunks.first(task); token < heads.chunks.end(task); ++token) {
            angles.turn_to(grid, token);
            const T* xs = x.at(b, token);
            T* to = out.at(b, token);
            for (int64_t norm = 0; norm < heads.norms; ++norm) {
                const Vec factor = fill(inverse_rms(xs, heads.per_norm * size, heads.eps));
                for (int64_t head = 0; head < heads.per_norm; ++head, xs += size, to += size) {
                    const float* ws = weight + head * size;
                    columns(size, [&](int64_t at, auto lanes) {
                        const Vec value = load(xs + at, lanes) * factor * load(ws + at, lanes);
                        const Vec turned = value * load(angles.c + at, lanes) + swap_pairs(value) * load(angles.s + at, lanes);
                        put<PAST_CACHE>(to + at, turned, lanes);
                        prefetch_next(x, xs, at);
                    });
                }
            }
        }
        if (PAST_CACHE) end_streams();
    }
}

template <class T, bool PAST_CACHE>
static void backward(Heads heads, Grid grid, Rows<const T> d_out, int64_t d_out_head, Rows<const T> x,
                     const float* weight, Rows<T> d_x, float* partials) {
    const int64_t size = heads.size, width = heads.per_norm * size;
#pragma omp parallel for num_threads(heads.threads) schedule(static)
    for (int64_t task = 0; task < heads.chunks.count(); ++task) {
        const int64_t b = heads.chunks.group(task);
        Angles angles;
        alignas(64) float through[MAX_WIDTH];
        float* d_weight = partials + task * width;
        memset(d_weight, 0, width * sizeof(float));
        for (int64_t token = heads.chunks.first(task); token < heads.chunks.end(task); ++token) {
            angles.turn_to(grid, token);
            const T *xs = x.at(b, token), *grads = d_out.at(b, token);
            T* to = d_x.at(b, token);
            for (int64_t norm = 0; norm < heads.norms; ++norm, xs += width, to += width) {
                const Vec factor = fill(inverse_rms(xs, width, heads.eps));
                Vec product = {};
                for (int64_t head = 0; head < heads.per_norm; ++head, grads += d_out_head) {
                    const int64_t first = head * size;
                    columns(size, [&](int64_t at, auto lanes) {
                        const Vec grad = load(grads + at, lanes);
                        const Vec value = grad * load(angles.c + at, lanes) - swap_pairs(grad) * load(angles.s + at, lanes);
                        const Vec normed = load(xs + first + at, lanes) * factor;
                        const Vec scaled = value * load(weight + first + at, lanes);
                        add(d_weight + first + at, value * normed, lanes);
                        store(through + first + at, scaled, lanes);
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
        }
        if (PAST_CACHE) end_streams();
    }
}

}  // namespace LEVEL

using namespace LEVEL;

// x, d_x and out are [groups, tokens, heads, size], x with dense tokens, results dense; d_out may be strided down to
// its last axis. weight and each partial hold per_norm * size floats.
EXPORT(rope_forward)
(int threads, int is_bf16, int64_t groups, int64_t tokens, int64_t heads, int64_t size, int64_t per_norm,
 int64_t chunk, float eps, int64_t frames, int64_t rows, int64_t columns, const float* frame_table,
 const float* row_table, const float* column_table, const void* x, int64_t x_group, int64_t x_row,
 const float* weight, void* out) {
    const int64_t width = heads * size;
    const Heads shape{team(threads, groups * tokens * width), {groups, tokens, chunk}, heads / per_norm, per_norm,
                      size, eps};
    const Grid grid{frames, rows, columns, size, frame_table, row_table, column_table};
    with_storage(is_bf16, out, groups * tokens * heads, size, [&](auto* type, auto past_cache) {
        using T = __typeof__(*type);
        forward<T, past_cache.value>(shape, grid, {(const T*)x, x_group, x_row}, weight,
                                     {(T*)out, tokens * width, width});
    });
}

EXPORT(rope_backward)
(int threads, int is_bf16, int64_t groups, int64_t tokens, int64_t heads, int64_t size, int64_t per_norm,
 int64_t chunk, float eps, int64_t frames, int64_t rows, int64_t columns, const float* frame_table,
 const float* row_table, const float* column_table, const void* d_out, int64_t d_out_group, int64_t d_out_row,
 int64_t d_out_head, const void* x, int64_t x_group, int64_t x_row, const float* weight, void* d_x,
 float* partials) {
    const int64_t width = heads * size;
    const Heads shape{team(threads, groups * tokens * width), {groups, tokens, chunk}, heads / per_norm, per_norm,
                      size, eps};
    const Grid grid{frames, rows, columns, size, frame_table, row_table, column_table};
    with_storage(is_bf16, d_x, groups * tokens * heads, size, [&](auto* type, auto past_cache) {
        using T = __typeof__(*type);
        backward<T, past_cache.value>(shape, grid, {(const T*)d_out, d_out_group, d_out_row}, d_out_head,
                                      {(const T*)x, x_group, x_row}, weight, {(T*)d_x, tokens * width, width},
                                      partials);
    });
}
