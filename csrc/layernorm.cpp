// LayerNorm with a scale and a shift per group, alone or after a gated residual: forward and backward.
//
// forward   r = x + gate y, rounded to the storage type;  n = (r - mean) rstd;  out = n (1 + scale) + shift
// backward  g = d_out (1 + scale);  d_r = rstd (g - mean(g) - n mean(g n)) + d_residual
//           d_x = d_r;  d_y = gate d_r;  d_scale = sum d_out n;  d_shift = sum d_out;  d_gate = sum d_r y
//
// Without y, r is x and whatever belongs to the residual is absent. Results are dense; statistics [rows, 2] are mean
// and rstd; sums [groups, 2 or 3, width] are d_scale, d_shift and d_gate.
#include "rows.h"

namespace LEVEL {

struct LayerNormForward {
    Shape shape;
    Tensor x, y;
    Table gate, scale, shift;
    void *residual, *out;
    float* statistics;
    float eps;
};

struct LayerNormBackward {
    Shape shape;
    Tensor d_out, d_residual, r, y;
    Table gate, scale;
    float* statistics;
    void *d_x, *d_y;
    float* sums;
};

template <class T, bool GATED, bool PAST_CACHE>
static void forward(const LayerNormForward& a) {
    const Rows<const T> x = a.x, y = a.y;
    const Rows<T> residual = a.shape.dense(a.residual), out = a.shape.dense(a.out);
    const Rows<float> statistics = a.shape.dense(a.statistics, 2);
    const int64_t width = a.shape.width;
    const Chunks chunks(a.shape);
#pragma omp parallel for num_threads(a.shape.team()) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        const auto [g, first, end] = chunks[task];
        const float *gate = a.gate.at(g), *scale = a.scale.at(g), *shift = a.shift.at(g);
        alignas(64) float r[MAX_WIDTH];
        for (int64_t n = first; n < end; ++n) {
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
            const float inverse = 1 / __builtin_sqrtf(squares[0] / width + a.eps);
            const Vec factor = fill(inverse);
            columns(width, [&](int64_t at, auto lanes) {
                const Vec normed = (load(r + at, lanes) - center) * factor;
                put<PAST_CACHE>(to + at, normed * (1 + load(scale + at, lanes)) + load(shift + at, lanes), lanes);
                prefetch_next(x, xs, at);
                if (GATED) prefetch_next(y, ys, at);
            });
            float* of_row = statistics.at(g, n);
            of_row[0] = center[0];
            of_row[1] = inverse;
        }
        if (PAST_CACHE) end_streams();
    }
}

template <class T, bool GATED, bool PAST_CACHE>
static void backward(const LayerNormBackward& a) {
    constexpr int SUMS = GATED ? 3 : 2;
    const Rows<const T> d_out = a.d_out, d_residual = a.d_residual, r = a.r, y = a.y;
    const Rows<const float> statistics = a.shape.dense(a.statistics, 2);
    const Rows<T> d_x = a.shape.dense(a.d_x), d_y = a.shape.dense(a.d_y);
    const int64_t width = a.shape.width;
    const Chunks chunks(a.shape);
    Partials partials(chunks.count(), SUMS * width);
#pragma omp parallel for num_threads(a.shape.team()) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        const auto [g, first, end] = chunks[task];
        const float *gate = a.gate.at(g), *scale = a.scale.at(g);
        float *d_scale = partials.of(task), *d_shift = d_scale + width, *d_gate = d_shift + width;
        for (int64_t n = first; n < end; ++n) {
            const T *grads = d_out.at(g, n), *more = d_residual.at(g, n), *rs = r.at(g, n), *ys = y.at(g, n);
            T *to = d_x.at(g, n), *to_y = d_y.at(g, n);
            const float* of_row = statistics.at(g, n);
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
    partials.add_up(a.shape.threads, chunks.groups, chunks.per_group, a.sums);
}

}  // namespace LEVEL

using namespace LEVEL;

EXPORT(layernorm_forward)(const LayerNormForward& a) {
    with_storage(a.shape, past_cache(a.shape, a.out, a.shape.width), [&](auto* type, auto past) {
        with_flag(a.y.base, [&](auto gated) { forward<__typeof__(*type), gated.value, past.value>(a); });
    });
}

EXPORT(layernorm_backward)(const LayerNormBackward& a) {
    with_storage(a.shape, past_cache(a.shape, a.d_x, a.shape.width), [&](auto* type, auto past) {
        with_flag(a.y.base, [&](auto gated) { backward<__typeof__(*type), gated.value, past.value>(a); });
    });
}
