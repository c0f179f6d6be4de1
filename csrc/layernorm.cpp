// LayerNorm with a scale and a shift per group, alone or after a gated residual: forward and backward.
//
// forward   r = x + gate y, rounded to the storage type;  n = (r - mean) rstd;  out = n (1 + scale) + shift
// backward  g = d_out (1 + scale);  d_r = rstd (g - mean(g) - n mean(g n)) + d_residual
//           d_x = d_r;  d_y = gate d_r;  d_scale = sum d_out n;  d_shift = sum d_out;  d_gate = sum d_r y
//
// One task is a chunk of rows of one group. Its column sums go to partials [groups, chunks, 2 or 3, width], which
// add_partials (residual.cpp) adds up in a fixed order. Without y, r is x and whatever belongs to the residual is
// absent.
#include "rows.h"

namespace LEVEL {

struct Norm {
    int threads;
    Chunks chunks;
    int64_t width;
    float eps;
};

struct Modulation {
    const float *gate, *scale, *shift;
    int64_t gate_group, scale_group, shift_group;
};

template <class T, bool GATED, bool PAST_CACHE>
static void forward(Norm norm, Rows<const T> x, Rows<const T> y, Modulation table, Rows<T> residual, Rows<T> out,
                    float* statistics) {
    const int64_t width = norm.width;
#pragma omp parallel for num_threads(norm.threads) schedule(static)
    for (int64_t task = 0; task < norm.chunks.count(); ++task) {
        const int64_t g = norm.chunks.group(task);
        const float *gate = table.gate + g * table.gate_group, *scale = table.scale + g * table.scale_group,
                    *shift = table.shift + g * table.shift_group;
        alignas(64) float r[MAX_WIDTH];
        for (int64_t n = norm.chunks.first(task); n < norm.chunks.end(task); ++n) {
            const T *xs = x.at(g, n), *ys = y.at(g, n);
            T *kept = residual.at(g, n), *to = out.at(g, n);
            float sum[1], squares[1];
            sum_columns<1>(width, sum, [&](int64_t at, auto lanes, Vec* sums) {
                Vec value = load(xs + at, lanes);
                if (GATED) {
                    value = stored(xs, value + load(gate + at, lanes) * load(ys + at, lanes));
                    put<PAST_CACHE>(kept + at, value, lanes);
                }
                store(r + at, value, lanes);
                sums[0] += value;
            });
            const Vec center = fill(sum[0] / width);
            sum_columns<1>(width, squares, [&](int64_t at, auto lanes, Vec* sums) {
                const Vec apart = inside(load(r + at, lanes) - center, lanes);
                sums[0] += apart * apart;
            });
            const float inverse = 1 / __builtin_sqrtf(squares[0] / width + norm.eps);
            const Vec factor = fill(inverse);
            columns(width, [&](int64_t at, auto lanes) {
                const Vec normed = (load(r + at, lanes) - center) * factor;
                put<PAST_CACHE>(to + at, normed * (1 + load(scale + at, lanes)) + load(shift + at, lanes), lanes);
                prefetch_next(x, xs, at);
                if (GATED) prefetch_next(y, ys, at);
            });
            float* of_row = statistics + 2 * (g * norm.chunks.rows + n);
            of_row[0] = center[0];
            of_row[1] = inverse;
        }
        if (PAST_CACHE) end_streams();
    }
}

template <class T, bool GATED, bool PAST_CACHE>
static void backward(Norm norm, Rows<const T> d_out, Rows<const T> d_residual, Rows<const T> r, Rows<const T> y,
                     Modulation table, const float* statistics, Rows<T> d_x, Rows<T> d_y,
                     float* partials) {
    constexpr int SUMS = GATED ? 3 : 2;
    const int64_t width = norm.width;
#pragma omp parallel for num_threads(norm.threads) schedule(static)
    for (int64_t task = 0; task < norm.chunks.count(); ++task) {
        const int64_t g = norm.chunks.group(task);
        const float *gate = table.gate + g * table.gate_group, *scale = table.scale + g * table.scale_group;
        float *d_scale = partials + task * SUMS * width, *d_shift = d_scale + width, *d_gate = d_shift + width;
        memset(d_scale, 0, SUMS * width * sizeof(float));
        for (int64_t n = norm.chunks.first(task); n < norm.chunks.end(task); ++n) {
            const T *grads = d_out.at(g, n), *more = d_residual.at(g, n), *rs = r.at(g, n), *ys = y.at(g, n);
            T *to = d_x.at(g, n), *to_y = d_y.at(g, n);
            const float* of_row = statistics + 2 * (g * norm.chunks.rows + n);
            const Vec center = fill(of_row[0]), factor = fill(of_row[1]);
            float sum[2];
            sum_columns<2>(width, sum, [&](int64_t at, auto lanes, Vec* sums) {
                const Vec grad = load(grads + at, lanes);
                const Vec normed = (load(rs + at, lanes) - center) * factor;
                const Vec through = grad * (1 + load(scale + at, lanes));
                add(d_scale + at, grad * normed, lanes);
                add(d_shift + at, grad, lanes);
                sums[0] += through;
                sums[1] += through * normed;
            });
            const Vec mean_through = fill(sum[0] / width), mean_product = fill(sum[1] / width);
            columns(width, [&](int64_t at, auto lanes) {
                const Vec normed = (load(rs + at, lanes) - center) * factor;
                const Vec through = load(grads + at, lanes) * (1 + load(scale + at, lanes));
                Vec grad = factor * (through - mean_through - normed * mean_product);
                if (GATED) {
                    grad += load(more + at, lanes);
                    add(d_gate + at, grad * load(ys + at, lanes), lanes);
                    put<PAST_CACHE>(to_y + at, grad * load(gate + at, lanes), lanes);
                    prefetch_next(d_residual, more, at);
                    prefetch_next(y, ys, at);
                }
                put<PAST_CACHE>(to + at, grad, lanes);
                prefetch_next(d_out, grads, at);
                prefetch_next(r, rs, at);
            });
        }
        if (PAST_CACHE) end_streams();
    }
}

}  // namespace LEVEL

