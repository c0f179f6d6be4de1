// RMSNorm over the width of every row: forward and backward.
//
// forward   n = x rstd;  out = n w
// backward  d_x = rstd (d_out w - n mean(d_out w n));  d_w = sum d_out n
//
// All rows are one group. Nothing is saved but the inputs: rstd is one sum over a row that is read anyway.
#include "rows.h"

namespace LEVEL {

struct RmsNormForward {
    Shape shape;
    Tensor x;
    const float* weight;
    void* out;
    float eps;
};

struct RmsNormBackward {
    Shape shape;
    Tensor d_out, x;
    const float* weight;
    void* d_x;
    float* d_weight;
    float eps;
};

template <class T, bool PAST_CACHE>
static void forward(const RmsNormForward& a) {
    const Rows<const T> x = a.x;
    const Rows<T> out = a.shape.dense(a.out);
    const float* weight = a.weight;
    const int64_t width = a.shape.width;
    const Chunks chunks(a.shape);
#pragma omp parallel for num_threads(a.shape.team()) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        const auto [g, first, end] = chunks[task];
        for (int64_t n = first; n < end; ++n) {
            const T* xs = x.at(g, n);
            T* to = out.at(g, n);
            const Vec factor = fill(inverse_rms(xs, width, a.eps));
            columns(width, [&](int64_t at, auto lanes) {
                put<PAST_CACHE>(to + at, load(xs + at, lanes) * factor * load(weight + at, lanes), lanes);
                prefetch_next(x, xs, at);
            });
        }
        if (PAST_CACHE) end_streams();
    }
}

template <class T, bool PAST_CACHE>
static void backward(const RmsNormBackward& a) {
    const Rows<const T> d_out = a.d_out, x = a.x;
    const Rows<T> d_x = a.shape.dense(a.d_x);
    const float* weight = a.weight;
    const int64_t width = a.shape.width;
    const Chunks chunks(a.shape);
    Partials partials(chunks.count(), width);
#pragma omp parallel for num_threads(a.shape.team()) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        const auto [g, first, end] = chunks[task];
        float* d_weight = partials.of(task);
        for (int64_t n = first; n < end; ++n) {
            const T *grads = d_out.at(g, n), *xs = x.at(g, n);
            T* to = d_x.at(g, n);
            const Vec factor = fill(inverse_rms(xs, width, a.eps));
            float product[1];
            sum_columns<1>(width, product, [&](int64_t at, auto lanes, Vec* sums) {
                const Vec grad = load(grads + at, lanes), normed = load(xs + at, lanes) * factor;
                add(d_weight + at, grad * normed, lanes);
                sums[0] += grad * load(weight + at, lanes) * normed;
            });
            const Vec mean_product = fill(product[0] / width);
            columns(width, [&](int64_t at, auto lanes) {
                const Vec through = load(grads + at, lanes) * load(weight + at, lanes);
                const Vec normed = load(xs + at, lanes) * factor;
                put<PAST_CACHE>(to + at, factor * (through - normed * mean_product), lanes);
                prefetch_next(d_out, grads, at);
                prefetch_next(x, xs, at);
            });
        }
        if (PAST_CACHE) end_streams();
    }
    partials.add_up(a.shape.threads, 1, chunks.count(), a.d_weight);
}

}  // namespace LEVEL

EXPORT_PASS(rms_norm_forward, RmsNormForward, forward, out)
EXPORT_PASS(rms_norm_backward, RmsNormBackward, backward, d_x)