using namespace LEVEL;

// Results are dense [groups, rows, width]; statistics [groups, rows, 2] are mean and rstd. y may be null.
EXPORT(layernorm_forward)
(int threads, int is_bf16, int64_t groups, int64_t rows, int64_t width, int64_t chunk, float eps, const void* x,
 int64_t x_group, int64_t x_row, const void* y, int64_t y_group, int64_t y_row, const float* gate, int64_t gate_group,
 const float* scale, int64_t scale_group, const float* shift, int64_t shift_group, void* residual, void* out,
 float* statistics) {
    const Norm norm{team(threads, groups * rows * width), {groups, rows, chunk}, width, eps};
    const Modulation table{gate, scale, shift, gate_group, scale_group, shift_group};
    with_storage(is_bf16, out, groups * rows, width, [&](auto* type, auto past_cache) {
        using T = __typeof__(*type);
        const int64_t group = rows * width;
        with_flag(y != nullptr, [&](auto gated) {
            forward<T, gated.value, past_cache.value>(
                norm, {(const T*)x, x_group, x_row}, {(const T*)y, y_group, y_row}, table,
                {(T*)residual, group, width}, {(T*)out, group, width}, statistics);
        });
    });
}

EXPORT(layernorm_backward)
(int threads, int is_bf16, int64_t groups, int64_t rows, int64_t width, int64_t chunk, const void* d_out,
 int64_t d_out_group, int64_t d_out_row, const void* d_residual, int64_t d_residual_group, int64_t d_residual_row,
 const void* r, int64_t r_group, int64_t r_row, const void* y, int64_t y_group, int64_t y_row, const float* gate,
 int64_t gate_group, const float* scale, int64_t scale_group, const float* statistics, void* d_x, void* d_y, float* partials) {
    const Norm norm{team(threads, groups * rows * width), {groups, rows, chunk}, width, 0};
    const Modulation table{gate, scale, nullptr, gate_group, scale_group, 0};
    with_storage(is_bf16, d_x, groups * rows, width, [&](auto* type, auto past_cache) {
        using T = __typeof__(*type);
        const int64_t group = rows * width;
        with_flag(y != nullptr, [&](auto gated) {
            backward<T, gated.value, past_cache.value>(
                norm, {(const T*)d_out, d_out_group, d_out_row},
                {(const T*)d_residual, d_residual_group, d_residual_row}, {(const T*)r, r_group, r_row},
                {(const T*)y, y_group, y_row}, table, statistics, {(T*)d_x, group, width}, {(T*)d_y, group, width},
                partials);
        });
    });
}
